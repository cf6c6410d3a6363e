"""Weights out, to the targets of recipes/convert.py: each checked and compared before anything is written."""

import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from hfgpt.conversion.gguf_file import GGUF_BYTES, check_gguf, write_gguf
from hfgpt.conversion.ollama import modelfile
from hfgpt.conversion.weights_in import Model
from hfgpt.conversion.weights_out import dropped_dropouts, twin_kind, twin_of
from hfgpt.errors import UserError
from hfgpt.fingerprint import check_equal, logits_of, probe_rows
from hfgpt.model.modeling_hfgpt import HfGptForCausalLM


@dataclass(frozen=True)
class ExportOptions:
    """What a target may need to know.

    Args:
        source: what is converted, as the user wrote it; said in messages.
        output: the folder that the result will lie in; its name becomes the model's.
        dtype: of the weights that are written.
        gguf_type: how GGUF stores matrices.
    """

    source: str
    output: Path
    dtype: torch.dtype = torch.float32
    gguf_type: str = "f16"


@dataclass(frozen=True)
class Export:
    """What goes out.

    Args:
        model: what is written, or what is in it; its logits are recorded beside it.
        kind: what architecture that is.
        num_bytes: how large its weights will be, about.
        write: writes it into an empty folder.
        differences: by name, the largest differences of logits that were measured.
        notes: what a reader should know, one sentence each.
        next_command: what can be done with it, where that is not to load it with transformers.
    """

    model: PreTrainedModel
    kind: str
    num_bytes: int
    write: Callable[[Path], None]
    differences: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    next_command: str | None = None


def as_hfgpt(model: Model, tokenizer: PreTrainedTokenizerFast | None, options: ExportOptions) -> Export:
    """The class that we train, with its code."""
    return _in_transformers(model, tokenizer, options, kind="hfgpt")


def as_native(model: Model, tokenizer: PreTrainedTokenizerFast | None, options: ExportOptions) -> Export:
    """The twin in a class of transformers. Raises: ValueError for a model without one, and where the two differ."""
    twin = twin_of(model)
    rows = probe_rows(model)
    what = f"{type(model).__name__} and {type(twin).__name__}"
    difference = check_equal(logits_of(twin, rows), logits_of(model, rows), what=what)
    dropouts = " and no ".join(dropped_dropouts(model.config))
    return _in_transformers(
        twin,
        tokenizer,
        options,
        kind=twin_kind(model.config),
        differences={"difference_of_twin": difference},
        notes=[f"{type(twin).__name__} has no {dropouts}, which matters only to further training."] if dropouts else [],
    )


def _in_transformers(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast | None, options: ExportOptions, **facts: Any
) -> Export:
    def write(folder: Path) -> None:
        cast(nn.Module, model).to(options.dtype)
        model.save_pretrained(folder)
        if tokenizer is not None:
            tokenizer.save_pretrained(folder)

    return Export(model, num_bytes=model.num_parameters() * options.dtype.itemsize, write=write, **facts)


def as_gguf(model: Model, tokenizer: PreTrainedTokenizerFast | None, options: ExportOptions) -> Export:
    """A GGUF file and Ollama's Modelfile. Raises: ValueError for what llama.cpp cannot run."""
    if tokenizer is None:
        raise UserError(f"GGUF carries the tokenizer, and none was found beside {options.source}; give one with --tokenizer.")
    if not isinstance(model, HfGptForCausalLM):
        raise UserError(f"{options.source} is a classifier; llama.cpp generates text, so --target native is its way out.")
    notes = check_gguf(model.config, tokenizer)
    name = options.output.name

    def write(folder: Path) -> None:
        gguf_name = f"{name}-{options.gguf_type}.gguf"
        write_gguf(model, tokenizer, path=folder / gguf_name, gguf_type=options.gguf_type, name=name)
        text = modelfile(
            tokenizer,
            gguf_name=gguf_name,
            context_length=model.config.max_position_embeddings,
            generation_config=model.generation_config,
        )
        (folder / "Modelfile").write_text(text, encoding="utf-8")

    return Export(
        model,
        kind=twin_kind(model.config),
        num_bytes=model.num_parameters() * GGUF_BYTES[options.gguf_type],
        write=write,
        notes=notes,
        next_command=f"cd {shlex.quote(str(options.output))} && ollama create {shlex.quote(ollama_name(name))} -f Modelfile",
    )


def ollama_name(name: str) -> str:
    """A folder's name as Ollama takes it for a model."""
    return re.sub(r"[^a-z0-9._-]+", "-", name.lower()).strip("-._") or "model"
