"""Pack documents into rows of the context length: several short ones share a row, a long one fills several.

A row with `|` for the document separator and three documents A, B and C:

    input_ids     |  a  a  a  |  b  b  |  c  c  c  c  |  pad
    position_ids  0  1  2  3  0  1  2  0  1  2  3  4  5  0

Every document is followed by one separator, which also begins the next: it is the last token the model predicts in one document and
the first one it reads in the next. So each token of a text, including the first, is predicted exactly once, which makes bits per
byte correct, and the model has seen the empty prompt. `position_ids` restart with each document; transformers' attention masks use
them to keep the documents apart.

When a document is cut, because it is too long for a row or the packing method cuts it, the next piece repeats the last token of the
previous one and starts a row: it does not begin with a separator, so nothing may precede it.
"""

import bisect
import itertools
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from hfgpt.errors import UserError
from hfgpt.tables import Table

Ids = Sequence[int] | np.ndarray
IdsType = TypeVar("IdsType", list[int], np.ndarray)

DOCUMENTS_TOGETHER = 10_000  # short documents and ends of long ones that are sorted and packed together
TOKENS_TOGETHER = 2**22  # for methods that keep long documents whole until they are cut: about 16 MiB of them
ROWS_AT_ONCE = 4_096  # of a block, so that memory stays constant however long a document is


@dataclass
class PackingCounts:
    """Accounts for every position of every row: rows x context_length = tokens + separators + repeated + padding."""

    documents: int = 0
    bytes: int = 0
    tokens: int = 0
    separators: int = 0
    repeated: int = 0
    padding: int = 0
    rows: int = 0


@dataclass
class Rows:
    """A block of fixed-length rows: `input_ids` and `position_ids` are int32 arrays, (rows, context_length)."""

    input_ids: np.ndarray
    position_ids: np.ndarray


def pack(
    documents: Iterable[Ids],
    *,
    context_length: int,
    separator: int,
    pad: int,
    counts: PackingCounts,
    packing: str = "best_fit",
    together: int = DOCUMENTS_TOGETHER,
) -> Iterator[Rows]:
    """Pack documents into rows; nothing is lost, and each token is predicted once, only from its own document.

    A cut document continues in another row that repeats its last token, so that the next token still has a context.

    Args:
        documents: token ids of each document, without separators; read one at a time.
        context_length: tokens per row, 3 or more.
        separator, pad: ids of the two special tokens; they differ, or the end of a document would not be learned.
        counts: updated in place.
        packing: one of `PACKINGS`, which differ in what they cut and how much padding they leave.
        together: number of documents that are packed together; "in_order" does not use it.
    Yields: the rows in blocks of `ROWS_AT_ONCE`; the last is smaller.
    Cost: linear in the tokens, O(n log n) in the documents packed together; at most one row of each is kept in memory
        ("best_fit_split" keeps `TOKENS_TOGETHER` and one more document).
    Source: best-fit-decreasing bin packing; Ding et al. (2024), Fewer Truncations Improve Language Modeling, arXiv 2404.10830.
    """
    bins = PACKINGS.find(packing)
    segments = _opened(documents, separator=separator, counts=counts)
    filled = bins(segments, context_length=context_length, separator=separator, counts=counts, together=together)
    return _in_blocks(filled, context_length=context_length, pad=pad, counts=counts)


def cut_windows(
    documents: Iterable[Ids], *, window: int, stride: int, separator: int, pad: int, counts: PackingCounts
) -> Iterator[Rows]:
    """The book's rows: each document, followed by its separator, in sliding windows; one window per row, in blocks as in `pack`."""
    bins = _window_bins(documents, window=window, stride=stride, separator=separator, counts=counts)
    return _in_blocks(bins, context_length=window, pad=pad, counts=counts)


def _opened(documents: Iterable[Ids], *, separator: int, counts: PackingCounts) -> Iterator[np.ndarray]:
    """Each document preceded by its separator."""
    for ids in documents:
        counts.documents += 1
        counts.tokens += len(ids)
        counts.separators += 1
        # A slice of an array shares its memory; one of a list is a copy, which makes a long document quadratic.
        segment = np.empty(len(ids) + 1, dtype=np.int32)
        segment[0], segment[1:] = separator, ids
        yield segment


def _closed(segments: list[np.ndarray], *, separator: int, counts: PackingCounts) -> list[np.ndarray]:
    """A row's segments with the separator that ends the last of them, which needs a place in the row."""
    segments[-1] = np.append(segments[-1], np.int32(separator))
    counts.separators += 1
    return segments


def _best_fit_bins(
    segments: Iterator[np.ndarray], *, context_length: int, separator: int, counts: PackingCounts, together: int
) -> Iterator[list[np.ndarray]]:
    """Best fit; no document is cut that fits into one row. The end of a longer one comes first in a row that it shares."""
    while True:
        openings: list[np.ndarray] = []
        tails: list[np.ndarray] = []
        for segment in itertools.islice(segments, together):
            # The closing separator needs a place in the row too, hence the + 1.
            if len(segment) + 1 <= context_length:
                openings.append(segment)
                continue
            while len(segment) + 1 > context_length:
                yield [segment[:context_length]]
                segment = segment[context_length - 1 :]
                counts.repeated += 1
            tails.append(segment.copy())  # a copy, otherwise the whole document would stay in memory
        if not openings and not tails:
            return
        for row in best_fit(openings, begun=[[tail] for tail in tails], capacity=context_length - 1):
            yield _closed(row, separator=separator, counts=counts)


def _best_fit_split_bins(
    segments: Iterator[np.ndarray], *, context_length: int, separator: int, counts: PackingCounts, together: int
) -> Iterator[list[np.ndarray]]:
    """Best fit; if no document fits into the remaining room, the longest is cut to fill it: only the last row is padded.

    The rest of a cut document begins the next row.
    """
    waiting = _Waiting()
    rest: np.ndarray | None = None  # of the document that was cut last
    while True:
        while len(waiting) <= together and waiting.tokens < TOKENS_TOGETHER and (new := next(segments, None)) is not None:
            waiting.add(new)
        if rest is None and not len(waiting):
            return
        segment, rest = waiting.take_longest() if rest is None else rest, None
        while len(segment) + 1 > context_length:
            yield [segment[:context_length]]
            segment = segment[context_length - 1 :]
            counts.repeated += 1
        row, room = [segment.copy()], context_length - 1 - len(segment)
        while (fitting := waiting.take_fitting(room)) is not None:
            row.append(fitting)
            room -= len(fitting)
        if room and len(waiting):  # for a separator and a token at least, because a row that ends within a document needs no other
            cut = waiting.take_longest()
            row.append(cut[: room + 1])
            rest = cut[room:]
            counts.repeated += 1
        else:
            row = _closed(row, separator=separator, counts=counts)
        yield row


class _Waiting:
    """Segments that wait for a place, by their length; of one length, the first comes first."""

    def __init__(self):
        self.tokens = 0
        self._by_length: dict[int, deque[np.ndarray]] = {}
        self._lengths: list[int] = []  # sorted
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, segment: np.ndarray) -> None:
        length = len(segment)
        if length not in self._by_length:
            self._by_length[length] = deque()
            bisect.insort(self._lengths, length)
        self._by_length[length].append(segment)
        self._count += 1
        self.tokens += length

    def take_longest(self) -> np.ndarray:
        return self._take(len(self._lengths) - 1)

    def take_fitting(self, room: int) -> np.ndarray | None:
        """The longest one of at most `room` tokens; None where there is none."""
        place = bisect.bisect_right(self._lengths, room)
        return self._take(place - 1) if place else None

    def _take(self, place: int) -> np.ndarray:
        length = self._lengths[place]
        segment = self._by_length[length].popleft()
        if not self._by_length[length]:
            del self._by_length[length], self._lengths[place]
        self._count -= 1
        self.tokens -= length
        return segment


def _bins_in_order(
    segments: Iterator[np.ndarray], *, context_length: int, separator: int, counts: PackingCounts, together: int
) -> Iterator[list[np.ndarray]]:
    """All documents in sequence, cut when a row is full: only the last row is padded, and most rows begin within a document.

    A continuing row begins with the last token of the previous one. If that is a separator, the previous row ends with its
    document, and the next one begins with the separator again.
    """
    row: list[np.ndarray] = []
    used = 0
    for segment in segments:
        while used + len(segment) >= context_length:
            room = context_length - used
            if room == 1:
                yield _closed(row, separator=separator, counts=counts)
            else:
                yield [*row, segment[:room]]
                segment = segment[room - 1 :]
                counts.repeated += 1
            row, used = [], 0
        row.append(segment.copy())
        used += len(segment)
    if row:
        yield _closed(row, separator=separator, counts=counts)


PACKINGS: Table[Callable[..., Iterator[list[np.ndarray]]]] = Table(
    "packing", {"best_fit": _best_fit_bins, "best_fit_split": _best_fit_split_bins, "in_order": _bins_in_order}
)


def _window_bins(
    documents: Iterable[Ids], *, window: int, stride: int, separator: int, counts: PackingCounts
) -> Iterator[list[np.ndarray]]:
    for ids in documents:
        counts.documents += 1
        counts.tokens += len(ids)
        counts.separators += 1
        closed = np.empty(len(ids) + 1, dtype=np.int32)
        closed[:-1], closed[-1] = ids, separator
        used = 0
        for piece in sliding_windows(closed, window=window, stride=stride):
            used += len(piece)
            yield [piece]
        counts.repeated += used - len(closed)


def sliding_windows(ids: IdsType, *, window: int, stride: int) -> Iterator[IdsType]:
    """Cut one document into windows that overlap by `window - stride` tokens; no token is lost.

    A window holds inputs and targets at once, because the loss shifts the labels: it predicts its tokens 2..window from those
    before. A stride of `window - 1` therefore predicts every token exactly once, a stride of `window` skips the first of each.

    Args:
        ids: token ids of one document, length >= 1: a list, or an array, whose windows share its memory.
        window: maximum tokens per window.
        stride: tokens between window starts, 1..window; smaller means more overlap and more training steps.
    Yields: at most `window` ids each; the last may be shorter.
    Raises: ValueError if `stride` would skip tokens.
    Source: Raschka (2024), Build a Large Language Model (From Scratch), section 2.6.
    """
    if not 1 <= stride <= window:
        raise UserError(
            f"stride is {stride} and window is {window}; the stride must be between 1 and the window, or tokens would be skipped."
        )
    for start in range(0, len(ids), stride):
        yield ids[start : start + window]
        if start + window >= len(ids):
            return


def _in_blocks(bins: Iterator[list[np.ndarray]], *, context_length: int, pad: int, counts: PackingCounts) -> Iterator[Rows]:
    while block := list(itertools.islice(bins, ROWS_AT_ONCE)):
        counts.rows += len(block)
        counts.padding += len(block) * context_length - sum(len(segment) for segments in block for segment in segments)
        yield Rows(
            lay_out(block, length=context_length, fill=pad),
            restarting_positions(block, length=context_length),
        )


def lay_out(bins: Sequence[Sequence[Ids]], *, length: int, fill: int) -> np.ndarray:
    """Segments side by side, one bin per row, padded on the right: (bins, length)."""
    rows = np.full((len(bins), length), fill, dtype=np.int32)
    if bins:
        used = np.array([sum(map(len, segments)) for segments in bins])
        rows[np.arange(length) < used[:, None]] = np.concatenate([segment for segments in bins for segment in segments])
    return rows


def restarting_positions(bins: Sequence[Sequence[Ids]], *, length: int) -> np.ndarray:
    """Positions from 0 for each segment, and for the padding at the end of a row: (bins, length)."""
    sizes = [size for segments in bins for size in (*map(len, segments), length - sum(map(len, segments)))]
    sizes = np.array(sizes, dtype=np.int64)
    starts = np.repeat(np.cumsum(sizes) - sizes, sizes)
    return (np.arange(len(starts)) - starts).astype(np.int32).reshape(len(bins), length)


def best_fit(segments: list[IdsType], *, begun: list[list[IdsType]], capacity: int) -> list[list[IdsType]]:
    """Put each segment, longest first, where it leaves the least room; equal lengths keep their order.

    `begun` are bins that already contain the end of a cut document. It stays first in its row, and only one per row is possible,
    because it does not begin with the separator that ends the previous document.

    Cost: O(n log n) for n segments, whatever the capacity.
    """
    bins = begun
    bins_with_room: dict[int, list[int]] = defaultdict(list)
    for index, begun_bin in enumerate(bins):
        bins_with_room[capacity - sum(map(len, begun_bin))].append(index)
    rooms = sorted(bins_with_room)  # those that a bin has, so that the next larger one is found by bisection
    for segment in sorted(segments, key=len, reverse=True):
        place = bisect.bisect_left(rooms, len(segment))
        if place < len(rooms):
            room = rooms[place]
            index = bins_with_room[room].pop()
            if not bins_with_room[room]:
                del rooms[place]
        else:
            room, index = capacity, len(bins)
            bins.append([])
        bins[index].append(segment)
        left = room - len(segment)
        if not bins_with_room[left]:
            bisect.insort(rooms, left)
        bins_with_room[left].append(index)
    return bins
