"""Documents that are no text, or the same text again, are dropped and counted before anything is split.

So no held-out document has been trained on.
"""

import hashlib
import time

from hfgpt.data.on_disk import select, text_bytes, texts_of
from hfgpt.data.passport import Passport


def drop_blank(documents, passport: Passport):
    """Drop documents without a single visible character."""
    start = time.perf_counter()
    kept = [index for index, text in enumerate(texts_of(documents)) if text.strip()]
    return _kept("drop blank", documents, kept, passport, start)


def drop_exact_duplicates(documents, passport: Passport):
    """Keep the first of all documents with the same text. Memory: 16 bytes and a set entry per document."""
    start = time.perf_counter()
    seen: set[bytes] = set()
    kept = []
    for index, text in enumerate(texts_of(documents)):
        digest = hashlib.blake2b(text.encode("utf-8"), digest_size=16).digest()
        if digest not in seen:
            seen.add(digest)
            kept.append(index)
    return _kept("drop exact duplicates", documents, kept, passport, start)


def _kept(step: str, documents, indices: list[int], passport: Passport, start: float):
    selected = select(documents, indices)
    sizes = {"bytes_in": text_bytes(documents), "bytes_out": text_bytes(selected)}
    passport.record(step, len(documents), len(selected), start, **sizes)
    return selected
