"""Documents that are no text are dropped and counted before anything is split."""

import time

from hfgpt.data.on_disk import rows_where, select, text_bytes, texts_of
from hfgpt.data.passport import Passport


def drop_blank(documents, passport: Passport):
    """Drop documents without a single visible character."""
    start = time.perf_counter()
    kept = rows_where(bool(text) and not text.isspace() for text in texts_of(documents))
    selected = select(documents, kept)
    bytes_in, bytes_out = text_bytes(documents), text_bytes(selected)
    passport.record("drop blank", len(documents), len(kept), start, bytes_in=bytes_in, bytes_out=bytes_out)
    return selected
