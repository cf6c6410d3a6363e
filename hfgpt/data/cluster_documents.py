"""Read, compare and encode documents on a cluster, with the same result as on one machine.

Each task reads a share of the sources in order, applies the per-document steps, and writes a file. Later stages search these files
for copies (cluster_copies.py) and encode the rest (cluster_tokens.py). Since shares are contiguous and files are collected in the
order of the tasks, the documents, their order and all counts are the same as on one machine. A source is never divided, so at most
as many tasks as there are sources can run in parallel.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hfgpt.data.cleaning import is_blank
from hfgpt.data.cluster_copies import collected_copies, deduplication_stages
from hfgpt.data.cluster_tokens import WriteTokens, tokens_folder
from hfgpt.data.document_copies import Copies
from hfgpt.data.engine import Engine, Stage
from hfgpt.data.on_disk import stored_documents, texts_of, write_documents
from hfgpt.data.passport import Passport, library_versions
from hfgpt.data.reading import Source
from hfgpt.data.row_errors import RowErrors
from hfgpt.data.source_cards import check_cards
from hfgpt.data.sources import Read, ReadingOptions, drawn_documents, identity, record_loaded, refuse_changed, state_of
from hfgpt.data.steps import StepCounts, TextStep, apply_steps
from hfgpt.errors import require
from hfgpt.files import read_json, write_json
from hfgpt.tokenization import tokenizer_sha256

MOST_TASKS = 1_000  # the default size limit of a job array on Slurm


@dataclass(frozen=True)
class ReadingTask:
    """What each task of the first stage does: a step of a datatrove pipeline.

    Args:
        sources, options, steps, draw, on_error: as `load_documents` takes them.
        folder: that all tasks and the collecting process share.
    """

    sources: tuple[Source, ...]
    options: ReadingOptions
    steps: tuple[TextStep, ...]
    draw: Callable[[str], float]
    on_error: str
    folder: Path

    def __call__(self, data: object, rank: int, world_size: int) -> None:
        """Read share `rank` and write its documents, then its counts."""
        self.folder.mkdir(parents=True, exist_ok=True)
        sources = shares(self.sources, world_size)[rank]
        found = {source: state_of(source) for source in sources}
        errors, counts, read = RowErrors(self.on_error), [StepCounts() for _ in self.steps], Read(sources)
        inputs = [identity(source, self.options) for source in sources]
        drawn = drawn_documents(sources, self.options, errors, self.draw, read)
        documents = write_documents(apply_steps(drawn, self.steps, counts), self.folder / f"{rank:05d}.arrow")
        refuse_changed(found)
        skipped = {"counts": errors.counts, "firsts": errors.firsts, "sources": errors.sources}
        done = {"documents": len(documents), "read": read, "inputs": inputs, "skipped": skipped}
        done["counts"] = [vars(count) for count in counts]
        write_json(self.folder / f"{rank:05d}.json", done)


@dataclass(frozen=True)
class ReadWritten:
    """The reader of the later stages: the documents that `ReadingTask` wrote, except blank ones."""

    folder: Path

    def __call__(self, data: object, rank: int, world_size: int) -> Iterator[Any]:
        """The documents as datatrove's, with texts only."""
        from datatrove.data import Document

        for text in texts_of(stored_documents([self.folder / f"{rank:05d}.arrow"])):
            if not is_blank(text):
                yield Document(text=text, id="")


def shares(sources: Sequence[Source], number: int) -> list[list[Source]]:
    """The sources in `number` contiguous parts of about the same size; a source that is not a file counts as the mean of the
    files."""
    sizes = [source.path.stat().st_size if source.path else None for source in sources]
    known = [size for size in sizes if size]
    mean = sum(known) / len(known) if known else 1
    total = sum(size if size is not None else mean for size in sizes) or 1
    parts: list[list[Source]] = [[] for _ in range(number)]
    before = 0.0
    for source, size in zip(sources, sizes, strict=True):
        size = mean if size is None else size
        parts[min(number - 1, int(number * (before + size / 2) / total))].append(source)
        before += size
    return parts


def load_on_engine(
    engine: Engine,
    sources: Sequence[Source],
    options: ReadingOptions,
    passport: Passport,
    *,
    steps: Sequence[TextStep] = (),
    draw: Callable[[str], float],
    on_error: str = "stop",
    deduplicate: str = "near",
    near_copy_similarity: float | None = None,
) -> tuple[Any, Copies | None]:
    """Same as `load_documents`, with tasks on a cluster, which also search for copies and encode the rest.

    Args:
        deduplicate: which copies need not be encoded, as `drop_document_copies` takes it.
        near_copy_similarity: as `find_document_copies` takes it; None does not look for copies.
    Returns: the documents, and the copies among the non-blank ones, if searched.
    Raises: UserError for data that a task cannot read; RunStopped if the tasks were submitted to Slurm and this process is done.
    """
    require("datatrove", extra="data", purpose=f"engine: {engine.name} runs datatrove's tasks")
    check_cards(options.source_cards, sources)
    start = time.perf_counter()
    folder, number = engine.folder / "documents", tasks_for(engine, sources, options)
    task = ReadingTask(tuple(sources), options, tuple(steps), draw, on_error, folder)
    reader, writer = ReadWritten(folder), WriteTokens(tokens_folder(engine.folder), engine.tokenizer)
    stages = [Stage("documents", [task], number)]
    if near_copy_similarity is None:
        stages.append(Stage("tokens", [reader, writer], number))
    else:
        stages += deduplication_stages(
            read=[reader],
            write=[writer],
            folder=str(engine.folder),
            tasks=number,
            similarity=near_copy_similarity,
            mode=deduplicate,
        )
    plan = {
        "tasks": {stage.name: stage.tasks for stage in stages},
        "sources": [(source.name, state_of(source)) for source in sources],
        "reading": [asdict(options), [(step.name, step.settings) for step in steps], repr(draw), on_error],
        "copies": [deduplicate, near_copy_similarity],
        "tokenizer": tokenizer_sha256(engine.tokenizer),
        "versions": library_versions(),
    }
    engine.complete(stages, plan=plan)
    documents = _collect(folder, number, sources, steps, on_error, passport, start)
    return documents, None if near_copy_similarity is None else collected_copies(str(engine.folder), number)


def tasks_for(engine: Engine, sources: Sequence[Source], options: ReadingOptions) -> int:
    """How many tasks read these sources: one if only the first documents are wanted."""
    return min(engine.tasks or MOST_TASKS, len(sources)) if options.max_documents is None else 1


def _collect(
    folder: Path,
    number: int,
    sources: Sequence[Source],
    steps: Sequence[TextStep],
    on_error: str,
    passport: Passport,
    start: float,
):
    passport.inputs, counts, errors, read = [], [StepCounts() for _ in steps], RowErrors(on_error), Read(sources)
    for rank in range(number):
        done = read_json(folder / f"{rank:05d}.json")
        passport.inputs += done["inputs"]
        for count, more in zip(counts, done["counts"], strict=True):
            count.add(StepCounts(**more | {"reasons": Counter(more["reasons"])}))
        for source, (number_read, num_bytes) in done["read"].items():
            read.add(source, number_read, num_bytes)
        errors.counts.update(done["skipped"]["counts"])
        errors.sources.update(done["skipped"]["sources"])
        errors.firsts = done["skipped"]["firsts"] | errors.firsts
    documents = stored_documents([folder / f"{rank:05d}.arrow" for rank in range(number)])
    record_loaded(read, steps, counts, errors, passport, start)
    return documents
