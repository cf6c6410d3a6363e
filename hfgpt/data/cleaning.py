"""Documents without text are dropped and counted before anything is split."""

import time

from hfgpt.data.on_disk import rows_where, select, text_bytes, texts_of
from hfgpt.data.passport import Passport


def is_blank(text: str) -> bool:
    """Whether a text has no visible character."""
    return not text or text.isspace()


def drop_blank(documents, passport: Passport):
    """Drop documents without a single visible character."""
    start = time.perf_counter()
    kept = rows_where(not is_blank(text) for text in texts_of(documents))
    selected = select(documents, kept)
    bytes_in, bytes_out = text_bytes(documents), text_bytes(selected)
    passport.record("drop blank", len(documents), len(kept), start, bytes_in=bytes_in, bytes_out=bytes_out)
    return selected
