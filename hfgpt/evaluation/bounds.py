"""Limits for a model's folder, checked before anything is loaded: memory, kernels, tokenizer size, template time."""

import importlib.util
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import torch
from transformers import PreTrainedConfig

from hfgpt.arguments.options import KERNELS
from hfgpt.chat_templates import CHAT_STYLES
from hfgpt.errors import UserError
from hfgpt.evaluation.template_trial import render

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LARGEST_TOKENIZER_BYTES = 2**28  # for a tokenizer.json; one with 262,144 tokens has 33 MB
MOST_LAYERS = 10_000
TEMPLATE_SECONDS, TEMPLATE_BYTES = 1, 200 * 2**20


def check_kernel(config: PreTrainedConfig, name: str) -> None:
    """Refuse a config that requests its own attention kernel, which would be downloaded from the Hub and run. Raises: UserError."""
    asked = config._attn_implementation
    for one in asked.values() if isinstance(asked, Mapping) else [asked]:
        if one is not None and one not in KERNELS:
            raise UserError(
                f"the config.json of {name} requests the attention {one!r}, which would be code from the Hub; remove that key from "
                f"it ({', '.join(KERNELS[:3])} can be chosen on the command line)."
            )


def check_memory(config: PreTrainedConfig, make: Callable[[PreTrainedConfig], torch.nn.Module], what: str) -> None:
    """Refuse a config whose weights, two bytes each, are larger than all of this machine's memory. Raises: UserError.

    Args:
        make: makes the model; it is called with tensors on the meta device.
        what: the name of what has these sizes, for messages.
    """
    layers = getattr(config.get_text_config(), "num_hidden_layers", None) or 0
    if isinstance(layers, int) and layers > MOST_LAYERS:
        raise UserError(f"{what} has {layers:,} layers; at most {MOST_LAYERS:,} are allowed. Check its sizes.")
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            parameters = sum(tensor.numel() for tensor in make(config).parameters())
    except (ValueError, TypeError, KeyError, RuntimeError, ImportError):
        return  # nothing is known about third-party code, and loading reports errors in a config better
    memory = psutil.virtual_memory().total + psutil.swap_memory().total
    memory += sum(torch.cuda.get_device_properties(number).total_memory for number in range(torch.cuda.device_count()))
    if 2 * parameters > memory:
        raise UserError(
            f"{what} describes a model with {parameters:,} parameters, which needs {2 * parameters:,} bytes at two bytes each, but "
            f"this machine has {memory:,} bytes of memory. Check its sizes, or use a larger machine."
        )


def check_tokenizer_size(folder: Path) -> None:
    """Raises: UserError for a tokenizer.json that would fill the memory."""
    path = folder / "tokenizer.json"
    if path.is_file() and (size := path.stat().st_size) > LARGEST_TOKENIZER_BYTES:
        raise UserError(
            f"{path} has {size:,} bytes; at most {LARGEST_TOKENIZER_BYTES:,} are allowed, several times what the largest ones need."
        )


def check_template(tokenizer: "PreTrainedTokenizerBase", name: str) -> None:
    """Try a template that is not ours in a process with limited time and memory before running it in this one. Raises:
    UserError."""
    templates = tokenizer.chat_template
    for template in templates.values() if isinstance(templates, dict) else [templates]:
        if template is None or template in {style.template for style in CHAT_STYLES.values()}:
            continue
        tokens = tuple(sorted((key, str(value)) for key, value in tokenizer.special_tokens_map.items() if isinstance(value, str)))
        problem = _problem_of(template, tokens)
        if problem is not None:
            raise UserError(
                f"the chat template of {name} is refused: {problem}. A template is a program: get the files from a source you "
                f"trust, or delete chat_template from its tokenizer."
            )


@cache
def _problem_of(template: str, special_tokens: tuple[tuple[str, str], ...]) -> str | None:
    """Which limit a template exceeds on one conversation, or None."""
    found = [importlib.util.find_spec(name) for name in ("jinja2", "markupsafe")]  # the latter is a dependency of the former
    path = [str(Path(one.origin).parents[1]) for one in found if one is not None and one.origin is not None]
    result = render(template, dict(special_tokens), path=path, seconds=TEMPLATE_SECONDS, memory_bytes=TEMPLATE_BYTES)
    return result["error"] if result.get("bound") else None
