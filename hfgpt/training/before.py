"""Measurements of the base before training, taken once per run."""

import json
from collections.abc import Callable
from pathlib import Path

from accelerate import PartialState

from hfgpt.files import write_json

BEFORE_FILE = "before.json"


def measured_once(folder: Path, measure: Callable[[], dict]) -> dict:
    """The result of `measure` for the base, measured once per run: a resumed run finds it in `before.json`."""
    path = folder / BEFORE_FILE
    if path.is_file():
        return json.loads(path.read_text(encoding="utf-8"))
    before = measure()
    if PartialState().is_main_process:
        write_json(path, before)
    return before
