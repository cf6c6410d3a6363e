"""The types for reading: a source, its kind, the options, and a record.

A record is one row of a table with its columns and its position, so that every error can name file and line. A document is one
text. Kinds of sources are listed in `hfgpt.data.sources.SOURCES`.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from hfgpt.counting import quoted
from hfgpt.data.on_disk import Document
from hfgpt.data.row_errors import RowError, RowErrors, usable
from hfgpt.errors import UserError
from hfgpt.files import sha256_of_file

Item = TypeVar("Item")

GROUP_BY_SOURCE = "source"  # as `group_field`
COLUMN_SEPARATORS = {"comma": ",", "semicolon": ";", "tab": "\t"}


@dataclass(frozen=True)
class SourceOptions:
    """How sources are read; each kind uses the options that apply to it.

    Args:
        text_field: column with the text of a document in CSV, TSV, JSON, Parquet and Hub rows.
        text_documents: what counts as a document in a plain text file: "file", "paragraph" (separated by blank lines), "line", or
            any other string, which then separates documents when it is on its own line. None means "file", but refuses a file whose
            lines look like separators.
        group_field: what the documents of a group share, so that they stay on one side of a split: a column of rows; "module" for
            python-docs; "source" for all documents of one file. None means no groups.
        hub_split: split of a Hub dataset.
        hub_revision: branch, tag or commit of a Hub dataset; None means its default branch.
        streaming: stream a Hub dataset over the network without storing it.
        read_share: the share of every source that is read, evenly spaced: pieces of text files and JSON lines, single documents of
            others. None reads everything.
        header: whether the first line of a CSV or TSV file names its columns.
        columns: names of the columns of CSV and TSV files without that line, in order.
        separator: what separates the columns of CSV and TSV files, one of `COLUMN_SEPARATORS` or a character; None detects it from
            the first line.
    Raises: ValueError if header and columns contradict each other, and for a separator that is not a single character.
    """

    text_field: str = "text"
    text_documents: str | None = None
    group_field: str | None = None
    hub_split: str = "train"
    hub_revision: str | None = None
    streaming: bool = False
    read_share: float | None = None
    header: bool = True
    columns: list[str] | None = None
    separator: str | None = None

    def __post_init__(self):
        if self.read_share is not None and not 0 < self.read_share <= 1:
            raise UserError(f"read_share is {self.read_share:g}; it must be above 0 and at most 1.")
        if self.separator is not None and (
            self.separator not in (*COLUMN_SEPARATORS, "\\t") and (len(self.separator) != 1 or self.separator in '"\r\n')
        ):
            raise UserError(
                f"separator is {self.separator!r}; allowed: {', '.join(COLUMN_SEPARATORS)} and single characters such as '|'."
            )
        if self.header and self.columns:
            raise UserError(
                f"columns are {self.columns}, but header is true; a file whose first line names its columns needs no columns, and "
                f"for one without such a line, give --header false."
            )
        if not self.header and not self.columns:
            raise UserError("header is false, but no columns are given; give them in order, such as columns: [label, text].")
        if self.columns:
            check_column_names(self.columns, "columns")


@dataclass(frozen=True)
class Source:
    """One thing to read.

    Args:
        kind: one of `hfgpt.data.sources.SOURCES`.
        name: its name in documents: a file, or what the user wrote.
        path: its file; None if it is not a file.
        given: what the user wrote, if that is a pattern or a folder; "" means `name`.
    """

    kind: str
    name: str
    path: Path | None = None
    given: str = ""

    @property
    def file(self) -> Path:
        if self.path is None:
            raise ValueError(f"{self.name} is not a file")
        return self.path


@dataclass(frozen=True)
class Record:
    """One row of a table.

    `place` is its position in `source` in words ("line 3", "item 7", "row 12"; lines count from 1, the others from 0), `row_id` the
    same as a key ("3").
    """

    values: dict[str, object]
    source: str
    place: str
    row_id: str

    def __str__(self) -> str:
        """Its position for messages: "reviews.csv, line 3"."""
        return f"{self.source}, {self.place}"

    def error(self, message: str, *, reason: str) -> RowError:
        """An error that this row cannot be used: `message` says why and what to do, `reason` is the general reason without names or
        values."""
        return RowError(f"{self}: {message}", reason=reason, source=self.source)


def evenly(items: Iterable[Item], share: float) -> Iterator[Item]:
    """A share of the items, evenly spaced, beginning with the first."""
    return (item for number, item in enumerate(items) if math.ceil((number + 1) * share) > math.ceil(number * share))


# The rows of a source. With `column`, only that column (the text of a document) and the group column are needed.
RecordReader = Callable[[Source, SourceOptions, RowErrors | None, str | None], Iterator[Record]]
DocumentReader = Callable[[Source, SourceOptions, RowErrors | None], Iterator[Document]]


def file_identity(source: Source, options: SourceOptions) -> dict[str, object]:
    """Size and SHA-256 of a file."""
    return {"bytes": source.file.stat().st_size, "sha256": sha256_of_file(source.file)}


@dataclass(frozen=True)
class SourceKind:
    """Everything that depends on the kind of a source.

    Args:
        records: reads its rows; None if it has none.
        documents: reads its texts, often `texts_of(records)`; None if it has none.
        identity: what the passport says about a source besides its name and kind: a hash, a commit.
        options: which of `SourceOptions` it uses, besides `group_field`; others are refused if no other kind is read. None accepts
            all.
        suffixes: suffixes of its files, in lower case; () if it is not a kind of file.
        in_folders: whether its files are read from a folder of texts.
        is_file: whether a file is of this kind whatever its suffix.
        is_one_document: whether a source has a single document; of many such sources, `SourceOptions.read_share` is a share of the
            sources.
        reads_pieces: whether its reader reads a share of a source by itself (`SourceOptions.read_share`); of others, documents are
            chosen.
        is_named: whether a name refers to such a source. It is called before searching for files or, with `after_files`, if there
            is no such file.
    """

    records: RecordReader | None = None
    documents: DocumentReader | None = None
    identity: Callable[[Source, SourceOptions], dict[str, object]] = file_identity
    options: tuple[str, ...] | None = None
    suffixes: tuple[str, ...] = ()
    in_folders: bool = False
    is_file: Callable[[Path], bool] = lambda path: False
    is_one_document: bool = False
    reads_pieces: Callable[[Source], bool] = lambda source: False
    is_named: Callable[[str], bool] = lambda name: False
    after_files: bool = False


def texts_of(records: RecordReader) -> DocumentReader:
    """A reader of documents whose texts are one column of the rows read by `records`."""

    def documents(source: Source, options: SourceOptions, errors: RowErrors | None) -> Iterator[Document]:
        def document(record: Record) -> Document:
            document = {"text": _text_of(record, options.text_field), "source": record.source, "row_id": record.row_id}
            return document | ({"group": _group_of(record, column)} if (column := column_of_groups(options)) else {})

        return usable(records(source, options, errors, options.text_field), document, errors)

    return documents


def _text_of(record: Record, column: str) -> str:
    if column not in record.values:
        raise record.error(
            f"the field {column!r} is missing, found {quoted(record.values)}; give the right one with --text_field.",
            reason=f"no field {column!r}",
        )
    text = record.values[column]
    if not isinstance(text, str):
        kind = json_type(text)
        raise record.error(f"the field {column!r} is a {kind}, but must be a string.", reason=f"the text is a {kind}")
    return text


def column_of_groups(options: SourceOptions) -> str | None:
    """The column with a document's group, if there is one."""
    return None if options.group_field == GROUP_BY_SOURCE else options.group_field


def _group_of(record: Record, column: str) -> str:
    if column not in record.values:
        raise record.error(
            f"the field {column!r} is missing, found {quoted(record.values)}; give the group column with --group_field.",
            reason=f"no field {column!r}",
        )
    value = record.values[column]
    if value is None or isinstance(value, (dict, list)):
        kind = json_type(value)
        raise record.error(
            f"the field {column!r} is a {kind}, but a group must be a string or a number.",
            reason=f"the group is a {kind}",
        )
    return str(value)


def json_type(value: object) -> str:
    """The JSON type of a value."""
    names = {dict: "object", list: "list", str: "string", bool: "boolean", int: "number", float: "number", type(None): "null"}
    return names.get(type(value), type(value).__name__)


def check_column_names(names: list[str], place: str) -> None:
    """Raises: ValueError for a table with a duplicate column name."""
    twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    if twice:
        raise UserError(f"{place}: the column name {twice[0]!r} occurs {names.count(twice[0])} times; column names must be unique.")


def check_text_column(types: dict[str, str], place: str, column: str) -> None:
    """Raises: ValueError for a table with typed columns if `column` is missing or does not contain strings."""
    if column not in types:
        raise UserError(f"{place} has no column {column!r}, found {quoted(types)}; give the right one with --text_field.")
    if types[column] not in ("string", "large_string", "string_view"):
        raise UserError(f"{place}: the column {column!r} has the type {types[column]}, but must be a string.")
