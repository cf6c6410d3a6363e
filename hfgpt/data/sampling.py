"""Texts drawn from documents up to a number of bytes, from all sources alike and from all places of each."""

import hashlib
import re
from array import array
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

import numpy as np

from hfgpt.data.on_disk import column_batches
from hfgpt.data.splitting import Split

SourceText = tuple[str, str]  # the name of a source, and a text of it
PIECE_CHARACTERS = 2**16  # a longer document is drawn from in pieces of about this length
_WORD_END = re.compile(r"(?<=\S)(?=\s)")


def texts_of_sides(documents, split: Split, sides: Collection[str]) -> Iterator[SourceText]:
    """The texts of a `datasets.Dataset` of documents that stand on these sides of a settled split, in order, with their sources."""
    for batch in column_batches(documents, "text", "source", "draw"):
        for text, source, draw in zip(*batch, strict=True):
            if split.by != "position":
                if split.side(draw) in sides:
                    yield source, text
            else:
                parts = split.assign([{"text": text, "source": source, "row_id": ""}])
                yield from ((source, part["text"]) for side, part in parts if side in sides)


@dataclass
class Amount:
    """Of one source or of all: UTF-8 bytes that there are, and those that are taken."""

    bytes: int = 0
    taken: int = 0


class Sample:
    """At most `max_bytes` of texts: all of them, or a part that is drawn.

    Each source gives the share of the bytes that it has of all: of each stretch of its documents some that are drawn at random,
    of long ones pieces. What a small source is too small to give, the next one gives. The same texts, `max_bytes` and seed give
    the same sample.

    Args: `texts` gives all of them, in the same order at every call.
    Attributes:
        documents, bytes: that are taken, of `all_documents` and `all_bytes`.
        sources: the amounts by source, in the order in which they come.
    Cost: one pass over the texts, and two more where some are left out; some 100 bytes of memory for each piece.
    """

    def __init__(self, texts: Callable[[], Iterator[SourceText]], *, max_bytes: int, seed: int = 0):
        self.texts, self.seed = texts, seed
        self.sources: dict[str, Amount] = {}
        self.all_documents = self.documents = 0
        for source, text in texts():
            self.all_documents += 1
            self.sources.setdefault(source, Amount()).bytes += len(text.encode("utf-8"))
        self.all_bytes = sum(amount.bytes for amount in self.sources.values())
        self._taken: set[int] | None = None  # pieces by their number; None is all texts, whole
        if self.all_bytes <= max_bytes:
            self.documents = self.all_documents
            for amount in self.sources.values():
                amount.taken = amount.bytes
        else:
            self._draw(max_bytes)
        self.bytes = sum(amount.taken for amount in self.sources.values())

    @property
    def is_whole(self) -> bool:
        """Whether nothing is left out."""
        return self._taken is None

    def __iter__(self) -> Iterator[SourceText]:
        if self._taken is None:
            yield from self.texts()
            return
        for number, (_, source, piece) in enumerate(self._pieces()):
            if number in self._taken:
                yield source, piece

    def _pieces(self) -> Iterator[tuple[int, str, str]]:
        """Number of the document, source, and piece."""
        for document, (source, text) in enumerate(self.texts()):
            start = 0
            while start < len(text):
                end = start + PIECE_CHARACTERS
                if (cut := _WORD_END.search(text, min(end, len(text)), end + PIECE_CHARACTERS)) is not None:
                    end = cut.start()
                yield document, source, text[start:end]
                start = end

    def _draw(self, max_bytes: int) -> None:
        numbers = {source: number for number, source in enumerate(self.sources)}
        key = str(self.seed).encode()
        draws, places = array("Q"), array("L")  # of a piece what is drawn for it; its document, source and size
        for document, source, piece in self._pieces():
            content = piece.encode("utf-8")
            draws.append(int.from_bytes(hashlib.blake2b(content, digest_size=8, key=key).digest(), "big"))
            places.extend((document, numbers[source], len(content)))
        draw = np.array(draws, dtype=np.uint64)
        document, source, size = np.array(places, dtype=np.int64).reshape(-1, 3).T
        # Of so many pieces in a row about one is wanted. First comes the first that is drawn of each such stretch, then the second.
        stretch = _place_within(source) // max(1, round(self.all_bytes / max_bytes))
        of_stretches = np.lexsort((draw, stretch, source))
        turn = np.empty(len(draw), dtype=np.int64)
        turn[of_stretches] = _place_within(source[of_stretches] * (stretch.max() + 1) + stretch[of_stretches])
        # Source by source; their order is drawn too, by the first piece of each.
        first = np.full(len(numbers), np.iinfo(np.uint64).max, dtype=np.uint64)
        np.minimum.at(first, source, draw)
        order = np.lexsort((draw, turn, source, first[source]))
        amounts = list(self.sources.values())
        self._taken, documents = set(), set()
        budget, taken, current = 0.0, 0, None
        for index in order.tolist():
            amount = amounts[source[index]]
            if amount is not current:
                current = amount
                budget += max_bytes * amount.bytes / self.all_bytes
            if taken + size[index] <= budget:
                taken += int(size[index])
                amount.taken += int(size[index])
                self._taken.add(index)
                documents.add(int(document[index]))
        self.documents = len(documents)


def _place_within(groups: np.ndarray) -> np.ndarray:
    """Of each element, how many before it are of its group."""
    order = np.argsort(groups, kind="stable")
    ordered = groups[order]
    starts = np.flatnonzero(np.diff(ordered, prepend=ordered[0] - 1))
    places = np.empty(len(groups), dtype=np.int64)
    places[order] = np.arange(len(groups)) - np.repeat(starts, np.diff(np.append(starts, len(groups))))
    return places
