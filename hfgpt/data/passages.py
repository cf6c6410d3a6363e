"""Passages: runs of bytes shared between texts, found in linear time and bounded memory.

Windows of the other texts are stored as bits in a table, at the position given by their hash; nothing else is kept in memory. A
passage is a sequence of consecutive windows of a text that are in the table:

    others   ...the quick brown fox jumps over the lazy dog...     windows of 8 bytes: "the quic", "he quick", "e quick ", ...
    text     A slow quick brown fox jumps over a cat.
    windows        ^^^^^^^^^^^^^^^^^^^^^
    passage       [ quick brown fox jumps over ]                   as long as the windows in it

Every shared run of at least `shortest` bytes is found; with folding, every run with that many bytes after folding. False positives
are limited: a passage may be joined from runs of the others that overlap in a window, but `in_a_row` consecutive chance collisions
are practically impossible.

The hash is a polynomial in a random odd base modulo 2 ** 64: the hashes of all windows are differences of prefix sums, times powers
of the base's inverse. Source: Karp and Rabin (1987), Efficient randomized pattern-matching algorithms.
"""

import bisect
import itertools
import logging
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from hfgpt.data.dropped import DroppedDocuments
from hfgpt.data.on_disk import Document, document_batches, text_bytes, write_documents
from hfgpt.data.passport import Passport

logger = logging.getLogger(__name__)

Span = tuple[int, int]  # of bytes: the first, and the one after the last
# Never occurs in UTF-8, so a window that contains it matches no text.
DOCUMENT_END = 0xFF
BITS_PER_WINDOW = 8
LEAST_BITS, MOST_BITS = 1 << 16, 1 << 32  # 8 KiB and 512 MiB
MOST_IN_A_ROW = 16  # by chance once in 8 ** 16 bytes
# Windows at a time: 2 MiB for each array, which stays in a processor's cache.
BLOCK = 1 << 18
# Of texts among each other every eighth window is kept, which takes an eighth of the memory.
REPEATED_STRIDE = 8
# A cut goes on to the next space, but no further than this: some scripts have none.
LONGEST_WORD_BYTES = 40
# What is left of a document beside a cut, and is shorter, is dropped: a heading, half a sentence.
SHORTEST_PIECE_BYTES = 100
WORD_AT_END, WORD_AT_START = re.compile(rb"\S*\Z"), re.compile(rb"\S*")

_generator = np.random.default_rng(0x5EED)
_VALUES = _generator.integers(0, 2**64, 256, dtype=np.uint64)
_BASE = int(_generator.integers(0, 2**63)) * 2 + 1
_FOLDED = _VALUES.copy()
_FOLDED[ord("A") : ord("Z") + 1] = _FOLDED[ord("a") : ord("z") + 1]
_FOLDED[list(b"\t\n\v\f\r")] = _FOLDED[ord(" ")]
_IS_SPACE = np.isin(_FOLDED, _FOLDED[ord(" ")])
# White space outside ASCII, in UTF-8: the no-break space, those of typography, the ideographic one, separators of lines.
_WIDE_SPACES = [chr(point).encode() for point in range(0x80, 0x3001) if chr(point).isspace()]
_BEGINS_WIDE_SPACE = np.isin(np.arange(256), [space[0] for space in _WIDE_SPACES])


def _powers(base: int, number: int) -> np.ndarray:
    """base ** 0, ..., base ** (number - 1), modulo 2 ** 64."""
    powers = np.full(number, base, dtype=np.uint64)
    powers[0] = 1
    return np.multiply.accumulate(powers)


class Windows:
    """The windows of added texts, for finding runs of `shortest` bytes that other texts share with them.

    Args:
        shortest: bytes of the shortest run that is guaranteed to be found.
        size: approximate bytes of all texts to be added.
        stride: bytes between stored windows.
        folded: whether to ignore the case of ASCII letters and the kind and amount of whitespace, so that a text is also found with
            different line breaks or indentation. `shortest` then counts each run of whitespace as one byte.
    Attributes:
        width: bytes of a window.
        in_a_row: the number of consecutive windows required, `stride` bytes apart: as many as any run of `shortest` bytes contains.
    Memory: a byte per window, rounded up to a power of two; at least 8 KiB, at most 512 MiB. Above 500 million windows, false hits
        become more likely: with 4 billion, 16 in a row once in 3,500 bytes.
    """

    def __init__(self, shortest: int, size: int, *, stride: int = 1, folded: bool = False):
        self.stride = stride
        self.in_a_row = min(MOST_IN_A_ROW, 1 << max(1, 2 * shortest // (3 * stride)).bit_length() - 1)  # a third is the window
        self.width = shortest - self.in_a_row * stride + 1
        bits = min(MOST_BITS, max(LEAST_BITS, 1 << (BITS_PER_WINDOW * size // stride).bit_length()))
        self._is_folded = folded
        self._values = _FOLDED if folded else _VALUES
        self._shift = np.uint64(65 - bits.bit_length())
        self._table = np.zeros(bits // 8, dtype=np.uint8)
        self._powers = _powers(_BASE, BLOCK + self.width)
        self._inverse = _powers(pow(_BASE, -1, 2**64), BLOCK)

    def add(self, text: np.ndarray) -> None:
        """Store the windows of a text (bytes), or of several with `DOCUMENT_END` after each."""
        text, _ = self._collapsed(text)
        for start, hashes in self._hashes(text):
            self._keep(hashes[:: self.stride], self._are_whole(text, start, len(hashes))[:: self.stride])

    def find(self, text: np.ndarray) -> list[Span]:
        """The passages of a text (bytes) that occur in the added texts, in order; two may overlap."""
        text, left_out = self._collapsed(text)
        found = np.zeros(len(text), dtype=bool)
        for start, hashes in self._hashes(text):
            found[start : start + len(hashes)] = self._kept(hashes) & self._are_whole(text, start, len(hashes))
        return self._passages(found, left_out)

    def find_and_add(self, text: np.ndarray) -> list[Span]:
        """The passages of a text that occur in the added texts or earlier in the text itself; its windows are added, too."""
        text, left_out = self._collapsed(text)
        found = np.zeros(len(text), dtype=bool)
        for start, hashes in self._hashes(text):
            whole = self._are_whole(text, start, len(hashes))
            found[start : start + len(hashes)] = (self._kept(hashes) | self._kept_before(hashes, whole)) & whole
            self._keep(hashes[:: self.stride], whole[:: self.stride])
        return self._passages(found, left_out)

    def hashes(self, text: np.ndarray) -> np.ndarray:
        """The hashes of all windows of a text, in order."""
        return np.concatenate([np.empty(0, np.uint64), *(part for _, part in self._hashes(self._collapsed(text)[0]))])

    def _collapsed(self, text: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The text, of white space in a row only the first byte where it is folded; and what was left out.

        Of each byte that was left out it says how many of those that stay stand before it: only these take memory.
        """
        if not self._is_folded:
            return text, np.empty(0, dtype=np.int64)
        is_space = _IS_SPACE.take(text)
        if self._mark_wide_spaces(text, is_space):
            text = np.where(is_space, np.uint8(ord(" ")), text)
        left_out = np.flatnonzero(is_space[1:] & is_space[:-1]) + 1
        return np.delete(text, left_out), left_out - np.arange(len(left_out))

    @staticmethod
    def _mark_wide_spaces(text: np.ndarray, is_space: np.ndarray) -> bool:
        """Mark all bytes of white space that takes two or three. Returns: whether there is any."""
        found = False
        for start in range(0, len(text), BLOCK):
            begins = start + np.flatnonzero(_BEGINS_WIDE_SPACE.take(text[start : start + BLOCK]))
            for space in _WIDE_SPACES if len(begins) else ():
                places = begins[begins <= len(text) - len(space)]
                for offset, byte in enumerate(space):
                    places = places[text[places + offset] == byte]
                for offset in range(len(space)):
                    is_space[places + offset] = True
                found |= len(places) > 0
        return found

    def _hashes(self, text: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """Of the windows that begin at each byte, a block at a time: the first byte, and the hashes."""
        for start in range(0, len(text) - self.width + 1, BLOCK):
            part = text[start : start + BLOCK + self.width - 1]
            sums = np.zeros(len(part) + 1, dtype=np.uint64)
            np.cumsum(self._values[part] * self._powers[: len(part)], out=sums[1:])
            number = len(part) - self.width + 1
            yield start, (sums[self.width :] - sums[: -self.width]) * self._inverse[:number]

    def _are_whole(self, text: np.ndarray, start: int, number: int) -> np.ndarray:
        """Which of so many windows lie within one document."""
        ends = np.flatnonzero(text[start : start + number + self.width - 1] == DOCUMENT_END)
        over_an_end = (ends[:, None] - np.arange(self.width)).ravel()
        whole = np.ones(number, dtype=bool)
        whole[over_an_end[(over_an_end >= 0) & (over_an_end < number)]] = False
        return whole

    def _keep(self, hashes: np.ndarray, which: np.ndarray) -> None:
        places = hashes[which] >> self._shift
        bits = np.uint8(1) << (places.astype(np.uint8) & 7)
        np.bitwise_or.at(self._table, (places >> np.uint64(3)).view(np.int64), bits)

    def _kept(self, hashes: np.ndarray) -> np.ndarray:
        places = hashes >> self._shift
        return ((self._table.take((places >> np.uint64(3)).view(np.int64)) >> (places.astype(np.uint8) & 7)) & 1).view(bool)

    def _kept_before(self, hashes: np.ndarray, whole: np.ndarray) -> np.ndarray:
        """Which windows of a block are like one that will be kept of it and ends before they begin."""
        first = np.full(BLOCK * BITS_PER_WINDOW // self.stride, len(hashes) + self.width, dtype=np.int32)
        slots = (hashes >> np.uint64(65 - len(first).bit_length())).view(np.int64)
        kept = np.flatnonzero(whole[:: self.stride])[::-1] * self.stride  # of equal ones the first is written last
        first[slots[kept]] = kept
        return first.take(slots) + self.width <= np.arange(len(hashes))

    def _passages(self, found: np.ndarray, left_out: np.ndarray) -> list[Span]:
        reach = self.stride
        while reach < self.in_a_row * self.stride:  # 1, 2, 4, ... of them in a row
            followed = max(0, len(found) - reach)
            found[:followed] &= found[reach:]
            found[followed:] = False
            reach *= 2
        begins = np.flatnonzero(found)
        if not len(begins):
            return []
        last = np.append(np.diff(begins) > self.stride, True)
        first = np.append(True, last[:-1])
        ends = begins[last] + (self.in_a_row - 1) * self.stride + self.width
        # Back to places in the text itself: a passage that ends in white space takes all of it.
        begins, ends = (places + np.searchsorted(left_out, places, side="right") for places in (begins[first], ends))
        return list(zip(begins.tolist(), ends.tolist(), strict=True))


def joined(contents: Sequence[bytes]) -> tuple[np.ndarray, list[int]]:
    """Texts with `DOCUMENT_END` after each, and where each begins."""
    begins = [0, *itertools.accumulate(len(content) + 1 for content in contents)]
    return np.frombuffer(bytes([DOCUMENT_END]).join([*contents, b""]), dtype=np.uint8), begins[:-1]


def passages_of(contents: Sequence[bytes], find: Callable[[np.ndarray], list[Span]]) -> list[list[Span]]:
    """The passages of each of these texts, which are looked at together.

    Args: `find` is `Windows.find` or `Windows.find_and_add`.
    """
    content, begins = joined(contents)
    passages: list[list[Span]] = [[] for _ in contents]
    for first, after in find(content):
        index = bisect.bisect_right(begins, first) - 1
        passages[index].append((first - begins[index], after - begins[index]))
    return passages


@dataclass
class CutCounts:
    """What was cut out: passages, their UTF-8 bytes including dropped remainders, and affected documents.

    Args: `pieces` is the number of documents created from cut ones: documents - dropped - cut + pieces are left.
    """

    passages: int = 0
    bytes: int = 0
    documents_cut: int = 0
    pieces: int = 0
    documents_dropped: int = 0

    def described(self, bytes_in: int) -> str:
        """For the log, of documents with so many bytes."""
        parts = f", parts of {self.documents_cut:,} others ({self.pieces:,} pieces are kept)" if self.documents_cut else ""
        share = 100 * self.bytes / max(1, bytes_in)
        return f"{self.documents_dropped:,} whole documents{parts}; {self.bytes:,} of {bytes_in:,} bytes ({share:.1f} %)"


def cut_out(document: Document, content: bytes, passages: Sequence[Span], counts: CutCounts) -> Iterator[Document]:
    """The document without these passages, which are extended to whole words: unchanged if there are none, otherwise in pieces.

    A piece has `row_id` with ":piece1", ":piece2", ... behind it; one of less than `SHORTEST_PIECE_BYTES` is dropped.
    """
    if not passages:
        yield document
        return
    counts.passages += len(passages)
    pieces = []
    begin = 0
    for first, after in sorted(_to_word_borders(content, *passage) for passage in passages):
        if first > begin:
            pieces.append(content[begin:first])
        begin = max(begin, after)
    pieces = [piece for piece in [*pieces, content[begin:]] if len(piece.strip()) >= SHORTEST_PIECE_BYTES]
    counts.bytes += len(content) - sum(map(len, pieces))
    counts.documents_cut += bool(pieces)
    counts.pieces += len(pieces)
    counts.documents_dropped += not pieces
    for number, piece in enumerate(pieces, start=1):
        yield {**document, "text": piece.decode(), "row_id": f"{document['row_id']}:piece{number}"}


def _to_word_borders(content: bytes, first: int, after: int) -> Span:
    """The passage, from the beginning of its first word to the end of its last, and never within a character."""
    before = content[max(0, first - LONGEST_WORD_BYTES) : first]
    word_before = WORD_AT_END.search(before)
    word_after = WORD_AT_START.match(content, after, after + LONGEST_WORD_BYTES)
    assert word_before is not None  # an empty word is one as well
    assert word_after is not None
    if len(word_before[0]) < LONGEST_WORD_BYTES:
        first -= len(word_before[0])
    if len(word_after[0]) < LONGEST_WORD_BYTES:
        after += len(word_after[0])
    while first and first < len(content) and content[first] & 0xC0 == 0x80:  # of UTF-8, not the first byte of a character
        first -= 1
    while after < len(content) and content[after] & 0xC0 == 0x80:
        after += 1
    return first, after


def cut_repeated_passages(
    documents, passport: Passport, *, shortest: int, cache_dir: str | Path, dropped: DroppedDocuments | None = None
):
    """Cut out passages that occurred in earlier documents: the first of equal passages is kept, later ones are removed (see
    `cut_out`).

    Args:
        documents: a `datasets.Dataset`.
        shortest: UTF-8 bytes; every repetition of at least this many is cut out.
        dropped: receives the documents of which nothing is left.
    Returns: the same documents if there are no repetitions.
    Cost: time linear in the text, and 1 byte of memory for each 8 of it, at most 512 MiB. Measured: 267 MB of paragraphs 12 s of
        CPU time (22 MB/s), reading and writing included; with the table that 2.2 GB have, 658 MiB of memory in all, 2026-11-26.
    """
    step, start = "cut repeated passages", time.perf_counter()
    windows = Windows(shortest, documents.data.nbytes, stride=REPEATED_STRIDE)
    counts = CutCounts()

    def kept() -> Iterator[Document]:
        for batch in document_batches(documents, "repeated passages"):
            contents = [document["text"].encode() for document in batch]
            for document, content, passages in zip(batch, contents, passages_of(contents, windows.find_and_add), strict=True):
                pieces = list(cut_out(document, content, passages, counts))
                if not pieces and dropped is not None:
                    dropped.add(document, step=step, reason="too little of it is left after removing passages from earlier text")
                yield from pieces

    written = write_documents(kept(), Path(cache_dir) / "without-repeated-passages.arrow", schema=documents.features.arrow_schema)
    found, settings = asdict(counts), {"shortest_bytes": shortest}
    found |= {"bytes_cut": found.pop("bytes"), "bytes_in": text_bytes(documents), "bytes_out": text_bytes(written)}
    passport.record(step, len(documents), len(written), start, **found, settings=settings)
    if counts.passages:
        logger.info(f"{step}: {counts.passages:,} passages removed: {counts.described(found['bytes_in'])}")
    return written if counts.passages else documents
