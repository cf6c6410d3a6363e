"""Exact and near copies among documents; the first in the order of the sources is kept.

Exact copies are identical except for Unicode form (NFC) and whitespace. Case, punctuation and digits matter, because in code and
tables little else distinguishes texts. Near copies have at least the threshold's Jaccard similarity between their sets of five-word
runs (shingles.py), as estimated by signatures with 128 places (minhash.py). Copies of copies form one group.
"""

import hashlib
import logging
import re
import tempfile
import time
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hfgpt.counting import counted
from hfgpt.data.dropped import DroppedDocuments
from hfgpt.data.minhash import PLACES, Bands, document_signatures, join
from hfgpt.data.on_disk import column_batches, no_progress_bars, numbers_of, select, text_batches, text_bytes
from hfgpt.data.parallel import TOO_LONG_TO_SEND, in_processes
from hfgpt.data.passport import Passport
from hfgpt.data.signature_files import SignatureFiles, exact_groups, near_groups
from hfgpt.tables import check_allowed

logger = logging.getLogger(__name__)

MODES = ("none", "exact", "near")
SIMILARITY = 0.8
_WHITE_SPACE = re.compile(r"[^\S ]\s*| \s+")  # everything except single spaces
WORTH_PROCESSES = 50_000  # documents; fewer are read faster than processes can start
MOST_SOURCES = 100  # counted individually in the passport


@dataclass(frozen=True)
class Copies:
    """The first copy of each document, or itself if there is none before it.

    Attributes:
        exact: the first with the same text.
        near: the first of the group of near copies; exact ones are among them.
    """

    exact: np.ndarray
    near: np.ndarray


def find_document_copies(
    batches: Iterable[list[str]],
    num_documents: int,
    *,
    similarity: float = SIMILARITY,
    num_proc: int = 1,
    cache_dir: str | Path | None = None,
) -> Copies:
    """Find the copies among documents, given in batches of texts.

    Args:
        similarity: Jaccard similarity from which two documents count as near copies, above 0 and at most 1.
        num_proc: processes; the result is the same for any number.
        cache_dir: temporary storage for signatures, 312 bytes per document (see `SignatureFiles`); by default a temporary folder.
    Cost: about 45 us for 1 KB of English on one core. Memory: 16 bytes per document, and up to 90 MB for a partition of them.
    """
    bands = Bands.for_threshold(similarity)
    with tempfile.TemporaryDirectory(prefix="signatures-", dir=cache_dir) as folder, SignatureFiles(Path(folder), bands) as files:
        processes = num_proc if num_documents >= WORTH_PROCESSES else 1
        for digests, signatures in in_processes(_read_batch, batches, num_proc=processes, too_long=_is_long):
            files.append(digests, signatures)
        assert files.num_documents == num_documents
        return Copies(exact=exact_groups(files), near=near_groups(files, threshold=similarity))


def _is_long(texts: list[str]) -> bool:
    return max(map(len, texts)) > TOO_LONG_TO_SEND


def _read_batch(texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([exact_digest(text) for text in texts], dtype="S16"), document_signatures(texts)


def exact_digest(text: str) -> bytes:
    """16 bytes that are the same for exact copies."""
    # Not by split(): the words of a document of 200 MB would take 2 GB.
    text = _WHITE_SPACE.sub(" ", unicodedata.normalize("NFC", text)).strip()
    return hashlib.blake2b(text.encode("utf-8"), digest_size=16).digest()


def drop_document_copies(
    documents,
    passport: Passport,
    *,
    mode: str = "near",
    similarity: float = SIMILARITY,
    dropped: DroppedDocuments | None = None,
    num_proc: int = 1,
    cache_dir: str | Path | None = None,
    found: Copies | None = None,
):
    """The documents without copies; near copies that are kept share one draw, and so do all of their groups, so a split of whole
    documents or groups puts them on the same side.

    Args:
        documents: a `datasets.Dataset` with `text`, `source` and `draw`.
        mode: "near" drops exact and near copies, "exact" only exact ones, "none" keeps all.
        similarity, num_proc, cache_dir: see `find_document_copies`.
        dropped: receives the dropped copies, each with the location of the kept one.
        found: the result of `find_document_copies` for these documents, if computed elsewhere (cluster_copies.py).
    Raises: ValueError for an unknown mode or an impossible similarity.
    """
    check_allowed("deduplicate", mode, MODES)
    bands, start = Bands.for_threshold(similarity), time.perf_counter()
    if found is None:
        found = find_document_copies(
            text_batches(documents), len(documents), similarity=similarity, num_proc=num_proc, cache_dir=cache_dir
        )
    assert len(found.exact) == len(documents)
    places = np.arange(len(documents), dtype=np.int32)
    is_exact = found.exact != places
    is_near = (found.near != places) & ~is_exact
    settings = dict(similarity=similarity, shingles="5 words", places=PLACES, bands=bands.number, rows=bands.rows)
    left, kept_bytes = documents, text_bytes(documents)

    def drop(step: str, copies: np.ndarray, of: np.ndarray, **details: Any) -> None:
        nonlocal left, kept_bytes, start
        if dropped is not None:
            dropped.add_copies(documents, np.flatnonzero(copies), of, step=step)
        before, bytes_in = len(left), kept_bytes
        left = select(documents, np.flatnonzero(~(copies | is_exact)))
        kept_bytes = text_bytes(left) if copies.any() else bytes_in
        by_source = _by_source(documents, copies)
        passport.record(step, before, len(left), start, bytes_in=bytes_in, bytes_out=kept_bytes, by_source=by_source, **details)
        start = time.perf_counter()

    if mode != "none":
        drop("drop exact copies", is_exact, found.exact)
    if mode == "near":
        drop("drop near copies", is_near, found.near, settings=settings)
        return left
    kept = ~is_exact if mode == "exact" else np.ones(len(documents), dtype=bool)
    # The first of a group is always kept, so its draw is there to be shared.
    sizes = np.bincount(found.near[kept], minlength=len(documents))
    together = sizes[sizes > 1]
    counts = dict(documents=int(together.sum()), groups=len(together))
    if len(together):
        draws = numbers_of(documents, "draw")
        # Documents of one group of the user's have one draw, and keep it: through near copies, whole groups are joined.
        _, firsts, numbers = np.unique(draws, return_index=True, return_inverse=True)
        joined = join(found.near, np.arange(len(draws)), firsts[numbers])
        draws = draws[joined[kept]]
        with no_progress_bars():  # "Flattening the indices"
            documents = select(documents, np.flatnonzero(kept)).remove_columns("draw").add_column("draw", draws)
        logger.info(
            f"near copies: {counted(counts['documents'], 'documents')} are kept in {counts['groups']:,} groups; a split by "
            f"document or group keeps each group on one side, a split by position does not"
        )
    else:
        documents = select(documents, np.flatnonzero(kept))
    passport.record(
        "give near copies one draw",
        len(left),
        len(documents),
        start,
        bytes_in=kept_bytes,
        bytes_out=kept_bytes,
        near_copies=counts,
        settings=settings,
    )
    return documents


def _by_source(documents, dropped: np.ndarray) -> dict[str, int]:
    """How many documents of each source were dropped, the largest number first; sources beyond `MOST_SOURCES` are combined."""
    counts: Counter[str] = Counter()
    for (sources,) in column_batches(select(documents, np.flatnonzero(dropped)), "source"):
        counts.update(sources)
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    rest = {f"{len(ordered) - MOST_SOURCES:,} other sources": sum(count for _, count in ordered[MOST_SOURCES:])}
    return dict(ordered[:MOST_SOURCES]) | (rest if len(ordered) > MOST_SOURCES else {})
