"""What a model's folder may ask for before anything is loaded: memory, kernels, a tokenizer's file, a template's time."""

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

LARGEST_TOKENIZER_BYTES = 2**28  # of a tokenizer.json; one of 262,144 tokens has 33 MB
MOST_LAYERS = 10_000
TEMPLATE_SECONDS, TEMPLATE_BYTES = 1, 200 * 2**20


def check_kernel(config: PreTrainedConfig, name: str) -> None:
    """Refuse a config that asks for an attention of its own: it would be fetched from the Hub, and run. Raises: UserError."""
    asked = config._attn_implementation
    for one in asked.values() if isinstance(asked, Mapping) else [asked]:
        if one is not None and one not in KERNELS:
            raise UserError(
                f"the config.json of {name} asks for the attention {one!r}, which would be code from the Hub; take that key out of "
                f"it ({', '.join(KERNELS[:3])} are chosen on the command line)."
            )


def check_memory(config: PreTrainedConfig, make: Callable[[PreTrainedConfig], torch.nn.Module], what: str) -> None:
    """Refuse a config whose weights, two bytes each, are larger than all of this machine's memory. Raises: UserError.

    Args:
        make: makes the model; it is called where tensors have no numbers.
        what: has these sizes.
    """
    layers = getattr(config.get_text_config(), "num_hidden_layers", None) or 0
    if isinstance(layers, int) and layers > MOST_LAYERS:
        raise UserError(f"{what} has {layers:,} layers; at most {MOST_LAYERS:,} are made. Check its sizes.")
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            parameters = sum(tensor.numel() for tensor in make(config).parameters())
    except (ValueError, TypeError, KeyError, RuntimeError, ImportError):
        return  # of foreign code nothing is known here, and what is wrong with a config, loading it says better
    memory = psutil.virtual_memory().total + psutil.swap_memory().total
    memory += sum(torch.cuda.get_device_properties(number).total_memory for number in range(torch.cuda.device_count()))
    if 2 * parameters > memory:
        raise UserError(
            f"{what} makes a model of {parameters:,} parameters, which takes {2 * parameters:,} bytes in two bytes each; this "
            f"machine has {memory:,} bytes of memory. Check its sizes, or take a larger machine."
        )


def check_tokenizer_size(folder: Path) -> None:
    """Raises: UserError for a tokenizer.json that would fill the memory."""
    path = folder / "tokenizer.json"
    if path.is_file() and (size := path.stat().st_size) > LARGEST_TOKENIZER_BYTES:
        raise UserError(
            f"{path} has {size:,} bytes; at most {LARGEST_TOKENIZER_BYTES:,} are read, several times what the largest need."
        )


def check_template(tokenizer: "PreTrainedTokenizerBase", name: str) -> None:
    """Try a template that is not ours in a process of little time and memory, before it is run in this one. Raises: UserError."""
    templates = tokenizer.chat_template
    for template in templates.values() if isinstance(templates, dict) else [templates]:
        if template is None or template in {style.template for style in CHAT_STYLES.values()}:
            continue
        tokens = tuple(sorted((key, str(value)) for key, value in tokenizer.special_tokens_map.items() if isinstance(value, str)))
        problem = _problem_of(template, tokens)
        if problem is not None:
            raise UserError(
                f"the chat template of {name} is refused: {problem}. A template is a program: take its files from a source that "
                "you trust, or delete chat_template from its tokenizer."
            )


@cache
def _problem_of(template: str, special_tokens: tuple[tuple[str, str], ...]) -> str | None:
    """Which bound a template of one conversation breaks, or None."""
    found = [importlib.util.find_spec(name) for name in ("jinja2", "markupsafe")]  # the latter is the former's
    path = [str(Path(one.origin).parents[1]) for one in found if one is not None and one.origin is not None]
    result = render(template, dict(special_tokens), path=path, seconds=TEMPLATE_SECONDS, memory_bytes=TEMPLATE_BYTES)
    return result["error"] if result.get("bound") else None
