"""Files -> tensors, with checks; code in a file is never run."""

import pickle
import zipfile
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from hfgpt.errors import MissingFileError, UserError, require
from hfgpt.files import read_json

TORCH_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt")
# In this order: a folder with both has the same weights twice.
WEIGHT_FILES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")


def read_folder(folder: Path, names: Sequence[str] = WEIGHT_FILES) -> dict[str, torch.Tensor]:
    """The tensors of a transformers folder: safetensors or pytorch_model.bin, in one file or in shards.

    Args: `names` are the possible file names; the first existing one is read.
    Raises: FileNotFoundError for a folder without weights or with a shard missing; ValueError for files that cannot be read.
    """
    name = next((name for name in names if (folder / name).is_file()), None)
    if name is None:
        raise MissingFileError(f"{folder} has no weights; it must contain one of {', '.join(names)}.")
    if not name.endswith(".index.json"):
        return read_file(folder / name)
    weight_map = read_json(folder / name).get("weight_map")
    if not isinstance(weight_map, dict):
        raise UserError(f"{folder / name} has no weight_map, so it is not an index of shards; download the folder again.")
    missing = sorted({shard for shard in weight_map.values() if not (folder / shard).is_file()})
    if missing:
        raise MissingFileError(f"{folder} lacks the shards {', '.join(missing)} listed in {name}; download the folder again.")
    tensors: dict[str, torch.Tensor] = {}
    for shard in sorted(set(weight_map.values())):
        tensors |= read_file(folder / shard)
    return tensors


def read_file(path: Path) -> dict:
    """The contents of a .safetensors or torch.save file: tensors by name, or a dict around them.

    Raises: ValueError for a file that is truncated, of another kind, or contains code.
    """
    if path.suffix.lower() == ".safetensors":
        try:
            return load_file(path)
        except SafetensorError as error:
            raise UserError(f"{path} is not a complete safetensors file ({error}); download or save it again.") from None
    try:
        # mmap leaves the optimizer's tensors on the disk; only torch's zip format allows it.
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path) or None)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, IndexError) as error:
        reason = str(error)
        if isinstance(error, pickle.UnpicklingError) and any(word in reason for word in ("Unsupported", "weights_only", "GLOBAL")):
            raise UserError(
                f"{path} contains more than tensors, and the code it refers to was not run ({_culprit(reason)}); save only the "
                f"weights: torch.save(model.state_dict(), path)."
            ) from None
        raise UserError(f"{path} is not a complete torch.save file ({_first_line(error)}); save it again.") from None
    if not isinstance(loaded, dict):
        raise UserError(f"{path} contains a {type(loaded).__name__}; it must be a state dict (tensors by name).")
    return loaded


def _culprit(reason: str) -> str:
    # torch names it in the middle of a page of advice that includes turning the protection off.
    lines = [line.strip() for line in reason.splitlines() if "GLOBAL" in line or "Unsupported" in line]
    return lines[0].split(" was not an allowed")[0].removeprefix("WeightsUnpickler error: ") if lines else "code in it"


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


class _NothingButValues(pickle.Unpickler):
    """Only numbers, strings and containers: a pickle that refers to a class or function, which could run code, is refused."""

    def find_class(self, module: str, name: str):
        raise pickle.UnpicklingError(f"it refers to {module}.{name}")


def read_characters(path: Path) -> dict[str, int]:
    """The characters and their ids in nanoGPT's meta.pkl (`stoi`), read without running any code in the file.

    Raises: ValueError for any other file.
    """
    if not path.is_file():
        raise MissingFileError(f"{path} does not exist; check the spelling.")
    try:
        with path.open("rb") as file:
            meta = _NothingButValues(file).load()
        characters = {character: int(id) for character, id in meta["stoi"].items() if isinstance(character, str)}
    except Exception as error:  # a damaged pickle may raise anything
        if isinstance(error, OSError):
            raise
        raise UserError(
            f"{path} is not nanoGPT's meta.pkl (a dict with stoi) ({_first_line(error)}); give another tokenizer."
        ) from None
    return characters


def read_tensorflow(folder: Path) -> dict[str, torch.Tensor]:
    """The variables of a TensorFlow checkpoint folder, by name.

    Raises: ValueError without tensorflow and for a folder that it cannot read; FileNotFoundError for an incomplete one.
    """
    tensorflow = require("tensorflow", extra="tensorflow", purpose=f"{folder} is a TensorFlow checkpoint")
    if not (folder / "checkpoint").is_file():
        raise MissingFileError(f"{folder / 'checkpoint'} does not exist; the checkpoint is not complete without it.")
    try:
        reader = tensorflow.train.load_checkpoint(str(folder))
        return {name: torch.from_numpy(reader.get_tensor(name).copy()) for name in sorted(reader.get_variable_to_shape_map())}
    except (tensorflow.errors.OpError, ValueError, RuntimeError) as error:
        raise UserError(f"{folder} is not a complete TensorFlow checkpoint ({_first_line(error)}); download it again.") from None


def check_tensors(tensors: dict[str, torch.Tensor], shapes: dict[str, tuple[int, ...]], *, source: str, title: str) -> None:
    """Raises: ValueError that names every tensor that is missing, unexpected, of a wrong shape, or not a finite float tensor."""
    missing = [name for name in shapes if name not in tensors]
    unexpected = [name for name in tensors if name not in shapes]
    faults = [f"missing: {', '.join(missing)}"] if missing else []
    faults += [f"unexpected: {', '.join(unexpected)}"] if unexpected else []
    for name, shape in shapes.items():
        if name not in tensors:
            continue
        tensor = tensors[name]
        if tuple(tensor.shape) != tuple(shape):
            faults.append(f"{name} has the shape {tuple(tensor.shape)}, but must have {tuple(shape)}")
        elif not tensor.is_floating_point():
            faults.append(f"{name} has the dtype {tensor.dtype}, but must be a float")
        elif not torch.isfinite(tensor).all():
            faults.append(f"{name} contains values that are not finite")
    if faults:
        raise UserError(f"{source} does not match {title}: {'; '.join(faults)}.")
