"""Copies among documents on a cluster: datatrove's four MinHash stages, with the signatures and decisions of document_copies.py.

    stages = deduplication_stages(read=[reader], write=[writer], folder="runs/copies", tasks=8)
    for stage in stages:
        LocalPipelineExecutor(stage.pipeline, tasks=stage.tasks, logging_dir=f"runs/copies/logs/{stage.name}").run()

The first of a group stays in the order of the tasks and, within a task, of what its reader reads: where task 0 reads the first
source, task 1 the second, and so on, exactly the documents stay that one machine keeps. Exact copies need no stage of their own:
their signatures are equal.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hfgpt.data.document_copies import SIMILARITY
from hfgpt.data.minhash import PLACES, Bands, document_signatures, join_similar, least_agreement
from hfgpt.errors import require

WHOLE = "whole"  # beside the folders of the buckets: whole signatures, in the order of the documents


@dataclass(frozen=True)
class Stage:
    """What one executor runs; the next may begin when all its tasks are done. Args: `tasks` as the executor takes it."""

    name: str
    pipeline: list[Callable]
    tasks: int


def deduplication_stages(
    *, read: Sequence[Callable], write: Sequence[Callable], folder: str, tasks: int, similarity: float = SIMILARITY
) -> list[Stage]:
    """The four stages, in order: signatures, buckets, clusters, filter.

    Args:
        read: datatrove's steps (a reader, filters) that give the documents, none of them blank; the first and the last stage read
            them, and must get the same ones.
        write: steps that take those that stay.
        folder: for what the stages hand on, a new one for each run; 128 bytes a document and 12 for each band.
        tasks: of the first and the last stage.
        similarity: as `find_document_copies` takes it.
    """
    require("datatrove", extra="data", purpose="on a cluster copies are found by datatrove's stages")
    from datatrove.pipeline.dedup.minhash import MinhashDedupBuckets, MinhashDedupFilter

    signatures, buckets, copies = (f"{folder}/{name}" for name in ("signatures", "buckets", "copies"))
    config = _config(similarity)
    return [
        Stage("signatures", [*read, WriteSignatures(signatures, similarity)], tasks),
        Stage("buckets", [MinhashDedupBuckets(signatures, buckets, config=config)], config.num_buckets),
        Stage("clusters", [KeepFirst(buckets, signatures, copies, similarity)], 1),
        Stage("filter", [*read, MinhashDedupFilter(copies), *write], tasks),
    ]


def _config(similarity: float) -> Any:
    """datatrove's name for our bands, each of which is one number."""
    from datatrove.pipeline.dedup.minhash import MinhashConfig
    from datatrove.utils.hashing import HashConfig

    bands = Bands.for_threshold(similarity)
    return MinhashConfig(num_buckets=bands.number, hashes_per_bucket=1, hash_config=HashConfig(precision=64))


@dataclass(frozen=True)
class WriteSignatures:
    """The first stage: datatrove's, with our signatures, which are kept whole for the third stage.

    A plain callable, which pipelines take and which can be pickled: the classes of datatrove are there where it is installed.
    """

    folder: str
    similarity: float

    def __call__(self, data, rank: int = 0, world_size: int = 1) -> None:
        from datatrove.pipeline.dedup.minhash import MinhashDedupSignature
        from datatrove.utils.word_tokenizers import WhitespaceTokenizer

        bands = Bands.for_threshold(self.similarity)

        class Signatures(MinhashDedupSignature):
            def get_shingles(self, text: str) -> np.ndarray:
                return document_signatures([text])

            def get_signature(self, shingles: np.ndarray) -> list[list[int]]:
                whole.write(shingles.tobytes())
                return [bands.keys(shingles, band).tolist() for band in range(bands.number)]

        # The tokenizer is never asked; datatrove's for English would need a package.
        tokenizer: Any = WhitespaceTokenizer()
        step = Signatures(self.folder, config=_config(self.similarity), language=tokenizer)
        with step.output_folder.open(f"{WHOLE}/{rank:05d}", "wb") as whole:
            step.run(data, rank, world_size)


@dataclass(frozen=True)
class KeepFirst:
    """The third stage: candidates are compared by their whole signatures, and of a group the first stays.

    datatrove's own takes all candidates for copies, and keeps any of a group.

    Memory: 32 bytes for each pair of candidates, 150 for each candidate, and the signatures of one task at a time.
    """

    buckets: str
    signatures: str
    folder: str
    similarity: float

    def __call__(self, data=None, rank: int = 0, world_size: int = 1) -> None:
        from datatrove.io import get_datafolder

        if world_size != 1:
            raise ValueError(f"{world_size} tasks; groups are made by one.")
        buckets = get_datafolder(self.buckets)
        pairs = [np.empty((0, 2), dtype=np.int64)]
        for name in buckets.list_files(glob_pattern="*.dups"):
            with buckets.open(name, "rb") as file:
                task, document, other_task, other_document = (
                    np.frombuffer(file.read(), dtype="<u4").reshape(-1, 4).T.astype(np.int64)
                )
            # The order of documents is that of these numbers: by task, then by place.
            pairs.append(np.stack([task << 32 | document, other_task << 32 | other_document], axis=1))
        names, places = np.unique(np.concatenate(pairs), return_inverse=True)
        one, other = places.reshape(-1, 2).T
        least = least_agreement(self.similarity)
        groups = join_similar(np.arange(len(names)), one, other, self._signatures_of(names), least=least)
        removed = names[groups != np.arange(len(names))]
        with get_datafolder(self.folder).get_output_file_manager(mode="wb") as output:
            for task in np.unique(removed >> 32).tolist():
                documents = removed[removed >> 32 == task] & (2**32 - 1)
                output.write(f"{task:06d}.remove", documents.astype("<u4").tobytes())

    def _signatures_of(self, names: np.ndarray) -> np.ndarray:
        from datatrove.io import get_datafolder

        whole = get_datafolder(f"{self.signatures}/{WHOLE}")
        signatures = np.empty((len(names), PLACES), dtype=np.uint8)
        for task in np.unique(names >> 32).tolist():
            wanted = names >> 32 == task
            with whole.open(f"{task:05d}", "rb") as file:
                of_task = np.frombuffer(file.read(), dtype=np.uint8).reshape(-1, PLACES)
            signatures[wanted] = of_task[names[wanted] & (2**32 - 1)]
        return signatures
