"""The answers of an assistant: generated in batches, and compared with references without a judge."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerFast

from hfgpt.chat_templates import stop_token_ids
from hfgpt.data.chat_encoding import ConversationEncoder
from hfgpt.data.messages import Message
from hfgpt.errors import UserError
from hfgpt.evaluation.answer_rows import AnswerRow
from hfgpt.evaluation.batches import padded, padding_id, progress_bar
from hfgpt.evaluation.generation import context_length_of, generate
from hfgpt.inference import GREEDY, evaluating, isolated_random_state
from hfgpt.metrics import measure


@dataclass(frozen=True)
class Answer:
    """A model's answer to one prompt.

    Attributes:
        text: without special tokens.
        token_ids: as generated, including the stop token.
        num_tokens: the number of tokens in the answer, without the stop token.
        stopped: the model ended the answer itself with one of the stop tokens.
        cut: the prompt left less room in the context than `max_new_tokens`, and the answer did not end within it.
    """

    text: str
    token_ids: tuple[int, ...]
    num_tokens: int
    stopped: bool
    cut: bool


def generate_answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    stop_token_ids: Sequence[int],
    groups: Sequence[object] | None = None,
    batch_size: int = 16,
    seed: int = 0,
    show_progress: bool = False,
    **settings,
) -> list[Answer]:
    """The model's answer to every prompt, in the order of the prompts; greedy by default.

    Prompts of similar length share a batch, padded on the left and masked, so a greedy answer does not depend on the batch.
    A prompt is never cut: if it leaves less room than `max_new_tokens`, the answer gets the remaining room and is marked as `cut`
    if it does not end within it; without any room, it is empty. The model's mode, its `use_cache` and the random state are
    restored.

    Args:
        model: any causal language model, including a `PeftModel`.
        prompts: complete token ids, including the separator or the chat template's tokens before the answer.
        stop_token_ids: an answer ends at the first of these.
        groups: prompts of different groups do not share a batch, so short answers need not wait for long ones.
        settings: more of `GenerationConfig`, for example `do_sample=True, temperature=0.8`; sampled answers are only reproducible
            with the same `seed` and batches.
    Raises: ValueError for an empty prompt, no stop token, or a number below 1.
    Cost: a cache of batch_size x (longest prompt + max_new_tokens) positions.
    """
    for name, number in (("max_new_tokens", max_new_tokens), ("batch_size", batch_size)):
        if number < 1:
            raise UserError(f"{name} is {number}; it must be at least 1.")
    if not stop_token_ids:
        raise UserError(
            "stop_token_ids is empty; without one, no answer would ever end; give at least the tokenizer's eos_token_id."
        )
    if empty := [number for number, prompt in enumerate(prompts) if not prompt]:
        raise UserError(
            f"prompts[{empty[0]}] is empty; a model needs at least one token to continue, so begin prompts with the bos_token."
        )
    context_length = context_length_of(model)
    room = [min(max_new_tokens, max(0, context_length - len(prompt))) for prompt in prompts]
    together = list(zip(room, groups or [None] * len(prompts), strict=True))
    answers: dict[int, Answer] = {}
    bar = progress_bar(total=len(prompts), desc="answers", unit=" prompts", show=show_progress)
    with evaluating(model), isolated_random_state(seed), bar as progress:
        for batch in _batches(prompts, together, batch_size=batch_size):
            if room[batch[0]] == 0:
                answers.update((number, Answer("", (), 0, stopped=False, cut=True)) for number in batch)
            else:
                generated = _continue(
                    model, tokenizer, [prompts[number] for number in batch], stop_token_ids, settings, room[batch[0]]
                )
                for number, ids in zip(batch, generated, strict=True):
                    answers[number] = read_answer(tokenizer, ids, stop_token_ids, short_of_room=room[number] < max_new_tokens)
            progress.update(len(batch))
    return [answers[number] for number in range(len(prompts))]


def answer_conversations(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    prompts: Sequence[list[Message]],
    *,
    max_new_tokens: int,
    groups: Sequence[object] | None = None,
    batch_size: int = 16,
    show_progress: bool = False,
) -> list[Answer]:
    """The model's greedy answers to conversations that end with the user's message, encoded as in training.

    Args: `groups` as in `generate_answers`, for example, the kinds of questions.
    """
    return generate_answers(
        model,
        tokenizer,
        ConversationEncoder(tokenizer).encode_prompts(list(prompts)),
        max_new_tokens=max_new_tokens,
        stop_token_ids=stop_token_ids(tokenizer),
        groups=groups,
        batch_size=batch_size,
        show_progress=show_progress,
    )


def _batches(prompts, together: list[tuple], *, batch_size: int) -> list[list[int]]:
    """Indices of prompts, longest first (memory runs out at once or never); prompts with the same `together` may share a batch."""
    batches: list[list[int]] = []
    filling: dict[tuple, list[int]] = {}
    for number in sorted(range(len(prompts)), key=lambda number: -len(prompts[number])):
        batch = filling.get(together[number])
        if batch is None or len(batch) == batch_size:
            batch = filling[together[number]] = []
            batches.append(batch)
        batch.append(number)
    return batches


def _continue(model, tokenizer, prompts, stop_token_ids, settings: dict, max_new_tokens: int) -> list[list[int]]:
    pad = padding_id(tokenizer, otherwise=stop_token_ids[0])  # masked, so any id works
    input_ids, mask = padded(prompts, left=True, value=pad, device=model.device)
    config = GenerationConfig(
        **(GREEDY | dict(use_cache=True) | settings),
        max_new_tokens=max_new_tokens,
        eos_token_id=list(stop_token_ids),
        pad_token_id=pad,
        bos_token_id=tokenizer.bos_token_id,
    )
    return generate(model, input_ids, mask=mask, generation_config=config).tolist()


def read_answer(
    tokenizer: PreTrainedTokenizerFast, ids: list[int], stop_token_ids: Sequence[int], *, short_of_room: bool = False
) -> Answer:
    """The answer in generated ids. Args: `short_of_room` if the context rather than `max_new_tokens` limits it."""
    # Rows that end before the longest one in their batch are padded after their stop token.
    end = next((place for place, token in enumerate(ids) if token in stop_token_ids), None)
    stopped = end is not None
    text = cast(str, tokenizer.decode(ids[:end], skip_special_tokens=True))
    kept = tuple(ids[: end + 1] if stopped else ids)
    return Answer(text, kept, len(kept) - stopped, stopped=stopped, cut=short_of_room and not stopped)


def answers_report(answers: Sequence[Answer], references: Sequence[str]) -> dict[str, float]:
    """Exact match, token F1 and ROUGE of the answers (shares from 0 to 1), and how they ended.

    Returns: the results of the metric `answer_metrics`, `stopped` (the share that the model ended itself), `cut` (how many ended at
    the context limit) and `mean_tokens`.
    Raises: ValueError if there are no answers, or not exactly one reference per answer.
    """
    return {
        **measure("answer_metrics", predictions=[answer.text for answer in answers], references=list(references)),
        "stopped": statistics.fmean(answer.stopped for answer in answers),
        "cut": sum(answer.cut for answer in answers),
        "mean_tokens": statistics.fmean(answer.num_tokens for answer in answers),
    }


def answer_rows(
    prompts: Sequence[list[dict[str, str]]],
    references: Sequence[str | None],
    answers: Mapping[str, Sequence[Answer]],
    *,
    kinds: Sequence[str | None] | None = None,
) -> list[AnswerRow]:
    """Rows for `write_answers` and `write_page`: one row per prompt, each answer with its own scores.

    Args:
        prompts: chat messages, without the expected answer.
        references: the expected answers; None for a prompt without one.
        answers: for each model or step, its answers to the prompts, in order.
        kinds: the kind of question of each prompt; None if the data does not specify it.
    """
    given = {number: reference for number, reference in enumerate(references) if reference is not None}
    scores: dict[str, dict[int, dict[str, float]]] = {name: {} for name in answers}
    for name, column in answers.items() if given else ():
        texts, expected = [column[number].text for number in given], list(given.values())
        results = measure("answer_metrics", predictions=texts, references=expected, per_answer=True)
        scores[name] = dict(zip(given, results["per_answer"], strict=True))
    rows = []
    for number, (messages, reference) in enumerate(zip(prompts, references, strict=True)):
        said = {name: column[number] for name, column in answers.items()}
        notes = [f"{name}: this answer was cut at the end of the context" for name, answer in said.items() if answer.cut]
        row_scores = {name: scores[name][number] for name in said if number in scores[name]}
        texts = {name: answer.text for name, answer in said.items()}
        rows.append(AnswerRow(messages, reference, texts, row_scores, notes, kinds[number] if kinds else None))
    return rows
