"""JSON files: one object per line, or one list of objects."""

import json
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path

from hfgpt.data.encoding import decoded_lines, decoded_text
from hfgpt.data.reading import Record, Source, SourceKind, SourceOptions, json_type, texts_of
from hfgpt.data.row_errors import RowError, RowErrors, refuse
from hfgpt.data.text_pieces import pieces_of
from hfgpt.errors import UserError

LARGEST_LIST_BYTES = 2**27  # for a file with a single JSON value; its objects need several times as much


def json_rows(
    path: Path, *, on_invalid: Callable[[RowError], None] | None = None, share: float | None = None
) -> Iterator[tuple[object, str, str]]:
    """The values of a JSON file with their position ("line 3", "item 7") and id ("3", "7").

    One JSON value per line or, in a .json file, one list of them. Which of the two a .json file contains is detected: many have one
    value per line.

    Args:
        on_invalid: called for a line that is not valid JSON or UTF-8, which is then skipped; without it, that is an error.
        share: reads pieces that make up this share of a file with one value per line (text_pieces.py).
    Raises: ValueError for text that is not JSON, with file and line.
    """
    if path.suffix.lower() == ".json" and not _holds_json_lines(path):
        if (size := path.stat().st_size) > LARGEST_LIST_BYTES:
            raise UserError(
                f"{path} is a single JSON value of {size:,} bytes, but the limit is {LARGEST_LIST_BYTES:,}; convert it to .jsonl "
                f"with one object per line, for example with: jq -c '.[]' {shlex.quote(str(path))} > rows.jsonl"
            )
        text = decoded_text(path)
        try:
            rows = json.loads(text)
        except json.JSONDecodeError as error:
            raise UserError(f"{path}, line {error.lineno}: not valid JSON ({error.msg}, column {error.colno}).") from None
        except (ValueError, RecursionError) as error:  # a number with thousands of digits, or as many brackets
            raise UserError(f"{path}: not valid JSON ({error}).") from None
        if not isinstance(rows, list):
            raise UserError(
                f"{path} contains a JSON {json_type(rows)}, but must be a list of objects (or .jsonl with one object per line)."
            )
        for index, row in enumerate(rows):
            yield row, f"item {index}", str(index)
        return
    pieces = [None] if share is None else pieces_of(path, share=share, rule="row")
    for number, line in (line for piece in pieces for line in decoded_lines(path, on_invalid=on_invalid, piece=piece)):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as problem:
            what = f"{problem.msg}, column {problem.colno}" if isinstance(problem, json.JSONDecodeError) else str(problem)
            message = f"{path}, line {number}: not valid JSON ({what}); "
            error = RowError(message + "each line must be one complete object.", reason="not valid JSON", source=str(path))
            if on_invalid is None:
                raise error from None
            on_invalid(error)
            continue
        yield row, f"line {number}", str(number)


def _holds_json_lines(path: Path) -> bool:
    """Whether the first line is an object by itself, and more follows it."""
    lines = (line for _, line in decoded_lines(path) if line.strip())
    try:
        return isinstance(json.loads(next(lines, "")), dict) and next(lines, None) is not None
    except (ValueError, RecursionError):
        return False


def read_json(source: Source, options: SourceOptions, errors: RowErrors | None, column: str | None = None) -> Iterator[Record]:
    """The objects of a JSON file, with the types of their values. Memory: one line, or the whole of a .json list."""

    def invalid(error: RowError) -> None:
        refuse(RowError(str(error), reason=error.reason, source=source.name), errors)  # as its other rows are named

    share = options.read_share if _is_lines(source) else None
    for row, place, row_id in json_rows(source.file, on_invalid=invalid, share=share):
        record = Record(row if isinstance(row, dict) else {}, source.name, place, row_id)
        if not isinstance(row, dict):
            cure = "; if the whole file is one list, rename it to end in .json" if isinstance(row, list) else ""
            error = record.error(f"found a JSON {json_type(row)}, but an object is needed{cure}.", reason="no JSON object")
        else:
            error = _half_characters(record, column)
        if error is None:
            yield record
        else:
            refuse(error, errors)


def _is_lines(source: Source) -> bool:
    return source.file.suffix.lower() in (".jsonl", ".ndjson")


def _half_characters(record: Record, column: str | None) -> RowError | None:
    """Fields that are not valid text: JSON can escape half a surrogate pair."""
    if column is None:
        texts = {name: json.dumps([name, value], ensure_ascii=False) for name, value in record.values.items()}
    else:
        text = record.values.get(column)
        texts = {column: text} if isinstance(text, str) else {}
    for name, text in texts.items():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            half = f"\\u{ord(text[error.start]):04x}"
            message = f"the field {name!r} contains half a surrogate pair ({half}), which is not valid text; repair the file."
            return record.error(message, reason="half a surrogate pair")
    return None


JSON_FILES = SourceKind(
    records=read_json,
    documents=texts_of(read_json),
    options=("text_field",),
    suffixes=(".jsonl", ".ndjson", ".json"),
    reads_pieces=_is_lines,
)
