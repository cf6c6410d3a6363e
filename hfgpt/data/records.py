"""Records: the rows of tables, with their columns, out of files, Hub datasets and this Python's own documentation.

Examples for fine-tuning are read from records. What a column means is for others to say (classification.py, chat.py); here a
record only knows its values and its place, so that every complaint about it can name file and line.
"""

import csv
import json
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow
import pyarrow.parquet

from hfgpt.data.encoding import decoded_lines
from hfgpt.data.sources import (
    JSON_SUFFIXES,
    ReadingOptions,
    Source,
    find_sources,
    hub_rows,
    json_rows,
    json_type,
    load_hub_dataset,
    read_python_docs,
)
from hfgpt.errors import UserError

RECORD_SUFFIXES = (".csv", ".tsv", *JSON_SUFFIXES, ".parquet")


@dataclass(frozen=True)
class RecordOptions:
    """How records are read.

    Args:
        hub_split, hub_revision: split, and branch, tag or commit, of a Hub dataset; None is its default branch.
        header: whether the first line of a CSV or TSV file names its columns.
        columns: names of the columns of CSV and TSV files without that line, in order.
        max_records: stop after this many records in all; None reads everything.
    Raises: ValueError where header and columns contradict each other.
    """

    hub_split: str = "train"
    hub_revision: str | None = None
    header: bool = True
    columns: list[str] | None = None
    max_records: int | None = None

    def __post_init__(self):
        if self.header and self.columns:
            raise UserError(
                f"columns are {self.columns} and header is true; a file whose first line names its columns needs no names, "
                "and for one without that line set header: false."
            )
        if not self.header and not self.columns:
            raise UserError("header is false, and no columns are named; name them in order, such as columns: [label, text].")
        if self.columns:
            _check_column_names(self.columns, "columns")


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


def read_records(names: Iterable[str], options: RecordOptions) -> Iterator[Record]:
    """The rows of .csv, .tsv, .json, .jsonl, .ndjson and .parquet files, Hub datasets and `python-docs`, one after the other.

    Names may be patterns. CSV is read with quotes, which may hold line breaks; in TSV a quote is a character like any other.
    A value is a string in CSV and TSV, otherwise what the file has there; class ids of a Hub dataset become their names.

    Memory: one row (CSV, TSV, JSON lines, Hub) or one row group (Parquet); a .json list is read whole.
    Raises: FileNotFoundError for a missing file or dataset, ValueError for what cannot be read, with file and line.
    """
    count = 0
    for source in _record_sources(names):
        for record in _read(source, options):
            if options.max_records is not None and count >= options.max_records:
                return
            count += 1
            yield record


def identities(names: Iterable[str], options: RecordOptions) -> list[dict[str, object]]:
    """What the passport says of each input: files with size and SHA-256, Hub datasets with their commit."""
    reading = ReadingOptions(hub_split=options.hub_split, hub_revision=options.hub_revision)
    return [source.identity(reading) for source in _record_sources(names)]


def _record_sources(names: Iterable[str]) -> list[Source]:
    sources = []
    for source in find_sources(names, file_suffixes=RECORD_SUFFIXES):
        if source.path is not None:
            if source.path.suffix.lower() not in RECORD_SUFFIXES:
                raise UserError(f"{source.name} is no table; rows are read from {', '.join(RECORD_SUFFIXES)} files.")
            if source.kind == "text":
                source = replace(source, kind=source.path.suffix.lower().removeprefix("."))
        sources.append(source)
    return sources


def _read(source: Source, options: RecordOptions) -> Iterator[Record]:
    if source.kind in ("csv", "tsv"):
        return _read_table(source, options)
    if source.kind == "json":
        return _read_json(source)
    if source.kind == "parquet":
        return _read_parquet(source)
    if source.kind == "hub":
        return _read_hub(source, options)
    return _read_python_docs(source.name)


def _read_table(source: Source, options: RecordOptions) -> Iterator[Record]:
    rows = _csv_rows(source.path) if source.kind == "csv" else _tsv_rows(source.path)
    names = options.columns
    if options.header:
        line, names = next(rows, (1, []))
        if not names:
            raise UserError(f"{source.name} is empty; a first line with the names of the columns is needed.")
        _check_column_names(names, f"{source.name}, line {line}")
    for line, fields in rows:
        if len(fields) != len(names):
            raise UserError(
                f"{source.name}, line {line}: {len(fields)} fields, {len(names)} are needed ({', '.join(names)}); "
                + (
                    "quote fields that hold a comma, a quote or a line break."
                    if source.kind == "csv"
                    else "no text may hold a tab."
                )
            )
        yield Record(dict(zip(names, fields, strict=True)), source.name, f"line {line}", str(line))


def _check_column_names(names: list[str], place: str) -> None:
    twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    if twice:
        raise UserError(
            f"{place}: the column {twice[0]!r} is named {names.count(twice[0])} times; every column needs its own name."
        )


def _csv_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Rows with the number of the line they begin on; empty lines between them are none."""
    csv.field_size_limit(sys.maxsize)  # the default of 131,072 characters is less than a long text
    # strict: otherwise a quote that nobody closes silently swallows the rest of the file
    reader = csv.reader((line for _, line in decoded_lines(path)), strict=True)
    while True:
        line = reader.line_num + 1
        try:
            fields = next(reader, None)
        except csv.Error as error:
            raise UserError(f"{path}, line {line}: the row that begins here is no valid CSV ({error}).") from None
        if fields is None:
            return
        if fields:
            yield line, fields


def _tsv_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    for number, line in decoded_lines(path):
        if content := line.rstrip("\r\n"):
            yield number, content.split("\t")


def _read_json(source: Source) -> Iterator[Record]:
    for row, place, row_id in json_rows(source.path):
        record = Record(row, source.name, place, row_id)
        if not isinstance(row, dict):
            raise UserError(f"{record}: found a JSON {json_type(row)}, an object is needed.")
        for name, value in row.items():
            try:
                json.dumps(value, ensure_ascii=False).encode("utf-8")
            except UnicodeEncodeError as error:
                surrogate = ord(error.object[error.start])
                raise UserError(
                    f"{record}: the field {name!r} holds half a surrogate pair (\\u{surrogate:04x}), which is no text; "
                    "repair the file."
                ) from None
        yield record


def _read_parquet(source: Source) -> Iterator[Record]:
    row_id = 0
    try:
        for batch in pyarrow.parquet.ParquetFile(source.path).iter_batches():
            for row in batch.to_pylist():
                yield Record(row, source.name, f"row {row_id}", str(row_id))
                row_id += 1
    except pyarrow.ArrowException as error:
        raise UserError(f"{source.name} is no valid Parquet file: {error}") from None


def _read_hub(source: Source, options: RecordOptions) -> Iterator[Record]:
    from datasets import ClassLabel, LargeList, List, Value

    rows = load_hub_dataset(source.name, split=options.hub_split, revision=options.hub_revision)
    # Pictures and sound beside the text would be decoded, which needs more packages.
    readable_kinds = (Value, ClassLabel, List, LargeList, list, dict)
    readable = [name for name, feature in rows.features.items() if isinstance(feature, readable_kinds)]
    rows = rows.select_columns(readable)
    class_names = {}
    for name in readable:
        feature = getattr(rows.features[name], "feature", rows.features[name])  # of a list, what is in it
        if isinstance(feature, ClassLabel):
            class_names[name] = feature.names
    for row_id, row in hub_rows(source.name, rows):
        for name, names in class_names.items():
            row[name] = _class_names(row[name], names)
        yield Record(row, source.name, f"row {row_id}", str(row_id))


def _class_names(value: int | list[int] | None, names: list[str]) -> object:
    if isinstance(value, list):
        return [_class_names(item, names) for item in value]
    return None if value is None or value < 0 else names[value]  # -1 is the Hub's "not labelled"


def _read_python_docs(name: str) -> Iterator[Record]:
    """What a docstring is about: its module, and a question that it answers.

    `text` is the docstring without the signature above it, `label` the top-level module ("email"), `name` what it describes
    ("email.message.Message.walk"), `instruction` the question "What does ... do?", `output` its first paragraph as one line.
    The topics of the language reference belong to no module and are left out.
    """
    for document in read_python_docs(name):
        row_id = document["row_id"]
        module, _, qualname = row_id.partition(":")
        _, _, text = document["text"].partition("\n\n")
        if module == "topic" or not text.strip():
            continue
        described = f"{module}.{qualname}" if qualname else module
        text = text.strip()
        values = {
            "text": text,
            "label": module.partition(".")[0],
            "name": described,
            "instruction": f"What does {described} do?",
            "output": " ".join(re.split(r"\n\s*\n", text, maxsplit=1)[0].split()),
        }
        yield Record(values, name, row_id, row_id)
