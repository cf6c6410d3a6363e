"""Export weights to the targets of recipes/convert.py, each checked and compared before anything is written."""

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
        source: the source, as the user wrote it; used in messages.
        output: the folder for the result; its name becomes the model's.
        dtype: the dtype of the written weights.
        gguf_type: how GGUF stores matrices.
    """

    source: str
    output: Path
    dtype: torch.dtype = torch.float32
    gguf_type: str = "f16"


@dataclass(frozen=True)
class Export:
    """An export that is ready to be written.

    Args:
        model: the model to write, or to put into the file; its logits are recorded beside it.
        kind: its architecture.
        num_bytes: the approximate size of its weights.
        write: writes it to an empty folder.
        differences: the largest measured differences of logits, by name.
        notes: what a user should know, one sentence each.
        next_command: the suggested next command, if it is not loading it with transformers.
    """

    model: PreTrainedModel
    kind: str
    num_bytes: int
    write: Callable[[Path], None]
    differences: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    next_command: str | None = None


def as_hfgpt(model: Model, tokenizer: PreTrainedTokenizerFast | None, options: ExportOptions) -> Export:
    """Our own class, with its code."""
    return _in_transformers(model, tokenizer, options, kind="hfgpt")


def as_native(model: Model, tokenizer: PreTrainedTokenizerFast | None, options: ExportOptions) -> Export:
    """The native twin in a transformers class. Raises: ValueError for a model without one, and if the two differ."""
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
        notes=[f"{type(twin).__name__} has no {dropouts}, which only matters for further training."] if dropouts else [],
    )


def _in_transformers(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast | None, options: ExportOptions, **facts: Any
) -> Export:
    for name, parameter in model.named_parameters():
        if not torch.isfinite(parameter.to(options.dtype)).all():
            dtype = str(options.dtype).removeprefix("torch.")
            raise UserError(
                f"{name} contains values up to {parameter.abs().max():.3g}, but the maximum of {dtype} is "
                f"{torch.finfo(options.dtype).max:.5g}; use --dtype float32 or bfloat16."
            )

    def write(folder: Path) -> None:
        cast(nn.Module, model).to(options.dtype)
        model.save_pretrained(folder)
        if tokenizer is not None:
            tokenizer.save_pretrained(folder)

    return Export(model, num_bytes=model.num_parameters() * options.dtype.itemsize, write=write, **facts)


def as_gguf(model: Model, tokenizer: PreTrainedTokenizerFast | None, options: ExportOptions) -> Export:
    """A GGUF file and Ollama's Modelfile. Raises: ValueError if llama.cpp cannot run it."""
    if tokenizer is None:
        raise UserError(f"GGUF includes the tokenizer, but none was found beside {options.source}; give one with --tokenizer.")
    if not isinstance(model, HfGptForCausalLM):
        raise UserError(f"{options.source} is a classifier, but llama.cpp only generates text; use --target native instead.")
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
    """A folder's name in a form that Ollama accepts for a model."""
    return re.sub(r"[^a-z0-9._-]+", "-", name.lower()).strip("-._") or "model"
