"""Copies between sets of texts: nothing that is trained on may be found again, exactly or nearly, in what measures the result.

Two texts are compared by the sets of all their 5-grams of characters, after case, digits, punctuation and spaces have been
folded. A text is a copy of another where

- the Jaccard similarity of the two sets (shared / all) is at least the threshold: 1.0 is the same text but for what was folded,
- or where it contains the other as a part: at least 90 % of the 5-grams of a text of 50 characters or more.

All pairs are compared, exactly; nothing is sampled or hashed.
"""

import logging
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from hfgpt.errors import UserError

logger = logging.getLogger(__name__)

GRAM = 5
SIMILARITY = 0.8
CONTAINMENT = 0.9
# A shorter text occurs in others by chance ("what do you think?").
SHORTEST_CONTAINED = 50
# Pairs compared at a time; each takes up to 40 bytes.
PAIRS_AT_A_TIME = 4_000_000


@dataclass(frozen=True)
class Copy:
    """Text `index` is a copy of `references[reference_index]`, or contains it; 1.0 is the same but for what is folded."""

    index: int
    reference_index: int
    similarity: float


class _Folding(dict):
    """For str.translate: what is neither letter nor digit becomes a space, invisible format characters nothing."""

    def __missing__(self, code: int) -> str:
        category = unicodedata.category(chr(code))
        # Marks belong to their letters: without them Hindi loses its vowels.
        folded = chr(code) if category[0] in "LMN" else "" if category == "Cf" else " "
        self[code] = folded
        return folded


_folding = _Folding()


def normalize(text: str, *, fold_digits: bool = True) -> str:
    """The text as it is compared: "Call 0800-123, NOW!" and "call 0906  77 now" are both "call 0 0 now".

    A text of nothing but punctuation or emoji stays what it is.
    """
    text = unicodedata.normalize("NFKC", text).casefold()
    folded = " ".join(text.translate(_folding).split())
    if fold_digits:
        folded = re.sub(r"\d+", "0", folded)
    return folded or " ".join(text.split())


def _grams(text: str) -> set[str]:
    """The 5-grams of a normalised text; one that is shorter is its own only gram."""
    return {text[start : start + GRAM] for start in range(max(1, len(text) - GRAM + 1))}


def similar_pairs(
    texts: list[str], references: list[str], *, threshold: float, contained: bool = True
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Blocks of (text index, reference index, similarity) of all pairs that match; the texts are normalised."""
    from sklearn.feature_extraction.text import CountVectorizer

    if not texts or not references:
        return
    vectorizer = CountVectorizer(analyzer=_grams, binary=True, dtype=np.int32)
    reference_grams = vectorizer.fit_transform(references)
    reference_sizes = np.diff(reference_grams.indptr)
    is_long = np.array([len(reference) >= SHORTEST_CONTAINED for reference in references]) & contained
    by_gram = reference_grams.T.tocsr()
    block = max(1, PAIRS_AT_A_TIME // len(references))
    for start in range(0, len(texts), block):
        part = texts[start : start + block]
        sizes = np.array([len(_grams(text)) for text in part])
        shared = (vectorizer.transform(part) @ by_gram).tocoo()  # grams that no reference has count in no pair
        all_grams = sizes[shared.row] + reference_sizes[shared.col] - shared.data
        similarity = shared.data / all_grams
        share_of_reference = shared.data / reference_sizes[shared.col]
        found = (similarity >= threshold) | ((share_of_reference >= CONTAINMENT) & is_long[shared.col])
        yield shared.row[found] + start, shared.col[found], np.where(similarity >= threshold, similarity, share_of_reference)[found]


def find_copies(texts: Iterable[str], references: Iterable[str], *, threshold: float = SIMILARITY) -> list[Copy]:
    """Every text that is a copy of a reference or contains one, with the reference that it is most similar to.

    Args:
        threshold: Jaccard similarity from which two texts are near copies, above 0 to 1.
    Cost: time grows with texts x references x the 5-grams that a pair shares. Measured: 5,574 SMS (80 characters) with
        themselves 7 s, 2,996 answers of Dolly (400 characters) with themselves 4 s, one thread of a busy machine. Memory: the
        references' 5-grams, about 100 bytes for each different one, and 200 MB for the pairs compared at a time.
    """
    if not 0 < threshold <= 1:
        raise UserError(f"threshold is {threshold}; a similarity above 0, up to 1 is needed.")
    best: dict[int, Copy] = {}
    for block in similar_pairs([normalize(text) for text in texts], [normalize(text) for text in references], threshold=threshold):
        for index, reference_index, similarity in zip(*(array.tolist() for array in block)):
            if index not in best or similarity > best[index].similarity:
                best[index] = Copy(index, reference_index, similarity)
    return [best[index] for index in sorted(best)]


def similar_groups(texts: Iterable[str], *, threshold: float = SIMILARITY, fold_digits: bool = True) -> list[int]:
    """A number for each text, the same for texts that are near copies of each other, or of others in between.

    Cost: all pairs of different texts, see `find_copies`.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    normalized = [normalize(text, fold_digits=fold_digits) for text in texts]
    places = {text: place for place, text in enumerate(dict.fromkeys(normalized))}
    links = [block[:2] for block in similar_pairs(list(places), list(places), threshold=threshold, contained=False)]
    if not links:
        return []
    rows, columns = np.concatenate(links, axis=1)
    graph = coo_array((np.ones(len(rows), dtype=bool), (rows, columns)), shape=(len(places), len(places)))
    _, groups = connected_components(graph, directed=False)
    return [int(groups[places[text]]) for text in normalized]


def keep_copies_together(
    sides: dict[str, list[int]], texts: list[str], *, threshold: float = SIMILARITY, labels: list | None = None
) -> dict[str, list[int]]:
    """A split without near copies across its sides: of those that were drawn apart, each group goes to one side, whole.

    Groups are placed from the largest to the smallest, each where most rows of its labels are missing, and first in training where
    that has none of a label. All other rows stay where they are: a split without such copies is not changed.

    Args:
        sides: row numbers by the name of their side, training first.
        texts: what is compared, of all rows.
        labels: one (hashable) for each row; without them all rows are alike.
    Raises: ValueError where a side that had rows is left without.
    Cost: see `find_copies`, of each side with the later ones.
    """
    normalized = [normalize(text) for text in texts]
    labels = labels or [None] * len(texts)
    names = [name for name, rows in sides.items() if rows]
    apart: set[int] = set()
    for number, name in enumerate(names):
        later = [row for other in names[number + 1 :] for row in sides[other]]
        one, others = ([normalized[row] for row in rows] for rows in (sides[name], later))
        for found, found_later, _ in similar_pairs(one, others, threshold=threshold, contained=False):
            apart.update(sides[name][index] for index in found.tolist())
            apart.update(later[index] for index in found_later.tolist())
    if not apart:
        return sides
    groups: dict[int, list[int]] = {}
    for row, group in zip(sorted(apart), similar_groups([texts[row] for row in sorted(apart)], threshold=threshold), strict=True):
        groups.setdefault(group, []).append(row)
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
            alike = len({normalized[row] for row in apart}) == len(groups)
            how = " whose texts differ only in digits, case and punctuation" if alike else ""
            cure = "" if alike else f"raise near_copy_similarity ({threshold}), "
            raise UserError(
                f"{len(apart):,} of {len(texts):,} texts are near copies of others (groups: {len(groups):,}{how}). A group is "
                f"learned or tested, not both, so nothing is left for {name}: give more different texts, {cure}or set "
                "decontaminate: false, which tests on copies, too."
            )
    logger.info(f"near copies: {len(apart):,} rows that were drawn apart from a near copy now lie on its side")
    return together
