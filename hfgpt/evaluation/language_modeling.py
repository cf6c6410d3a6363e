"""Loss, perplexity and bits per byte: nats are summed over tokens and divided once, whatever the batches were."""

import math

import torch


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
