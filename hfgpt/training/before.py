"""What a base says before it is trained on, measured once per run."""

import json
from collections.abc import Callable
from pathlib import Path

from accelerate import PartialState

from hfgpt.files import write_json

BEFORE_FILE = "before.json"


def measured_once(folder: Path, measure: Callable[[], dict]) -> dict:
    """What `measure` says of the base, measured once per run: a run that goes on finds it in `before.json`."""
    path = folder / BEFORE_FILE
    if path.is_file():
        return json.loads(path.read_text(encoding="utf-8"))
    before = measure()
    if PartialState().is_main_process:
        write_json(path, before)
    return before
