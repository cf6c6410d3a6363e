"""Do two models compute the same? Measured on tokens, not read off their names."""

import hashlib

import torch
from transformers import PreTrainedModel

from hfgpt.errors import UserError
from hfgpt.evaluation.mode import evaluating

# Share of the largest logit: two float32 implementations of one function differ by less, in whatever order they add.
TOLERANCE = 1e-5


def probe_rows(model: PreTrainedModel, *, seed: int = 0) -> list[torch.Tensor]:
    """Three rows (1, T) of random token ids that the model takes; one by one, so that no padding is needed."""
    generator = torch.Generator().manual_seed(seed)
    # A classifier of ours reads no more than max_text_length, its twin what it is given.
    longest = min(64, getattr(model.config, "max_text_length", None) or model.config.max_position_embeddings)
    rows = [torch.randint(model.config.vocab_size, (1, T), generator=generator) for T in (longest, max(1, longest // 2), 1)]
    # No text holds the padding, and where one did, classifiers would not agree on its end.
    pad = model.config.pad_token_id
    return [row.masked_fill(row == pad, pad - 1 if pad else 1) for row in rows] if pad is not None else rows


def logits_of(model: PreTrainedModel, rows: list[torch.Tensor]) -> list[torch.Tensor]:
    """The logits of each row, without dropout; the model's mode is as before when this returns."""
    with evaluating(model):
        return [model(row.to(model.device)).logits.float().cpu() for row in rows]


def check_equal(first: list[torch.Tensor], second: list[torch.Tensor], *, what: str) -> float:
    """The largest difference of the logits of two float32 models over the same rows.

    Raises: ValueError where it is more than rounding; `what` says who was compared.
    """
    difference = max((ours - theirs).abs().max().item() for ours, theirs in zip(first, second))
    largest = max(theirs.abs().max().item() for theirs in second)
    allowed = TOLERANCE * max(1.0, largest)
    if not difference <= allowed:  # refuses nan as well
        raise UserError(
            f"the logits of {what} differ by up to {difference:.3g}; {allowed:.3g} is allowed, because both compute the same "
            f"function in float32 (largest logit {largest:.3g}). Nothing was written; please report it."
        )
    return difference


def tensor_sha256(tensor: torch.Tensor) -> str:
    """SHA-256 of a tensor's bytes as they are stored."""
    return hashlib.sha256(tensor.detach().contiguous().cpu().view(torch.uint8).numpy()).hexdigest()


def weights_sha256(model: PreTrainedModel) -> str:
    """SHA-256 of a model's body in float32: the same for a language model and for a classifier made of it, whatever the files.

    An adapter says by it which weights it was trained on. Cost: about a second for each 250 million parameters.
    """
    digest = hashlib.sha256()
    for name, parameter in sorted(model.base_model.named_parameters()):
        digest.update(f"{name} {tuple(parameter.shape)} {tensor_sha256(parameter.float())}\n".encode())
    return digest.hexdigest()
