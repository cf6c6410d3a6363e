"""A share of texts that are too large to read completely: pieces taken evenly from all of them, each of whole documents.

Nothing is copied: the pieces are read from the user's own files, so names, line numbers and hashes are those of the files.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from hfgpt.data.encoding import Piece, conversion, encoding_of
from hfgpt.data.mail_sizes import MAIL_KINDS, mail_text_bytes
from hfgpt.data.reading import Source
from hfgpt.data.row_errors import CONVERT_WITH
from hfgpt.errors import UserError
from hfgpt.files import PYTHON_DOCS

PIECE_BYTES, LONGEST_PIECE = 2**16, 1.25
# Sources that are not files: this Python's documentation, and those of unknown size.
BYTES_OF_KINDS, UNKNOWN_BYTES = {PYTHON_DOCS: 2_400_000}, 10**12
# What a document of the Hub is taken for in bytes, of which only the number can be bounded.
BYTES_OF_A_DOCUMENT = 2000
# Bytes of a line that are read at once: a file may have no line breaks.
LONGEST_LINE = 2**12


def size_of(sources: Iterable[Source]) -> int:
    """The bytes of the sources, of mail about those of its text; a Hub data set of unknown size counts as more than can be read."""
    sources = list(sources)
    mail = [source for source in sources if source.kind in MAIL_KINDS]
    return sum(_bytes_of(source) for source in sources if source.kind not in MAIL_KINDS) + mail_text_bytes(mail)


def _bytes_of(source: Source) -> int:
    return source.path.stat().st_size if source.path is not None else BYTES_OF_KINDS.get(source.kind, UNKNOWN_BYTES)


def bounds(sources: Sequence[Source], *, most: int) -> dict[str, Any]:
    """The reading options that bound what is read to about `most` bytes: a share of everything whose size is known, and a number of
    documents if there is a source of unknown size."""
    known = [source for source in sources if _bytes_of(source) < UNKNOWN_BYTES]
    unknown = len(sources) - len(known)
    options: dict[str, Any] = {}
    if known:
        options["read_share"] = float(f"{min(1.0, most / max(1, size_of(known) + unknown * most)):.4g}")
    if unknown:
        options["max_documents"] = max(1000, most // BYTES_OF_A_DOCUMENT)
    if any(source.kind == "hub" for source in sources):
        options["streaming"] = True
    return options


def pieces_of(path: Path, *, share: float, rule: str | None) -> Iterator[Piece]:
    """Evenly spaced pieces that make up about `share` of a text file or of JSON lines.

    A piece begins and ends at document boundaries, or at a line if documents are longer than pieces; if a document is a whole file,
    a piece is a document.

    Args: `rule` is `text_documents`, or "row" for lines that must stay whole whatever their length.
    Raises: UserError for a file in UTF-16 or UTF-32, which has to be converted first.
    Cost: reads the file once, to count its lines. Measured: 366 MB in 0.8 s, one core, 2026-11-27.
    """
    codec = encoding_of(path)
    if not codec.startswith("utf-8"):
        raise UserError(
            f"{path} is too large to be read completely, and a share can only be read of a file in UTF-8, but it is in "
            f"{codec.upper()}{CONVERT_WITH}{conversion([path], codec.upper())}"
        )
    size = path.stat().st_size
    count = max(1, round(size * share / PIECE_BYTES))
    wanted = size * share / count
    with path.open("rb") as file, path.open("rb") as again:
        lines = _LineNumbers(again)
        read = 0
        for number in range(count):
            if read >= (number + 1) * wanted:
                continue  # an earlier piece has one long document or line
            file.seek(max(file.tell(), int(number * size / count)))
            if file.tell():
                _skip_to_document(file, rule)
            start = end = file.tell()
            whole = True
            while line := file.readline(LONGEST_LINE):
                taken = end - start
                enough = taken >= LONGEST_PIECE * wanted or (taken >= wanted and _is_boundary(line, rule))
                if enough and (whole or rule != "row"):
                    file.seek(end)
                    break
                whole = line.endswith(b"\n")
                if not whole:
                    _to_next_character(file)
                end = file.tell()
            read += end - start
            if end > start:
                yield Piece(start, end, lines.at(start))


class _LineNumbers:
    """The numbers of the lines of a file by their bytes, asked for in order; lines end at LF, CRLF or CR."""

    def __init__(self, file: BinaryIO):
        self._file, self._line, self._last = file, 1, b""

    def at(self, position: int) -> int:
        while (left := position - self._file.tell()) > 0 and (block := self._file.read(min(left, 2**20))):
            self._line += block.count(b"\n") - (self._last == b"\r" and block[:1] == b"\n")
            if b"\r" in block:
                self._line += block.count(b"\r") - block.count(b"\r\n")
            self._last = block[-1:]
        return self._line


def _skip_to_document(file: BinaryIO, rule: str | None) -> None:
    _skip_line(file, rule)
    start = file.tell()
    while rule not in (None, "file", "line", "row") and (line := file.readline(LONGEST_LINE)):
        if _is_boundary(line, rule):
            return
        if file.tell() > start + PIECE_BYTES:  # a long document: its middle is as good
            file.seek(start)
            return


def _skip_line(file: BinaryIO, rule: str | None) -> None:
    """The rest of a line, or at least `LONGEST_LINE` bytes of it."""
    while (line := file.readline(LONGEST_LINE)) and not line.endswith(b"\n") and rule == "row":
        pass
    if not line.endswith(b"\n"):
        _to_next_character(file)


def _to_next_character(file: BinaryIO) -> None:
    """In a line that is cut, UTF-8's continuation bytes belong to the character before."""
    while (byte := file.read(1)) and 0x80 <= byte[0] < 0xC0:
        pass
    if byte:
        file.seek(-1, 1)


def _is_boundary(line: bytes, rule: str | None) -> bool:
    """Whether documents may be cut at this line."""
    if rule in (None, "file", "line", "row"):
        return True
    return not line.strip() if rule == "paragraph" else line.strip() == str(rule).strip().encode()
