"""Draw texts from documents up to a number of bytes, evenly from all sources and from all parts of each."""

import hashlib
import re
from array import array
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

import numpy as np

from hfgpt.data.on_disk import column_batches
from hfgpt.data.splitting import Split

SourceText = tuple[str, str]  # the name of a source, and a text of it
TOGETHER = 2**18  # pieces sorted at a time
PIECE_CHARACTERS = 2**16  # longer documents are sampled in pieces of about this length
_WORD_END = re.compile(r"(?<=\S)(?=\s)")


def texts_of_sides(documents, split: Split, sides: Collection[str]) -> Iterator[SourceText]:
    """The texts of a `datasets.Dataset` of documents on these sides of a settled split, in order, with their sources."""
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
    """For one source or all: the available UTF-8 bytes, and those taken."""

    bytes: int = 0
    taken: int = 0


class Sample:
    """At most `max_bytes` of texts: all of them, or a random part.

    Each source contributes in proportion to its bytes: from each stretch of its documents, some drawn at random; from long ones,
    pieces. What a source is too small to contribute comes from the next one. The same texts, `max_bytes` and seed give the same
    sample.

    Args: `texts` returns all of them, in the same order on every call.
    Attributes:
        documents, bytes: those taken, out of `all_documents` and `all_bytes`.
        sources: the amounts by source, in order of appearance.
    Cost: one pass over the texts, and two more if some are left out, with about 50 bytes of memory per piece.
    """

    def __init__(self, texts: Callable[[], Iterator[SourceText]], *, max_bytes: int, seed: int = 0):
        self.texts, self.seed = texts, seed
        self.sources: dict[str, Amount] = {}
        self.all_documents = self.documents = 0
        for source, text in texts():
            self.all_documents += 1
            self.sources.setdefault(source, Amount()).bytes += len(text.encode("utf-8"))
        self.all_bytes = sum(amount.bytes for amount in self.sources.values())
        self._taken: np.ndarray | None = None  # whether each piece is; None is all texts, whole
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
            if self._taken[number]:
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
        draws, documents, sources, sizes = array("Q"), array("I"), array("I"), array("I")
        for number, source, piece in self._pieces():
            content = piece.encode("utf-8")
            draws.append(int.from_bytes(hashlib.blake2b(content, digest_size=8, key=key).digest(), "big"))
            documents.append(number)
            sources.append(numbers[source])
            sizes.append(len(content))
        draw, size = np.frombuffer(draws, dtype=np.uint64), np.frombuffer(sizes, dtype=np.uint32)
        source = np.frombuffer(sources, dtype=np.uint32)
        by_source = np.argsort(source, kind="stable")
        ends = np.cumsum(np.bincount(source, minlength=len(numbers)))
        of_sources = np.split(by_source, ends[:-1])  # the pieces of each; views
        # Source by source; their order is drawn too, by the first piece of each.
        amounts = list(self.sources.values())
        order = sorted(range(len(amounts)), key=lambda number: draw[of_sources[number]].min(initial=np.iinfo(np.uint64).max))
        self._taken = np.zeros(len(draw), dtype=bool)
        budget, taken = 0.0, 0
        for number in order:
            amount, pieces = amounts[number], of_sources[number]
            budget += max_bytes * amount.bytes / self.all_bytes
            for block in _in_turn(pieces, draw, stretch=max(1, round(self.all_bytes / max_bytes))):
                for index, more in zip(block.tolist(), size[block].tolist()):
                    if taken + more <= budget:
                        taken += more
                        amount.taken += more
                        self._taken[index] = True
        self.documents = len(np.unique(np.frombuffer(documents, dtype=np.uint32)[self._taken]))


def _in_turn(pieces: np.ndarray, draws: np.ndarray, *, stretch: int) -> Iterator[np.ndarray]:
    """The pieces of one source in the order in which they are taken, in blocks of about `TOGETHER`.

    Of each `stretch` of so many in a row first comes the one that is drawn first, then the second; those that are first in the
    order of their draws.
    """
    turns = np.empty(len(pieces), dtype=np.uint32)
    together = max(1, TOGETHER // stretch) * stretch
    for start in range(0, len(pieces), together):
        some = draws[pieces[start : start + together]]
        places = np.arange(len(some))
        turns[start + np.lexsort((some, places // stretch))] = places % stretch
    turns_together = max(1, TOGETHER * stretch // max(1, len(pieces)))
    for first in range(0, min(stretch, len(pieces)), turns_together):
        mine = np.flatnonzero((turns >= first) & (turns < first + turns_together))
        block = pieces[mine]
        yield block[np.lexsort((draws[block], turns[mine]))]
