"""Where documents and records come from: a table of kinds of sources, and how names become sources.

Every document is `{"text", "source", "row_id"}`: the text with its line breaks, the name of its source, and its position in that
source (a line, a row, a name).
"""

import glob
import itertools
import logging
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

from datasets.utils import tqdm

from hfgpt.counting import counted, listed
from hfgpt.data.csv_files import CSV_FILES, TSV_FILES
from hfgpt.data.encoding import NOT_UTF8, with_other_files
from hfgpt.data.hub_datasets import HUB_DATASETS
from hfgpt.data.json_files import JSON_FILES
from hfgpt.data.mail_files import MBOX_FILES, MESSAGE_FILES
from hfgpt.data.markers import MarkerCounts
from hfgpt.data.on_disk import Document, write_documents
from hfgpt.data.parallel import apply_steps_in_processes
from hfgpt.data.parquet_files import PARQUET_FILES
from hfgpt.data.passport import Passport
from hfgpt.data.patterns import files_in, files_matching, path_of
from hfgpt.data.python_docs import PYTHON_DOCUMENTATION
from hfgpt.data.python_questions import PYTHON_DOCUMENTATION_QUESTIONS, PYTHON_QUESTIONS
from hfgpt.data.reading import GROUP_BY_SOURCE, Record, Source, SourceKind, SourceOptions, evenly
from hfgpt.data.remarks import Remarks, say_once
from hfgpt.data.row_errors import RowError, RowErrors
from hfgpt.data.source_cards import card_of, check_cards
from hfgpt.data.steps import Outcome, StepCounts, TextStep, record_steps
from hfgpt.data.text_files import MARKUP_BEGINS, MARKUP_FILES, TEXT_FILES, WHOLE_FILES
from hfgpt.errors import MissingFileError, UserError
from hfgpt.files import PYTHON_DOCS
from hfgpt.tables import Table

logger = logging.getLogger(__name__)

SOURCES: Table[SourceKind] = Table(
    "the kind of a source",
    {
        "text": TEXT_FILES,
        "csv": CSV_FILES,
        "tsv": TSV_FILES,
        "json": JSON_FILES,
        "parquet": PARQUET_FILES,
        "mbox": MBOX_FILES,
        "eml": MESSAGE_FILES,
        PYTHON_DOCS: PYTHON_DOCUMENTATION,
        PYTHON_QUESTIONS: PYTHON_DOCUMENTATION_QUESTIONS,
        "hub": HUB_DATASETS,
    },
)
OTHER_FILES = "text"  # how documents are read from a file with an unknown suffix


@dataclass(frozen=True)
class ReadingOptions(SourceOptions):
    """How documents are read.

    Args:
        max_documents: stops after this many documents in total; None reads everything.
        source_cards: what the user knows about sources, by name patterns (source_cards.py).
    """

    max_documents: int | None = None
    source_cards: Mapping[str, Mapping[str, str]] | None = None


def find_sources(names: Iterable[str], *, as_records: bool = False) -> list[Source]:
    """Turn what the user wrote into sources, in order; a file given twice is read once.

    A name is, in this order: a name known to a kind (`python-docs`, `python-docs-questions`); an existing file or folder; a
    pattern; a Hub dataset. From a folder, its plain text files and mail are read (patterns.py), or all its tables.

    Args: `as_records` finds sources of rows, otherwise sources of documents.
    Raises: FileNotFoundError for a missing file or a pattern without a match; ValueError for an unsupported kind of file.
    """
    names = list(names)
    if not names:
        raise UserError(f"no sources given; give files, patterns such as 'texts/*.txt', a Hub dataset or '{PYTHON_DOCS}'.")
    kinds = {name: kind for name, kind in SOURCES.items() if (kind.records if as_records else kind.documents) is not None}
    suffixes = tuple(suffix for kind in kinds.values() for suffix in kind.suffixes)
    # JSON in a folder of notes is rarely a corpus; if tables are read, all of them are.
    in_folders = tuple(suffix for kind in kinds.values() if as_records or kind.in_folders for suffix in kind.suffixes)
    sources: dict[str | Path, Source] = {}
    empty: dict[str, MissingFileError] = {}
    for name in names:
        if not name.strip():  # a path of nothing is the current folder
            raise UserError("a source has an empty name (an unset shell variable?); leave it out, or give '.' for this folder.")
        path = path_of(name)
        looks_like_a_file = path.suffix.lower() in suffixes or name.startswith((".", "/", "~")) or name.endswith("/")
        if (kind := _kind_named(name, kinds, after_files=False)) is not None:
            sources.setdefault(name, Source(kind, name))
            continue
        elif path.is_dir():
            kind_of_file = partial(_kind_of_file, kinds=kinds)
            try:
                found = files_in(path, suffixes=in_folders, kind_of_file=kind_of_file, refuse_rest=not as_records)
            except MissingFileError as error:
                if len(names) == 1:
                    raise
                found = []  # a shell that expands texts/* itself gives folders, too
                empty[name] = error
        elif path.is_file():
            found = [path]
        elif path.exists():
            raise UserError(
                f"{name} is neither a file nor a folder (a pipe or a device?); save it as a file, because it is read twice."
            )
        elif glob.has_magic(name):
            found = files_matching(name)
        elif not looks_like_a_file and (kind := _kind_named(name, kinds, after_files=True)) is not None:
            sources.setdefault(name, Source(kind, name))
            continue
        elif looks_like_a_file:
            folder = "" if path.parent.is_dir() else f", nor does its folder {str(path.parent)!r}"
            raise MissingFileError(f"{name} does not exist{folder} (looked from {Path.cwd()}); check the spelling.")
        else:
            raise MissingFileError(
                f"{name!r} is neither a file or folder (looked from {Path.cwd()}) nor the name of a Hub dataset (user/name or "
                f"user/name:configuration); check the spelling."
            )
        for file in found:
            sources.setdefault(file.resolve(), _file_source(file, name, kinds))
    if empty and not sources:
        raise next(iter(empty.values()))
    if empty:
        say_once(f"sources: leaving out {counted(len(empty), 'folders')} without texts: {listed(list(empty))}")
    return list(sources.values())


def refuse_unread_options(sources: Iterable[Source], given: Mapping[str, object]) -> None:
    """Refuse an option that none of these sources uses. Args: `given` are the keys that were given, of any kind.

    Raises: UserError with the kinds that use it.
    """
    kinds = [SOURCES.find(kind) for kind in {source.kind for source in sources}]
    for name, value in given.items():
        readers = [key for key, kind in SOURCES.items() if name in (kind.options or ())]
        if readers and all(kind.options is not None and name not in kind.options for kind in kinds):
            raise UserError(
                f"{name} is {str(value).lower() if isinstance(value, bool) else value}, but no source is of a kind that uses it "
                f"({', '.join(readers)}), so it would have no effect; leave it out."
            )


def _kind_named(name: str, kinds: dict[str, SourceKind], *, after_files: bool) -> str | None:
    return next((key for key, kind in kinds.items() if kind.after_files == after_files and kind.is_named(name)), None)


def _kind_of_file(path: Path, kinds: dict[str, SourceKind]) -> str | None:
    return next((key for key, kind in kinds.items() if kind.is_file(path)), None)


def _file_source(path: Path, given: str, kinds: dict[str, SourceKind]) -> Source:
    name, suffix = str(path), path.suffix.lower()  # REVIEWS.JSONL is the same as REVIEWS.jsonl
    if re.search(r"[\ud800-\udfff]", name):  # how Python shows the bytes of a name that is not UTF-8
        raise UserError(f"{name!a} has a name that is not UTF-8, so no passport could name it; rename it (convmv does).")
    if given.startswith("~/") and path.is_relative_to(Path.home()):
        name = f"~/{path.relative_to(Path.home()).as_posix()}"  # as given: the passport should not reveal the home folder
    by_suffix = next((key for key, kind in kinds.items() if suffix in kind.suffixes), OTHER_FILES)
    kind = _kind_of_file(path, kinds) or by_suffix
    if kind not in kinds:
        tables = ", ".join(suffix for kind in kinds.values() for suffix in kind.suffixes)
        raise UserError(f"{name} is not a table; rows are read from {tables} files, so save it as one of them.")
    if kind == OTHER_FILES and suffix in MARKUP_FILES:
        cure = f"{MARKUP_FILES[suffix]}or, to train on the markup itself, rename it to end in .txt"
        raise UserError(f"{name} is markup, not plain text; {cure}.")
    return Source(kind, name, path, given)


def identity(source: Source, options: SourceOptions) -> dict[str, object]:
    """The passport's entry for an input: a file with its size and SHA-256, a Hub dataset with its commit.

    `license` and `url` are None if unknown.
    """
    cards = options.source_cards if isinstance(options, ReadingOptions) else None
    known = SOURCES.find(source.kind).identity(source, options)
    given = {"given": source.given} if source.given not in ("", source.name) else {}
    return {"name": source.name, **given, "kind": source.kind, "license": None, "url": None, **known, **card_of(source.name, cards)}


def documents_of(source: Source, options: SourceOptions, errors: RowErrors | None = None) -> Iterator[Document]:
    """The documents of one source; rows that are not documents go to `errors`; without it, they raise."""
    kind = SOURCES.find(source.kind)
    if kind.documents is None:
        raise UserError(f"{source.name}: a source of kind {source.kind} has records, not documents.")
    documents = kind.documents(source, options, errors)
    return documents if options.read_share is None or kind.reads_pieces(source) else evenly(documents, options.read_share)


def records_of(source: Source, options: SourceOptions, errors: RowErrors | None = None) -> Iterator[Record]:
    """The rows of one source; unusable ones go to `errors`; without it, they raise."""
    reader = SOURCES.find(source.kind).records
    if reader is None:
        raise UserError(f"{source.name}: a source of kind {source.kind} has documents, not records.")
    return reader(source, options, errors, None)


def read_documents(sources: Iterable[Source], options: ReadingOptions, errors: RowErrors | None = None) -> Iterator[Document]:
    """The documents of all sources, one source after the other.

    A text is kept exactly as in the file: every character and every line break, except a byte order mark (encoding.py); a line that
    separates documents belongs to none of them. Text that looks like a separator causes a warning.
    """
    markers, remarks = MarkerCounts(), Remarks()
    empty: list[str] = []
    markup: list[str] = []

    def documents() -> Iterator[Document]:
        chosen = _share_of(sources, options.read_share)
        for number, source in enumerate(chosen, start=1):
            read = documents_of(source, options, errors)
            try:
                first = next(read, None)
                if first is None:
                    empty.append(source.name)
                    continue
                if source.kind == OTHER_FILES and first["text"][:100].lstrip().lower().startswith(MARKUP_BEGINS):
                    markup.append(source.name)
                yield first
                del first
                yield from read
            except RowError as error:
                if error.reason != NOT_UTF8:
                    raise
                others = [other.file for other in chosen[number:] if other.kind == OTHER_FILES]
                raise with_other_files(error, source.file, others) from None

    for document in itertools.islice(filter(remarks.take, documents()), options.max_documents):
        markers.add(document["text"])
        yield document
    markers.warn()
    remarks.say()
    if empty:
        say_once(f"warning: {len(empty):,} of the sources contain{'s' * (len(empty) == 1)} no document, such as {empty[0]}")
    if markup:
        say_once(
            f"warning: {len(markup):,} of the sources look like web pages or XML, such as {markup[0]}, and their markup is read as "
            f"text; if that is not intended, extract the text first, e.g. with pandoc -t plain"
        )


def _share_of(sources: Iterable[Source], share: float | None) -> Sequence[Source]:
    """The sources to read: a share of those that are a single document, and all others."""
    sources = list(sources)
    single = [source for source in sources if SOURCES.find(source.kind).is_one_document]
    if share is None or not single:
        return sources
    left_out = set(single) - set(evenly(single, share))
    return [source for source in sources if source not in left_out]


def load_documents(
    sources: list[Source],
    options: ReadingOptions,
    passport: Passport,
    *,
    steps: Sequence[TextStep] = (),
    draw: Callable[[str], float],
    cache_dir: str | Path,
    on_error: str = "stop",
    on_drop: Callable[[Document, TextStep, Outcome], None] | None = None,
    num_proc: int = 1,
):
    """All documents kept by the steps, as a `datasets.Dataset` on disk under `cache_dir`; memory stays constant.

    Args:
        steps: applied to each document individually.
        draw: maps a text as it was read, or its group, to the number that decides the side of the split (`Split.draw`).
        on_error: "stop" or "skip", for rows that are not documents (row_errors.py).
        on_drop: see `apply_steps`.
        num_proc: processes for the steps; the result is the same for every number.
    Raises: ValueError for a file that changed while it was read.
    """
    check_cards(options.source_cards, sources)
    start = time.perf_counter()
    found = {source: state_of(source) for source in sources}
    passport.inputs = [identity(source, options) for source in sources]
    errors = RowErrors(on_error)
    counts = [StepCounts() for _ in steps]
    read = Read(sources)
    total = None
    if all(source.kind == OTHER_FILES for source in sources):
        total = int(sum(one["bytes"] for one in passport.inputs) * (options.read_share or 1))
    with tqdm(total=total, desc="reading", unit="B", unit_scale=True) as progress:
        drawn = _shown(drawn_documents(sources, options, errors, draw, read), progress)
        kept = apply_steps_in_processes(drawn, steps, counts, num_proc=num_proc, on_drop=on_drop)
        documents = write_documents(kept, Path(cache_dir) / "documents.arrow")
    refuse_changed(found)
    record_loaded(read, steps, counts, errors, passport, start)
    return documents


class Read(dict[str, list[int]]):
    """Documents and UTF-8 bytes read from each source, by name."""

    def __init__(self, sources: Iterable[Source]):
        super().__init__((source.name, [0, 0]) for source in sources)

    def add(self, source: str, documents: int, num_bytes: int) -> None:
        """Count some more."""
        counts = self.setdefault(source, [0, 0])
        counts[0] += documents
        counts[1] += num_bytes


def record_loaded(
    read: Read,
    steps: Sequence[TextStep],
    counts: Sequence[StepCounts],
    errors: RowErrors,
    passport: Passport,
    start: float,
) -> None:
    """Record the reading, and the steps applied to each document, in the passport."""
    for entry in passport.inputs:
        entry["documents"], entry["text_bytes"] = read[str(entry["name"])]
    num_documents, num_bytes = (sum(column) for column in zip(*read.values(), strict=True))
    of_steps = min(sum(count.seconds for count in counts), time.perf_counter() - start)  # which run while documents are read
    passport.record("load", None, num_documents, start + of_steps, bytes_out=num_bytes)
    record_steps(steps, counts, passport)
    errors.finish({name for name, (number, _) in read.items() if number} | {WHOLE_FILES}, passport)


def drawn_documents(
    sources: Iterable[Source], options: ReadingOptions, errors: RowErrors, draw: Callable[[str], float], read: Read
) -> Iterator[dict]:
    """The documents of all sources, each with its draw; they are counted in `read`."""
    sources = list(sources)
    by_name = {source.name: source for source in sources}

    @cache
    def contents(name: str) -> str:
        # A file is the same group wherever it is and however its path is spelled.
        return str(identity(by_name[name], options).get("sha256") or name)

    for document in read_documents(sources, options, errors):
        read.add(document["source"], 1, len(document["text"].encode()))
        yield {**document, "draw": draw(_belongs_to(document, options, contents) or document["text"])}


def _belongs_to(document: Document, options: SourceOptions, contents: Callable[[str], str]) -> str | None:
    """The group of a document; None if there are no groups."""
    if options.group_field is None:
        return None
    if options.group_field == GROUP_BY_SOURCE:
        return contents(document["source"])
    if "group" not in document:
        raise UserError(
            f"group_field is {options.group_field!r}, but {document['source']} is a text, which has no columns; use --group_field "
            f"{GROUP_BY_SOURCE}, which makes each file a group, or give rows with that column."
        )
    return document["group"]


def _shown(documents: Iterable[Document], progress: tqdm) -> Iterator[Document]:
    for number, document in enumerate(documents, start=1):
        progress.set_postfix_str(counted(number, "documents"), refresh=False)
        progress.update(len(document["text"].encode()))
        yield document


def state_of(source: Source) -> tuple[int, int] | None:
    """Size and modification time of a file; None if it is not a file."""
    if source.path is None:
        return None
    found = source.path.stat()
    return found.st_size, found.st_mtime_ns


def refuse_changed(found: Mapping[Source, tuple[int, int] | None]) -> None:
    """Raises: ValueError for a file that has changed: the passport's SHA-256 would not match what was read."""
    for source, state in found.items():
        if state_of(source) != state:
            raise UserError(f"{source.name} changed while it was being read; wait until nothing writes to it, or read a copy.")
