"""Estimate the memory for training a tokenizer before it begins."""

import logging
import math
import re
from collections.abc import Iterable
from pathlib import Path

import psutil

from hfgpt.arguments.tokenizers import ALGORITHMS

logger = logging.getLogger(__name__)

HELD_BYTES = 10 << 20  # of text in memory, read in batches
COUNTED_BYTES = 8 << 20  # of a longer text, only the distinct words of a part are counted
_WORD = re.compile(r"\s?\w+|[^\w\s]+|\s+")  # roughly what the patterns split, ten times as fast


def expected_memory(texts: Iterable[str], *, num_bytes: int, algorithm: str) -> int | None:
    """The approximate memory for training, in bytes; None if the algorithm has not been measured.

    Most of it is for the distinct words, which must all be in memory. They are counted in about `COUNTED_BYTES` taken from all over
    the text, and extrapolated as a power of its size (Heaps' law).

    Args:
        texts: read once.
        num_bytes: UTF-8 bytes of all texts.
    Cost: about 0.1 s per counted MB.
    """
    if (memory := ALGORITHMS.find(algorithm).memory) is None:
        return None
    step = max(1, round(num_bytes / COUNTED_BYTES))
    seen: set[str] = set()
    counted = size = 0
    curve = [(0, 0)]  # bytes read, distinct words
    for number, text in enumerate(texts):
        if number % step and counted:
            continue
        for start in range(0, len(text), 1 << 16):
            part = text[start : start + (1 << 16)]
            counted += len(part.encode("utf-8"))
            new = set(_WORD.findall(part)) - seen
            seen |= new
            size += sum(len(word.encode("utf-8")) for word in new)
            curve.append((counted, len(seen)))
            if counted >= 2 * COUNTED_BYTES:
                break
        if counted >= 2 * COUNTED_BYTES:
            break
    if not seen:
        return 0
    half = next((bytes_, words) for bytes_, words in curve if bytes_ >= counted / 2)
    growth = 1.0
    if 0 < half[0] < counted:
        growth = math.log(len(seen) / half[1]) / math.log(counted / half[0])
    words = len(seen) * max(1.0, num_bytes / counted) ** min(1.0, max(0.0, growth))
    of_words = words * (memory.per_word + memory.per_word_byte * size / len(seen))
    return round(HELD_BYTES + of_words + memory.per_byte * min(num_bytes, memory.up_to))


def say_memory(expected: int | None, *, max_bytes: int, num_bytes: int) -> None:
    """Log one line; a warning if there is not enough memory."""
    if expected is None:
        return
    available = available_memory()
    what = f"tokenizer: training on {num_bytes:,} bytes takes about {expected / 2**20:,.0f} MiB of memory"
    if expected > available:
        logger.warning(
            f"{what}, but only {available / 2**20:,.0f} MiB are available; a smaller --max_bytes (now {max_bytes:,}) takes less."
        )
    else:
        logger.info(f"{what}; {available / 2**20:,.0f} MiB are available")


def available_memory() -> int:
    """Bytes that this process may still use: of the machine, or of its control group."""
    available = psutil.virtual_memory().available
    group = Path("/sys/fs/cgroup")
    try:
        limit, used = ((group / name).read_text().strip() for name in ("memory.max", "memory.current"))
    except OSError:
        return available
    return min(available, max(0, int(limit) - int(used))) if limit != "max" else available
