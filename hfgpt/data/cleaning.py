"""Documents that are no text, or the same text again, are dropped and counted before anything is split.

So no held-out document has been trained on.
"""

import hashlib
import time

import numpy as np

from hfgpt.data.on_disk import rows_where, select, texts_of
from hfgpt.data.passport import Passport


def drop_blank(documents, passport: Passport):
    """Drop documents without a single visible character."""
    start = time.perf_counter()
    kept = rows_where(bool(text) and not text.isspace() for text in texts_of(documents))
    passport.record("drop blank", len(documents), len(kept), start)
    return select(documents, kept)


def drop_exact_duplicates(documents, passport: Passport):
    """Keep the first of all documents with the same text. Memory: about 50 bytes per document."""
    start = time.perf_counter()
    digests = np.fromiter(map(_digest, texts_of(documents)), dtype=[("first", np.uint64), ("second", np.uint64)])
    order = np.lexsort((digests["second"], digests["first"]))  # stable: of equal ones, the first stays first
    digests = digests[order]
    is_first = np.ones(len(digests), dtype=bool)
    is_first[1:] = digests[1:] != digests[:-1]
    kept = np.sort(order[is_first])
    passport.record("drop exact duplicates", len(documents), len(kept), start)
    return select(documents, kept)


def _digest(text: str) -> tuple[int, int]:
    digest = hashlib.blake2b(text.encode("utf-8"), digest_size=16).digest()
    return int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:], "little")
