"""Documents into rows of the context length: several short ones share a row, a long one fills several.

How a row reads, with `|` for the document separator and three documents A, B and C:

    input_ids     |  a  a  a  |  b  b  |  c  c  c  c  |  pad
    position_ids  0  1  2  3  0  1  2  0  1  2  3  4  5  0

Every document is followed by one separator, which also opens the next: it is the last thing the model predicts of one
document and the first thing it reads of another, as end and beginning of text. So each token of a text, its first included,
is predicted exactly once, which is what makes bits per byte right, and the empty prompt is something the model has seen.
`position_ids` restart with each document; the attention masks of transformers keep the documents apart by them.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from hfgpt.data.windows import sliding_windows


@dataclass
class PackingCounts:
    """Where every position of every row went: rows x context_length = tokens + separators + repeated + padding."""

    documents: int = 0
    bytes: int = 0
    tokens: int = 0
    separators: int = 0
    repeated: int = 0
    padding: int = 0
    rows: int = 0


@dataclass
class Rows:
    """Fixed-length rows; `input_ids` and `position_ids` are lists of `context_length` ids each."""

    input_ids: list[list[int]] = field(default_factory=list)
    position_ids: list[list[int]] = field(default_factory=list)

    def add(self, segments: Iterable[list[int]], *, context_length: int, pad: int) -> int:
        """Lay segments side by side, positions restarting with each, and fill up; returns the padding's length."""
        ids: list[int] = []
        positions: list[int] = []
        for segment in segments:
            ids += segment
            positions += range(len(segment))
        padding = context_length - len(ids)
        self.input_ids.append(ids + [pad] * padding)
        self.position_ids.append(positions + list(range(padding)))
        return padding


def pack(documents: Iterable[list[int]], *, context_length: int, separator: int, pad: int, counts: PackingCounts) -> Rows:
    """Pack documents into rows by best fit; nothing is lost and no document is cut that fits into one row.

    A document too long for one row is continued in another that repeats its last token, so that the token after it is still
    predicted from something. Only its end shares a row with others, and comes first there.

    Args:
        documents: token ids of each document, without separators.
        context_length: tokens a row, 3 or more.
        separator, pad: ids of the two special tokens; they differ, or the end of a document would not be learned.
        counts: is added to.
    Cost: sorts the documents it is given, O(n log n), in memory; call it on batches of a large corpus.
    Source: the best-fit-decreasing heuristic of bin packing; Ding et al. (2024), Fewer Truncations Improve Language Modeling.
    """
    rows = Rows()
    openings: list[list[int]] = []
    tails: list[list[int]] = []
    for ids in documents:
        counts.documents += 1
        counts.tokens += len(ids)
        counts.separators += 1
        segment = [separator, *ids]
        # The closing separator needs a place in the row too, hence the + 1.
        while len(segment) + 1 > context_length:
            rows.add([segment[:context_length]], context_length=context_length, pad=pad)
            segment = segment[context_length - 1 :]
            counts.repeated += 1
        # A text never holds the separator, so only a document that was not cut begins with it.
        (openings if segment[0] == separator else tails).append(segment)
    for segments in best_fit(openings, begun=[[tail] for tail in tails], capacity=context_length - 1):
        segments[-1] = [*segments[-1], separator]
        counts.separators += 1
        counts.padding += rows.add(segments, context_length=context_length, pad=pad)
    counts.rows += len(rows.input_ids)
    return rows


def best_fit(segments: list[list[int]], *, begun: list[list[list[int]]], capacity: int) -> list[list[list[int]]]:
    """Put each segment, longest first, where the least room is left behind; equal lengths keep their order.

    `begun` are bins that hold something already: the end of a cut document. It stays first in its row, and alone of its kind,
    because it does not begin with the separator that closes the document before.
    """
    bins = begun
    bins_with_room: list[list[int]] = [[] for _ in range(capacity + 1)]
    for index, begun_bin in enumerate(bins):
        bins_with_room[capacity - sum(map(len, begun_bin))].append(index)
    for segment in sorted(segments, key=len, reverse=True):
        for room in range(len(segment), capacity + 1):
            if bins_with_room[room]:
                index = bins_with_room[room].pop()
                break
        else:
            bins.append([])
            index, room = len(bins) - 1, capacity
        bins[index].append(segment)
        bins_with_room[room - len(segment)].append(index)
    return bins


def cut_windows(
    documents: Iterable[list[int]], *, window: int, stride: int, separator: int, pad: int, counts: PackingCounts
) -> Rows:
    """The book's rows: each document, closed by its separator, in sliding windows; one window a row."""
    rows = Rows()
    for ids in documents:
        counts.documents += 1
        counts.tokens += len(ids)
        counts.separators += 1
        used = 0
        for piece in sliding_windows([*ids, separator], window=window, stride=stride):
            used += len(piece)
            counts.padding += rows.add([piece], context_length=window, pad=pad)
        counts.repeated += used - len(ids) - 1
    counts.rows += len(rows.input_ids)
    return rows
