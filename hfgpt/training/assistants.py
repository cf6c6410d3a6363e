"""An assistant from its conversations to its answers: splits, rows, the model, and its answers."""

import logging
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import cast

from datasets import Dataset, DatasetDict, concatenate_datasets
from transformers import (
    AutoModelForCausalLM,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    set_seed,
)

from hfgpt.chat_templates import stop_token_ids
from hfgpt.counting import counted
from hfgpt.data.conversations import Conversation, conversation_dataset, mix, read_conversations, whole_texts
from hfgpt.data.messages import Message
from hfgpt.data.passport import HELD_OUT, SPLITS, Passport
from hfgpt.data.splitting import split_conversations
from hfgpt.data.supervised import pack_supervised, supervised_rows
from hfgpt.errors import UserError
from hfgpt.evaluation.answer_rows import rows_of_each_kind
from hfgpt.evaluation.answers import answer_conversations
from hfgpt.training.callbacks import Said, SayingCallback
from hfgpt.training.examples import Examples
from hfgpt.training.finetuning import Base, load_model, longest_text

logger = logging.getLogger(__name__)


def load_splits(
    examples: Examples, passport: Passport, *, style: str, format: str | None, weights: list[float] | None = None
) -> DatasetDict:
    """Conversations of all sources, each source split separately; copies of held-out ones are dropped from training.

    Columns: `messages`, `source`, `row_id`, `place`, `unlearned`, `kind`.

    Args:
        style: the format for Alpaca rows.
        format: the format of a row; None detects it from the columns of each source.
        weights: how often each source is used; None uses every row once.
    Raises: ValueError and FileNotFoundError for unreadable data, with file and line.
    """
    read = lambda names, split: _read(names, split, examples, passport, style=style, format=format)  # noqa: E731
    splits = divided(examples, read)
    held_out = {name: concatenate_datasets(splits[name]) for name in HELD_OUT if splits[name]}
    train = [examples.without_copies(part, held_out, passport, texts_of=whole_texts) for part in splits["train"]]
    if weights is not None:
        mixed, counts = mix(train, weights, seed=examples.shares.seed)
        passport.steps.append({"step": "mix", "sources": counts})
    else:
        mixed = concatenate_datasets(train)
    return DatasetDict({"train": mixed, **held_out})


def divided(examples: Examples, read: Callable[[list[str], str], Dataset]) -> dict[str, list[Dataset]]:
    """The parts of train, validation and test: each source split separately, plus the given held-out files.

    Args: `read` returns the conversations of some sources of a split.
    """
    splits: dict[str, list[Dataset]] = {name: [] for name in SPLITS}
    for source in examples.names["train"]:
        conversations = read([source], "train")
        parts = split_conversations(
            conversations,
            texts=whole_texts(conversations),
            validation_share=examples.shares.validation,
            test_share=examples.shares.test,
            seed=examples.shares.seed,
            method=examples.shares.method,
            near_copy_similarity=examples.kept_together,
            given=examples.given,
        )
        for name, part in cast(dict[str, Dataset], parts).items():
            splits[name].append(part)
    for name in examples.given:
        splits[name] = [read(examples.names[name], name)]
    return splits


def _read(names: list[str], split: str, examples: Examples, passport: Passport, *, style: str, format: str | None) -> Dataset:
    start = time.perf_counter()
    records, errors = examples.read(split, passport, names=names)
    conversations = conversation_dataset(read_conversations(records, style=style, format=format, errors=errors))
    errors.finish(conversations["source"], passport)
    if not len(conversations):
        raise UserError(f"{', '.join(names)} contains no conversation; give a file that does.")
    passport.record(f"read {', '.join(names)}", None, len(conversations), start, what="conversations")
    return conversations


def conversations_of(dataset: Dataset) -> list[Conversation]:
    """Convert the rows of `hfgpt.data.conversations.conversation_dataset` back to conversations."""
    return [Conversation(**row) for row in cast(list[dict], dataset)]


def encode_splits(
    splits: DatasetDict,
    tokenizer: PreTrainedTokenizerFast,
    *,
    max_length: int | None,
    too_long: str,
    loss_on: str,
    packing: bool,
) -> tuple[DatasetDict, dict[str, dict]]:
    """Rows of every split and their counts; training rows are packed if requested, held-out ones never.

    Args:
        max_length: maximum tokens of a conversation; None means the model's context.
        too_long: what to do with longer ones, "drop" or "cut".
        loss_on: which tokens are trained on, "assistant" or "all".
    Raises: ValueError if no conversation of a split is left.
    """
    longest = longest_text(tokenizer, max_length)
    rows, counts = {}, {}
    for name, split in splits.items():
        columns, count = supervised_rows(conversations_of(split), tokenizer, max_length=longest, too_long=too_long, loss_on=loss_on)
        if not columns["input_ids"]:
            raise UserError(
                f"all {len(split):,} {name} conversations are longer than {longest:,} tokens; give a larger --max_length, or "
                "--too_long cut."
            )
        if packing and name == "train":
            columns = pack_supervised(columns, context_length=longest, pad=cast(int, tokenizer.pad_token_id))
            count.packed_rows = len(columns["input_ids"])
            count.padding = count.packed_rows * longest - count.tokens
        else:
            columns["length"] = cast(list, [len(ids) for ids in columns["input_ids"]])
        rows[name] = Dataset.from_dict(columns)
        counts[name] = asdict(count)
        lost = count.dropped_too_long + count.dropped_without_answer
        logger.info(
            f"{name}: {counted(count.conversations, 'conversations')}, {count.tokens:,} tokens, "
            f"{count.learned_tokens:,} of them trained on"
            + (f", in {counted(count.packed_rows, 'rows')} of {longest:,}" if count.packed_rows else "")
            + (
                f"; {lost:,} dropped and {count.cut:,} cut because they are longer than {longest:,} tokens"
                if lost or count.cut
                else ""
            )
        )
    return DatasetDict(rows), counts


def build_assistant(
    base: Base, *, seed: int, attn_implementation: str | None, quantization: str = "none", **config
) -> PreTrainedModel:
    """The base as a language model that stops where the tokenizer's template ends a turn.

    Args:
        seed: initializes LoRA's matrices, which are added next.
        config: values for the model's config.
    """
    set_seed(seed)
    model = load_model(base, AutoModelForCausalLM, attn_implementation=attn_implementation, quantization=quantization, **config)
    settings = model.generation_config.to_dict() if model.generation_config is not None else {}
    settings.pop("_from_model_config", None)  # no longer true
    settings |= dict(
        bos_token_id=base.tokenizer.bos_token_id,
        eos_token_id=stop_token_ids(base.tokenizer),
        pad_token_id=base.tokenizer.pad_token_id,
    )
    model.generation_config = GenerationConfig(**settings)
    model.config.use_cache = False
    return model


def sample_questions(splits: DatasetDict, most: int) -> list[list[Message]]:
    """The first validation conversations up to their last answer; without a validation set, those of training."""
    return prompts_and_references(splits.get("validation", splits["train"]), most)[0]


def prompts_and_references(split: Dataset, most: int | None) -> tuple[list[list[Message]], list[str]]:
    """What precedes the last message of each conversation, and that message; at most `most`, with some of each kind of question."""
    messages = split.select(rows_of_each_kind(kinds_of(split), most))["messages"][:]
    return [list(turns[:-1]) for turns in messages], [turns[-1]["content"] for turns in messages]


def kinds_of(split: Dataset) -> list[str | None]:
    """The kind of each conversation; None if the data does not say."""
    return split["kind"][:] if "kind" in split.column_names else [None] * len(split)


class AnswersCallback(SayingCallback):
    """Answers a fixed set of prompts at every evaluation."""

    between = "\n----\n"

    def __init__(self, tokenizer: PreTrainedTokenizerFast, messages: list[list[Message]], *, max_new_tokens: int):
        super().__init__()
        self.tokenizer = tokenizer
        self.messages = messages
        self.max_new_tokens = max_new_tokens

    def say(self, model: PreTrainedModel) -> list[Said]:
        if not self.messages:
            return []
        answers = answer_conversations(model, self.tokenizer, self.messages, max_new_tokens=self.max_new_tokens)
        return [
            Said(messages[-1]["content"], said.text, "" if said.stopped else "[not ended]")
            for messages, said in zip(self.messages, answers, strict=True)
        ]
