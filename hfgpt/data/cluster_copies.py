"""Copies among documents on a cluster: datatrove's four MinHash stages, with the signatures and decisions of document_copies.py.

    stages = deduplication_stages(read=[reader], write=[writer], folder="runs/copies", tasks=8)
    for stage in stages:
        LocalPipelineExecutor(stage.pipeline, tasks=stage.tasks, logging_dir=f"runs/copies/logs/{stage.name}").run()

The first of a group is kept, in the order of the tasks and, within a task, of its reader: if task 0 reads the first source, task 1
the second, and so on, exactly the same documents are kept as on one machine. Exact copies need no separate stage: their signatures
are equal.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hfgpt.data.document_copies import SIMILARITY, Copies, exact_digest
from hfgpt.data.engine import Stage
from hfgpt.data.minhash import PLACES, Bands, document_signatures, join_similar, least_agreement
from hfgpt.data.on_disk import in_batches
from hfgpt.errors import require

# Beside the folders of the buckets, in the order of the documents: whole signatures, and digests that exact copies share.
WHOLE, DIGESTS = "whole", "digests"
RECORD = np.dtype([("key", "<u8"), ("document", "<u4")])  # of a bucket, as datatrove reads it
FIRSTS = "firsts.npy"  # of each copy: its own name, and those of the first exact and the first near one
IN_TASK = np.int64(2**32 - 1)  # of the name of a document, which has its task above: their place in it


def deduplication_stages(
    *,
    read: Sequence[Callable],
    write: Sequence[Callable],
    folder: str,
    tasks: int,
    similarity: float = SIMILARITY,
    mode: str = "near",
) -> list[Stage]:
    """The four stages, in order: signatures, buckets, clusters, filter.

    Args:
        read: datatrove's steps (a reader, filters) that yield the documents, none of them blank; the first and the last stage must
            read the same ones.
        write: steps for the kept documents.
        folder: for data passed between the stages, a new one per run; 144 bytes per document and 12 per band.
        tasks: of the first and the last stage; the second has as many, but at most one for each band.
        similarity: see `find_document_copies`.
        mode: which copies are dropped, see `drop_document_copies`.
    """
    require("datatrove", extra="data", purpose="finding copies on a cluster needs datatrove")
    from datatrove.pipeline.dedup.minhash import MinhashDedupBuckets, MinhashDedupFilter

    signatures, buckets, copies = (f"{folder}/{name}" for name in ("signatures", "buckets", "copies"))
    config = _config(similarity)
    return [
        Stage("signatures", [*read, WriteSignatures(signatures, similarity)], tasks),
        Stage("buckets", [EachBucket(MinhashDedupBuckets(signatures, buckets, config=config))], min(tasks, config.num_buckets)),
        Stage("clusters", [KeepFirst(buckets, signatures, copies, similarity, mode)], 1),
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
    """The first stage: in the files of datatrove's, our signatures; they are kept whole for the third stage.

    Cost: see `document_signatures`. Memory: 300 bytes for each document of the task.
    """

    folder: str
    similarity: float

    def __call__(self, data: Iterable[Any], rank: int = 0, world_size: int = 1) -> None:
        from datatrove.io import get_datafolder

        signatures, digests = [np.empty((0, PLACES), dtype=np.uint8)], []
        for batch in in_batches({"text": document.text} for document in data):
            texts = [document["text"] for document in batch]
            signatures.append(document_signatures(texts))
            digests += map(exact_digest, texts)
        whole, bands, folder = np.concatenate(signatures), Bands.for_threshold(self.similarity), get_datafolder(self.folder)
        contents = {f"{WHOLE}/{rank:05d}": whole, f"{DIGESTS}/{rank:05d}": np.array(digests, dtype="S16")}
        for band in range(bands.number):
            keys = bands.keys(whole, band)
            records = np.empty(len(whole), dtype=RECORD)
            records["document"] = np.argsort(keys, kind="stable")
            records["key"] = keys[records["document"]]
            contents[f"bucket_{band:03d}/{rank:05d}.minhash.sig"] = records
        for name, content in contents.items():
            with folder.open(name, "wb") as file:
                file.write(content.tobytes())


@dataclass(frozen=True)
class EachBucket:
    """The second stage: datatrove's, which takes a task for each bucket, in fewer tasks."""

    step: Any

    def __call__(self, data: object = None, rank: int = 0, world_size: int = 1) -> None:
        number = self.step.config.num_buckets
        for bucket in range(rank, number, world_size):
            self.step.run(None, bucket, number)


@dataclass(frozen=True)
class KeepFirst:
    """The third stage: candidates are compared by their whole signatures, and of a group the first stays.

    datatrove's own takes all candidates for copies, and keeps any of a group.

    Memory: 32 bytes for each pair of candidates, 200 for each candidate, and the signatures of one task at a time.
    """

    buckets: str
    signatures: str
    folder: str
    similarity: float
    mode: str

    def __call__(self, data: object = None, rank: int = 0, world_size: int = 1) -> None:
        from datatrove.io import get_datafolder

        if world_size != 1:
            raise ValueError(f"{world_size} tasks; groups must be made by a single task.")
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
        signatures = self._of(names, WHOLE, np.dtype((np.uint8, PLACES)))
        groups = join_similar(np.arange(len(names)), one, other, signatures, least=least_agreement(self.similarity))
        _, first, places = np.unique(self._of(names, DIGESTS, np.dtype("S16")), return_index=True, return_inverse=True)
        firsts = np.stack([names, names[first[places]], names[groups]])
        is_exact, is_copy = firsts[1] != names, (firsts[1:] != names).any(axis=0)
        removed = names[{"none": np.zeros_like(is_copy), "exact": is_exact, "near": is_copy}[self.mode]]
        output = get_datafolder(self.folder)
        with output.get_output_file_manager(mode="wb") as files:
            for task in np.unique(removed >> 32).tolist():
                files.write(f"{task:06d}.remove", (removed[removed >> 32 == task] & IN_TASK).astype("<u4").tobytes())
        with output.open(FIRSTS, "wb") as file:
            np.save(file, firsts[:, is_copy])

    def _of(self, names: np.ndarray, what: str, kind: np.dtype) -> np.ndarray:
        """What the first stage wrote of these documents."""
        found = np.empty(len(names), dtype=kind)
        for task in np.unique(names >> 32).tolist():
            wanted = names >> 32 == task
            found[wanted] = _read(f"{self.signatures}/{what}", task, kind)[names[wanted] & IN_TASK]
        return found


def _read(folder: str, task: int, kind: np.dtype) -> np.ndarray:
    from datatrove.io import get_datafolder

    with get_datafolder(folder).open(f"{task:05d}", "rb") as file:
        return np.frombuffer(file.read(), dtype=kind)


def collected_copies(folder: str, tasks: int) -> Copies:
    """What `find_document_copies` gives for the documents of all tasks, one after the other, from what the stages left."""
    from datatrove.io import get_datafolder

    sizes = [len(_read(f"{folder}/signatures/{DIGESTS}", task, np.dtype("S16"))) for task in range(tasks)]
    starts, number = np.cumsum(sizes) - sizes, sum(sizes)
    with get_datafolder(f"{folder}/copies").open(FIRSTS, "rb") as file:
        names, exact, near = (starts[name >> 32] + (name & IN_TASK) for name in np.load(file))
    copies = Copies(exact=np.arange(number), near=np.arange(number))
    copies.exact[names], copies.near[names] = exact, near
    return copies
