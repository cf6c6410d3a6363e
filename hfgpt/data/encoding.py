"""Decode text files: UTF-8, or the encoding of a byte order mark; anything else is refused with instructions for converting it.

Kept: every character, including NUL and control characters, and every line break, whether LF, CRLF or a lone CR. Dropped: a byte
order mark at the beginning. A line ends only at LF, CRLF or CR (not at U+2028 or a form feed). So the text of a file is the same in
any of these encodings, and decode(encode(text)) == text.
"""

import codecs
import io
import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TextIO

from hfgpt.counting import listed
from hfgpt.data.row_errors import CONVERT_WITH, RowError
from hfgpt.errors import UserError

# UTF-32 first: its little-endian mark begins with that of UTF-16. These codecs drop the mark.
BYTE_ORDER_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
# Files commonly mistaken for text. Some are valid UTF-8 and would silently be trained on.
NOT_TEXT = {
    b"%PDF-": ("a PDF file", "extract its text first (for example with pdftotext)"),
    b"{\\rtf": ("a word processor file (RTF)", "save it as plain text in UTF-8"),
    b"\xd0\xcf\x11\xe0": ("a Word or Excel file", "save it as plain text or CSV in UTF-8"),
    b"PK\x03\x04": ("a zip archive, like .docx, .xlsx, .odt and .epub", "unpack it, or save it as plain text in UTF-8"),
    b"\x1f\x8b": ("compressed with gzip", "unpack it (gunzip)"),
    b"BZh": ("compressed with bzip2", "unpack it (bunzip2)"),
    b"\x28\xb5\x2f\xfd": ("compressed with Zstandard", "unpack it (unzstd)"),
    b"\xfd7zXZ": ("compressed with xz", "unpack it (unxz)"),
    b"PAR1": ("a Parquet file", "rename it to end in .parquet"),
    b"ARROW1": ("an Arrow file", "save it as Parquet (pyarrow.parquet.write_table)"),
    b"SQLite format 3\0": ("an SQLite database", "export its texts first (for example with sqlite3 -csv)"),
    b"7z\xbc\xaf\x27\x1c": ("a 7z archive", "unpack it (7z x)"),
    b"Rar!\x1a\x07": ("a RAR archive", "unpack it (unrar x)"),
    b"%!PS": ("a PostScript file", "extract its text first (for example with ps2ascii)"),
    b"\x89PNG\r\n\x1a\n": ("a picture (PNG)", "leave it out"),
    b"\xff\xd8\xff": ("a picture (JPEG)", "leave it out"),
}
TAR_MARK, TAR_PLACE = b"ustar", 257  # the only mark that is not at the beginning
SAMPLE_BYTES = 1 << 20
LONGEST_LINE = 2**24  # characters in a row: parsing JSON may need fifty times as much
LINE_PART = 2**20  # characters
NOT_UTF8 = "not valid UTF-8"  # the reason of a RowError
WESTERN = {"ISO-8859-1": "latin1", "WINDOWS-1252": "windows-1252"}  # the names of iconv, and those that people know
# Bytes that windows-1252 uses for quotes, dashes and the euro sign; in latin1 they are control characters, which do not occur in
# text.
WINDOWS_1252_ONLY = re.compile(rb"[\x80-\x9f]")
UNDEFINED_IN_WINDOWS_1252 = re.compile(rb"[\x81\x8d\x8f\x90\x9d]")
CONTROL_CHARACTERS = re.compile(rb"[\x00-\x06\x0e-\x1a\x1c-\x1f]")
ESCAPED_BYTE = re.compile("[\udc80-\udcff]")  # how surrogateescape represents an invalid byte


@dataclass(frozen=True)
class Piece:
    """A part of a file in UTF-8: the bytes from `start` to before `end`, and the number of its first line."""

    start: int
    end: int
    line: int


def encoding_of(path: Path) -> str:
    """The codec for a file, from its first bytes: "utf-8", or that of its byte order mark.

    Raises: ValueError for UTF-16 without a mark (most of it would pass as UTF-8 full of NULs), and for files that are not text.
    """
    with path.open("rb") as file:
        start = file.read(4096)
    for mark, codec in BYTE_ORDER_MARKS.items():
        if start.startswith(mark):
            return codec
    for mark, (kind, cure) in NOT_TEXT.items():
        if start.startswith(mark):
            raise UserError(f"{path} is {kind}, not plain text; {cure}.")
    if start[TAR_PLACE:].startswith(TAR_MARK):
        raise UserError(f"{path} is a tar archive, not plain text; unpack it (tar -xf).")
    if (codec := _utf16_without_mark(start)) is not None:
        raise UserError(
            f"{path} looks like UTF-16 without a byte order mark (every other byte is NUL){CONVERT_WITH}{conversion([path], codec)}"
        )
    return "utf-8"


def decoded_lines(
    path: Path,
    *,
    on_invalid: Callable[[RowError], None] | None = None,
    in_parts: bool = False,
    piece: Piece | None = None,
) -> Iterator[tuple[int, str]]:
    """The lines of a file with their numbers from 1, with unchanged line breaks.

    Args:
        on_invalid: called for a line that is not valid UTF-8 or is longer than `LONGEST_LINE`, which is then skipped; without it,
            the line is an error.
        in_parts: a line longer than `LINE_PART` is returned in several parts with the same number, whatever its length.
        piece: reads only this part of the file; the numbers are still those in the file.
    Raises: ValueError for such a line, with its position and how to convert the file.
    Memory: one line, at most `LONGEST_LINE` characters, or one part.
    """
    codec = encoding_of(path)
    utf8 = codec.startswith("utf-8")
    number = 1 if piece is None else piece.line
    within = left_out = False  # a line that began in an earlier part; which is left out
    advised = False  # once is enough, for a megabyte around the place is read for it
    known = (1, len(codecs.BOM_UTF8) if codec == "utf-8-sig" else 0)  # a line, and the byte that it begins with
    most = LINE_PART if in_parts else LONGEST_LINE
    # newline="" ends lines at LF, CRLF and CR and leaves them as they are; surrogateescape lets the lines after a bad one through.
    with _opened(path, piece, encoding=codec, errors="surrogateescape" if utf8 else "strict") as file:
        try:
            for line in _parts(file, most):
                ended = line[-1] in "\r\n"
                error = None
                if not (within and left_out):
                    if not in_parts and (within or (len(line) >= most and not ended)):
                        error = _long_line(path, number)
                    elif utf8 and not line.isascii() and ESCAPED_BYTE.search(line):
                        error, known = _invalid_line(path, number, known, advise=not advised)
                        advised = True
                    if error is None:
                        yield number, line
                    elif on_invalid is None:
                        raise error
                    else:
                        on_invalid(error)
                left_out = (within and left_out) or error is not None
                within = not ended
                number += ended
        except UnicodeDecodeError as error:
            raise UserError(
                f"{path}, at or after line {number}: not valid {codec.upper()}, although its byte order mark says so "
                f"({error.reason}); it may be truncated or have mixed encodings: save it again as UTF-8."
            ) from None


def _opened(path: Path, piece: Piece | None, *, encoding: str, errors: str) -> TextIO:
    if piece is None:
        return path.open(encoding=encoding, errors=errors, newline="")
    with path.open("rb") as file:
        file.seek(piece.start)
        content = io.BytesIO(file.read(piece.end - piece.start))
    return io.TextIOWrapper(content, encoding=encoding, errors=errors, newline="")


def _parts(file: TextIO, most: int) -> Iterator[str]:
    """Lines, of which a longer one than `most` characters comes in several parts; CR and LF of one line break stay together."""
    begun = ""
    for part in iter(partial(file.readline, most), ""):
        if begun:
            part, begun = begun + part, ""
        if part[-1] == "\r" and len(part) >= most:  # the other half of the line break may come next, alone
            following = file.readline(1)
            if following == "\n":
                part += following
            else:
                begun = following
        yield part
    if begun:
        yield begun


def decoded_text(path: Path) -> str:
    """The whole text of a file. Raises: see `decoded_lines`."""
    return "".join(line for _, line in decoded_lines(path, in_parts=True))


def _long_line(path: Path, number: int) -> RowError:
    message = (
        f"{path}, line {number}: longer than {LONGEST_LINE:,} characters, the limit for a line in memory; is the file damaged, or "
        f"are its line breaks missing?"
    )
    return RowError(message, reason=f"a line of more than {LONGEST_LINE:,} characters", source=str(path))


def _invalid_line(path: Path, number: int, known: tuple[int, int], *, advise: bool) -> tuple[RowError, tuple[int, int]]:
    """What is wrong with a line, and where it begins. Args: `known` is an earlier position to search from."""
    line, offset = known
    with path.open("rb") as binary:
        binary.seek(offset)
        file = io.TextIOWrapper(binary, encoding="utf-8", errors="surrogateescape", newline="")
        parts = _parts(file, LINE_PART)
        while line < number:
            text = next(parts)
            offset += len(text.encode("utf-8", "surrogateescape"))
            line += text[-1] in "\r\n"
        known, start = (line, offset), offset
        while not ESCAPED_BYTE.search(text := next(parts)):
            start += len(text.encode("utf-8", "surrogateescape"))
        raw = text.encode("utf-8", "surrogateescape")
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError as error:
        byte = start + error.start
        advice = f"; {_advice(path, byte)}" if advise else "."
        place = f"{path}, line {number}, byte {byte + 1} of the file"
        message = f"{place}: 0x{raw[error.start]:02x} is not valid UTF-8 ({error.reason}){advice}"
        return RowError(message, reason=NOT_UTF8, source=str(path)), known
    raise AssertionError(f"{path}, line {number} is valid UTF-8 after all")


def _advice(path: Path, byte: int) -> str:
    """How to convert a file that is not UTF-8 at this byte; never suggests a conversion that would produce garbage.

    A command comes last, without a full stop, which would be copied with it.
    """
    sample = _sample(path, byte)
    if (codec := _utf16_without_mark(sample)) is not None:
        return f"it looks like UTF-16 without a byte order mark{CONVERT_WITH}{conversion([path], codec)}"
    if len(CONTROL_CHARACTERS.findall(sample)) > len(sample) / 100:
        return "it contains many control characters, so it is probably not text; leave it out, or extract its text first."
    if _is_mostly_utf8(sample):
        # Decoding it in another encoding would break the valid parts.
        return "the text around it is UTF-8, so this position is damaged: repair or delete it."
    if (codec := _western_codec(sample)) is not None:
        return f"it looks like {WESTERN[codec]} (western languages){CONVERT_WITH}{conversion([path], codec)}"
    return "its encoding cannot be determined: save it as UTF-8 in the program that created it."


def with_other_files(error: RowError, path: Path, others: Iterable[Path]) -> RowError:
    """The error of a file that is not UTF-8, which also names the other files that need the same conversion.

    Args: `others` are the files of the run that have not been read.
    """
    for codec in WESTERN:
        message, command, rest = str(error).rpartition(conversion([path], codec))
        also = [] if not command or rest else [other for other in others if _codec_at_fault(other) == codec]
        if also:
            message = message.replace(" it with: ", " them with: ").replace(" the file with: ", " the files with: ")
            place, looks, ending = message.partition(" (western languages)")
            also_named = f", as {'does' if len(also) == 1 else 'do'} {listed([str(other) for other in also])}"
            message = f"{place}{looks}{also_named}{ending}{conversion([path, *also], codec)}"
            return RowError(message, reason=error.reason, source=error.source)
    return error


def _codec_at_fault(path: Path) -> str | None:
    """The western encoding of a file; None if it is UTF-8 or anything else."""
    decoder, read = codecs.getincrementaldecoder("utf-8")(), 0
    with path.open("rb") as file:
        while block := file.read(SAMPLE_BYTES):
            try:
                decoder.decode(block)
            except UnicodeDecodeError as error:
                sample = _sample(path, max(0, read + error.start))
                return None if CONTROL_CHARACTERS.search(sample) or _is_mostly_utf8(sample) else _western_codec(sample)
            read += len(block)
    return None


def _sample(path: Path, byte: int) -> bytes:
    """The part of a file around this byte."""
    with path.open("rb") as file:
        file.seek(max(0, byte - SAMPLE_BYTES // 2))
        return file.read(SAMPLE_BYTES)


def _is_mostly_utf8(sample: bytes) -> bool:
    text = sample.decode("utf-8", "surrogateescape")
    escaped = len(ESCAPED_BYTE.findall(text))
    return sum(not character.isascii() for character in text) - escaped >= escaped


def _western_codec(sample: bytes) -> str | None:
    """The key of `WESTERN` for a text that is not UTF-8; in languages covered by these encodings, most letters are ASCII."""
    escaped = len(ESCAPED_BYTE.findall(sample.decode("utf-8", "surrogateescape")))
    if escaped >= len(sample.translate(None, b" \t\r\n")) / 2:
        return None
    if not WINDOWS_1252_ONLY.search(sample):
        return "ISO-8859-1"
    return None if UNDEFINED_IN_WINDOWS_1252.search(sample) else "WINDOWS-1252"


def _utf16_without_mark(sample: bytes) -> str | None:
    """UTF-16's byte order if the text looks like it: each ASCII character (at least the spaces) has a NUL on the same side."""
    first, second = sample[::2].count(0), sample[1::2].count(0)
    share = 2 * max(first, second) / max(1, len(sample))
    if len(sample) % 2 or max(first, second) < 2 or share < 0.05 or min(first, second) > 0.05 * max(first, second):
        return None
    return "UTF-16LE" if second > first else "UTF-16BE"


def conversion(paths: Sequence[Path], codec: str) -> str:
    """The command that converts files to UTF-8 and keeps copies."""
    if len(paths) == 1:
        name, backup = shlex.quote(str(paths[0])), shlex.quote(f"{paths[0]}.bak")
        return f"mv {name} {backup} && iconv -f {codec} -t UTF-8 {backup} > {name}"
    names = shlex.join(map(str, paths))
    return f'for file in {names}; do mv "$file" "$file.bak" && iconv -f {codec} -t UTF-8 "$file.bak" > "$file"; done'
