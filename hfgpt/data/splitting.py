"""Train, validation and test: every document belongs to one of them, decided by its own text and the seed.

A document keeps its side whatever else is read, in whatever order, so the tokenizer's training can leave out exactly the
documents that are held out later, and a corpus that grows never moves a test document into training.
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from hfgpt.data.on_disk import select, texts_of
from hfgpt.data.sources import Document
from hfgpt.errors import UserError

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Split:
    """How documents are divided.

    Args:
        by: "document" (each whole, by a hash of its text) or "position" (each cut into three parts at line ends, for a
            corpus of one or few documents: the first is for training, the last for test).
        validation_share, test_share: from 0 to below 1; their sum stays below 1.
        seed: another seed, another division; "position" needs none.
    Raises: ValueError for shares that leave nothing to train on.
    """

    by: str = "document"
    validation_share: float = 0.05
    test_share: float = 0.05
    seed: int = 0

    def __post_init__(self):
        if self.by not in ("document", "position"):
            raise UserError(f"split_by is {self.by!r}; allowed are 'document' and 'position'.")
        for name in ("validation_share", "test_share"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}; a share from 0 to below 1 is needed.")
        if self.validation_share + self.test_share >= 1:
            raise UserError(
                f"validation_share {self.validation_share} and test_share {self.test_share} add up to "
                f"{self.validation_share + self.test_share:g}; below 1 is needed, or nothing is left to train on."
            )

    def assign(self, documents: Iterable[Document]) -> Iterator[tuple[str, Document]]:
        """Pairs of split name and document."""
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
        test_start = _line_start(text, round(len(text) * (1 - self.test_share)))
        validation_start = _line_start(text, round(len(text) * (1 - self.test_share - self.validation_share)))
        validation_start = min(validation_start, test_start)
        parts = (text[:validation_start], text[validation_start:test_start], text[test_start:])
        for name, part in zip(SPLITS, parts, strict=True):
            if part:
                yield name, {**document, "text": part, "row_id": f"{document['row_id']}:{name}"}


def _line_start(text: str, position: int) -> int:
    """The nearest line start at or before `position`; `position` itself in a text of one line and at the text's end.

    At the end there is nothing to cut off: a last line without a line break would otherwise fall to a side that nobody asked for.
    """
    if position == len(text):
        return position
    return text.rfind("\n", 0, position) + 1 or position


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
