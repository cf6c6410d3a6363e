"""Inference settings: evaluation mode, separate random numbers, full precision, greedy decoding."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedConfig, PreTrainedModel

GREEDY = dict(do_sample=False)  # always the most likely token
# The values with which these settings of a generation config change nothing; all of them only matter for sampling.
SAMPLING = dict(temperature=1.0, top_k=50, top_p=1.0, min_p=None, top_h=None, typical_p=1.0, epsilon_cutoff=0.0, eta_cutoff=0.0)


def make_savable(config: GenerationConfig) -> None:
    """Resolve contradictions of a loaded generation config, with which transformers would refuse to save it once it is changed.

    Settings for sampling without a word on `do_sample`, as in many older repositories, mean sampling. What is unused is dropped:
    such settings with `do_sample` false, settings for beams with a single one, and outputs that are not returned.
    """
    given = [name for name, neutral in SAMPLING.items() if getattr(config, name) not in (None, neutral)]
    if config.do_sample is None and given:
        config.do_sample = True
    unused = [] if config.do_sample else given
    if config.num_beams in (None, 1):
        unused = [*unused, "early_stopping", "length_penalty"]
    if not config.return_dict_in_generate:
        unused = [*unused, *config.extra_output_flags]
    if isinstance(config.pad_token_id, int) and config.pad_token_id < 0:  # the first Llamas' -1
        unused = [*unused, "pad_token_id"]
    for name in unused:
        setattr(config, name, None)


@contextmanager
def only_given_settings(model: torch.nn.Module) -> Iterator[None]:
    """Generate with the given settings alone; those left out would come from the model's own generation config.

    Such as a penalty for repetition, with which greedy decoding is not greedy.
    """
    modules: list[Any] = list(model.modules())  # of an adapted model, the one inside
    own = {module: module.generation_config for module in modules if "generation_config" in vars(module)}
    for module in own:
        module.generation_config = GenerationConfig()
    try:
        yield
    finally:
        for module, config in own.items():
            module.generation_config = config


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
