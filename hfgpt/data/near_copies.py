"""Copies between sets of texts: nothing that is trained on may be found again, exactly or nearly, in what measures the result.

Two texts are compared by the sets of all their 5-grams of characters, after case, digits, punctuation and spaces have been
folded. A text is a copy of another where

- the Jaccard similarity of the two sets (shared / all) is at least the threshold: 1.0 is the same text but for what was folded,
- or where it contains the other as a part: at least 90 % of the 5-grams of a text of 50 characters or more.

All pairs are compared, exactly; nothing is sampled or hashed.
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from hfgpt.errors import UserError

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
    settings: dict[str, Any] = {"analyzer": _grams, "binary": True, "dtype": np.int32}
    vectorizer: Any = CountVectorizer(**settings)  # whose types are read off its defaults: analyzer a string, int64 counts
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
