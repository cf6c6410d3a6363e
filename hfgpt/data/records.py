"""Records: the rows of tables, with their columns, out of files, Hub datasets and this Python's own documentation.

Examples for fine-tuning are read from records. What a column means is for others to say (classification.py, chat.py); here a
record only knows its values and its place, so that every complaint about it can name file and line.
"""

import csv
import itertools
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow
import pyarrow.parquet

from hfgpt.data.encoding import decoded_lines
from hfgpt.data.python_docs import read_python_docs
from hfgpt.data.row_errors import RowError, RowErrors, refuse
from hfgpt.data.sources import JSON_SUFFIXES, ReadingOptions, Source, find_sources, hub_rows, json_rows, json_type, load_hub_dataset
from hfgpt.errors import UserError

RECORD_SUFFIXES = (".csv", ".tsv", *JSON_SUFFIXES, ".parquet")
SEPARATORS = {"comma": ",", "semicolon": ";", "tab": "\t"}
# Excel writes, and reads, a first line that only names the separator.
SEPARATOR_LINE = re.compile(r'"?sep=(.)"?')
FIELD_BEGINS_WITH_QUOTE = re.compile(r'(?:^|\t)"')
FIELD_HOLDS_DOUBLED_QUOTE = re.compile(r'(?:^|\t)"[^\t]*""[^\t]*"')


@dataclass(frozen=True)
class RecordOptions:
    """How records are read.

    Args:
        hub_split, hub_revision: split, and branch, tag or commit, of a Hub dataset; None is its default branch.
        header: whether the first line of a CSV or TSV file names its columns.
        columns: names of the columns of CSV and TSV files without that line, in order.
        separator: what separates the columns of CSV and TSV files, one of `SEPARATORS` or a character; None tells it from the first
            line.
        max_records: stop after this many records in all; None reads everything.
    Raises: ValueError where header and columns contradict each other.
    """

    hub_split: str = "train"
    hub_revision: str | None = None
    header: bool = True
    columns: list[str] | None = None
    separator: str | None = None
    max_records: int | None = None

    def __post_init__(self):
        if self.separator is not None and (
            self.separator not in (*SEPARATORS, "\\t") and (len(self.separator) != 1 or self.separator in '"\r\n')
        ):
            raise UserError(
                f"separator is {self.separator!r}; allowed are {', '.join(SEPARATORS)} and single characters such as '|'."
            )
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

    def error(self, message: str, *, reason: str) -> RowError:
        """That this row cannot be used: `message` says why and what to do, `reason` the kind of it, without names or values."""
        return RowError(f"{self}: {message}", reason=reason, source=self.source)


def read_records(names: Iterable[str], options: RecordOptions, errors: RowErrors | None = None) -> Iterator[Record]:
    """The rows of .csv, .tsv, .json, .jsonl, .ndjson and .parquet files, Hub datasets and `python-docs`, one after the other.

    Names may be patterns. Tables are read as pandas and Excel write them, with quotes that may hold separators and line breaks; in
    a TSV file whose quotes enclose no fields they are characters like any other. A value is a string in CSV and TSV, otherwise
    what the file has there; class ids of a Hub dataset become their names.

    Args: `errors` decides about rows that cannot be used; None raises.
    Memory: one row (CSV, TSV, JSON lines, Hub) or one row group (Parquet); a .json list is read whole.
    Raises: FileNotFoundError for a missing file or dataset, ValueError for what cannot be read, with file and line.
    """
    count = 0
    for source in _record_sources(names):
        for record in _read(source, options, errors):
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
                raise UserError(
                    f"{source.name} is no table; rows are read from {', '.join(RECORD_SUFFIXES)} files; save it as one of them."
                )
            if source.kind == "text":
                source = replace(source, kind=source.path.suffix.lower().removeprefix("."))
        sources.append(source)
    return sources


def _read(source: Source, options: RecordOptions, errors: RowErrors | None) -> Iterator[Record]:
    if source.kind in ("csv", "tsv"):
        return _read_table(source, options, errors)
    if source.kind == "json":
        return _read_json(source, errors)
    if source.kind == "parquet":
        return _read_parquet(source)
    if source.kind == "hub":
        return _read_hub(source, options)
    return _read_python_docs(source.name)


def _read_table(source: Source, options: RecordOptions, errors: RowErrors | None) -> Iterator[Record]:
    csv.field_size_limit(2**31 - 1)  # the default of 131,072 characters is less than a long text; C's long on Windows ends here
    separator, begin = _separator(source, options)
    settings: dict = {"separator": separator, "begin": begin}
    if separator == "\t" and not _quotes_enclose_fields(source.path, begin):
        settings["quoting"] = csv.QUOTE_NONE
    rows = _table_rows(source.path, **settings)
    names = options.columns
    if options.header:
        line, names = next(rows, (1, []))
        if len(names) > 1 and all(name.startswith(" ") for name in names[1:]):
            # written as "a, b": a quote after such a space encloses a field, too
            rows = _table_rows(source.path, **settings, skipinitialspace=True)
            next(rows)
        names = [name.strip() for name in names]
        while names and not names[-1]:
            names.pop()  # separators at the end of the line, of which spreadsheets write many
        if not names:
            raise UserError(f"{source.name} is empty; a first line with the names of the columns is needed.")
        _check_column_names(names, f"{source.name}, line {line}")
    for line, fields in rows:
        if not any(map(str.strip, fields)) and max(len(fields), len(names)) > 1:
            continue  # an empty row of a spreadsheet
        values, beyond = fields[: len(names)], fields[len(names) :]
        record = Record(dict(zip(names, values)), source.name, f"line {line}", str(line))
        if len(values) < len(names) or any(map(str.strip, beyond)):
            name = next((name for name, character in SEPARATORS.items() if character == separator), repr(separator))
            message = (
                f"{len(fields)} fields, {len(names)} are needed ({', '.join(names)}), separated by {name}; quote fields that hold "
                f"a {name}, a quote or a line break, or give the right separator."
            )
            refuse(record.error(message, reason="wrong number of fields"), errors)
        else:
            yield record


def _check_column_names(names: list[str], place: str) -> None:
    twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    if twice:
        raise UserError(
            f"{place}: the column {twice[0]!r} is named {names.count(twice[0])} times; every column needs its own name."
        )


def _separator(source: Source, options: RecordOptions) -> tuple[str, int]:
    """The separator of a table's columns, and how many lines precede the table: one, where that line only names the separator."""
    lines = (line.rstrip("\r\n") for line in _table_lines(source.path))
    first = next(lines, "")
    named = SEPARATOR_LINE.fullmatch(first)
    begin = 1 if named else 0
    if options.separator is not None:
        return SEPARATORS.get(options.separator, "\t" if options.separator == "\\t" else options.separator), begin
    if named:
        return named[1], begin
    while not first.strip():
        first = next(lines, None)
        if first is None:
            break
    usual = "\t" if source.kind == "tsv" else ","
    widths = {
        separator: len(next(csv.reader([first or ""], delimiter=separator), [])) for separator in (usual, *SEPARATORS.values())
    }
    wanted = len(options.columns) if options.columns else max(widths.values())
    return next((separator for separator, width in widths.items() if width == wanted), usual), begin


def _quotes_enclose_fields(path: Path, begin: int) -> bool:
    """Whether the quotes of a tab-separated file enclose fields, as pandas and Excel write them, or belong to the texts.

    The reading that gives more rows the header's number of fields is right. Where both fit, quotes enclose fields if the first
    row's all are enclosed, or if quotes within them are doubled; not where they would swallow lines that are rows by themselves.
    """
    if not any(FIELD_BEGINS_WITH_QUOTE.search(line) for _, line in decoded_lines(path)):
        return False
    shapes = {}
    for quoting in (csv.QUOTE_MINIMAL, csv.QUOTE_NONE):
        try:
            shapes[quoting] = _shape(_table_rows(path, separator="\t", begin=begin, quoting=quoting))
        except UserError:
            return False  # a quote that is never closed, or text after one
    (width, rows, wrong), (_, plain_rows, plain_wrong) = shapes[csv.QUOTE_MINIMAL], shapes[csv.QUOTE_NONE]
    if wrong != plain_wrong:
        return wrong < plain_wrong
    if rows < plain_rows:
        return width == 1
    _, first = next(_table_rows(path, separator="\t", begin=begin, quoting=csv.QUOTE_NONE))
    all_enclosed = all(len(field) > 1 and field[0] == field[-1] == '"' for field in first)
    return all_enclosed or any(FIELD_HOLDS_DOUBLED_QUOTE.search(line) for _, line in decoded_lines(path))


def _shape(rows: Iterator[tuple[int, list[str]]]) -> tuple[int, int, int]:
    """How many fields the first row has, how many rows there are, and how many of them have another number of fields."""
    width = count = wrong = 0
    for _, fields in rows:
        count += 1
        width = width or len(fields)
        wrong += len(fields) != width
    return width, count, wrong


def _table_rows(path: Path, *, separator: str, begin: int, **settings) -> Iterator[tuple[int, list[str]]]:
    """Rows with the number of the line they begin on; empty lines between them are none.

    Args: `begin` lines are left out first; `settings` are more of `csv.reader`.
    """
    # strict: otherwise a quote that nobody closes silently swallows the rest of the file
    reader = csv.reader(itertools.islice(_table_lines(path), begin, None), delimiter=separator, strict=True, **settings)
    while True:
        line = begin + reader.line_num + 1
        try:
            fields = next(reader, None)
        except csv.Error as error:
            raise UserError(
                f"{path}, line {line}: the row that begins here is no valid CSV ({error}); close each quote that opens a field, "
                "and double those within."
            ) from None
        if fields is None:
            return
        if fields:
            yield line, fields


def _table_lines(path: Path) -> Iterator[str]:
    for number, line in decoded_lines(path):
        if "\0" in line:
            raise UserError(f"{path}, line {number}: a NUL character, which no table holds; save the file again as UTF-8 text.")
        yield line


def _read_json(source: Source, errors: RowErrors | None) -> Iterator[Record]:
    def invalid(error: RowError) -> None:
        refuse(RowError(str(error), reason=error.reason, source=source.name), errors)  # as its other rows are named

    for row, place, row_id in json_rows(source.path, on_invalid=invalid):
        record = Record(row, source.name, place, row_id)
        if error := _json_error(record):
            refuse(error, errors)
        else:
            yield record


def _json_error(record: Record) -> RowError | None:
    """What makes a JSON value no row."""
    if not isinstance(record.values, dict):
        cure = "; where the whole file is one list, let its name end in .json" if isinstance(record.values, list) else ""
        return record.error(f"found a JSON {json_type(record.values)}, an object is needed{cure}.", reason="no JSON object")
    for name, value in record.values.items():
        try:
            json.dumps([name, value], ensure_ascii=False).encode("utf-8")
        except UnicodeEncodeError as error:
            surrogate = ord(error.object[error.start])
            return record.error(
                f"the field {name!r} holds half a surrogate pair (\\u{surrogate:04x}), which is no text; repair the file.",
                reason="half a surrogate pair",
            )
    return None


def _read_parquet(source: Source) -> Iterator[Record]:
    row_id = 0
    try:
        file = pyarrow.parquet.ParquetFile(source.path)
        _check_column_names(file.schema_arrow.names, source.name)
        for batch in file.iter_batches():
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
