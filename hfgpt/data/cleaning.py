"""Documents that are no text are dropped and counted before anything is split."""

import time

from hfgpt.data.on_disk import select, text_bytes, texts_of
from hfgpt.data.passport import Passport


def drop_blank(documents, passport: Passport):
    """Drop documents without a single visible character."""
    start = time.perf_counter()
    kept = [index for index, text in enumerate(texts_of(documents)) if text.strip()]
    selected = select(documents, kept)
    sizes = {"bytes_in": text_bytes(documents), "bytes_out": text_bytes(selected)}
    passport.record("drop blank", len(documents), len(kept), start, **sizes)
    return selected
