"""Quality by perplexity: drop documents that a language model finds far less likely than the others.

Two passes: every document is scored, then those above mean + sigmas * standard deviation of all scores are dropped. A document's
score is the log of its perplexity, the mean of its tokens' negative log-likelihoods in nats.
Source: the idea comes from CCNet, Wenzek et al. (2020), section 3.3, which keeps thirds; three sigmas keep nearly all of a clean
corpus. Many bad documents raise the standard deviation, so fewer of them exceed the bound: if they are more than one in ten, they
are no longer outliers (they move the mean by d / 10 and the standard deviation to 0.3 d, where d is how much worse they are).
"""

import math
import time
from collections.abc import Iterator

import numpy as np
from datasets import Dataset
from datasets.utils import tqdm

from hfgpt.data.dropped import DroppedDocuments
from hfgpt.data.on_disk import select, text_batches, text_bytes
from hfgpt.data.passport import Passport
from hfgpt.evaluation.language_modeling import Window, nats_of_windows
from hfgpt.evaluation.loading import Loaded, load
from hfgpt.evaluation.strided import strided_windows
from hfgpt.files import public_name
from hfgpt.fingerprint import weights_sha256
from hfgpt.inference import evaluating
from hfgpt.tokenization import encode_texts, start_token

STEP = "filter: perplexity"
REASON = "perplexity: unlikely text"
# A document is judged by its beginning: 1,024 tokens are enough, and a book takes no longer than a page.
TOKENS_SCORED = 1_024
CHARACTERS_READ = 16 * TOKENS_SCORED
BATCH_SIZE = 8
WINDOWS_SORTED = 16 * BATCH_SIZE  # by their length, so that short documents share a batch


def drop_unlikely(
    documents: Dataset, passport: Passport, *, model: str, sigmas: float = 3.0, dropped: DroppedDocuments | None = None
) -> Dataset:
    """Drop documents whose log-perplexity per token is more than `sigmas` standard deviations above the mean of all documents.

    Args:
        model: folder or Hub id of any causal language model; its tokenizer may differ from that of the rows.
        dropped: receives the dropped documents.
    Raises: FileNotFoundError and ValueError, see `hfgpt.evaluation.loading.load`.
    Cost: one forward pass over at most `TOKENS_SCORED` tokens of each document. Memory: that of the model, and 8 bytes per
        document.
    """
    start = time.perf_counter()
    loaded = load(model, task="text-generation")
    scores = log_perplexities(loaded, documents)
    known = scores[np.isfinite(scores)]
    mean, deviation = (float(known.mean()), float(known.std())) if len(known) else (math.nan, math.nan)
    bound = mean + sigmas * deviation
    unlikely = scores > bound  # False for a document without a token to score
    if dropped is not None:
        for index in np.flatnonzero(unlikely):
            dropped.add(documents[int(index)], step=STEP, reason=REASON)
    kept = np.flatnonzero(~unlikely)
    left = select(documents, kept.tolist())
    passport.record(
        STEP,
        len(documents),
        len(kept),
        start,
        bytes_in=text_bytes(documents),
        bytes_out=text_bytes(left),
        reasons={REASON: len(documents) - len(kept)} if len(kept) < len(documents) else {},
        settings={
            "perplexity_model": public_name(model),
            "weights_sha256": weights_sha256(loaded.model),
            "perplexity_sigmas": sigmas,
            "tokens_scored": TOKENS_SCORED,
        },
        nats_per_token={"mean": mean, "standard_deviation": deviation, "bound": bound, "documents": len(known)},
    )
    return left


def log_perplexities(loaded: Loaded, documents: Dataset) -> np.ndarray:
    """Nats per token of the first `TOKENS_SCORED` tokens of each document, NaN for a document without a token to score.

    A document begins after the tokenizer's `start_token`; without one, its first token is not scored.
    """
    nats, tokens = np.zeros(len(documents)), np.zeros(len(documents))
    with evaluating(loaded.model), tqdm(total=len(documents), desc=STEP, unit=" documents") as progress:
        pending: list[tuple[Window, int]] = []
        for window, index in _windows(loaded, documents):
            pending.append((window, index))
            if len(pending) == WINDOWS_SORTED:
                _score(loaded, pending, nats, tokens)
                pending = []
                progress.update(index - progress.n)
        _score(loaded, pending, nats, tokens)
        progress.update(len(documents) - progress.n)
    return np.divide(nats, tokens, out=np.full(len(documents), np.nan), where=tokens > 0)


def _windows(loaded: Loaded, documents: Dataset) -> Iterator[tuple[Window, int]]:
    length = min(loaded.context(None), TOKENS_SCORED)
    prefix, index = start_token(loaded.tokenizer), 0
    for texts in text_batches(documents):
        for ids in encode_texts(loaded.tokenizer, [text[:CHARACTERS_READ] for text in texts]):
            ids = ids[:TOKENS_SCORED]
            for window in strided_windows(ids, prefix=prefix, context_length=length, stride=length):
                yield window, index
            index += 1


def _score(loaded: Loaded, pending: list[tuple[Window, int]], nats: np.ndarray, tokens: np.ndarray) -> None:
    pending = sorted(pending, key=lambda item: -len(item[0].inputs))
    for start in range(0, len(pending), BATCH_SIZE):
        batch = pending[start : start + BATCH_SIZE]
        for found, (window, index) in zip(nats_of_windows(loaded.model, [window for window, _ in batch]), batch, strict=True):
            nats[index] += found
            tokens[index] += len(window.targets)
