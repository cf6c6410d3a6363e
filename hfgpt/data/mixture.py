"""How much of each source is trained on: shares in tokens, random whole documents, and the resulting epochs.

A source is what the user gave: all files of a pattern or a folder are one. Only training documents are drawn; each held-out
document is used exactly once, so that figures of different mixtures are comparable.
"""

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from transformers import PreTrainedTokenizerFast

from hfgpt.counting import MOST_LISTED
from hfgpt.data.on_disk import column_batches, select, text_batches
from hfgpt.data.passport import Passport
from hfgpt.data.reading import Source
from hfgpt.errors import UserError
from hfgpt.tokenization import encode_to_arrays

logger = logging.getLogger(__name__)

MIXTURE_STEP = "mixture"
MOST_SOURCES = MOST_LISTED  # lines of the table of sources
# Muennighoff et al. (2023), Scaling Data-Constrained Language Models, arXiv 2305.16264: up to 4 epochs of a text are about as good
# as new text, and more than 16 add almost nothing.
GOOD_EPOCHS, USEFUL_EPOCHS = 4, 16
# A larger deviation from the share, caused by whole documents, is reported.
NOTEWORTHY_SHARE = 0.02


@dataclass(frozen=True)
class Mixture:
    """The shares of the sources.

    Args:
        weights: one per source, above 0; shares are proportional to them.
        alpha: without weights, shares are proportional to `tokens ** alpha` of the source.
        tokens: in the whole mixture; None means as many as all training documents have, so a source with a larger share is repeated
            and one with a smaller share is not read completely.
        seed: for the selection and the order.
    Source of alpha: Conneau and Lample (2019), Cross-lingual Language Model Pretraining, arXiv 1901.07291, section 3.1.
    """

    weights: Mapping[str, float] | None = None
    alpha: float | None = None
    tokens: int | None = None
    seed: int = 0

    def shares(self, tokens: Mapping[str, int]) -> dict[str, float]:
        """The share of each source given its tokens; they add up to 1."""
        if self.weights is None:
            alpha = 1.0 if self.alpha is None else self.alpha
            sizes = {name: float(count) ** alpha for name, count in tokens.items()}
        else:
            sizes = {name: float(self.weights[name]) for name in tokens}
        total = sum(sizes.values())
        return {name: size / total for name, size in sizes.items()}


@dataclass(frozen=True)
class SourceTokens:
    """The training tokens of one source. Args: `epochs` is how often its documents are read, on average."""

    name: str
    tokens: int
    epochs: float


def names_as_given(sources: Iterable[Source]) -> dict[str, str]:
    """Maps the name of each source in documents to what the user wrote for it, such as a pattern."""
    return {source.name: source.given or source.name for source in sources}


def shuffle_documents(documents, *, seed: int):
    """The documents in a seeded random order; needs 8 bytes of memory each, the texts stay on disk."""
    return select(documents, np.random.default_rng(seed).permutation(len(documents)))


def mix(
    documents,
    mixture: Mixture,
    tokenizer: PreTrainedTokenizerFast,
    passport: Passport,
    *,
    names: Mapping[str, str],
    encode: Callable[[list[str]], list[np.ndarray]] | None = None,
):
    """The training documents in the shares of `mixture`, in a seeded random order.

    A source is used completely as often as it fits into its share, and once more in part: no document occurs twice before all of
    its source occur once, and the counts of two documents of a source differ by at most one. Documents are never cut.

    Args: `names` from `names_as_given`; `encode` as in `prepare_split`.
    Raises: ValueError if a given source has no training document.
    Cost: the documents are tokenised once more for counting; 32 bytes per document and copy.
    """
    start = time.perf_counter()
    encode = encode or partial(encode_to_arrays, tokenizer)
    given = list(mixture.weights or dict.fromkeys(names.values()))
    number_of = {name: number for number, name in enumerate(given)}
    source_of = np.array(
        [number_of[names[name]] for (batch,) in column_batches(documents, "source") for name in batch], dtype=np.int32
    )
    counts = (
        (len(ids), len(text.encode())) for texts in text_batches(documents) for text, ids in zip(texts, encode(texts), strict=True)
    )
    tokens, num_bytes = np.fromiter(counts, dtype=np.dtype((np.int64, 2))).T
    available = {name: int(tokens[source_of == number].sum()) for name, number in number_of.items()}
    if empty := [name for name, count in available.items() if not count]:
        raise UserError(
            f"the source {empty[0]} has no training document, so it cannot have a share of a mixture; give it more text, or leave "
            f"it out."
        )
    shares = mixture.shares(available)
    total = sum(available.values()) if mixture.tokens is None else mixture.tokens
    drawn, sources = [], {}
    for name, number in number_of.items():
        rows = np.flatnonzero(source_of == number)
        generator = np.random.default_rng([mixture.seed, number])
        drawn.append(rows[draw_documents(tokens[rows], wanted=total * shares[name], generator=generator)])
        count = int(tokens[drawn[-1]].sum())
        sources[name] = {
            "documents_in": len(rows),
            "documents_out": len(drawn[-1]),
            "tokens_in": available[name],
            "tokens_out": count,
            "share_asked": round(shares[name], 6),
            "epochs": round(count / available[name], 4),
        }
    order = np.random.default_rng([mixture.seed, len(given)]).permutation(np.concatenate(drawn))
    passport.record(
        MIXTURE_STEP,
        len(documents),
        len(order),
        start,
        bytes_in=int(num_bytes.sum()),
        bytes_out=int(num_bytes[order].sum()),
        sources=sources,
        seed=mixture.seed,
    )
    mixed = sum(one["tokens_out"] for one in sources.values())
    for name, one in sources.items():
        share = one["tokens_out"] / mixed
        if abs(share - shares[name]) > NOTEWORTHY_SHARE:
            logger.warning(
                f"warning: {name} should have {100 * shares[name]:.1f} % of the tokens but has {100 * share:.1f} %, because its "
                f"documents are few or long and are never cut; smaller ones fit better (text_documents: paragraph)."
            )
    return select(documents, order)


def draw_documents(tokens: np.ndarray, *, wanted: float, generator: np.random.Generator) -> np.ndarray:
    """Indices of documents with about `wanted` tokens in total, at least one: all of them in each full pass, and in the last pass a
    random selection that comes closest.

    Args: `tokens` is the number in each document.
    """
    passes, left = divmod(wanted, int(tokens.sum()))
    order = generator.permutation(len(tokens))
    reached = np.concatenate([[0], np.cumsum(tokens[order])])
    count = int(np.abs(reached - left).argmin())
    if not passes:
        count = max(1, count)
    return np.concatenate([np.repeat(np.arange(len(tokens)), int(passes)), order[:count]])


def training_sources(passport: Passport) -> list[SourceTokens]:
    """The share of each source in the training rows, in the order given by the user; [] if the passport does not say."""
    mixed = next((step["sources"] for step in passport.steps if step["step"] == MIXTURE_STEP), {})
    tokens = tokens_by_source(passport, "train")
    return [SourceTokens(name, count, mixed.get(name, {"epochs": 1.0})["epochs"]) for name, count in tokens.items()]


def tokens_by_source(passport: Passport, split: str) -> dict[str, int]:
    """Tokens of each source in a split, by what the user wrote for it: all files of a pattern combined."""
    tokens: dict[str, int] = {}
    for entry in passport.inputs:
        counts = entry.get("splits", {}).get(split)
        if counts and counts["tokens"]:
            name = entry.get("given", entry["name"])
            tokens[name] = tokens.get(name, 0) + counts["tokens"]
    return tokens


def table_of_sources(sources: Sequence[SourceTokens], *, epochs: float = 1.0) -> str:
    """Tokens, share and epochs of each source, one line each; of more than `MOST_SOURCES`, the largest, and the rest together.

    Args: `epochs` is how often the rows are read.
    """
    total = max(1, sum(one.tokens for one in sources))
    if len(sources) > MOST_SOURCES:
        by_size = sorted(sources, key=lambda one: -one.tokens)
        rest, sources = by_size[MOST_SOURCES:], by_size[:MOST_SOURCES]
        tokens = sum(one.tokens for one in rest)
        read = sum(one.epochs * one.tokens for one in rest) / max(1, tokens)
        sources = [*sources, SourceTokens(f"and {len(rest):,} more", tokens, read)]
    lines = [f"{'tokens':>15} {'share':>8} {'epochs':>8}  source"]
    for one in sources:
        lines.append(f"{one.tokens:>15,} {100 * one.tokens / total:>6.1f} % {one.epochs * epochs:>8.2f}  {one.name}")
    return "\n".join(lines)


def warnings_of_epochs(sources: Sequence[SourceTokens], *, epochs: float = 1.0) -> list[str]:
    """Warnings about sources that are read too often.

    Args: `epochs` is how often the rows are read.
    """
    said = []
    for one in sources:
        times = one.epochs * epochs
        if times > USEFUL_EPOCHS:
            said.append(
                f"WARNING: {one.name} is read {times:.1f} TIMES. After {USEFUL_EPOCHS} times, there is almost nothing left to "
                f"learn from a text, and the model memorizes it (arXiv 2305.16264): give more text, a smaller share or fewer steps."
            )
        elif times > GOOD_EPOCHS:
            said.append(
                f"warning: {one.name} is read {times:.1f} times; up to {GOOD_EPOCHS} times, a text is about as good as new text, "
                f"after that less and less (arXiv 2305.16264)."
            )
    return said


def report_sources(passport: Passport, *, what: str, epochs: float = 1.0) -> None:
    """Log the table of a passport's training text and its warnings; nothing if the sources are unknown.

    Args:
        what: the table's heading.
        epochs: how often the rows are read.
    """
    if sources := training_sources(passport):
        logger.info(f"{what}\n{table_of_sources(sources, epochs=epochs)}")
        for warning in warnings_of_epochs(sources, epochs=epochs):
            logger.warning(warning)
