"""What is read, how, and what comes out: a source, its kind, the options, and a record.

A record is one row of a table with its columns and its place, so that every complaint about it can name file and line. A document
is one text. Kinds of sources are listed in `hfgpt.data.sources.SOURCES`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from hfgpt.data.on_disk import Document
from hfgpt.data.row_errors import RowError, RowErrors, usable
from hfgpt.errors import UserError
from hfgpt.files import sha256_of_file

GROUP_BY_SOURCE = "source"  # as `group_field`
COLUMN_SEPARATORS = {"comma": ",", "semicolon": ";", "tab": "\t"}


@dataclass(frozen=True)
class SourceOptions:
    """How sources are read; each kind looks at what concerns it.

    Args:
        text_field: column of CSV, TSV, JSON, Parquet and Hub rows that holds the text of a document.
        text_documents: what is one document in a plain text file: "file", "paragraph" (blank lines between), "line", or
            any other string, which then separates documents as a line of its own. None is "file", but refuses a file whose
            lines look like separators.
        group_field: what documents of one group have in common, which then stand on one side of a split: a column of rows;
            "module" of python-docs; "source" for all documents of one file. None makes no groups.
        hub_split: split of a Hub dataset.
        hub_revision: branch, tag or commit of a Hub dataset; None is its default branch.
        streaming: read a Hub dataset over the network as it goes, without storing it.
        header: whether the first line of a CSV or TSV file names its columns.
        columns: names of the columns of CSV and TSV files without that line, in order.
        separator: what separates the columns of CSV and TSV files, one of `COLUMN_SEPARATORS` or a character; None tells it from
            the first line.
    Raises: ValueError where header and columns contradict each other, and for a separator that is not a single character.
    """

    text_field: str = "text"
    text_documents: str | None = None
    group_field: str | None = None
    hub_split: str = "train"
    hub_revision: str | None = None
    streaming: bool = False
    header: bool = True
    columns: list[str] | None = None
    separator: str | None = None

    def __post_init__(self):
        if self.separator is not None and (
            self.separator not in (*COLUMN_SEPARATORS, "\\t") and (len(self.separator) != 1 or self.separator in '"\r\n')
        ):
            raise UserError(
                f"separator is {self.separator!r}; allowed are {', '.join(COLUMN_SEPARATORS)} and single characters such as '|'."
            )
        if self.header and self.columns:
            raise UserError(
                f"columns are {self.columns} and header is true; a file whose first line names its columns needs no names, "
                "and for one without that line set header: false."
            )
        if not self.header and not self.columns:
            raise UserError("header is false, and no columns are named; name them in order, such as columns: [label, text].")
        if self.columns:
            check_column_names(self.columns, "columns")


@dataclass(frozen=True)
class Source:
    """One thing to read.

    Args:
        kind: one of `hfgpt.data.sources.SOURCES`.
        name: what its documents call it: a file, or what the user wrote.
        path: the file that it is; None for what is not a file.
        given: what the user wrote, where that is a pattern or a folder; "" is `name`.
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

    `place` is where in `source` it lies, as a person would say it ("line 3", "item 7", "row 12"; lines count from 1, the others
    from 0), `row_id` the same as a key ("3").
    """

    values: dict[str, object]
    source: str
    place: str
    row_id: str

    def __str__(self) -> str:
        """Where it is, for messages: "reviews.csv, line 3"."""
        return f"{self.source}, {self.place}"

    def error(self, message: str, *, reason: str) -> RowError:
        """That this row cannot be used: `message` says why and what to do, `reason` the kind of it, without names or values."""
        return RowError(f"{self}: {message}", reason=reason, source=self.source)


# The rows of a source. With `column`, only that column is needed (and the one of groups), and it holds the text of a document.
RecordReader = Callable[[Source, SourceOptions, RowErrors | None, str | None], Iterator[Record]]
DocumentReader = Callable[[Source, SourceOptions, RowErrors | None], Iterator[Document]]


def file_identity(source: Source, options: SourceOptions) -> dict[str, object]:
    """Size and SHA-256 of a file."""
    return {"bytes": source.file.stat().st_size, "sha256": sha256_of_file(source.file)}


@dataclass(frozen=True)
class SourceKind:
    """All that depends on the kind of a source.

    Args:
        records: reads its rows; None where it has none.
        documents: reads its texts, often `texts_of(records)`; None where it has none.
        identity: what the passport says of a source beside its name and kind: a hash, a commit.
        options: which of `SourceOptions` it looks at, but for `group_field`; others are refused where no other kind is read. None
            leaves all alone.
        suffixes: endings of its files, in lower case; () where it is not files.
        is_named: whether a name means such a source. It is asked before any file is looked for, or, with `after_files`, where there
            is no such file.
    """

    records: RecordReader | None = None
    documents: DocumentReader | None = None
    identity: Callable[[Source, SourceOptions], dict[str, object]] = file_identity
    options: tuple[str, ...] | None = None
    suffixes: tuple[str, ...] = ()
    is_named: Callable[[str], bool] = lambda name: False
    after_files: bool = False


def texts_of(records: RecordReader) -> DocumentReader:
    """The reader of documents whose texts are one column of the rows that `records` reads."""

    def documents(source: Source, options: SourceOptions, errors: RowErrors | None) -> Iterator[Document]:
        def document(record: Record) -> Document:
            document = {"text": _text_of(record, options.text_field), "source": record.source, "row_id": record.row_id}
            return document | ({"group": _group_of(record, column)} if (column := column_of_groups(options)) else {})

        return usable(records(source, options, errors, options.text_field), document, errors)

    return documents


def _text_of(record: Record, column: str) -> str:
    if column not in record.values:
        found = ", ".join(map(repr, record.values)) or "none"
        raise record.error(
            f"the field {column!r} is missing, found {found}; name the right one with text_field.", reason=f"no field {column!r}"
        )
    text = record.values[column]
    if not isinstance(text, str):
        kind = json_type(text)
        raise record.error(f"the field {column!r} is a {kind}, a string is needed.", reason=f"the text is a {kind}")
    return text


def column_of_groups(options: SourceOptions) -> str | None:
    """The column that names a document's group, where a column does."""
    return None if options.group_field == GROUP_BY_SOURCE else options.group_field


def _group_of(record: Record, column: str) -> str:
    if column not in record.values:
        found = ", ".join(map(repr, record.values)) or "none"
        raise record.error(
            f"the field {column!r} is missing, found {found}; name the one of the groups with group_field.",
            reason=f"no field {column!r}",
        )
    value = record.values[column]
    if value is None or isinstance(value, (dict, list)):
        kind = json_type(value)
        raise record.error(
            f"the field {column!r} is a {kind}, a string or a number is needed, which names a group.",
            reason=f"the group is a {kind}",
        )
    return str(value)


def json_type(value: object) -> str:
    """What JSON calls the type of a value."""
    names = {dict: "object", list: "list", str: "string", bool: "boolean", int: "number", float: "number", type(None): "null"}
    return names.get(type(value), type(value).__name__)


def check_column_names(names: list[str], place: str) -> None:
    """Raises: ValueError for a table that names a column twice."""
    twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    if twice:
        raise UserError(
            f"{place}: the column {twice[0]!r} is named {names.count(twice[0])} times; every column needs its own name."
        )


def check_text_column(types: dict[str, str], place: str, column: str) -> None:
    """Raises: ValueError for a table with typed columns of which `column` is missing or does not hold strings."""
    if column not in types:
        found = ", ".join(map(repr, types)) or "none"
        raise UserError(f"{place} has no column {column!r}, found {found}; name the right one with text_field.")
    if types[column] not in ("string", "large_string", "string_view"):
        raise UserError(f"{place}: the column {column!r} is of type {types[column]}, a string is needed.")
