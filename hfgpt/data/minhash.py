"""MinHash signatures of texts, and bands shared by similar texts: copies are found without comparing all pairs.

A signature has 128 places. The probability that two texts agree in a place equals the Jaccard similarity of their shingle sets.
Bands are groups of places; texts that agree in all places of a band are candidates. The signatures come from `rensa` (R-MinHash),
with 8 bits kept per place: enough to distinguish texts (two values agree by chance once in 256), and 128 bytes per text.

Source: Broder, On the resemblance and containment of documents (1997); Leskovec et al., Mining of Massive Datasets, 3.4.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from hfgpt.data.shingles import mix, word_shingles
from hfgpt.errors import UserError

PLACES = 128
SEED = 42
# A longer text is divided and its signatures are combined: the minimum of each place is the signature of the whole.
PIECE_CHARACTERS = 2**20
CHARACTERS_TOGETHER = 2**18  # hashed together; each takes 40 bytes
PAIRS_AT_A_TIME = 2**16
Agreement = Callable[[np.ndarray, np.ndarray], np.ndarray]  # of pairs: the number of places in which each agrees


def signatures_of_shingles(hashes: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """The signatures (texts, 128), uint32, of sets of shingles, given as hashes and offsets."""
    from rensa import RMinHash  # pyright: ignore[reportAttributeAccessIssue]  # compiled, without stubs

    rows = RMinHash.digest_matrix_from_flat_token_hashes(hashes, offsets, PLACES, SEED).to_rows()
    return np.array(rows, dtype=np.uint32).reshape(len(offsets) - 1, PLACES)


def in_eight_bits(signatures: np.ndarray) -> np.ndarray:
    """The stored form of signatures: uint8."""
    return ((signatures * np.uint32(0x9E3779B1)) >> np.uint32(24)).astype(np.uint8)


def document_signatures(texts: Sequence[str]) -> np.ndarray:
    """The signatures (texts, 128), uint8, of documents from their five-word runs.

    Cost: about 30 us per 1 KB of English; memory: 10 MB, plus 4 bytes per character of longer texts.
    """
    pieces = [len(range(0, len(text), PIECE_CHARACTERS)) or 1 for text in texts]
    whole = []
    for batch in _batches(piece for text in texts for piece in _pieces(text)):
        whole.append(signatures_of_shingles(*word_shingles(batch)))
    if not whole:
        return np.empty((0, PLACES), dtype=np.uint8)
    firsts = np.cumsum([0, *pieces[:-1]])
    return in_eight_bits(np.minimum.reduceat(np.concatenate(whole), firsts, axis=0))


def _pieces(text: str) -> Iterator[str]:
    for start in range(0, max(1, len(text)), PIECE_CHARACTERS):
        yield text[start : start + PIECE_CHARACTERS]


def _batches(pieces: Iterable[str]) -> Iterator[list[str]]:
    batch, characters = [], 0
    for piece in pieces:
        if batch and characters + len(piece) > CHARACTERS_TOGETHER:
            yield batch
            batch, characters = [], 0
        batch.append(piece)
        characters += len(piece)
    if batch:
        yield batch


@dataclass(frozen=True)
class Bands:
    """How signatures are divided. Args: `number` is the number of bands, `rows` the places in each, at most 8."""

    number: int
    rows: int

    @classmethod
    def for_threshold(cls, threshold: float, *, recall: float = 0.99) -> "Bands":
        """The longest bands, with the fewest chance candidates, that still find this share of the pairs at the threshold.

        For 0.8 and 99 %: 21 bands of 6, which find 99.8 % of the pairs at 0.8, and of those at 0.9 all but one in ten million.
        Raises: ValueError for an impossible threshold, or one so low that 128 places are too few.
        """
        if not 0 < threshold <= 1:
            raise UserError(f"near_copy_similarity is {threshold}; it must be above 0 and at most 1.")
        for rows in range(8, 0, -1):
            bands = cls(PLACES // rows, rows)
            if bands.recall(threshold) >= recall:
                return bands
        least = 1 - (1 - recall) ** (1 / PLACES)
        raise UserError(f"near_copy_similarity is {threshold}; it must be at least {least:.2f}, or copies would be missed.")

    def recall(self, similarity: float) -> float:
        """The share of the pairs with this Jaccard similarity that become candidates."""
        return 1 - (1 - similarity**self.rows) ** self.number

    def keys(self, signatures: np.ndarray, band: int) -> np.ndarray:
        """One band of signatures as numbers (uint64, below 2**61 as in datatrove), equal if the bands are equal."""
        packed = np.zeros((len(signatures), 8), dtype=np.uint8)
        packed[:, : self.rows] = signatures[:, band * self.rows : (band + 1) * self.rows]
        return mix(packed.view("<u8").reshape(-1).astype(np.uint64)) >> np.uint64(3)


def least_agreement(threshold: float) -> int:
    """The places in which two signatures must agree for a similarity of the threshold."""
    return math.ceil(threshold * PLACES - 1e-9)


def neighbours(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Consecutive pairs of texts with the same key, in order: a chain per key."""
    order = np.argsort(keys, kind="stable")
    same = np.flatnonzero(keys[order[1:]] == keys[order[:-1]])
    return order[same], order[same + 1]


def join_similar(groups: np.ndarray, one: np.ndarray, other: np.ndarray, signatures: np.ndarray, *, least: int) -> np.ndarray:
    """Like `join_agreeing`, for pairs whose signatures (texts, 128) are in memory."""

    def agreement(one: np.ndarray, other: np.ndarray) -> np.ndarray:
        return np.count_nonzero(signatures[one] == signatures[other], axis=1)

    return join_agreeing(groups, one, other, agreement, least=least)


def join_agreeing(groups: np.ndarray, one: np.ndarray, other: np.ndarray, agreement: Agreement, *, least: int) -> np.ndarray:
    """Join the groups of pairs that agree in at least `least` places; a group is named after its first text.

    Args:
        groups: the first text of the group of each text.
        one, other: the texts of each pair.
        agreement: returns in how many places the texts of each pair agree.
    """
    apart = np.flatnonzero(groups[one] != groups[other])
    similar = np.zeros(len(apart), dtype=bool)
    for start in range(0, len(apart), PAIRS_AT_A_TIME):
        part = apart[start : start + PAIRS_AT_A_TIME]
        similar[start : start + PAIRS_AT_A_TIME] = agreement(one[part], other[part]) >= least
    return join(groups, one[apart[similar]], other[apart[similar]])


def join(groups: np.ndarray, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Join the groups of these pairs (connected components)."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    if not len(one):
        return groups
    names, places = np.unique(np.concatenate([groups[one], groups[other]]), return_inverse=True)
    rows, columns = places.reshape(2, -1)
    graph = coo_array((np.ones(len(rows), dtype=bool), (rows, columns)), shape=(len(names), len(names)))
    _, components = connected_components(graph, directed=False)
    _, first = np.unique(components, return_index=True)  # names are sorted: the first of a component is its least
    renamed = np.arange(len(groups), dtype=groups.dtype)
    renamed[names] = names[first][components]
    return renamed[groups]
