"""Digests, signatures and band keys of documents on disk, so that a search for copies needs little memory.

The keys of a band are sorted a partition at a time: the keys whose remainder by the number of partitions is the same. Documents
with equal keys lie in one partition, in their order, so partitions change no decision.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from hfgpt.data.minhash import PLACES, Bands, join, join_agreeing, least_agreement

DIGEST_BYTES = 16
# Of a partition; while it is sorted, each takes about 40 bytes. Every partition reads the keys of all documents: no time to
# speak of up to 100 million, of which it takes a tenth.
PARTITION_DOCUMENTS = 2**20
READ_AT_ONCE = 2**18  # keys


class SignatureFiles(contextlib.AbstractContextManager):
    """The data stored for documents that are searched for copies.

    Args:
        folder: the location of the files, which belong to this object.
        bands: the bands whose keys are kept.
    Disk: 144 bytes per document, plus 8 per band: 312 for 21 bands.
    """

    def __init__(self, folder: Path, bands: Bands):
        self.bands = bands
        self.num_documents = 0
        self._opened = contextlib.ExitStack()
        names = ["digests", "signatures", *(f"band-{band:03d}" for band in range(bands.number))]
        self._digests, self._signatures, *self._keys = (
            self._opened.enter_context((folder / name).open("w+b", buffering=0)) for name in names
        )

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    def append(self, digests: np.ndarray, signatures: np.ndarray) -> None:
        """Keep those of more documents: (documents,) of 16 bytes, and (documents, 128), uint8."""
        self._digests.write(np.ascontiguousarray(digests, dtype=f"S{DIGEST_BYTES}").data)
        self._signatures.write(np.ascontiguousarray(signatures).data)
        for band, file in enumerate(self._keys):
            file.write(self.bands.keys(signatures, band).data)
        self.num_documents += len(signatures)

    def exact_chains(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Blocks of pairs of documents that follow each other among those with one digest."""
        return self._chains(self._digests, words=DIGEST_BYTES // 8)

    def near_chains(self, band: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Blocks of pairs of documents that follow each other among those with one key of this band."""
        return self._chains(self._keys[band], words=1)

    def agreement(self, one: np.ndarray, other: np.ndarray) -> np.ndarray:
        """In how many places the signatures of each pair agree. Cost: about 4 us per pair. Memory: 300 bytes per pair."""
        return np.count_nonzero(self._rows(one) == self._rows(other), axis=1)

    def _rows(self, documents: np.ndarray) -> np.ndarray:
        rows = np.empty((len(documents), PLACES), dtype=np.uint8)
        for row, document in zip(rows, documents.tolist(), strict=True):
            self._signatures.seek(document * PLACES)
            self._signatures.readinto(row.data)
        return rows

    def _chains(self, file, *, words: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        partitions = 1 + self.num_documents // PARTITION_DOCUMENTS
        for partition in range(partitions):
            keys, documents = self._partition(file, words, partition, partitions)
            order = np.lexsort(keys.T)  # stable
            same = np.ones(max(0, len(order) - 1), dtype=bool)
            for column in keys.T:
                ordered = column[order]
                same &= ordered[1:] == ordered[:-1]
            places = np.flatnonzero(same)
            yield documents[order[places]], documents[order[places + 1]]

    def _partition(self, file, words: int, partition: int, partitions: int) -> tuple[np.ndarray, np.ndarray]:
        """The keys (uint64, a row of so many words each) that belong to a partition, and the documents that have them, in order."""
        keys, documents = [np.empty((0, words), dtype=np.uint64)], [np.empty(0, dtype=np.uint32)]
        file.seek(0)
        for start in range(0, self.num_documents, READ_AT_ONCE):
            read = np.fromfile(file, dtype=np.uint64, count=words * min(READ_AT_ONCE, self.num_documents - start)).reshape(
                -1, words
            )
            mine = np.flatnonzero(read[:, 0] % np.uint64(partitions) == partition)
            keys.append(read[mine])
            documents.append((start + mine).astype(np.uint32))
        return np.concatenate(keys), np.concatenate(documents)


def exact_groups(files: SignatureFiles) -> np.ndarray:
    """For each document the first with the same digest (int32)."""
    groups = np.arange(files.num_documents, dtype=np.int32)
    for one, other in files.exact_chains():
        groups = join(groups, one, other)
    return groups


def near_groups(files: SignatureFiles, *, threshold: float) -> np.ndarray:
    """For each document the first of its group (int32): near copies of each other, or of others in between.

    Of the documents that share a band, each is compared with the previous one. A pair matches if the signatures agree in at least
    the share `threshold` of all places. datatrove's stages can do both as well (cluster_copies.py).

    Cost: n log n per band. Memory: 12 bytes per document besides a partition.
    """
    groups = np.arange(files.num_documents, dtype=np.int32)
    for band in range(files.bands.number):
        for one, other in files.near_chains(band):
            groups = join_agreeing(groups, one, other, files.agreement, least=least_agreement(threshold))
    return groups
