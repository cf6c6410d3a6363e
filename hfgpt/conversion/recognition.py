"""Recognize the contents of a path or a Hub id from file names, a config, or the tensors' names and shapes."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from hfgpt.arguments.conversion import SOURCES
from hfgpt.conversion.checkpoints import TORCH_SUFFIXES, WEIGHT_FILES, read_file
from hfgpt.errors import MissingFileError, UserError
from hfgpt.files import read_json
from hfgpt.tables import resolve

SUFFIXES = (*TORCH_SUFFIXES, ".safetensors")
# Keys under which checkpoints store the weights beside an optimizer's state.
STATE_DICT_KEYS = ("model_state_dict", "state_dict", "model")
# What torch.compile, DDP, FSDP, activation checkpointing and Lightning add to the names of wrapped modules.
WRAPPERS = {"_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module"}
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt", "special_tokens_map.json",
                   "chat_template.jinja")  # fmt: skip


@dataclass(frozen=True)
class Contents:
    """The contents of a path, opened as far as needed to recognize its format.

    Args:
        path: a folder or a file.
        model_type: from a folder's config.json.
        checkpoint: the contents of the file, or of a folder's ckpt.pt.
        tensors: the state dict in it.
    """

    path: Path
    model_type: str | None = None
    checkpoint: dict[str, Any] = field(default_factory=dict)
    tensors: dict[str, torch.Tensor] = field(default_factory=dict)


def from_hub(source: str) -> Path:
    """The folder with a Hub repository's weights, config and tokenizer. Raises: FileNotFoundError if there is none."""
    problem = f"{source} is neither a file or folder here (looked from {Path.cwd()}) nor a model on the Hub"
    if Path(source).suffix.lower() in SUFFIXES or source.count("/") > 1 or source.startswith((".", "/", "~")):
        raise MissingFileError(f"{problem}; check the spelling.")
    described = ["config.json", "generation_config.json", *TOKENIZER_FILES]
    try:
        # Many repositories contain the same weights twice; the second kind is only requested if the first is missing.
        for weights in (["model.safetensors", "model-*.safetensors"], ["pytorch_model.bin", "pytorch_model-*.bin"]):
            indices = [name for name in WEIGHT_FILES if name.startswith(weights[0])]
            folder = Path(snapshot_download(source, allow_patterns=[*described, *weights, *indices]))
            if any((folder / name).is_file() for name in (*indices, weights[0])):
                return folder
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise MissingFileError(f"{problem} ({str(error).strip().splitlines()[0]}); check the spelling.") from None
    raise MissingFileError(f"{source} on the Hub has none of {', '.join(WEIGHT_FILES)}; give the path of a file.")


def recognise(path: Path) -> tuple[str, Contents]:
    """The format of a path, a key of `SOURCES`, and what was opened to recognize it. Raises: ValueError for any other content."""
    contents = _look_into(path)
    name = next((name for name in SOURCES if resolve(SOURCES[name]).recognises(contents)), None)
    if name is None:
        raise _unknown(contents)
    return name, contents


def _look_into(path: Path) -> Contents:
    if (path / "config.json").is_file():
        return Contents(path, model_type=read_json(path / "config.json").get("model_type"))
    file = path / "ckpt.pt" if path.is_dir() else path
    if (path / "hparams.json").is_file() or not file.is_file() or file.suffix.lower() not in SUFFIXES:
        return Contents(path)
    checkpoint = read_file(file)
    return Contents(path, checkpoint=checkpoint, tensors=tensors_of(checkpoint, file))


def _unknown(contents: Contents) -> UserError:
    path, tensors = contents.path, contents.tensors
    if (path / "config.json").is_file():
        return UserError(
            f"{path / 'config.json'} has the model_type {contents.model_type!r}; only 'gpt2' and 'hfgpt' can be converted, because "
            f"their architectures match ours."
        )
    if not tensors and path.is_dir():
        return MissingFileError(
            f"{path} has none of config.json (GPT-2, hfgpt), hparams.json (OpenAI) and ckpt.pt (nanoGPT); give the folder or the "
            f"file of a checkpoint."
        )
    if not tensors:
        return UserError(f"{path} is not a checkpoint; give a folder, or a file ending in {', '.join(SUFFIXES)}.")
    path = path / "ckpt.pt" if path.is_dir() else path
    if attention_shape(tensors):
        return UserError(f"{path} has GPT-2's weights without its config.json; give the folder with both.")
    shown = ", ".join(list(tensors)[:8]) + (", ..." if len(tensors) > 8 else "")
    return UserError(f"{path} does not contain a known kind of checkpoint (its tensors: {shown}); known are {', '.join(SOURCES)}.")


def attention_shape(tensors: dict[str, torch.Tensor]) -> tuple[int, ...] | None:
    """Rows and columns of the first block's joined projection under GPT-2's names; None if there is none."""
    name = next((name for name in tensors if name.endswith("h.0.attn.c_attn.weight")), None)
    return tuple(tensors[name].shape) if name is not None and tensors[name].ndim == 2 else None


def tensors_of(checkpoint: dict[str, Any], path: Path) -> dict[str, torch.Tensor]:
    """The state dict, bare or beside an optimizer's, without what wrappers add to the names.

    Raises: ValueError for anything other than tensors by name.
    """
    inner = next((checkpoint[key] for key in STATE_DICT_KEYS if isinstance(checkpoint.get(key), dict)), checkpoint)
    foreign = [str(name) for name, value in inner.items() if not (isinstance(name, str) and isinstance(value, torch.Tensor))]
    if foreign or not inner:
        what = f"besides tensors {', '.join(foreign)}" if foreign else "nothing"
        keys = ", ".join(repr(key) for key in STATE_DICT_KEYS)
        raise UserError(f"{path} contains {what}; it must be a state dict, bare or under one of the keys {keys}.")
    # A compiled model in DDP has the prefix module._orig_mod.; individually wrapped blocks have it inside their names.
    return {".".join(part for part in name.split(".") if part not in WRAPPERS): tensor for name, tensor in inner.items()}
