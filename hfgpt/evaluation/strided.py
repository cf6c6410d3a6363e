"""How well a model predicts any text: every token exactly once, in overlapping windows, with memory independent of the text.

How a document of ten tokens is read with a context of 4 and a stride of 2 (`|` is the token that begins a text):

    |  0  1  2                     scores 0 1 2 3
          1  2  3  4               scores 4 5
                3  4  5  6         scores 6 7
                      5  6  7  8   scores 8 9

A token of a later window sees at least `context_length - stride + 1` and at most `context_length` tokens before it. With a stride
of the whole context, these are exactly the windows of lm-evaluation-harness.
Source: Radford et al. (2019), section 3.1; lm-evaluation-harness, `loglikelihood_rolling`.
"""

import hashlib
import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hfgpt.counting import counted
from hfgpt.data.reading import Source
from hfgpt.data.sources import ReadingOptions, identity, read_documents
from hfgpt.errors import UserError
from hfgpt.evaluation.language_modeling import Window, language_modeling_metrics, nats_of_windows
from hfgpt.evaluation.loading import Loaded
from hfgpt.evaluation.results import Result
from hfgpt.evaluation.seen_texts import seen_in_training
from hfgpt.files import public_name, sha256_of_file
from hfgpt.inference import evaluating
from hfgpt.tokenization import encode_texts, start_token

logger = logging.getLogger(__name__)

BATCHES_SORTED = 16  # the windows of this many batches are sorted by length, so that short documents share a batch


@dataclass
class TextScore:
    """The score of a text.

    Attributes:
        nats: summed negative log-likelihood of the scored tokens, in float64.
        tokens: how many were scored.
        num_bytes: UTF-8 bytes that these tokens encode.
        words: pieces of the text between spaces, the unit of perplexity in older papers.
        documents, empty: documents with and without a token to score.
        unspelled: documents that cannot be restored from their tokens; if there are any, bits per byte would be too low and are
            left out.
        policy: a sentence on how a document's first token is treated.
    """

    policy: str
    nats: float = 0.0
    tokens: int = 0
    num_bytes: int = 0
    words: int = 0
    documents: int = 0
    empty: int = 0
    unspelled: int = 0

    def metrics(self) -> dict[str, float]:
        """Loss in nats per token, perplexity, bits per byte if meaningful, perplexity per word."""
        metrics = language_modeling_metrics(self.nats, self.tokens, num_bytes=None if self.unspelled else self.num_bytes)
        if self.words:
            metrics["word_perplexity"] = language_modeling_metrics(self.nats, self.words)["perplexity"]
        return metrics


def strided_windows(ids: list[int], *, prefix: int | None, context_length: int, stride: int) -> Iterator[Window]:
    """The windows of one document; their targets, joined, are the document's ids (without the first if there is no prefix).

    Args:
        ids: token ids of the document only.
        prefix: id before the document; None leaves its first token unscored, because nothing precedes it.
        context_length: maximum inputs per window.
        stride: targets of every window after the first, 1..context_length.
    Raises: ValueError for a stride that would skip tokens.
    """
    if not 1 <= stride <= context_length:
        raise UserError(
            f"stride is {stride} and context_length is {context_length}; the stride must be between 1 and the context length."
        )
    sequence = ids if prefix is None else [prefix, *ids]
    last = len(sequence) - 1  # place of the last target
    end = min(context_length, last)
    if end < 1:
        return
    yield Window(sequence[:end], sequence[1 : end + 1])
    while end < last:
        scored = min(stride, last - end)
        end += scored
        yield Window(sequence[max(0, end - context_length) : end], sequence[end - scored + 1 : end + 1])


def score_text(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    documents: Iterable[dict[str, str]],
    *,
    context_length: int,
    stride: int,
    batch_size: int = 8,
    show_progress: bool = False,
) -> TextScore:
    """Score every token of `documents` (with `text`, `source`, `row_id`, as `hfgpt.data.sources` reads them) exactly once.

    A document begins after the tokenizer's `start_token`; without one, the first token is not scored and its bytes do not count.
    The end of a document is not scored. The text is encoded as plain text: nothing in it becomes a special token.

    Raises: ValueError for a text with fewer than 2 tokens, a stride that skips tokens, and logits that are not finite.
    Cost: tokens / stride windows of `context_length`, with the logits of `batch_size` windows at a time; memory for one document's
    tokens, because a document is encoded as a whole: cut in two, a BPE would split tokens differently at the border.
    """
    prefix = start_token(tokenizer)
    policy = (
        "the first token of a document is not scored: the tokenizer has no BOS and no EOS"
        if prefix is None
        else f"each document begins after {tokenizer.convert_ids_to_tokens(prefix)}"
    )
    score = TextScore(policy)
    pending: list[tuple[Window, str]] = []
    with evaluating(model), tqdm(desc="text", unit=" tokens", unit_scale=True, disable=None if show_progress else True) as progress:
        for window, place in _windows(documents, tokenizer, score, prefix, context_length=context_length, stride=stride):
            pending.append((window, place))
            if len(pending) == BATCHES_SORTED * batch_size:
                _score(model, pending, score, batch_size=batch_size, progress=progress)
                pending = []
        _score(model, pending, score, batch_size=batch_size, progress=progress)
    if score.tokens + (score.documents if prefix is None else 0) < 2:
        raise UserError(
            f"the text has {counted(score.tokens, 'tokens')} to score, in "
            f"{counted(score.documents + score.empty, 'documents')}; at least 2 are needed, so give more text."
        )
    return score


def evaluate_text(
    loaded: Loaded,
    sources: Sequence[Source],
    reading: ReadingOptions,
    *,
    context_length: int | None = None,
    stride: int | None = None,
    join_with: str | None = None,
    batch_size: int = 8,
) -> Result:
    """Loss, perplexity and bits per byte of any text.

    Args:
        context_length: maximum tokens the model reads at once; None means its full context.
        stride: as in `score_text`; None means half the context.
        join_with: joins all documents into one, with this between them; None keeps them separate.
    Raises: see `score_text` and `read_documents`; ValueError for a context longer than the model's.
    """
    context_length = loaded.context(context_length)
    stride = stride or max(context_length // 2, 1)
    name = ", ".join(source.name for source in sources)
    digest = hashlib.sha256()
    documents = _hashed(read_documents(sources, reading), digest)
    if join_with is not None:
        documents = iter([{"text": join_with.join(one["text"] for one in documents), "source": name, "row_id": "all"}])
    score = score_text(
        loaded.model,
        loaded.tokenizer,
        documents,
        context_length=context_length,
        stride=stride,
        batch_size=batch_size,
        show_progress=True,
    )
    logger.info(
        f"text: {counted(score.documents, 'documents')}, {counted(score.num_bytes, 'bytes')}, {counted(score.tokens, 'tokens')}; "
        f"{score.policy}; windows of {context_length:,} tokens, {stride:,} scored in each"
    )
    if score.unspelled:
        logger.warning(
            f"{counted(score.unspelled, 'documents')} cannot be restored from their tokens (an unknown word, lost whitespace), "
            f"so bits per byte are left out: they would be too low."
        )
    path = sources[0].path if len(sources) == 1 and reading.max_documents is None else None
    on_hub = [source.name.partition(":")[0] for source in sources if source.kind == "hub"]
    return Result(
        "language-modeling",
        dataset=", ".join(public_name(source.name) for source in sources),
        dataset_id=on_hub[0] if len(on_hub) == len(sources) == 1 else None,
        sha256=sha256_of_file(path) if path is not None else digest.hexdigest(),
        split=reading.hub_split if on_hub else None,
        seen_in_training=bool(seen_in_training(loaded.name, [identity(source, reading) for source in sources])),
        metrics=score.metrics(),
        settings={
            "context_length": context_length,
            "stride": stride,
            "first_token": score.policy,
            "text_documents": reading.text_documents,
        },
        counts={"num_documents": score.documents, "num_tokens": score.tokens, "num_bytes": score.num_bytes},
    )


def _hashed(documents: Iterable[dict[str, str]], digest) -> Iterator[dict[str, str]]:
    """Yield the documents, adding their texts to `digest`."""
    for document in documents:
        digest.update(document["text"].encode("utf-8") + b"\0")
        yield document


def _windows(documents, tokenizer, score: TextScore, prefix, *, context_length, stride) -> Iterator[tuple[Window, str]]:
    for document in documents:
        text = document["text"]
        (ids,) = encode_texts(tokenizer, [text])
        if len(ids) + (prefix is not None) < 2:
            score.empty += 1
            continue
        score.documents += 1
        score.words += len(text.split())
        score.num_bytes += len(text.encode("utf-8")) - (0 if prefix is not None else _bytes_of_first(tokenizer, ids, text))
        score.unspelled += tokenizer.decode(ids, clean_up_tokenization_spaces=False) != text
        place = f"{document.get('source', 'the text')}, {document.get('row_id', score.documents)}"
        for window in strided_windows(ids, prefix=prefix, context_length=context_length, stride=stride):
            yield window, place


def _bytes_of_first(tokenizer, ids: list[int], text: str) -> int:
    first = tokenizer.decode(ids[:1], clean_up_tokenization_spaces=False)
    return len((first if text.startswith(first) else text[0]).encode("utf-8"))  # part of a character counts as all of it


def _score(model, pending: list[tuple[Window, str]], score: TextScore, *, batch_size: int, progress) -> None:
    pending = sorted(pending, key=lambda item: -len(item[0].inputs))
    for start in range(0, len(pending), batch_size):
        batch = pending[start : start + batch_size]
        results = nats_of_windows(model, [window for window, _ in batch])
        for nats, (window, place) in zip(results, batch, strict=True):
            if not math.isfinite(nats):
                raise UserError(
                    f"the model gives {nats} nats to a window of {place}; finite numbers are needed: did its training diverge, or "
                    "is the dtype too small? Try --dtype float32."
                )
            score.nats += nats
            score.tokens += len(window.targets)
            progress.update(len(window.targets))
