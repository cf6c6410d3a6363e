"""Copies between sets of texts: no training text may occur, exactly or nearly, in the evaluation data.

Two texts are compared by their sets of character 5-grams, after folding case, digits, punctuation and spaces. A text is a copy of
another if

- the Jaccard similarity of the two sets (shared / all) is at least the threshold (1.0 means the same text after folding),
- or if it contains the other: at least 90 % of the 5-grams of a text of 50 characters or more.

Candidate pairs are found by MinHash (minhash.py), and by the rarest 5-grams for texts that contain others; the decision uses the
full sets. At least 99.9 % of the pairs at the threshold are found, all but one in a million of the more similar ones (0.9 where the
threshold is 0.8), and all texts that contain another.
"""

import itertools
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np

from hfgpt.data.minhash import Bands, in_eight_bits, join, neighbours, signatures_of_shingles
from hfgpt.data.shingles import character_shingles
from hfgpt.errors import UserError

SIMILARITY = 0.8
CONTAINMENT = 0.9
# A shorter text may occur in others by chance ("what do you think?").
SHORTEST_CONTAINED = 50
RECALL = 0.999  # of pairs at the threshold
# Candidates at a time, and 5-grams that are compared at a time; each takes up to 40 bytes.
PAIRS_AT_A_TIME = 1_000_000
GRAMS_AT_A_TIME = 2_000_000
TEXTS_AT_A_TIME = 5_000


@dataclass(frozen=True)
class Copy:
    """Text `index` is a copy of `references[reference_index]`, or contains it; 1.0 means the same after folding."""

    index: int
    reference_index: int
    similarity: float


class _Folding(dict):
    """For str.translate: characters other than letters and digits become spaces; invisible format characters are removed."""

    def __missing__(self, code: int) -> str:
        category = unicodedata.category(chr(code))
        # Combining marks belong to their letters: without them, Hindi loses its vowels.
        folded = chr(code) if category[0] in "LMN" else "" if category == "Cf" else " "
        self[code] = folded
        return folded


_folding = _Folding()


def normalize(text: str, *, fold_digits: bool = True) -> str:
    """The text normalized for comparison: "Call 0800-123, NOW!" and "call 0906  77 now" are both "call 0 0 now".

    A text of only punctuation or emoji is unchanged.
    """
    text = unicodedata.normalize("NFKC", text).casefold()
    folded = " ".join(text.translate(_folding).split())
    if fold_digits:
        folded = re.sub(r"\d+", "0", folded)
    return folded or " ".join(text.split())


class _Sets:
    """The 5-gram sets of distinct texts, and their signatures.

    Memory: 12 bytes per distinct 5-gram of a text, and 128 per text.
    """

    def __init__(self, texts: Sequence[str]):
        from scipy.sparse import csr_array, vstack

        parts, signatures = [], []
        for start in range(0, max(1, len(texts)), TEXTS_AT_A_TIME):
            hashes, offsets = character_shingles(texts[start : start + TEXTS_AT_A_TIME])
            signatures.append(in_eight_bits(signatures_of_shingles(hashes, offsets)))
            shape = (len(offsets) - 1, 2**63 - 1)  # a column for each hash: nothing is as wide as that but the numbers of columns
            ones = np.ones(len(hashes), dtype=np.int32)
            part = csr_array((ones, hashes.astype(np.int64), offsets.astype(np.int64)), shape=shape)
            part.sum_duplicates()
            part.data[:] = 1
            parts.append(part)
        self.grams = cast("csr_array", vstack(parts, format="csr"))  # scipy has no annotations
        self.sizes = np.diff(self.grams.indptr)
        self.signatures = np.concatenate(signatures)


def _shared(one: _Sets, other: _Sets, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """How many 5-grams the texts of each pair have in common."""
    shared = np.empty(len(rows), dtype=np.int64)
    ends = np.cumsum(one.sizes[rows] + other.sizes[columns])
    start = 0
    while start < len(rows):
        reached = ends[start - 1] if start else 0
        end = max(start + 1, int(np.searchsorted(ends, reached + GRAMS_AT_A_TIME)))
        shared[start:end] = one.grams[rows[start:end]].multiply(other.grams[columns[start:end]]).sum(axis=1)
        start = end
    return shared


def _matches(firsts: np.ndarray, counts: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Blocks of (index, place) for the places firsts[index] .. firsts[index] + counts[index] - 1."""
    indices = np.flatnonzero(counts)
    ends = np.cumsum(counts[indices])
    start = 0
    while start < len(indices):
        reached = ends[start - 1] if start else 0
        end = max(start + 1, int(np.searchsorted(ends, reached + PAIRS_AT_A_TIME)))
        part = indices[start:end]
        sizes = counts[part]
        within = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        yield np.repeat(part, sizes), np.repeat(firsts[part], sizes) + within
        start = end


def _candidates(one: _Sets, other: _Sets, threshold: float) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Blocks of pairs that share a band, each pair in the first band that it shares."""
    bands = Bands.for_threshold(threshold, recall=RECALL)
    keys, other_keys = ([bands.keys(sets.signatures, band) for band in range(bands.number)] for sets in (one, other))
    for band in range(bands.number):
        order = np.argsort(other_keys[band], kind="stable")
        ordered = other_keys[band][order]
        firsts, ends = (np.searchsorted(ordered, keys[band], side=side) for side in ("left", "right"))
        for rows, places in _matches(firsts, ends - firsts):
            columns = order[places]
            is_new = np.ones(len(rows), dtype=bool)
            for earlier in range(band):
                is_new &= keys[earlier][rows] != other_keys[earlier][columns]
            yield rows[is_new], columns[is_new]


def _containing(texts: _Sets, references: _Sets, is_long: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Blocks of pairs of a text and a long reference that it may contain; no pair is missed, and some come twice.

    A text that has 90 % of the 5-grams of a reference has at least one of any 10 % and one more; those that are rarest among the
    texts are looked up. Source: prefix filtering, Chaudhuri, Ganti, Kaushik, A primitive operator for similarity joins (2006).
    """
    chosen = np.flatnonzero(is_long)
    sets = references.grams[chosen]
    wanted, places = np.unique(sets.indices, return_inverse=True)
    if not len(wanted):
        return
    found = np.minimum(np.searchsorted(wanted, texts.grams.indices), len(wanted) - 1)
    occurs = wanted[found] == texts.grams.indices
    frequency = np.bincount(found[occurs], minlength=len(wanted))
    sizes = np.diff(sets.indptr)
    owners = np.repeat(np.arange(len(chosen)), sizes)
    order = np.lexsort((frequency[places], owners))
    rank = np.arange(len(order)) - np.repeat(sets.indptr[:-1], sizes)
    rare = order[rank <= np.repeat(sizes - np.ceil(CONTAINMENT * sizes - 1e-9).astype(np.int64), sizes)]
    rare = rare[np.argsort(places[rare], kind="stable")]
    starts = np.searchsorted(places[rare], np.arange(len(wanted) + 1))
    text_of = np.repeat(np.arange(len(texts.sizes)), texts.sizes)[occurs]
    grams = found[occurs]
    for hits, entries in _matches(starts[grams], np.diff(starts)[grams]):
        pairs = np.unique(np.stack([text_of[hits], owners[rare[entries]]]), axis=1)
        yield pairs[0], chosen[pairs[1]]


def similar_pairs(
    texts: Sequence[str], references: Sequence[str], *, threshold: float, contained: bool = True
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Blocks of (text index, reference index, similarity) of the pairs that match; a pair may come twice.

    Args:
        texts, references: normalised, and different from each other within each list.
        contained: also texts that contain a reference as a part.
    """
    if not texts or not references:
        return
    one, other = _Sets(texts), _Sets(references)
    for rows, columns in _candidates(one, other, threshold):
        # Sets whose sizes differ too much cannot be similar.
        sizes, other_sizes = one.sizes[rows], other.sizes[columns]
        fits = np.minimum(sizes, other_sizes) >= threshold * np.maximum(sizes, other_sizes) - 1e-9
        rows, columns = rows[fits], columns[fits]
        similarity = _jaccard(one, other, rows, columns)
        found = similarity >= threshold
        yield rows[found], columns[found], similarity[found]
    if not contained:
        return
    is_long = np.array([len(reference) >= SHORTEST_CONTAINED for reference in references])
    for rows, columns in _containing(one, other, is_long):
        shared = _shared(one, other, rows, columns)
        similarity = shared / (one.sizes[rows] + other.sizes[columns] - shared)
        share = shared / other.sizes[columns]
        found = (similarity >= threshold) | (share >= CONTAINMENT)
        yield rows[found], columns[found], np.where(similarity >= threshold, similarity, share)[found]


def _jaccard(one: _Sets, other: _Sets, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    shared = _shared(one, other, rows, columns)
    return shared / (one.sizes[rows] + other.sizes[columns] - shared)


def find_copies(texts: Iterable[str], references: Iterable[str], *, threshold: float = SIMILARITY) -> list[Copy]:
    """All texts that are copies of a reference or contain one, with the most similar reference.

    Args:
        threshold: Jaccard similarity from which two texts count as near copies, above 0 and at most 1.
    Cost: linear in the texts, but for pairs that are similar, and for long references, whose rarest 5-grams are looked up in all
        texts. Measured: 5,574 SMS (80 characters), four fifths of them searched for copies of the rest: 0.3 s of CPU; 100,000
        lines of 80 characters: 9 s. Memory: 12 bytes for each different 5-gram of a text, about three times that while it is
        searched (benchmarks/deduplication.py).
    """
    if not 0 < threshold <= 1:
        raise UserError(f"threshold is {threshold}; it must be above 0 and at most 1.")
    normalized, normalized_references = ([normalize(text) for text in some] for some in (texts, references))
    different = list(dict.fromkeys(normalized))
    first = {text: index for index, text in reversed(list(enumerate(normalized_references)))}
    different_references = sorted(first, key=first.__getitem__)
    best: dict[str, tuple[float, int]] = {}  # the most similar reference, the first of them
    for block in similar_pairs(different, different_references, threshold=threshold):
        for index, reference_index, similarity in zip(*(array.tolist() for array in block)):
            found = (similarity, -first[different_references[reference_index]])
            text = different[index]
            best[text] = max(best.get(text, found), found)
    return [Copy(index, -best[text][1], best[text][0]) for index, text in enumerate(normalized) if text in best]


def similar_groups(texts: Iterable[str], *, threshold: float = SIMILARITY, fold_digits: bool = True) -> list[int]:
    """A group number per text, the same for texts that are near copies of each other, directly or through others.

    Cost: see `find_copies`; texts already in the same group are not compared again.
    """
    normalized = [normalize(text, fold_digits=fold_digits) for text in texts]
    if not normalized:
        return []
    places = {text: place for place, text in enumerate(dict.fromkeys(normalized))}
    sets = _Sets(list(places))
    groups = np.arange(len(places))
    bands = Bands.for_threshold(threshold, recall=RECALL)
    chains = (neighbours(bands.keys(sets.signatures, band)) for band in range(bands.number))
    for rows, columns in itertools.chain(chains, _candidates(sets, sets, threshold)):
        apart = (groups[rows] != groups[columns]) & (rows < columns)
        rows, columns = rows[apart], columns[apart]
        similar = _jaccard(sets, sets, rows, columns) >= threshold
        groups = join(groups, rows[similar], columns[similar])
    numbers = np.unique(groups, return_inverse=True)[1].tolist()
    return [numbers[places[text]] for text in normalized]
