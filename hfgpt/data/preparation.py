"""Turn a split of documents into training rows, and check what the tokenizer was trained on."""

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
from datasets import Dataset
from datasets.utils import tqdm
from transformers import PreTrainedTokenizerFast

from hfgpt.counting import counted
from hfgpt.data.on_disk import column_batches, write_rows
from hfgpt.data.packing import PackingCounts, cut_windows, pack
from hfgpt.data.passport import Passport, contents_of
from hfgpt.errors import TooLittleTextError
from hfgpt.tokenization import encode_texts, encode_to_arrays

logger = logging.getLogger(__name__)

# A longer row sees more of a text, but fewer rows than this give too few steps (16 rows per step by default).
ENOUGH_ROWS = 512
LONGEST_ROW, SHORTEST_ROW = 1024, 64
FEW_TOKENS = 500


def suitable_context_length(texts: Iterable[str], tokenizer: PreTrainedTokenizerFast) -> int:
    """The longest row length that gives at least `ENOUGH_ROWS` training rows: a power of two from `SHORTEST_ROW` to
    `LONGEST_ROW`."""
    tokens = 0
    for text in texts:
        # The beginning of a long text is enough: it fills all rows by itself.
        tokens += len(encode_texts(tokenizer, [text[: 16 * LONGEST_ROW * ENOUGH_ROWS]])[0]) + 1
        if tokens >= LONGEST_ROW * ENOUGH_ROWS:
            return LONGEST_ROW
    length = LONGEST_ROW
    while length > SHORTEST_ROW and tokens < length * ENOUGH_ROWS:
        length //= 2
    logger.info(
        f"data: context_length {length}, because {counted(tokens, 'tokens')} of training text would fill only "
        f"{counted(tokens // LONGEST_ROW, 'rows')} of {LONGEST_ROW:,}; set another with --context_length"
    )
    return length


def prepare_split(
    documents: Dataset,
    tokenizer: PreTrainedTokenizerFast,
    passport: Passport,
    *,
    name: str,
    context_length: int,
    packing: str = "best_fit",
    window: int | None = None,
    stride: int | None = None,
    cache_dir: str | Path,
    encode: Callable[[list[str]], list[np.ndarray]] | None = None,
) -> Dataset:
    """Tokenise on all cores and pack, one batch of texts at a time and directly to disk, so that memory stays constant.

    Args:
        name: the split, for the passport's account of every position.
        context_length: tokens per row.
        packing: how documents share rows, one of `hfgpt.data.packing.PACKINGS`.
        window, stride: cut each document into sliding windows instead, see `cut_windows`; the window is the context length.
        encode: returns the ids of texts if they are already known (cluster_tokens.py).
    Raises: ValueError if the training documents do not fill one row.
    """
    start = time.perf_counter()
    counts, account = PackingCounts(), TextAccount()
    encode = encode or partial(encode_to_arrays, tokenizer)

    def ids_of_documents() -> Iterator[np.ndarray]:
        with tqdm(total=len(documents), desc=f"rows of {name}", unit=" documents") as progress:
            for texts, sources in column_batches(documents, "text", "source"):
                ids = encode(texts)
                counts.bytes += account.add(texts, sources, ids)
                texts.clear()  # of a long document, text and rows are not in memory together
                progress.set_postfix_str(f"{counts.bytes / 1e6:,.0f} MB", refresh=False)
                progress.update(len(ids))
                while ids:
                    yield ids.pop(0)

    separator, pad = cast(int, tokenizer.eos_token_id), cast(int, tokenizer.pad_token_id)
    if window is None:
        blocks = pack(
            ids_of_documents(), context_length=context_length, separator=separator, pad=pad, counts=counts, packing=packing
        )
    else:
        stride = stride or window - 1
        blocks = cut_windows(ids_of_documents(), window=window, stride=stride, separator=separator, pad=pad, counts=counts)
    rows = write_rows(blocks, Path(cache_dir) / f"rows-{name}.arrow", context_length=context_length)
    passport.count_rows(name, asdict(counts), by_source=account.by_source(), lengths=account.lengths())
    passport.took(f"rows of {name}", start)
    logger.info(
        f"{name}: {counted(counts.documents, 'documents')}, {counted(counts.bytes, 'bytes')}, {counted(counts.tokens, 'tokens')} "
        f"({counts.bytes / max(1, counts.tokens):.2f} bytes each) in {counted(counts.rows, 'rows')} of {context_length:,}, "
        f"{100 * counts.padding / (counts.rows * context_length):.1f} % padding"
    )
    if name == "train" and counts.tokens < context_length:
        key = "context_length" if window is None else "window"
        # the least that context_length may be is 3, so of 1 or 2 tokens no row can be made
        shorter = f", or --{key} {counts.tokens}" if counts.tokens >= 3 else ""
        raise TooLittleTextError(
            f"the training documents have {counted(counts.tokens, 'tokens')}, but one row needs {context_length:,}",
            cure=f"give more text{shorter}.",
        )
    if name != "train" and counts.tokens < FEW_TOKENS:
        logger.info(f"{name}: so few tokens only give rough figures; a larger {name}_share holds out more")
    return rows


class TextAccount:
    """Counts documents, bytes and tokens by source, and documents by their length."""

    def __init__(self):
        self._bits: Counter[int] = Counter()  # of the lengths in tokens
        self._sources: dict[str, list[int]] = {}

    def add(self, texts: list[str], sources: list[str], ids: Sequence[Sized]) -> int:
        """Add documents, their columns side by side. Returns: the UTF-8 bytes of the texts."""
        total = 0
        for text, source, tokens in zip(texts, sources, ids, strict=True):
            num_bytes, num_tokens = len(text.encode()), len(tokens)
            total += num_bytes
            count = self._sources.setdefault(source, [0, 0, 0])
            count[0] += 1
            count[1] += num_bytes
            count[2] += num_tokens
            self._bits[num_tokens.bit_length()] += 1
        return total

    def lengths(self) -> dict[str, int]:
        """Documents by length in tokens: 0, 1, 2 to 3, 4 to 7, ..., keyed by the lower bound."""
        return {str(1 << bits >> 1): self._bits[bits] for bits in sorted(self._bits)}

    def by_source(self) -> dict[str, dict[str, int]]:
        """The counts by source: documents, bytes and tokens."""
        return {source: dict(zip(("documents", "bytes", "tokens"), count)) for source, count in self._sources.items()}


def passport_of_tokenizer(folder: str) -> Passport:
    """The passport beside a tokenizer; an empty one if its training text is unknown."""
    try:
        earlier = Passport.load(Path(folder))
    except (FileNotFoundError, ValueError):
        return Passport()
    return earlier if "split_by" in earlier.settings else Passport()  # others have sources that are not documents


def warn_of_seen_text(earlier: Passport, passport: Passport, *, split: Mapping[str, object], same_sources: bool) -> None:
    """Warn if the tokenizer was trained on documents that are now held out.

    Args:
        earlier: the tokenizer's passport.
        split: the current values of the split keys.
        same_sources: whether the sources have the same names as then.
    """
    trained_on = contents_of(earlier.inputs)
    if not (split.get("validation_share") or split.get("test_share")):
        return  # nothing is held out
    if not same_sources and not any(one in trained_on for one in contents_of(passport.inputs)):
        return  # with different texts, it has seen none of these
    for key, value in split.items():
        if key in earlier.settings and earlier.settings[key] != value:
            was, now = ("not given" if one is None else one for one in (earlier.settings[key], value))
            logger.warning(
                f"warning: the tokenizer was trained with {key} {was}, but here it is {now}: it has seen documents that are now "
                f"held out; use the same value in both recipes."
            )
    if same_sources and contents_of(passport.inputs) != trained_on:
        logger.warning(
            "warning: the sources have changed since the tokenizer was trained; it may have seen text that is now held out. "
            "Retrain it if that matters."
        )
