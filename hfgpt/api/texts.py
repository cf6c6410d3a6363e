"""Read, encode and pack texts without a folder in between: the building blocks of prepared data, for notebooks."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from os import PathLike, fspath
from typing import Literal

import numpy as np

from hfgpt.api.calls import Item, Place, each_worded, worded_for_python
from hfgpt.data.conversations import Conversation
from hfgpt.data.conversations import read_conversations as conversations_of
from hfgpt.data.markers import refuse_absent_separator
from hfgpt.data.on_disk import Document
from hfgpt.data.packing import PackingCounts, Rows, pack
from hfgpt.data.reading import Record
from hfgpt.data.records import RecordOptions
from hfgpt.data.records import read_records as records_of
from hfgpt.data.row_errors import RowErrors
from hfgpt.data.sources import ReadingOptions, find_sources
from hfgpt.data.sources import read_documents as documents_of
from hfgpt.errors import UserError

_CHOICES = {"on_error": ("stop", "skip")}


def _names(sources: Place | Iterable[Place]) -> list[str]:
    return [fspath(one) for one in ([sources] if isinstance(sources, str | PathLike) else sources)]


def _then_finished(items: Iterable[Item], errors: RowErrors, source_of: Callable[[Item], str]) -> Iterator[Item]:
    """The items; after the last one, what was skipped is logged, and a source of which everything was skipped refused."""
    used = set()
    for item in items:
        used.add(source_of(item))
        yield item
    errors.finish(used)


def read_documents(
    sources: Place | Iterable[Place],
    *,
    text_field: str = "text",
    text_documents: str | None = None,
    hub_split: str = "train",
    hub_revision: str | None = None,
    streaming: bool = False,
    max_documents: int | None = None,
    on_error: Literal["stop", "skip"] = "stop",
) -> Iterator[Document]:
    """The documents of files, patterns, folders, Hub datasets or "python-docs", one source after the other.

    Args:
        text_field: column with the text in JSON, Parquet and Hub rows.
        text_documents: what counts as a document in a plain text file: "file", "paragraph", "line", or any other string, which
            separates documents when it is on its own line. None means "file", but refuses a file whose lines look like separators.
        hub_split, hub_revision: split, and branch, tag or commit, of a Hub dataset.
        streaming: stream a Hub dataset over the network without storing it.
        max_documents: stop after this many in total.
        on_error: what to do with rows that are not documents: stop at the first, or skip them.
    Yields: `{"text", "source", "row_id"}`, all strings.
    Raises: UserError at once for missing sources and, with file and line, while reading unreadable data.
    Memory: one document (text), one row group (Parquet); a .json list is read completely.
    """
    options = ReadingOptions(
        text_field=text_field,
        text_documents=text_documents,
        hub_split=hub_split,
        hub_revision=hub_revision,
        streaming=streaming,
        max_documents=max_documents,
    )
    with worded_for_python(_CHOICES):
        found = find_sources(_names(sources))
        refuse_absent_separator(found, text_documents)
        errors = RowErrors(on_error)
        return each_worded(_then_finished(documents_of(found, options, errors), errors, lambda one: one["source"]), _CHOICES)


def read_records(
    sources: Place | Iterable[Place],
    *,
    hub_split: str = "train",
    hub_revision: str | None = None,
    header: bool = True,
    columns: list[str] | None = None,
    separator: str | None = None,
    max_records: int | None = None,
    on_error: Literal["stop", "skip"] = "stop",
) -> Iterator[Record]:
    """The rows of CSV, TSV, JSON(L) and Parquet files, Hub datasets and "python-docs", with all their columns.

    Args:
        hub_split, hub_revision: split, and branch, tag or commit, of a Hub dataset.
        header: whether the first line of a CSV or TSV file names its columns; if not, `columns` names them in order.
        separator: what separates columns: "comma", "semicolon", "tab" or a character; None detects it from the first line.
        max_records: stop after this many in total.
        on_error: what to do with rows that cannot be used: stop at the first, or skip them.
    Yields: records with `values` by column, `source`, `place` and `row_id`.
    Raises: UserError, with file and line.
    """
    options = RecordOptions(
        hub_split=hub_split,
        hub_revision=hub_revision,
        header=header,
        columns=[columns] if isinstance(columns, str) else columns,
        separator=separator,
        max_records=max_records,
    )
    with worded_for_python(_CHOICES):
        errors = RowErrors(on_error)
        return each_worded(_then_finished(records_of(_names(sources), options, errors), errors, lambda one: one.source), _CHOICES)


def read_conversations(
    sources: Place | Iterable[Place],
    *,
    style: str = "chat",
    format: str | None = None,
    hub_split: str = "train",
    hub_revision: str | None = None,
    max_records: int | None = None,
    on_error: Literal["stop", "skip"] = "stop",
) -> Iterator[Conversation]:
    """Conversations from the same sources as `read_records`: Alpaca, ShareGPT, OpenAI's messages, prompts and
    completions, questions and answers.

    Args:
        style: the prompt style, one of `CHAT_STYLES`; it only affects Alpaca rows with an input.
        format: the format of a row, one of `hfgpt.data.conversations.FORMATS`; None detects it from the columns of each source.
        hub_split, hub_revision, max_records, on_error: as for `read_records`.
    Yields: conversations with `messages`, a list of `{"role", "content"}` that ends with the assistant's.
    Raises: UserError, with file and line, for a row that is not a conversation.
    """
    errors = RowErrors(on_error)
    options = RecordOptions(hub_split=hub_split, hub_revision=hub_revision, max_records=max_records)
    with worded_for_python(_CHOICES):
        records = records_of(_names(sources), options, errors)
        found = conversations_of(records, style=style, format=format, errors=errors)
        return each_worded(_then_finished(found, errors, lambda one: one.source), _CHOICES)


def pack_rows(documents: Iterable[Sequence[int]], *, context_length: int, separator: int, pad: int) -> tuple[Rows, PackingCounts]:
    """Pack documents into rows of one length by best fit; nothing is lost, and no document that fits into one row is cut.

    Each document is followed by the separator, which also begins the next; `position_ids` restart with each document, which keeps
    them apart in attention.

    Args:
        documents: token ids of each, without separators (`encode_texts`).
        context_length: tokens per row, 3 or more.
        separator, pad: ids of the two special tokens, which differ (`tokenizer.eos_token_id`, `tokenizer.pad_token_id`).
    Returns: rows with `input_ids` and `position_ids`, int32 arrays of (rows, context_length), and the counts: rows x context_length
        = tokens + separators + repeated + padding.
    Raises: UserError for a context that is too short, and if separator and padding are the same.
    Cost: linear in the tokens; all rows are held in memory (`hfgpt.data.packing.pack` yields blocks of them).
    """
    if context_length < 3:
        raise UserError(f"context_length is {context_length}; it must be at least 3: two separators and a token.")
    if separator == pad:
        raise UserError(f"separator and pad are both {pad}; they must differ, or the model would not learn the end of a document.")
    counts = PackingCounts()
    blocks = list(pack(documents, context_length=context_length, separator=separator, pad=pad, counts=counts))
    empty = np.empty((0, context_length), dtype=np.int32)
    matrices = [np.concatenate([empty, *(getattr(block, name) for block in blocks)]) for name in ("input_ids", "position_ids")]
    return Rows(*matrices), counts
