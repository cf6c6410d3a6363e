"""A share of texts that are too large to read completely: pieces taken evenly from all of them, each of whole documents."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from hfgpt.data.python_docs import PYTHON_DOCS
from hfgpt.data.reading import Source
from hfgpt.files import write_whole

FOLDER = "read_texts"
SEPARATOR_LINE = "<|endoftext|>"
PIECE_BYTES, LONGEST_PIECE = 2**16, 1.25
# Sources that are not files: this Python's documentation, and those of unknown size.
BYTES_OF_KINDS, UNKNOWN_BYTES = {PYTHON_DOCS: 2_400_000}, 10**12
# What a document of a table or of the Hub is taken for in bytes, of which only the number can be bounded.
BYTES_OF_A_DOCUMENT = 2000
# Bytes of a line read at once: a file may have no line breaks.
LONGEST_LINE = 2**20


def size_of(sources: Sequence[Source]) -> int:
    """The bytes of the sources; a Hub data set of unknown size counts as more than can be read."""
    return sum(
        source.path.stat().st_size if source.path is not None else BYTES_OF_KINDS.get(source.kind, UNKNOWN_BYTES)
        for source in sources
    )


def read_in_pieces(
    sources: Sequence[Source], folder: Path, *, most: int, reading: Mapping[str, Any]
) -> tuple[list[str], dict[str, Any]]:
    """Write pieces of large text files and JSON lines, taken evenly from all of them, to a folder below `folder`.

    A piece begins and ends at document boundaries, or at a line if documents are longer than pieces; if a document is a whole file,
    a piece is a document. Other kinds of sources are unchanged, and are read up to a number of documents.

    Args: `reading` says how the sources are read, `text_documents` among it.
    Returns: the sources to read instead, and how.
    Cost: reads what it writes, whatever the size of the files.
    """
    rule = reading.get("text_documents")
    cut = [source for source in sources if source.path is not None and _is_lines(source)]
    others = [source.name for source in sources if source not in cut]
    share, place = most / max(1, size_of(sources)), folder / FOLDER
    place.mkdir(parents=True, exist_ok=True)
    names = []
    for number, source in enumerate(cut):
        path = place / f"{number:03}-{source.file.name}"
        write_whole(path, b"".join(_pieces(source.file, share=share, rule="line" if source.kind == "json" else rule)))
        names.append(str(path))
    if any(source.kind == "text" for source in cut) and rule in (None, "file"):
        reading = {**reading, "text_documents": SEPARATOR_LINE}
    if others:
        reading = {**reading, "max_documents": max(1000, most // BYTES_OF_A_DOCUMENT), "streaming": True}
    return [*names, *others], dict(reading)


def _is_lines(source: Source) -> bool:
    return source.kind == "text" or source.file.suffix.lower() in (".jsonl", ".ndjson")


def _pieces(path: Path, *, share: float, rule: str | None) -> Iterator[bytes]:
    """Pieces of a file, evenly spaced, that make up `share` of it."""
    size = path.stat().st_size
    count = max(1, round(size * share / PIECE_BYTES))
    wanted = size * share / count
    with path.open("rb") as file:
        for number in range(count):
            file.seek(max(file.tell(), int(number * size / count)))
            if file.tell():
                _skip_to_document(file, rule)
            taken = 0
            while line := file.readline(LONGEST_LINE):
                if taken >= LONGEST_PIECE * wanted or (taken >= wanted and _is_boundary(line, rule)):
                    break
                yield line
                taken += len(line)
            if rule in (None, "file"):
                yield f"\n{SEPARATOR_LINE}\n".encode()
            elif rule != "line":
                yield b"\n" if rule == "paragraph" else f"\n{rule}\n".encode()


def _skip_to_document(file: BinaryIO, rule: str | None) -> None:
    file.readline(LONGEST_LINE)  # the rest of a line
    start = file.tell()
    while rule not in (None, "file", "line") and (line := file.readline(LONGEST_LINE)):
        if _is_boundary(line, rule):
            return
        if file.tell() > start + PIECE_BYTES:  # a long document: its middle is as good
            file.seek(start)
            return


def _is_boundary(line: bytes, rule: str | None) -> bool:
    """Whether documents may be cut at this line."""
    if rule in (None, "file", "line"):
        return True
    return not line.strip() if rule == "paragraph" else line.strip() == str(rule).strip().encode()
