"""Inference settings: evaluation mode, separate random numbers, full precision, greedy decoding."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from transformers import PreTrainedConfig, PreTrainedModel

# Always the most likely token. Explicit, because missing values would come from the model's own generation_config.
GREEDY = dict(do_sample=False, num_beams=1, temperature=1.0, top_k=50, top_p=1.0, repetition_penalty=1.0)


def longest_input(config: PreTrainedConfig) -> int | None:
    """The maximum tokens that a model with this config reads at once; None if its positions are unlimited, as in Bloom."""
    config = config.get_text_config()
    return getattr(config, "max_position_embeddings", None) or getattr(config, "max_seq_len", None)  # the latter is MPT's


@contextmanager
def isolated_random_state(seed: int):
    """Use separate random numbers; the surrounding random state is restored."""
    devices = range(torch.cuda.device_count()) if torch.cuda.is_available() else ()
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


@contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Turn off dropout and gradients; the mode of every module is restored afterwards."""
    modes = {module: module.training for module in model.modules()}  # a frozen base may be in a different mode from its adapter
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes.items():
            module.training = training


@contextmanager
def full_precision(model: PreTrainedModel) -> Iterator[None]:
    """Compute like anyone who loads the saved weights, without the mixed precision that accelerate adds to a trained model.

    In bfloat16, a text near the border between two labels may get the other one. FlashAttention does not support float32 and keeps
    its precision.
    """
    plain = getattr(model, "_original_forward", None)  # accelerate's name
    if plain is None or "flash" in (getattr(model.config, "_attn_implementation", None) or ""):
        yield
        return
    mixed, model.forward = model.forward, plain
    try:
        yield
    finally:
        model.forward = mixed
