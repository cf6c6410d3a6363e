"""Where documents come from: text files, JSON, Parquet, Hub datasets, and this Python's own documentation.

Every source yields documents `{"text", "source", "row_id"}`: the text with its line breaks, the place it came from, and
where in that place (a line, a row, a name).
"""

import functools
import glob
import hashlib
import itertools
import json
import logging
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow
import pyarrow.parquet
import yaml

from hfgpt.data.encoding import decoded_lines, decoded_text
from hfgpt.data.markers import MarkerCounts, refuse_unread_separators
from hfgpt.data.on_disk import Document, write_documents
from hfgpt.data.passport import Passport
from hfgpt.data.patterns import TEXT_SUFFIXES, expand_home, files_in, files_matching
from hfgpt.data.python_docs import PYTHON_DOCS, PYTHON_DOCS_NAMES, read_python_docs
from hfgpt.data.row_errors import RowError, RowErrors, refuse
from hfgpt.errors import MissingFileError, UserError
from hfgpt.files import sha256_of_file

logger = logging.getLogger(__name__)

JSON_SUFFIXES = (".jsonl", ".ndjson", ".json")
FILE_SUFFIXES = (*TEXT_SUFFIXES, *JSON_SUFFIXES, ".parquet")

# With the owner always: load_dataset takes a bare "json" or "text" for one of its own loaders and reads whatever lies here.
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+(:[\w.-]+)?")

WHOLE_FILES = "the text files"  # as the source of rows that are a file each, of which a single one is no source of its own


@dataclass(frozen=True)
class ReadingOptions:
    """How a source is read.

    Args:
        text_field: column of JSON, Parquet and Hub rows that holds the text.
        text_documents: what is one document in a plain text file: "file", "paragraph" (blank lines between), "line", or
            any other string, which then separates documents as a line of its own. None is "file", but refuses a file whose
            lines look like separators.
        hub_split: split of a Hub dataset.
        hub_revision: branch, tag or commit of a Hub dataset; None is its default branch.
        streaming: read a Hub dataset over the network as it goes, without storing it.
        max_documents: stop after this many documents in all; None reads everything.
    """

    text_field: str = "text"
    text_documents: str | None = None
    hub_split: str = "train"
    hub_revision: str | None = None
    streaming: bool = False
    max_documents: int | None = None


@dataclass(frozen=True)
class Source:
    """One thing to read: a file, a Hub dataset ("user/name" or "user/name:configuration"), or `python-docs`."""

    kind: str  # "text", "json", "parquet", "hub" or "python-docs"
    name: str
    path: Path | None = None

    def read(self, options: ReadingOptions, errors: RowErrors | None = None) -> Iterator[Document]:
        """Its documents; single rows that are none go to `errors`, or are raised where nobody decides about them."""
        if self.kind == "text":
            return _read_text(self.path, options, errors)
        if self.kind == "json":
            return _read_json(self.path, options, errors)
        if self.kind == "parquet":
            return _read_parquet(self.path, options, errors)
        if self.kind == "hub":
            return _read_hub(self.name, options, errors)
        return iter(read_python_docs(self.name))

    def identity(self, options: ReadingOptions) -> dict[str, object]:
        """What the passport says of this input; a file is named with its size and SHA-256."""
        if self.path is not None:
            size = self.path.stat().st_size
            return {"name": self.name, "kind": self.kind, "bytes": size, "sha256": sha256_of_file(self.path)}
        if self.kind == "hub":
            commit = _hub_commit(self.name, options.hub_revision)
            details = {"split": options.hub_split, "revision": options.hub_revision, "commit": commit}
            return {"name": self.name, "kind": self.kind, **details}
        digest = hashlib.sha256()
        for document in read_python_docs(self.name):
            digest.update(document["text"].encode() + b"\0")
        version = ".".join(map(str, sys.version_info[:3]))
        return {"name": self.name, "kind": self.kind, "python": version, "sha256": digest.hexdigest()}


def find_sources(names: Iterable[str], *, file_suffixes: tuple[str, ...] = FILE_SUFFIXES) -> list[Source]:
    """Turn what the user wrote into sources, in order; a file that is named twice is read once.

    A name is, in this order: a part of `python-docs`; a file or folder that exists; a pattern; a Hub dataset. Of a folder, its
    plain text files are read (patterns.py).

    Args:
        file_suffixes: endings by which a name that does not exist is known as a missing file, not as a name of the Hub.
    Raises: FileNotFoundError for a missing file or a pattern without a match; ValueError for a kind of file nobody reads here.
    """
    names = list(names)
    if not names:
        raise UserError(f"no sources given; name files, patterns such as 'texts/*.txt', a Hub dataset or '{PYTHON_DOCS}'.")
    sources: dict[str | Path, Source] = {}
    for name in names:
        if name in PYTHON_DOCS_NAMES:
            sources.setdefault(name, Source(kind=PYTHON_DOCS, name=name))
            continue
        path = expand_home(name)
        looks_like_a_file = path.suffix.lower() in file_suffixes or name.startswith((".", "/", "~")) or name.endswith("/")
        if path.is_dir():
            # JSON in a folder of notes is rarely a corpus; where tables are read, all of them are.
            suffixes = tuple(suffix for suffix in file_suffixes if suffix in TEXT_SUFFIXES) or file_suffixes
            found = files_in(path, suffixes=suffixes)
        elif path.is_file():
            found = [path]
        elif path.exists():
            raise UserError(f"{name} is neither a file nor a folder (a pipe or a device?); save it as a file, which is read twice.")
        elif glob.has_magic(name):
            found = files_matching(name)
        elif HUB_NAME.fullmatch(name) and not looks_like_a_file:
            sources.setdefault(name, Source(kind="hub", name=name))
            continue
        elif looks_like_a_file:
            folder = "" if path.parent.is_dir() else f", nor does its folder {str(path.parent)!r}"
            raise MissingFileError(f"{name} does not exist{folder} (looked from {Path.cwd()}); check the spelling.")
        else:
            raise MissingFileError(
                f"{name!r} is neither a file or folder here (looked from {Path.cwd()}) nor the name of a Hub dataset, which is "
                "written user/name or user/name:configuration; check the spelling."
            )
        for file in found:
            sources.setdefault(file.resolve(), _file_source(file, name))
    return list(sources.values())


def _file_source(path: Path, given: str) -> Source:
    suffix = path.suffix.lower()  # REVIEWS.JSONL is what REVIEWS.jsonl is
    kind = "parquet" if suffix == ".parquet" else "json" if suffix in JSON_SUFFIXES else "text"
    name = str(path)
    if given.startswith("~/") and path.is_relative_to(Path.home()):
        name = f"~/{path.relative_to(Path.home()).as_posix()}"  # as it was given: the passport need not say where a home lies
    return Source(kind=kind, name=name, path=path)


def read_documents(sources: Iterable[Source], options: ReadingOptions, errors: RowErrors | None = None) -> Iterator[Document]:
    """The documents of all sources, one source after the other.

    A text is kept as the file has it: every character and every line break, but for a byte order mark (encoding.py); the line that
    separates documents belongs to none of them. What looks like a separator and is read as text is warned about.
    """
    markers = MarkerCounts()
    empty: list[str] = []

    def documents() -> Iterator[Document]:
        for source in sources:
            document = None
            for document in source.read(options, errors):
                yield document
            if document is None:
                empty.append(source.name)

    for document in itertools.islice(documents(), options.max_documents):
        markers.add(document["text"])
        yield document
    markers.warn()
    if empty:
        _warn_once(f"warning: no document in {len(empty):,} of the sources, such as {empty[0]}")


@functools.cache  # who reads the same sources twice is told once
def _warn_once(message: str) -> None:
    logger.warning(message)


def load_documents(sources: list[Source], options: ReadingOptions, passport: Passport, *, cache_dir: str, on_error: str = "stop"):
    """All documents as a `datasets.Dataset` on disk under `cache_dir`; memory stays constant.

    Args: `on_error` is "stop" or "skip", for single rows that are no document (row_errors.py).
    """
    start = time.perf_counter()
    passport.inputs = [source.identity(options) for source in sources]
    errors = RowErrors(on_error)
    documents = write_documents(read_documents(sources, options, errors), Path(cache_dir) / "documents.arrow")
    passport.record("load", None, len(documents), start)
    errors.finish({*documents.unique("source"), WHOLE_FILES}, passport)
    return documents


def _read_text(path: Path, options: ReadingOptions, errors: RowErrors | None) -> Iterator[Document]:
    rule = options.text_documents or "file"
    separator = None if rule in ("file", "paragraph", "line") else rule.strip()
    start, lines = 1, []
    damage: list[RowError] = []

    def documents() -> Iterator[Document]:
        """The one that ends here, if there is one; one with a damaged line is left out whole."""
        if damage:
            source = WHOLE_FILES if rule == "file" else str(path)
            for error in damage if rule == "line" else damage[:1]:
                errors.handle(RowError(str(error), reason=error.reason, source=source))
        elif lines:
            text = "".join(lines)
            if options.text_documents is None:
                refuse_unread_separators(text, path)
            yield {"text": text, "source": str(path), "row_id": str(start)}
        damage.clear()
        lines.clear()

    skips = errors is not None and errors.on_error == "skip"
    for number, line in decoded_lines(path, on_invalid=damage.append if skips else None):
        if (rule == "paragraph" and not line.strip()) or (separator is not None and line.strip() == separator):
            yield from documents()
            continue
        if rule == "line" and damage:  # of the lines before this one
            yield from documents()
        if not lines:
            start = number
        lines.append(line)
        if rule == "line":
            yield from documents()
    yield from documents()


def _read_json(path: Path, options: ReadingOptions, errors: RowErrors | None) -> Iterator[Document]:
    for row, place, row_id in json_rows(path, on_invalid=None if errors is None else errors.handle):
        try:
            document = _json_document(row, path, place, row_id, options)
        except RowError as error:
            refuse(error, errors)
            continue
        yield document


def json_rows(path: Path, *, on_invalid: Callable[[RowError], None] | None = None) -> Iterator[tuple[object, str, str]]:
    """The rows of a JSON file with their place ("line 3", "item 7") and id ("3", "7").

    One JSON value a line, or, in a .json file, one list of them. Which of the two a .json file holds, it says itself: many are
    written a value a line.

    Args: `on_invalid` is called for a line that is no valid JSON or UTF-8, which is then left out; without it that is an error.
    Raises: ValueError for text that is no JSON, with file and line.
    """
    if path.suffix.lower() == ".json" and not _holds_json_lines(path):
        text = decoded_text(path)
        try:
            rows = json.loads(text)
        except json.JSONDecodeError as error:
            raise UserError(f"{path}, line {error.lineno}: no valid JSON ({error.msg}, column {error.colno}).") from None
        except ValueError as error:  # a number of thousands of digits
            raise UserError(f"{path}: no valid JSON ({error}).") from None
        if not isinstance(rows, list):
            raise UserError(f"{path} holds a JSON {json_type(rows)}, a list of objects is needed; one object a line is .jsonl.")
        for index, row in enumerate(rows):
            yield row, f"item {index}", str(index)
        return
    for number, line in decoded_lines(path, on_invalid=on_invalid):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as problem:
            what = f"{problem.msg}, column {problem.colno}" if isinstance(problem, json.JSONDecodeError) else str(problem)
            message = f"{path}, line {number}: no valid JSON ({what}); "
            error = RowError(message + "one complete object per line is needed.", reason="not valid JSON", source=str(path))
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
    except ValueError:
        return False


def _json_document(row: object, path: Path, place: str, row_id: str, options: ReadingOptions) -> Document:
    name = options.text_field
    if not isinstance(row, dict):
        raise _row_error(
            path, place, f"found a JSON {json_type(row)}, an object with the field {name!r} is needed.", "no JSON object"
        )
    if name not in row:
        found = ", ".join(map(repr, row)) or "none"
        message = f"the field {name!r} is missing, found {found}; name the right one with text_field."
        raise _row_error(path, place, message, f"no field {name!r}")
    if not isinstance(row[name], str):
        message = f"the field {name!r} is a {json_type(row[name])}, a string is needed."
        raise _row_error(path, place, message, f"the text is a {json_type(row[name])}")
    try:
        row[name].encode("utf-8")
    except UnicodeEncodeError as error:
        message = (
            f"the field {name!r} holds half a surrogate pair (\\u{ord(row[name][error.start]):04x} at character {error.start}), "
            "which is no text; repair the file."
        )
        raise _row_error(path, place, message, "half a surrogate pair") from None
    return {"text": row[name], "source": str(path), "row_id": row_id}


def _row_error(source: str | Path, place: str, message: str, reason: str) -> RowError:
    return RowError(f"{source}, {place}: {message}", reason=reason, source=str(source))


def json_type(value: object) -> str:
    """What JSON calls the type of a value."""
    names = {dict: "object", list: "list", str: "string", bool: "boolean", int: "number", float: "number", type(None): "null"}
    return names[type(value)]


def _read_parquet(path: Path, options: ReadingOptions, errors: RowErrors | None) -> Iterator[Document]:
    try:
        file = pyarrow.parquet.ParquetFile(path)
    except pyarrow.ArrowInvalid as error:
        raise UserError(f"{path} is no valid Parquet file: {error}") from None
    _check_text_column({column.name: column.type for column in file.schema_arrow}, str(path), options.text_field)
    texts = itertools.chain.from_iterable(batch.column(0).to_pylist() for batch in file.iter_batches(columns=[options.text_field]))
    for row_id, text in enumerate(texts):
        if text is None:
            message = f"the column {options.text_field!r} is null, a string is needed."
            refuse(_row_error(path, f"row {row_id}", message, "the text is a null"), errors)
            continue
        yield {"text": text, "source": str(path), "row_id": str(row_id)}


def _check_text_column(columns: dict[str, object], place: str, text_field: str) -> None:
    if text_field not in columns:
        found = ", ".join(map(repr, columns)) or "none"
        raise UserError(f"{place} has no column {text_field!r}, found {found}; name the right one with text_field.")
    if str(columns[text_field]) not in ("string", "large_string", "string_view"):
        raise UserError(f"{place}: the column {text_field!r} is of type {columns[text_field]}, a string is needed.")


@contextmanager
def hub_errors_named(name: str) -> Iterator[None]:
    """One sentence instead of the many exceptions that `datasets` has for a dataset that cannot be read."""
    from datasets.exceptions import DatasetNotFoundError, DatasetsError

    try:
        yield
    except (DatasetNotFoundError, ConnectionError) as error:
        raise MissingFileError(f"{name!r} is no file here, and the Hub has no such dataset: {_reason(error)}") from error
    except (DatasetsError, ValueError, RuntimeError, OSError, pyarrow.ArrowException, yaml.YAMLError) as error:
        raise UserError(f"the Hub dataset {name} cannot be read: {_reason(error)}") from error


def _reason(error: BaseException) -> str:
    while error.__cause__ is not None and type(error).__name__ == "DatasetGenerationError":
        error = error.__cause__  # it says only that an error occurred
    return " ".join(str(error).split()) or type(error).__name__


def load_hub_dataset(name: str, *, split: str, revision: str | None, streaming: bool = False):
    """One split of the Hub dataset "user/name" or "user/name:configuration".

    Raises: FileNotFoundError where the Hub has no such dataset, ValueError where it cannot be read.
    """
    from datasets import load_dataset

    dataset_name, _, configuration = name.partition(":")
    with hub_errors_named(name):
        return load_dataset(dataset_name, configuration or None, split=split, revision=revision, streaming=streaming)


def hub_rows(name: str, rows: Iterable[dict]) -> Iterator[tuple[int, dict]]:
    """The rows of a Hub dataset, numbered from 0; what goes wrong while they are read names the dataset."""
    iterator = iter(rows)
    for row_id in itertools.count():
        with hub_errors_named(name):
            row = next(iterator, None)
        if row is None:
            return
        yield row_id, row


def _read_hub(name: str, options: ReadingOptions, errors: RowErrors | None) -> Iterator[Document]:
    rows = load_hub_dataset(name, split=options.hub_split, revision=options.hub_revision, streaming=options.streaming)
    if rows.features is not None:
        columns = {column: getattr(feature, "dtype", type(feature).__name__) for column, feature in rows.features.items()}
        _check_text_column(columns, f"the Hub dataset {name}", options.text_field)
        rows = rows.select_columns([options.text_field])  # images and sound beside the text stay undecoded
    for row_id, row in hub_rows(name, rows):
        if not isinstance(row.get(options.text_field), str):
            kind = json_type(row[options.text_field]) if options.text_field in row else "missing"
            message = f"the field {options.text_field!r} is {kind}, a string is needed."
            refuse(_row_error(f"the Hub dataset {name}", f"row {row_id}", message, f"the text is {kind}"), errors)
            continue
        yield {"text": row[options.text_field], "source": name, "row_id": str(row_id)}


def _hub_commit(name: str, revision: str | None) -> str | None:
    """The commit that a revision means now, for the passport; None where the Hub cannot be asked."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    try:
        return HfApi().dataset_info(name.partition(":")[0], revision=revision).sha
    except (HfHubHTTPError, OfflineModeIsEnabled, OSError):
        return None
