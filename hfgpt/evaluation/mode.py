"""A model at rest."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from transformers import PreTrainedModel


@contextmanager
def evaluating(model: PreTrainedModel) -> Iterator[None]:
    """Dropout off and no gradients; the mode of every module is as before when this ends."""
    modes = {module: module.training for module in model.modules()}  # a frozen base may be in another mode than its adapter
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes.items():
            module.training = training
