"""What text costs a language model, in nats: ids scored in batches; loss, perplexity and bits per byte.

Nats are summed over tokens and divided once, whatever the batches were.
"""

import inspect
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from transformers import PreTrainedModel

from hfgpt.evaluation.batches import padded


class Window(NamedTuple):
    """What the model reads, and what it has to predict: `targets` follow the last `len(targets)` of the inputs, one each."""

    inputs: list[int]
    targets: list[int]


@torch.no_grad()
def nats_of_windows(model: PreTrainedModel, windows: Sequence[Window]) -> list[float]:
    """Negative log-likelihood in nats, in float64, of each window's targets; the windows are one batch.

    Shorter windows are filled up on the right and get no mask: a token never sees what comes after it, so nothing changes for it.
    Cost: of the logits, the positions that are scored in any of the windows.
    """
    ids, _ = padded([window.inputs for window in windows], device=model.device)
    first = min(len(window.inputs) - len(window.targets) for window in windows)
    keep = {"logits_to_keep": ids.shape[1] - first} if takes(model, "logits_to_keep") else {}
    logits = model(input_ids=ids, use_cache=False, **keep).logits
    first = ids.shape[1] - logits.shape[1]  # 0 for a model that gives all of them anyway
    results = []
    for row, window in enumerate(windows):
        start = len(window.inputs) - len(window.targets) - first
        targets = torch.tensor(window.targets, device=logits.device)
        # float32 per token, float64 for their sum: thousands of terms would cost digits otherwise.
        losses = torch.nn.functional.cross_entropy(logits[row, start : start + len(targets)].float(), targets, reduction="none")
        results.append(losses.double().sum().item())
    return results


def nats_and_tokens(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Per row, the negative log-likelihood of its labels in nats, and how many labels there were.

    Args: `logits` (B, T, V) in any dtype; `labels` (B, T), not shifted, -100 where nothing is predicted.
    Returns: (B, 2), float64 in effect: float32 sums of one row's float32 losses.
    Cost: one row's logits in float32 at a time, so the vocabulary may be large.
    """
    results = []
    for row_logits, row_labels in zip(logits, labels, strict=True):
        targets = row_labels[1:]
        loss = torch.nn.functional.cross_entropy(row_logits[:-1].float(), targets, ignore_index=-100, reduction="sum")
        results.append(torch.stack((loss, (targets != -100).sum().to(loss.dtype))))
    return torch.stack(results)


def language_modeling_metrics(nats: float, tokens: int, *, num_bytes: int | None = None) -> dict[str, float]:
    """Loss in nats per token, perplexity, and bits per byte where the bytes of the text are known.

    Args:
        nats: sum of the negative log-likelihoods of all predicted tokens.
        tokens: how many were predicted, the end of each document included.
        num_bytes: UTF-8 bytes of the text that these tokens spell. Only bits per byte compare across tokenizers.
    """
    loss = nats / tokens
    metrics = {"loss": loss, "perplexity": math.exp(loss) if loss < 700 else math.inf}
    if num_bytes is not None:
        metrics["bits_per_byte"] = nats / math.log(2) / num_bytes
    return metrics


def takes(model: PreTrainedModel, argument: str) -> bool:
    """Whether the model's `forward` takes this argument; that of a PEFT adapter does not say, its base's does."""
    innermost = getattr(model, "get_base_model", lambda: model)()
    return argument in inspect.signature(innermost.forward).parameters
