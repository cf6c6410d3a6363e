"""The state of an optimizer, a schedule or random numbers in files that execute nothing when read: safetensors and JSON.

`torch.save` writes pickles, which can name any function to call.
"""

import json
import random
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from hfgpt.errors import UserError

Tensors = dict[int, tuple[str, torch.Tensor]]  # by id(): the name in the file, and the tensor


def save_state(path: Path, state: object) -> None:
    """Write tensors in nested dictionaries, lists and tuples, along with numbers, strings and None.

    A tensor that occurs in several places is written once. Raises: UserError for anything else.
    """
    tensors: Tensors = {}
    described = json.dumps(_described(state, "state", tensors))
    content = {name: tensor.detach().contiguous() for name, tensor in tensors.values()}
    save_file(content, path, metadata={"state": described})


def load_state(path: Path) -> Any:
    """What `save_state` wrote, bit for bit, on the CPU."""
    with safe_open(path, framework="pt") as file:
        # Copied: the tensors are mapped from the file, which may be removed, truncated or changed while the run continues.
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118  (not a dictionary)
        return _restored(json.loads(file.metadata()["state"]), tensors)


def _described(value: object, name: str, tensors: Tensors) -> object:
    """The representation of a value in JSON, which has neither tuples nor numeric keys."""
    if isinstance(value, torch.Tensor):
        name, _ = tensors.setdefault(id(value), (name, value))
        # A different axis order can mean a different summation order in a matrix product.
        return {"tensor": name, "stride": None if value.is_contiguous() else value.stride()}
    if isinstance(value, dict):
        return {"dict": [[key, _described(one, f"{name}.{key}", tensors)] for key, one in value.items()]}
    if isinstance(value, (list, tuple)):
        items = [_described(one, f"{name}.{number}", tensors) for number, one in enumerate(value)]
        return {"tuple" if isinstance(value, tuple) else "list": items}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise UserError(f"{name} is a {type(value).__name__}, which a checkpoint cannot store without a pickle; use another optimizer.")


def _restored(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    if not isinstance(value, dict):
        return value
    if "tensor" in value:
        tensor = tensors[value["tensor"]]
        if value["stride"] is not None and tensor.stride() != tuple(value["stride"]):
            tensors[value["tensor"]] = tensor.new_empty_strided(tensor.shape, value["stride"]).copy_(tensor)
        return tensors[value["tensor"]]
    ((kind, items),) = value.items()
    if kind == "dict":
        return {key: _restored(one, tensors) for key, one in items}
    return (tuple if kind == "tuple" else list)(_restored(one, tensors) for one in items)


def random_state(device: torch.device) -> dict[str, Any]:
    """The state of all random number generators of this process: Python's, NumPy's, torch's, and those of its GPU."""
    name, keys, *rest = cast(Any, np.random.get_state(legacy=True))
    state = {"python": random.getstate(), "numpy": (name, keys.tolist(), *rest), "cpu": torch.get_rng_state()}
    if device.type != "cpu":
        state["device"] = torch.get_device_module(device).get_rng_state()
    return state


def set_random_state(state: dict[str, Any], device: torch.device) -> None:
    """Restore the random number generators from `random_state`."""
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["cpu"])
    if "device" in state and device.type != "cpu":
        torch.get_device_module(device).set_rng_state(state["device"])
