"""Preferences from their files to token ids: pairs of answers read, split and encoded, and the assistant that learns from them."""

import logging
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, cast

import numpy as np
from datasets import Dataset, DatasetDict, concatenate_datasets
from transformers import AutoConfig, PreTrainedModel, PreTrainedTokenizerFast

from hfgpt.chat_templates import style_of
from hfgpt.counting import counted
from hfgpt.data.chat_encoding import ConversationEncoder
from hfgpt.data.conversations import Conversation, conversation_dataset, whole_texts
from hfgpt.data.messages import Message
from hfgpt.data.passport import HELD_OUT, Passport
from hfgpt.data.preferences import read_preferences
from hfgpt.errors import UserError
from hfgpt.training.assistants import build_assistant, divided
from hfgpt.training.examples import Examples
from hfgpt.training.finetuning import Base, adopt_style, longest_text

logger = logging.getLogger(__name__)


@dataclass
class PairCounts:
    """pairs = rows + dropped_too_long."""

    pairs: int = 0
    rows: int = 0
    dropped_too_long: int = 0
    prompt_tokens: int = 0
    chosen_tokens: int = 0
    rejected_tokens: int = 0


@dataclass(frozen=True)
class Pair:
    """Token ids of a prompt and of two answers to it, each with the token that ends it; for a single answer, the other is None."""

    prompt: list[int]
    chosen: list[int] | None
    rejected: list[int] | None

    @property
    def answers(self) -> list[list[int]]:
        """The existing answers, the chosen one first."""
        return [answer for answer in (self.chosen, self.rejected) if answer is not None]


def settle_style(base: Base, style: str) -> tuple[Base, str]:
    """The assistant keeps its own prompt style; a model without one gets the requested style.

    Args: `style` is "base" or one of ours.
    Returns: the base, and the format for Alpaca rows.
    Raises: ValueError for a model without a chat template if none was requested.
    """
    if style == "base" and base.tokenizer.chat_template is None:
        raise UserError(
            f"model {base.name} has no chat template, so it is not an assistant yet; turn it into one with "
            "recipes/finetune_instructions.py, or give --prompt_style chat or alpaca."
        )
    base = adopt_style(base, style)
    return base, style_of(base.tokenizer)


def load_pairs(examples: Examples, passport: Passport, *, style: str, unpaired: bool) -> DatasetDict:
    """Pairs of all sources, each source split separately; copies of held-out ones are dropped from training.

    Columns: `messages` (the prompt and the chosen answer), `rejected`, `source`, `row_id`, `place`, `unlearned`. For a single
    answer, `messages` ends with it, `rejected` is None, and `label` says whether it is wanted; pairs have no `label`.

    Args:
        style: the format for Alpaca rows.
        unpaired: whether the loss can also learn from single answers.
    Raises: ValueError and FileNotFoundError for unreadable data, with file and line, and if no pair expresses a preference.
    """
    read = lambda names, split: _read(names, split, examples, passport, style=style, unpaired=unpaired)  # noqa: E731
    splits = divided(examples, read)
    if len({"label" in part.column_names for parts in splits.values() for part in parts}) > 1:
        raise UserError("some files contain single answers, others pairs of chosen and rejected; give only one kind per run.")
    held_out = {name: concatenate_datasets(splits[name]) for name in HELD_OUT if splits[name]}
    train = examples.without_copies(concatenate_datasets(splits["train"]), held_out, passport, texts_of=whole_texts)
    return DatasetDict({"train": train, **held_out})


def _read(names: list[str], split: str, examples: Examples, passport: Passport, *, style: str, unpaired: bool) -> Dataset:
    start = time.perf_counter()
    records, errors = examples.read(split, passport, names=names)
    found, counts = read_preferences(records, style=style, unpaired=unpaired, errors=errors)
    errors.finish([preference.source for preference in found], passport)
    if not found:
        raise UserError(
            f"{', '.join(names)} contains no preference: of {counts.records:,} rows, {counts.equal:,} have the same chosen and "
            f"rejected answer; give pairs that differ."
        )
    single = [preference for preference in found if preference.chosen is None or preference.rejected is None]
    if single and len(single) < len(found):
        row = single[0]
        raise UserError(
            f"{row.source}, {row.place}: a single answer among pairs of chosen and rejected; use pairs and single answers in "
            f"separate runs."
        )
    answers = [Conversation([*p.prompt, _answer(str(p.chosen or p.rejected))], p.source, p.row_id, p.place) for p in found]
    pairs = cast(Any, conversation_dataset(answers))
    if single:
        pairs = pairs.add_column("rejected", [None] * len(found)).add_column("label", [p.rejected is None for p in found])
        what, wanted = "answers", sum(pairs["label"])
        logger.info(f"{', '.join(names)}: single answers, {wanted:,} wanted and {len(pairs) - wanted:,} not")
    else:
        pairs, what = pairs.add_column("rejected", [p.rejected for p in found]), "pairs"
    step = f"read {', '.join(names)}" + (f", {counted(counts.equal, 'pairs of equal answers')} dropped" if counts.equal else "")
    passport.record(step, None, len(pairs), start, what=what, equal=counts.equal)
    return pairs


def _answer(text: str) -> Message:
    return {"role": "assistant", "content": text}


def encode_pairs(
    splits: DatasetDict, tokenizer: PreTrainedTokenizerFast, *, max_length: int | None
) -> tuple[dict[str, list[Pair]], dict[str, dict]]:
    """Token ids of every split and their counts; a pair is dropped if its prompt with the longer answer exceeds `max_length`.

    Without `max_length`, the limit is the model's context. Nothing is cut: half an answer is not what was preferred, and a model
    learns from the end when to stop.

    Raises: ValueError if a split has no pair left.
    """
    longest = longest_text(tokenizer, max_length)
    pairs: dict[str, list[Pair]] = {}
    counts = {}
    for name, split in cast(dict[str, Dataset], splits).items():
        count, pairs[name] = PairCounts(), []
        for pair in _encoded(split, ConversationEncoder(tokenizer)):
            count.pairs += 1
            if len(pair.prompt) + max(map(len, pair.answers)) > longest:
                count.dropped_too_long += 1
                continue
            pairs[name].append(pair)
            count.prompt_tokens += len(pair.prompt)
            count.chosen_tokens += len(pair.chosen or [])
            count.rejected_tokens += len(pair.rejected or [])
        count.rows = len(pairs[name])
        if not pairs[name]:
            raise UserError(
                f"all {count.pairs:,} pairs of the {name} split are longer than {longest:,} tokens; give a larger --max_length."
            )
        counts[name] = asdict(count)
        what = "pairs"
        if unpaired_labels(pairs[name]) is not None:
            counts[name] = {"examples": counts[name].pop("pairs"), **counts[name]}
            what = "answers"
        logger.info(
            f"{name}: {count.rows:,} {what}, {count.chosen_tokens:,} chosen tokens, {count.rejected_tokens:,} rejected"
            + (
                f"; {count.dropped_too_long:,} dropped because they are longer than {longest:,} tokens"
                if count.dropped_too_long
                else ""
            )
        )
    return pairs, counts


def _encoded(split: Dataset, encoder: ConversationEncoder) -> Iterable[Pair]:
    for row in cast(list[dict], split):
        *prompt, chosen = row["messages"]
        try:
            (prompt_ids,) = encoder.encode_prompts([prompt])
            others = [] if row["rejected"] is None else [[*prompt, _answer(row["rejected"])]]
            encoded = encoder.encode([[*prompt, chosen], *others])
        except UserError as error:
            raise UserError(f"{row['source']}, {row['place']}: {error}") from None
        start = len(prompt_ids)
        # What a template writes after the end of a turn is not trained on and belongs to neither answer.
        answers = [[id for id, is_answer in zip(ids[start:], learned[start:]) if is_answer] for ids, learned in encoded]
        if "label" in row:
            answers = [answers[0], None] if row["label"] else [None, answers[0]]
        yield Pair(prompt_ids, *cast(list, answers))


def unpaired_labels(pairs: list[Pair]) -> np.ndarray | None:
    """Which single answers are wanted; None for pairs."""
    return np.array([pair.rejected is None for pair in pairs]) if len(pairs[0].answers) == 1 else None


def build_policy(base: Base, *, seed: int, attn_implementation: str | None, quantization: str = "none") -> PreTrainedModel:
    """The assistant, with all dropout turned off in its config: its likelihoods are compared with its own earlier ones.

    TRL only turns off the modules, but attention reads its dropout from the config.

    Raises: ValueError for a model of another kind.
    """
    config = AutoConfig.from_pretrained(base.location, revision=base.revision, trust_remote_code=base.trust_remote_code)
    if config.architectures and not any("CausalLM" in name or "LMHead" in name for name in config.architectures):
        raise UserError(
            f"model {base.name} is a {', '.join(config.architectures)}; preferences need a causal language model; give the folder "
            f"of an assistant (recipes/finetune_instructions.py) or a chat model from the Hub."
        )
    dropouts = {name: 0.0 for name, value in config.to_dict().items() if "drop" in name and isinstance(value, float)}
    return build_assistant(base, seed=seed, attn_implementation=attn_implementation, quantization=quantization, **dropouts)
