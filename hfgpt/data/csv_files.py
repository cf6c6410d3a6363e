"""CSV and TSV files, as written by spreadsheets."""

import csv
import itertools
import re
from collections.abc import Iterator
from pathlib import Path

from hfgpt.data.encoding import decoded_lines
from hfgpt.data.reading import (
    COLUMN_SEPARATORS,
    Record,
    Source,
    SourceKind,
    SourceOptions,
    check_column_names,
    check_text_column,
    texts_of,
)
from hfgpt.data.row_errors import RowErrors, refuse
from hfgpt.errors import UserError

# Excel writes and reads a first line that only declares the separator.
SEPARATOR_LINE = re.compile(r'"?sep=(.)"?')
FIELD_BEGINS_WITH_QUOTE = re.compile(r'(?:^|\t)"')
FIELD_HOLDS_DOUBLED_QUOTE = re.compile(r'(?:^|\t)"[^\t]*""[^\t]*"')


def read_csv(source: Source, options: SourceOptions, errors: RowErrors | None, column: str | None = None) -> Iterator[Record]:
    """The rows of a CSV or TSV file as written by pandas and Excel; every value is a string. Memory: one row.

    Quoted fields may contain separators and line breaks; in a TSV file whose quotes do not enclose fields, they are ordinary
    characters.
    Raises: ValueError, with file and line, for invalid CSV.
    """
    csv.field_size_limit(2**31 - 1)  # the default of 131,072 characters is less than a long text; C's long on Windows ends here
    separator, begin = _separator(source, options)
    settings: dict = {"separator": separator, "begin": begin}
    if separator == "\t" and not _quotes_enclose_fields(source.file, begin):
        settings["quoting"] = csv.QUOTE_NONE
    rows = _table_rows(source.file, **settings)
    names = options.columns or []
    if options.header:
        line, names = next(rows, (1, []))
        if len(names) > 1 and all(name.startswith(" ") for name in names[1:]):
            # written as "a, b": a quote after such a space also encloses a field
            rows = _table_rows(source.file, **settings, skipinitialspace=True)
            next(rows)
        names = [name.strip() for name in names]
        while names and not names[-1]:
            names.pop()  # separators at the end of the line, of which spreadsheets write many
        if not names:
            raise UserError(f"{source.name} is empty; it must begin with a line of column names.")
        check_column_names(names, f"{source.name}, line {line}")
    if column is not None:
        check_text_column(dict.fromkeys(names, "string"), source.name, column)
    for line, fields in rows:
        if not any(map(str.strip, fields)) and max(len(fields), len(names)) > 1:
            continue  # an empty row of a spreadsheet
        values, beyond = fields[: len(names)], fields[len(names) :]
        record = Record(dict(zip(names, values)), source.name, f"line {line}", str(line))
        if len(values) < len(names) or any(map(str.strip, beyond)):
            name = next((name for name, character in COLUMN_SEPARATORS.items() if character == separator), repr(separator))
            message = (
                f"{len(fields)} fields instead of {len(names)} ({', '.join(names)}), separated by {name}; quote fields that "
                f"contain a {name}, a quote or a line break, or give the right separator."
            )
            refuse(record.error(message, reason="wrong number of fields"), errors)
        else:
            yield record


def _separator(source: Source, options: SourceOptions) -> tuple[str, int]:
    """The separator of a table's columns, and how many lines precede the table: one if that line only declares the separator."""
    lines = (line.rstrip("\r\n") for line in _table_lines(source.file))
    first = next(lines, "")
    named = SEPARATOR_LINE.fullmatch(first)
    begin = 1 if named else 0
    if options.separator is not None:
        return COLUMN_SEPARATORS.get(options.separator, "\t" if options.separator == "\\t" else options.separator), begin
    if named:
        return named[1], begin
    while not first.strip():
        first = next(lines, None)
        if first is None:
            break
    usual = "\t" if source.kind == "tsv" else ","
    widths = {
        separator: len(next(csv.reader([first or ""], delimiter=separator), []))
        for separator in (usual, *COLUMN_SEPARATORS.values())
    }
    wanted = len(options.columns) if options.columns else max(widths.values())
    return next((separator for separator, width in widths.items() if width == wanted), usual), begin


def _quotes_enclose_fields(path: Path, begin: int) -> bool:
    """Whether the quotes of a tab-separated file enclose fields, as pandas and Excel write them, or belong to the texts.

    The reading that gives more rows the header's number of fields is right. If both fit, quotes enclose fields if all fields of the
    first row are enclosed, or if quotes within them are doubled; but not if they would swallow lines that are rows by themselves.
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
    """The number of fields in the first row, the number of rows, and how many rows have a different number of fields."""
    width = count = wrong = 0
    for _, fields in rows:
        count += 1
        width = width or len(fields)
        wrong += len(fields) != width
    return width, count, wrong


def _table_rows(path: Path, *, separator: str, begin: int, **settings) -> Iterator[tuple[int, list[str]]]:
    """Rows with the number of their first line; empty lines between them are skipped.

    Args: the first `begin` lines are skipped; `settings` are passed to `csv.reader`.
    """
    # strict: otherwise an unclosed quote silently swallows the rest of the file
    reader = csv.reader(itertools.islice(_table_lines(path), begin, None), delimiter=separator, strict=True, **settings)
    while True:
        line = begin + reader.line_num + 1
        try:
            fields = next(reader, None)
        except csv.Error as error:
            raise UserError(
                f"{path}, line {line}: the row that begins here is not valid CSV ({error}); close each quote that opens a field, "
                f"and double quotes within fields."
            ) from None
        if fields is None:
            return
        if fields:
            yield line, fields


def _table_lines(path: Path) -> Iterator[str]:
    for number, line in decoded_lines(path):
        if "\0" in line:
            raise UserError(
                f"{path}, line {number}: a NUL character, which cannot be part of a table; save the file again as UTF-8 text."
            )
        yield line


CSV_FILES = SourceKind(records=read_csv, documents=texts_of(read_csv), options=("text_field",), suffixes=(".csv",))
TSV_FILES = SourceKind(records=read_csv, documents=texts_of(read_csv), options=("text_field",), suffixes=(".tsv",))
