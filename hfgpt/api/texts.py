"""Reading, cutting and packing texts, without a folder in between: what prepared data is made of, in a notebook's hands."""

from collections.abc import Iterable, Iterator, Sequence
from os import PathLike, fspath
from typing import Literal

import numpy as np

from hfgpt.api.calls import Place
from hfgpt.data.conversations import Conversation
from hfgpt.data.conversations import read_conversations as conversations_of
from hfgpt.data.on_disk import Document
from hfgpt.data.packing import PackingCounts, Rows, pack
from hfgpt.data.reading import Record
from hfgpt.data.records import RecordOptions
from hfgpt.data.records import read_records as records_of
from hfgpt.data.row_errors import RowErrors
from hfgpt.data.sources import ReadingOptions, find_sources
from hfgpt.data.sources import read_documents as documents_of
from hfgpt.errors import UserError


def _names(sources: Place | Iterable[Place]) -> list[str]:
    return [fspath(one) for one in ([sources] if isinstance(sources, str | PathLike) else sources)]


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
        text_field: column of JSON, Parquet and Hub rows that holds the text.
        text_documents: what is one document in a plain text file: "file", "paragraph", "line", or any other string, which then
            separates documents as a line of its own. None is "file", but refuses a file whose lines look like separators.
        hub_split, hub_revision: split, and branch, tag or commit, of a Hub dataset.
        streaming: read a Hub dataset over the network as it goes, without storing it.
        max_documents: stop after this many in all.
        on_error: what becomes of single rows that are no document: stop at the first, or skip them.
    Yields: `{"text", "source", "row_id"}`, all strings.
    Raises: UserError, with file and line, at once for sources that are not there, and while reading for what cannot be read.
    Memory: one document (text), one row group (Parquet); a .json list is read whole.
    """
    options = ReadingOptions(
        text_field=text_field,
        text_documents=text_documents,
        hub_split=hub_split,
        hub_revision=hub_revision,
        streaming=streaming,
        max_documents=max_documents,
    )
    return documents_of(find_sources(_names(sources)), options, RowErrors(on_error))


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
        header: whether the first line of a CSV or TSV file names its columns; without it, `columns` names them in order.
        separator: what separates columns: "comma", "semicolon", "tab" or a character; None tells it from the first line.
        max_records: stop after this many in all.
        on_error: what becomes of single rows that cannot be used: stop at the first, or skip them.
    Yields: records with `values` by column, `source`, `place` and `row_id`.
    Raises: UserError, with file and line.
    """
    options = RecordOptions(
        hub_split=hub_split,
        hub_revision=hub_revision,
        header=header,
        columns=columns,
        separator=separator,
        max_records=max_records,
    )
    return records_of(_names(sources), options, RowErrors(on_error))


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
    """Conversations out of what `read_records` reads: Alpaca, ShareGPT, OpenAI's messages, prompts and completions.

    Args:
        style: the prompt style that they are for, of `CHAT_STYLES`; only Alpaca rows with an input are worded by it.
        format: what a row holds, of `hfgpt.data.conversations.FORMATS`; None tells it by the columns of each source.
        hub_split, hub_revision, max_records, on_error: as for `read_records`.
    Yields: conversations with `messages`, a list of `{"role", "content"}` that ends with the assistant's.
    Raises: UserError, with file and line, for a row that is no conversation.
    """
    errors = RowErrors(on_error)
    options = RecordOptions(hub_split=hub_split, hub_revision=hub_revision, max_records=max_records)
    return conversations_of(records_of(_names(sources), options, errors), style=style, format=format, errors=errors)


def pack_rows(documents: Iterable[Sequence[int]], *, context_length: int, separator: int, pad: int) -> tuple[Rows, PackingCounts]:
    """Pack documents into rows of one length by best fit; nothing is lost, and none is cut that fits into one row.

    Each document is followed by the separator, which also opens the next; `position_ids` restart with each, which is how
    attention keeps them apart.

    Args:
        documents: token ids of each, without separators (`encode_texts`).
        context_length: tokens per row, 3 or more.
        separator, pad: ids of the two special tokens, which differ (`tokenizer.eos_token_id`, `tokenizer.pad_token_id`).
    Returns: rows with `input_ids` and `position_ids`, int32 arrays of (rows, context_length), and the counts: rows x context_length
        = tokens + separators + repeated + padding.
    Raises: UserError for a context without room, and for separator and padding that are one.
    Cost: linear in the tokens; all rows are held in memory (`hfgpt.data.packing.pack` yields blocks of them).
    """
    if context_length < 3:
        raise UserError(f"context_length is {context_length}; 3 or more are needed: two separators and a token.")
    if separator == pad:
        raise UserError(f"separator and pad are both {pad}; two ids are needed, or the end of a document would not be learned.")
    counts = PackingCounts()
    blocks = list(pack(documents, context_length=context_length, separator=separator, pad=pad, counts=counts))
    empty = np.empty((0, context_length), dtype=np.int32)
    matrices = [np.concatenate([empty, *(getattr(block, name) for block in blocks)]) for name in ("input_ids", "position_ids")]
    return Rows(*matrices), counts
