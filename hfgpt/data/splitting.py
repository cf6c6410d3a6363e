"""Train, validation and test: every document belongs to one of them, decided by its own text and the seed.

A document keeps its side whatever else is read, in whatever order, so the tokenizer's training can leave out exactly the
documents that are held out later, and a corpus that grows never moves a test document into training.
"""

import hashlib
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from hfgpt.data.on_disk import Document, select, texts_of
from hfgpt.errors import UserError

logger = logging.getLogger(__name__)

SPLITS = ("train", "validation", "test")
SPLIT_BY = ("auto", "document", "position")
# A side may hold a third of the share that was asked for, or three times as much, before "auto" splits by position. With 60
# documents of equal length and 5 % per side, 90 of 100 seeds stay within that; with 20 documents, 38.
TOLERANCE = 3


@dataclass(frozen=True)
class Split:
    """How documents are divided.

    Args:
        by: "document" (each whole, by a hash of its text), "position" (each cut into three parts at line ends, for a corpus of
            one or few documents: the first is for training, the last for test), or "auto", which `settled` turns into one of them.
        validation_share, test_share: from 0 to below 1; their sum stays below 1.
        seed: another seed, another division; "position" needs none.
    Raises: ValueError for shares that leave nothing to train on.
    """

    by: str = "document"
    validation_share: float = 0.05
    test_share: float = 0.05
    seed: int = 0

    def __post_init__(self):
        if self.by not in SPLIT_BY:
            raise UserError(f"split_by is {self.by!r}; allowed are {', '.join(map(repr, SPLIT_BY))}.")
        for name in ("validation_share", "test_share"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}; a share from 0 to below 1 is needed.")
        if self.validation_share + self.test_share >= 1:
            raise UserError(
                f"validation_share {self.validation_share} and test_share {self.test_share} add up to "
                f"{self.validation_share + self.test_share:g}; below 1 is needed, or nothing is left to train on."
            )

    def settled(self, texts: Iterable[str]) -> "Split":
        """This split, with "document" or "position" for "auto".

        By document where each side gets text of about its share, else by position: one document, or few, would leave a side empty
        or take too much away from the training.

        Args: `texts` of all documents; read only for "auto".
        """
        if self.by != "auto":
            return self
        sizes = dict.fromkeys(SPLITS, 0)
        num_documents = 0
        for text in texts:
            num_documents += 1
            sizes[self._side(text)] += len(text)
        total = max(1, sum(sizes.values()))
        shares = {"validation": self.validation_share, "test": self.test_share}
        fits = all(share / TOLERANCE <= sizes[name] / total <= share * TOLERANCE for name, share in shares.items())
        if not num_documents or (fits and sizes["train"]):
            return replace(self, by="document")
        why = "there is 1 document, so it"
        if num_documents > 1:
            why = f"{num_documents:,} documents are too few, or too unequal, to hold out whole ones, so each"
        logger.info(
            f"split: {why} is cut by position: the first {100 * (1 - self.validation_share - self.test_share):.0f} % for training, "
            f"{100 * self.validation_share:g} % for validation, {100 * self.test_share:g} % for the test"
        )
        return replace(self, by="position")

    def assign(self, documents: Iterable[Document]) -> Iterator[tuple[str, Document]]:
        """Pairs of split name and document; "auto" is settled before."""
        if self.by == "auto":
            raise ValueError("split_by 'auto' is not settled")
        for document in documents:
            if self.by == "document":
                yield self._side(document["text"]), document
            else:
                yield from self._cut(document)

    def train_documents(self, documents: Iterable[Document]) -> Iterator[Document]:
        return (document for name, document in self.assign(documents) if name == "train")

    def _side(self, text: str) -> str:
        digest = hashlib.blake2b(text.encode("utf-8"), digest_size=8, key=str(self.seed).encode()).digest()
        share = int.from_bytes(digest, "big") / 2**64  # uniform in 0..1
        if share < self.test_share:
            return "test"
        return "validation" if share < self.test_share + self.validation_share else "train"

    def _cut(self, document: Document) -> Iterator[tuple[str, Document]]:
        text = document["text"]
        # Where lines are long, cutting at the beginning of one would take too much away: at a space, then, or anywhere.
        slack = round(len(text) * min([share for share in (self.validation_share, self.test_share) if share] or [0]) / 2)
        test_start = _clean_cut(text, round(len(text) * (1 - self.test_share)), slack)
        validation_start = _clean_cut(text, round(len(text) * (1 - self.test_share - self.validation_share)), slack)
        validation_start = min(validation_start, test_start)
        parts = (text[:validation_start], text[validation_start:test_start], text[test_start:])
        for name, part in zip(SPLITS, parts, strict=True):
            if part:
                yield name, {**document, "text": part, "row_id": f"{document['row_id']}:{name}"}


def _clean_cut(text: str, position: int, slack: int) -> int:
    """The nearest line start at or up to `slack` before `position`, else the nearest space there, else `position` itself.

    At the text's end there is nothing to cut off: a last line without a line break would otherwise fall to a side that nobody
    asked for.
    """
    if position == len(text):
        return position
    first = max(0, position - slack)
    line_end = max(text.rfind("\n", first, position), text.rfind("\r", first, position))
    if line_end >= 0:
        # between CR and LF is no line start
        return line_end + (2 if text[line_end : line_end + 2] == "\r\n" else 1)
    space = text.rfind(" ", first, position)
    return space if space > 0 else position


def split_documents(documents, split: Split):
    """The `datasets.DatasetDict` of train, validation and test; a share of 0 leaves its side out.

    Raises: ValueError where a side that was asked for stays empty.
    """
    from datasets import Dataset, DatasetDict

    sides: dict[str, list[Document]] = {name: [] for name in SPLITS}
    if split.by == "document":
        rows: dict[str, list[int]] = {name: [] for name in SPLITS}
        for index, text in enumerate(texts_of(documents)):
            rows[split._side(text)].append(index)
        datasets = {name: select(documents, indices) for name, indices in rows.items()}
    else:
        for name, part in split.assign(documents):
            sides[name].append(part)
        datasets = {
            name: Dataset.from_dict({key: [part[key] for part in parts] for key in documents.features}, documents.features)
            for name, parts in sides.items()
        }
    wanted = {"train": True, "validation": split.validation_share > 0, "test": split.test_share > 0}
    for name, needed in wanted.items():
        if needed and not len(datasets[name]):
            raise UserError(
                f"the {name} split is empty: {len(documents):,} documents, validation_share {split.validation_share}, test_share "
                f"{split.test_share}, split_by {split.by!r}; give more documents, other shares, or split_by: position."
            )
    return DatasetDict({name: datasets[name] for name in SPLITS if wanted[name]})
