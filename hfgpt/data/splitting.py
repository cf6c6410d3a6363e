"""Train, validation and test: of documents, of labelled examples and of conversations.

A hash of a document's own text and the seed decides its side. It keeps its side whatever else is read, in whatever order, so the
tokenizer's training can leave out exactly the documents that are held out later, and a growing corpus never moves a test document
into training. Examples and conversations are drawn at random as in the book, and near copies are put on one side.
"""

import hashlib
import logging
import random
import time
from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from hfgpt.counting import counted
from hfgpt.data.near_copies import SIMILARITY, normalize, similar_groups
from hfgpt.data.on_disk import Document, numbers_of, select, text_bytes, texts_of, write_documents
from hfgpt.data.passport import SPLITS, Passport
from hfgpt.errors import UserError
from hfgpt.tables import check_allowed

logger = logging.getLogger(__name__)

SPLIT_STEP = "split"
SPLIT_BY = ("auto", "document", "group", "position")
# A side may have a third of the requested share, or three times as much, before "auto" splits by position. With 60 documents of
# equal length and 5 % per side, 90 of 100 seeds stay within that; with 20 documents, 38.
TOLERANCE = 3


@dataclass(frozen=True)
class Split:
    """How documents are divided.

    Args:
        by: "document" (whole documents, by a hash of the text), "group" (whole groups, by a hash of the name), "position" (each
            document is cut into three parts at line ends, for a corpus of one or a few documents: the first is for training, the
            last for the test), or "auto", which `settled` turns into "document" or "position".
        validation_share, test_share: from 0 to below 1; their sum stays below 1.
        seed: a different seed gives a different division; "position" does not use it.
    Raises: ValueError for shares that leave nothing to train on.
    """

    by: str = "document"
    validation_share: float = 0.05
    test_share: float = 0.05
    seed: int = 0

    def __post_init__(self):
        check_allowed("split_by", self.by, SPLIT_BY)
        for name in ("validation_share", "test_share"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}; it must be a share of at least 0 and below 1.")
        if self.validation_share + self.test_share >= 1:
            raise UserError(
                f"validation_share {self.validation_share} and test_share {self.test_share} add up to "
                f"{self.validation_share + self.test_share:g}; the sum must be below 1, or nothing is left to train on."
            )

    def settled(self, documents) -> "Split":
        """This split, with "document" or "position" for "auto".

        By document if each side gets about its share of the text, otherwise by position: with one or a few documents, a side would
        be empty or take too much from training.

        Args: `documents` is a `datasets.Dataset`; read only for "auto".
        """
        if self.by != "auto":
            return self
        sizes: dict[str, int] = dict.fromkeys(SPLITS, 0)
        num_documents = 0
        for draw, text in zip(numbers_of(documents, "draw"), texts_of(documents), strict=True):
            num_documents += 1
            sizes[self.side(draw)] += len(text)
        total = max(1, sum(sizes.values()))
        shares = {"validation": self.validation_share, "test": self.test_share}
        fits = all(share / TOLERANCE <= sizes[name] / total <= share * TOLERANCE for name, share in shares.items())
        if not num_documents or (fits and sizes["train"]):
            return replace(self, by="document")
        why = "there is 1 document, so it"
        if num_documents > 1:
            why = f"{counted(num_documents, 'documents')} are too few or too unequal to hold out whole ones, so each"
        logger.info(
            f"split: {why} is cut by position: the first {100 * (1 - self.validation_share - self.test_share):.0f} % for training, "
            f"{100 * self.validation_share:g} % for validation, {100 * self.test_share:g} % for the test"
        )
        return replace(self, by="position")

    def assign(self, documents: Iterable[Document]) -> Iterator[tuple[str, Document]]:
        """Pairs of split name and document; "auto" must be settled before."""
        if self.by == "auto":
            raise ValueError("split_by 'auto' is not settled")
        for document in documents:
            if self.by in ("document", "group"):
                yield self.side(self.draw(document["text" if self.by == "document" else "group"])), document
            else:
                yield from self._cut(document)

    def draw(self, text: str) -> float:
        """A number from 0 to 1, uniform over texts, that decides a document's side. It is derived from the text as read, or from
        the name of its group, so that steps that change texts do not move a document to another side."""
        digest = hashlib.blake2b(text.encode("utf-8"), digest_size=8, key=str(self.seed).encode()).digest()
        return int.from_bytes(digest, "big") / 2**64

    def side(self, draw: float) -> str:
        """The side of a document, given its draw."""
        if draw < self.test_share:
            return "test"
        return "validation" if draw < self.test_share + self.validation_share else "train"

    def sides(self, draws: np.ndarray) -> np.ndarray:
        """The sides of many documents, as indices into `SPLITS` (int8)."""
        borders = [self.test_share, self.test_share + self.validation_share]
        return np.array([2, 1, 0], dtype=np.int8)[np.searchsorted(borders, draws, side="right")]

    def _cut(self, document: Document) -> Iterator[tuple[str, Document]]:
        text = document["text"]
        # If lines are long, cutting at a line start would remove too much: cut at a space instead, or anywhere.
        slack = round(len(text) * min([share for share in (self.validation_share, self.test_share) if share] or [0]) / 2)
        test_start = _clean_cut(text, round(len(text) * (1 - self.test_share)), slack)
        validation_start = _clean_cut(text, round(len(text) * (1 - self.test_share - self.validation_share)), slack)
        validation_start = min(validation_start, test_start)
        ends = (0, validation_start, test_start, len(text))
        for name, start, end in zip(SPLITS, ends, ends[1:]):
            if start < end:
                yield name, {**document, "text": text[start:end], "row_id": f"{document['row_id']}:{name}"}


def _clean_cut(text: str, position: int, slack: int) -> int:
    """The nearest line start at or up to `slack` before `position`, or else the nearest space there, or `position` itself.

    At the end of the text there is nothing to cut off: otherwise, a last line without a line break would go to an unrequested side.
    """
    if position == len(text):
        return position
    first = max(0, position - slack)
    line_end = max(text.rfind("\n", first, position), text.rfind("\r", first, position))
    if line_end >= 0:
        # no line starts between CR and LF
        return line_end + (2 if text[line_end : line_end + 2] == "\r\n" else 1)
    space = text.rfind(" ", first, position)
    return space if space > 0 else position


def split_documents(documents, split: Split, passport: Passport | None = None):
    """The `datasets.DatasetDict` of train, validation and test; a share of 0 leaves its side out.

    Args: `passport` records a step with the documents and UTF-8 bytes of each side.
    Raises: ValueError if a requested side is empty.
    """
    from datasets import Dataset, DatasetDict, NamedSplit

    what = counted(len(documents), "documents")
    cure = "give more text or different shares"
    if split.by in ("document", "group"):
        draws = numbers_of(documents, "draw")
        sides = split.sides(draws)
        datasets = {name: select(documents, np.flatnonzero(sides == number)) for number, name in enumerate(SPLITS)}
        if split.by == "document":
            cure = "give more documents, different shares, or --split_by position"
        else:
            groups = {name: len(np.unique(draws[sides == number])) for number, name in enumerate(SPLITS)}
            what += f" in {counted(sum(groups.values()), 'groups')}"
            cure = "give more groups, different shares, another --split_seed, or --split_by document"
            logger.info(f"split: groups: {', '.join(f'{name} {number:,}' for name, number in groups.items())}")
    else:
        datasets = {name: _side_by_position(documents, split, name) for name in SPLITS}
    shares = {"validation": split.validation_share, "test": split.test_share}
    _refuse_empty_sides(datasets, shares, what=what, cure=f", split_by {split.by!r}; {cure}")
    kept: dict[str | NamedSplit, Dataset] = {
        name: datasets[name].remove_columns("draw") for name in SPLITS if name == "train" or shares[name]
    }
    if passport is not None:
        sides = {name: {"documents": len(part), "bytes": text_bytes(part)} for name, part in kept.items()}
        num_bytes = sum(side["bytes"] for side in sides.values())  # a document that is cut loses none
        counts = {"documents_in": len(documents), "documents_out": sum(map(len, kept.values()))}
        passport.steps.append({"step": SPLIT_STEP, **counts, "bytes_in": num_bytes, "bytes_out": num_bytes, "sides": sides})
    return DatasetDict(kept)


def _side_by_position(documents, split: Split, name: str):
    """One side of documents that are cut, beside the file in which they lie where they lie in one."""
    from datasets import Dataset

    parts = (part for side, part in split.assign(documents) if side == name)
    if not documents.cache_files:
        rows = list(parts)
        return Dataset.from_dict({key: [part[key] for part in rows] for key in documents.features}, documents.features)
    return write_documents(parts, Path(documents.cache_files[0]["filename"]).with_name(f"{name}.arrow"))


def split_examples(
    examples,
    passport: Passport,
    *,
    validation_share: float = 0.1,
    test_share: float = 0.2,
    seed: int = 123,
    method: str = "random",
    near_copy_similarity: float | None = None,
):
    """The `DatasetDict` of labelled examples in train, validation and test; a share of 0 leaves its side out.

    Args:
        method: "random" shuffles and cuts; "stratified" does so within each label, so that every side has the same shares of
            the labels, up to rounding, and every label at least one training example.
        near_copy_similarity: texts that are this similar are put on one side, see `keep_copies_together`; None leaves them where
            they were drawn.
    Source: "random" is random_split of Raschka's chapter 6: the same rows in the same order for the same seed.
    Raises: ValueError for shares that leave nothing to train on, and if a requested side is empty.
    """
    from datasets import DatasetDict

    check_allowed("split_method", method, ("random", "stratified"))
    Split(validation_share=validation_share, test_share=test_share)  # knows which shares make sense
    start = time.perf_counter()
    if method == "random":
        shuffled = _shuffled(range(len(examples)), seed=seed)
        train_end = int(len(shuffled) * round(1 - validation_share - test_share, 12))  # 1 - 0.1 - 0.2 is 0.7000000000000001
        # Without a test side validation takes the row that rounding left over; it must not fall to a test side of one row.
        validation_end = train_end + int(len(shuffled) * validation_share) if test_share else len(shuffled)
        sides = {
            "train": shuffled[:train_end],
            "validation": shuffled[train_end:validation_end],
            "test": shuffled[validation_end:],
        }
    else:
        sides = {name: [] for name in SPLITS}
        for rows in rows_of_each_label(examples, "a stratified split").values():
            shuffled = _shuffled(rows, seed=seed)
            test = min(round(len(rows) * test_share), len(rows) - 1)
            validation = min(round(len(rows) * validation_share), len(rows) - 1 - test)
            sides["test"] += shuffled[:test]
            sides["validation"] += shuffled[test : test + validation]
            sides["train"] += shuffled[test + validation :]
    if near_copy_similarity is not None:
        labels = [label_names(label) for label in examples["label"]]
        sides = keep_copies_together(sides, examples["text"][:], threshold=near_copy_similarity, labels=labels)
    if method == "stratified":
        sides = {name: sorted(rows) for name, rows in sides.items()}  # the file's order, not label by label
    shares = {"validation": validation_share, "test": test_share}
    _refuse_empty_sides(sides, shares, what=f"{len(examples):,} examples", cure="; give more examples or different shares")
    sides = {name: rows for name, rows in sides.items() if name == "train" or shares[name]}
    sizes = {name: len(rows) for name, rows in sides.items()}
    passport.record(f"split ({method})", len(examples), sum(sizes.values()), start, what="examples", seed=seed, **sizes)
    return DatasetDict({name: examples.select(rows) for name, rows in sides.items()})


def split_conversations(
    conversations,
    *,
    texts: list[str],
    validation_share: float,
    test_share: float,
    seed: int,
    method: str = "random",
    near_copy_similarity: float | None = None,
    given: Collection[str] = (),
):
    """The `DatasetDict` of conversations in train, validation and test; empty sides are left out.

    Args:
        texts: the text of each conversation to compare.
        method: "random" draws the rows; "order" cuts the file in order, as in the book: train, test, validation.
        near_copy_similarity: see `split_examples`.
        given: sides with their own files, which get nothing from here.
    Raises: ValueError if a requested side is empty.
    """
    from datasets import DatasetDict

    total = len(conversations)
    order = list(range(total))
    if method == "random":
        random.Random(seed).shuffle(order)
    asked = {"validation": validation_share, "test": test_share}
    shares = {name: 0.0 if name in given else share for name, share in asked.items()}
    # As the book counts: int(1,100 x 0.85) = 935 for training, int(1,100 x 0.1) = 110 for the test, the rest for validation.
    train = int(total * (1 - sum(shares.values())) + 1e-9)
    test = int(total * shares["test"] + 1e-9) if shares["validation"] else total - train
    sides = {"train": order[:train], "test": order[train : train + test], "validation": order[train + test :]}
    cure = "; give more conversations or different shares"
    _refuse_empty_sides(sides, asked, given=given, what=counted(total, "conversations"), cure=cure)
    if near_copy_similarity is not None:
        sides = keep_copies_together(sides, texts, threshold=near_copy_similarity)
    return DatasetDict({name: conversations.select(sides[name]) for name in SPLITS if sides[name]})


def _refuse_empty_sides(
    sides: Mapping[str, Sized], asked: Mapping[str, float], *, what: str, cure: str, given: Collection[str] = ()
) -> None:
    for name, share in {"train": 1.0, **asked}.items():
        if share and name not in given and not len(sides[name]):
            shares = f"validation_share {asked['validation']}, test_share {asked['test']}"
            raise UserError(f"the {name} split is empty: {what}, {shares}{cure}.")


def _shuffled(rows: Sequence[int], *, seed: int) -> list[int]:
    import pandas

    return pandas.Series(rows).sample(frac=1, random_state=seed).tolist()


def label_names(label: str | list[str]) -> tuple[str, ...]:
    """The labels of an example, sorted, whether it has one or several."""
    return tuple(sorted(label)) if isinstance(label, list) else (label,)


def rows_of_each_label(examples, step: str) -> dict[str, list[int]]:
    """Row numbers by label, the most frequent first; ties in the order in which they come.

    Raises: ValueError, naming the step, if a text may have several labels.
    """
    if isinstance(examples[0]["label"], list):
        raise UserError(
            f"{step} needs one label per text, but here a text may have several; use class weights for balance instead."
        )
    rows: dict[str, list[int]] = {}
    for index, label in enumerate(examples["label"]):
        rows.setdefault(label, []).append(index)
    return dict(sorted(rows.items(), key=lambda item: -len(item[1])))


def keep_copies_together(
    sides: dict[str, list[int]], texts: Sequence[str], *, threshold: float = SIMILARITY, labels: Sequence[Hashable] | None = None
) -> dict[str, list[int]]:
    """A split without near copies across its sides: groups that were drawn apart go to one side as a whole.

    Groups are placed from the largest to the smallest, each on the side that lacks most rows of its labels, but first in training
    if that has none of a label. All other rows stay where they are: a split without such copies does not change.

    Args:
        sides: row numbers by the name of their side, training first.
        texts: the texts to compare, for all rows.
        labels: one (hashable) per row; without them, all rows are treated alike.
    Raises: ValueError if a side that had rows would lose all of them.
    Cost: see `find_copies`.
    """
    labels = labels or [None] * len(texts)
    names = [name for name, rows in sides.items() if rows]
    side_of = {row: name for name in names for row in sides[name]}
    groups: dict[int, list[int]] = {}
    for row, group in enumerate(similar_groups(texts, threshold=threshold)):
        groups.setdefault(group, []).append(row)
    # Whole groups: of a text's copies on its own side, some may be no copies of those on the other.
    groups = {group: rows for group, rows in groups.items() if len({side_of[row] for row in rows}) > 1}
    apart = {row for rows in groups.values() for row in rows}
    if not apart:
        return sides
    missing = {name: Counter(labels[row] for row in sides[name] if row in apart) for name in names}
    together = {name: [row for row in rows if row not in apart] for name, rows in sides.items()}
    trained = {labels[row] for row in together[names[0]]}
    ordered = sorted(groups.values(), key=len, reverse=True)
    for place, group in enumerate(ordered):
        counts = Counter(labels[row] for row in group)
        empty = [name for name in names if not together[name]]
        if not counts.keys() <= trained:
            name = names[0]
        elif empty and len(ordered) - place - len({labels[row] for rest in ordered[place:] for row in rest} - trained) <= len(
            empty
        ):
            name = empty[0]  # the groups that are left, less those that training needs, are as many as the sides without a row
        else:
            name = max(names, key=lambda name: sum(count * missing[name][label] for label, count in counts.items()))
        trained |= counts.keys() if name == names[0] else set()
        missing[name] -= counts
        together[name] += group
    for name in names:
        if not together[name]:
            alike = len({normalize(texts[row]) for row in apart}) == len(groups)
            how = " whose texts differ only in digits, case and punctuation" if alike else ""
            cure = "" if alike else f"raise --near_copy_similarity ({threshold}), "
            raise UserError(
                f"{len(apart):,} of {len(texts):,} texts are near copies of others (groups: {len(groups):,}{how}). A group can be "
                f"used for training or testing, not both, so nothing is left for {name}: give more distinct texts, {cure}or set "
                f"--decontaminate false, which then tests on copies."
            )
    logger.info(f"near copies: {counted(len(apart), 'rows')} moved to the side of their near copy")
    return together
