"""How a model is asked: in evaluation mode, with random numbers of its own, in full precision, greedily."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from transformers import PreTrainedModel

# The likeliest token, each time. Written out, because what is not said would come from the model's own generation_config.
GREEDY = dict(do_sample=False, num_beams=1, temperature=1.0, top_k=50, top_p=1.0, repetition_penalty=1.0)


@contextmanager
def isolated_random_state(seed: int):
    """Random numbers of our own; the surrounding stream goes on as if nothing had been drawn."""
    devices = range(torch.cuda.device_count()) if torch.cuda.is_available() else ()
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


@contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Dropout off and no gradients; the mode of every module is as before when this ends."""
    modes = {module: module.training for module in model.modules()}  # a frozen base may be in another mode than its adapter
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes.items():
            module.training = training


@contextmanager
def full_precision(model: PreTrainedModel) -> Iterator[None]:
    """Compute as whoever loads the saved weights does, without the mixed precision that accelerate puts around a trained model.

    In bfloat16 a text near the border of two labels gets the other one. FlashAttention knows no float32 and keeps its precision.
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
