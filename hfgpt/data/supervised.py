"""Conversations as training rows: ids and labels, cut or dropped if too long, and packed if requested."""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedTokenizerFast

from hfgpt.data.chat_encoding import ConversationEncoder
from hfgpt.data.conversations import Conversation
from hfgpt.data.packing import best_fit, lay_out, restarting_positions
from hfgpt.errors import UserError
from hfgpt.tables import check_allowed

IGNORED = -100  # the label of tokens that are not trained on
LOSS_ON = ("assistant", "all")
TOO_LONG = ("drop", "cut")


def _labels(ids: list[int], learned: list[bool], loss_on: str) -> list[int]:
    return list(ids) if loss_on == "all" else [id if is_learned else IGNORED for id, is_learned in zip(ids, learned, strict=True)]


@dataclass
class SupervisedCounts:
    """conversations = rows + dropped_too_long + dropped_without_answer; `cut` of the rows lost `cut_tokens` at the end."""

    conversations: int = 0
    rows: int = 0
    cut: int = 0
    cut_tokens: int = 0
    dropped_too_long: int = 0
    dropped_without_answer: int = 0  # nothing of an answer was left after cutting
    tokens: int = 0
    learned_tokens: int = 0
    packed_rows: int = 0
    padding: int = 0


def supervised_rows(
    conversations: Iterable[Conversation],
    tokenizer: PreTrainedTokenizerFast,
    *,
    max_length: int,
    too_long: str = "drop",
    loss_on: str = "assistant",
) -> tuple[dict[str, list[list[int]]], SupervisedCounts]:
    """Columns `input_ids` and `labels`, one conversation per row, in order, and counts of the outcomes.

    A label is the id, or -100 for tokens that are not trained on. Answers listed in the conversation's `unlearned` are not trained
    on.

    Args:
        max_length: maximum tokens in a row.
        too_long: "drop" leaves out longer conversations; "cut" drops the tokens after `max_length`, so the answer does not end
            there, and leaves the conversation out if nothing of an answer remains.
        loss_on: "assistant" trains on the answers and their end tokens, "all" on everything.
    Raises: ValueError, with source and position, for errors of `ConversationEncoder.encode`.
    """
    check_allowed("too_long", too_long, TOO_LONG)
    check_allowed("loss_on", loss_on, LOSS_ON)
    if max_length < 2:
        raise UserError(f"max_length is {max_length}; it must be at least 2: one token to read and one to predict.")
    encoder = ConversationEncoder(tokenizer)
    columns: dict[str, list[list[int]]] = {"input_ids": [], "labels": []}
    counts = SupervisedCounts()
    if loss_on == "all":
        conversations = map(_check_all_learned, conversations)
    for ids, learned in _encode_in_batches(conversations, encoder):
        counts.conversations += 1
        if len(ids) > max_length:
            if too_long == "drop":
                counts.dropped_too_long += 1
                continue
            # the first token of a row has no context
            if not any(learned[1:max_length]):
                counts.dropped_without_answer += 1
                continue
            counts.cut += 1
            counts.cut_tokens += len(ids) - max_length
            ids, learned = ids[:max_length], learned[:max_length]
        labels = _labels(ids, learned, loss_on)
        columns["input_ids"].append(ids)
        columns["labels"].append(labels)
        counts.rows += 1
        counts.tokens += len(ids)
        counts.learned_tokens += sum(label != IGNORED for label in labels[1:])
    return columns, counts


def _check_all_learned(conversation: Conversation) -> Conversation:
    if conversation.unlearned:
        raise UserError(
            f"{conversation.source}, {conversation.place}: the weight of message {conversation.unlearned[0] + 1} is 0, but "
            f"loss_on: all trains on every token of a conversation; remove the weights, or train with --loss_on assistant."
        )
    return conversation


def _encode_in_batches(
    conversations: Iterable[Conversation], encoder: ConversationEncoder
) -> Iterator[tuple[list[int], list[bool]]]:
    remaining = iter(conversations)
    while batch := list(itertools.islice(remaining, 1000)):
        yield from _encode_batch(batch, encoder)


def _encode_batch(batch: list[Conversation], encoder: ConversationEncoder) -> list[tuple[list[int], list[bool]]]:
    try:
        return encoder.encode([conversation.messages for conversation in batch], [one.unlearned for one in batch])
    except UserError:
        for conversation in batch:  # which one was it?
            try:
                encoder.encode([conversation.messages])
            except UserError as error:
                raise UserError(f"{conversation.source}, {conversation.place}: {error}") from None
        raise


def pack_supervised(rows: dict[str, list[list[int]]], *, context_length: int, pad: int) -> dict[str, list[list[int]]]:
    """Pack several conversations per row by best fit, without cutting any: columns `input_ids`, `labels` and `position_ids`.

    Every row has `context_length` tokens; positions restart at 0 with each conversation and with the padding, which keeps them
    apart without an attention mask. The first token of each has the label -100, because it would be predicted from another
    conversation.

    Raises: ValueError for a conversation longer than `context_length`.
    """
    longest = max(map(len, rows["input_ids"]), default=0)
    if longest > context_length:
        raise UserError(f"a conversation has {longest:,} tokens, but context_length is {context_length:,}; cut or drop it first.")
    # (tokens, 2) each, ids beside labels; the first token of each is not learned
    segments = [np.array([ids, [IGNORED, *labels[1:]]]).T for ids, labels in zip(rows["input_ids"], rows["labels"], strict=True)]
    bins = best_fit(segments, begun=[], capacity=context_length)
    columns = {
        "input_ids": lay_out([[segment[:, 0] for segment in together] for together in bins], length=context_length, fill=pad),
        "labels": lay_out([[segment[:, 1] for segment in together] for together in bins], length=context_length, fill=IGNORED),
        "position_ids": restarting_positions(bins, length=context_length),
    }
    return {name: column.tolist() for name, column in columns.items()}
