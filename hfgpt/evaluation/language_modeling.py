"""The cost of text for a language model, in nats: ids scored in batches; loss, perplexity and bits per byte.

Nats are summed over tokens and divided once, regardless of the batches.
"""

import inspect
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hfgpt.data.passport import Passport
from hfgpt.evaluation.batches import padded


class Window(NamedTuple):
    """The model's inputs and what it has to predict: `targets` follow the last `len(targets)` of the inputs, one each."""

    inputs: list[int]
    targets: list[int]


@torch.no_grad()
def nats_of_windows(model: PreTrainedModel, windows: Sequence[Window]) -> list[float]:
    """Negative log-likelihood in nats, in float64, of each window's targets; the windows are one batch.

    Shorter windows are padded on the right without a mask: a token never sees what comes after it, so padding has no effect.
    Cost: logits for the positions that are scored in any of the windows.
    """
    ids, _ = padded([window.inputs for window in windows], device=model.device)
    first = min(len(window.inputs) - len(window.targets) for window in windows)
    keep = {"logits_to_keep": ids.shape[1] - first} if takes(model, "logits_to_keep") else {}
    logits = model(input_ids=ids, use_cache=False, **keep).logits
    first = ids.shape[1] - logits.shape[1]  # 0 for a model that returns all of them anyway
    results = []
    for row, window in enumerate(windows):
        start = len(window.inputs) - len(window.targets) - first
        targets = torch.tensor(window.targets, device=logits.device)
        # float32 per token, float64 for their sum: thousands of terms would otherwise lose digits.
        losses = torch.nn.functional.cross_entropy(logits[row, start : start + len(targets)].float(), targets, reduction="none")
        results.append(losses.double().sum().item())
    return results


def nats_and_tokens(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Per row, the negative log-likelihood of its labels in nats, and how many labels there were.

    Args: `logits` (B, T, V) in any dtype; `labels` (B, T), not shifted, -100 for positions that are not predicted.
    Returns: (B, 2): float32 sums of one row's float32 losses.
    Cost: the float32 logits of one row at a time, so the vocabulary may be large.
    """
    results = []
    for row_logits, row_labels in zip(logits, labels, strict=True):
        targets = row_labels[1:]
        loss = torch.nn.functional.cross_entropy(row_logits[:-1].float(), targets, ignore_index=-100, reduction="sum")
        results.append(torch.stack((loss, (targets != -100).sum().to(loss.dtype))))
    return torch.stack(results)


def language_modeling_metrics(nats: float, tokens: int, *, num_bytes: int | None = None) -> dict[str, float]:
    """Loss in nats per token, perplexity, and bits per byte if the bytes of the text are known.

    Args:
        nats: sum of the negative log-likelihoods of all predicted tokens.
        tokens: how many were predicted, including the end of each document.
        num_bytes: UTF-8 bytes of the text that these tokens encode. Only bits per byte are comparable across tokenizers.
    """
    loss = nats / tokens
    metrics = {"loss": loss, "perplexity": math.exp(loss) if loss < 700 else math.inf}
    if num_bytes is not None:
        metrics["bits_per_byte"] = nats / math.log(2) / num_bytes
    return metrics


def bytes_of(split: str, passport: Passport, tokenizer: PreTrainedTokenizerBase) -> int | None:
    """UTF-8 bytes of a split, for bits per byte; None if there is no such split or its tokens cannot reproduce its text.

    A tokenizer with an unknown token loses text, and bits per byte for text that it cannot reproduce would flatter it.
    """
    if split not in passport.splits or tokenizer.unk_token_id is not None:
        return None
    return passport.splits[split]["bytes"]


def takes(model: PreTrainedModel, argument: str) -> bool:
    """Whether the model's `forward` takes this argument; a PEFT adapter's `forward` does not tell, but its base's does."""
    innermost = getattr(model, "get_base_model", lambda: model)()
    return argument in inspect.signature(innermost.forward).parameters
