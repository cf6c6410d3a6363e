"""The checkpoints of a run: which one to go on from, and whether a crash left it whole."""

import json
import logging
import shutil
import zipfile
from pathlib import Path

from safetensors import SafetensorError, safe_open

logger = logging.getLogger(__name__)


def newest_complete_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint that a crash did not leave half-written; such ones are passed over with a warning."""
    checkpoints = [path for path in folder.glob("checkpoint-*") if path.name.rpartition("-")[2].isdigit()]
    for path in sorted(checkpoints, key=lambda path: int(path.name.rpartition("-")[2]), reverse=True):
        reason = why_incomplete(path)
        if reason is None:
            return path
        logger.warning(f"{path} is not complete ({reason}); going back to the one before it.")
    return None


def why_incomplete(checkpoint: Path) -> str | None:
    """What a checkpoint lacks; None for a whole one.

    Trainer writes trainer_state.json last, so a checkpoint with a readable one is whole unless a disk lost part of it.
    """
    try:
        json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
        shards = [*checkpoint.glob("model*.safetensors"), *checkpoint.glob("adapter_model.safetensors")]
        for shard in sorted(shards) or [checkpoint / "model.safetensors"]:
            with safe_open(shard, framework="pt") as tensors:
                tensors.keys()
        # DeepSpeed has a folder of its own instead, and this file, which it writes last.
        optimizer = () if (checkpoint / "latest").is_file() else ("optimizer.pt",)
        for name in (*optimizer, "scheduler.pt"):
            if not zipfile.is_zipfile(checkpoint / name):
                return f"{name} is missing or cut off"
    except FileNotFoundError as error:
        return f"{Path(error.filename or 'a file').name} is missing"
    except (ValueError, SafetensorError) as error:
        return f"unreadable: {error}"
    return None


def remove_checkpoints(folder: Path) -> None:
    """Remove all checkpoints of a run that needs none any more."""
    for checkpoint in folder.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)


# Until checkpoints have manifests.


def newest_whole_checkpoint(folder: Path, *, run: str | None, last_step: int | None = None) -> Path | None:
    return newest_complete_checkpoint(folder)


def why_not_whole(checkpoint: Path, *, run: str | None) -> str | None:
    return why_incomplete(checkpoint)


def read_manifest(checkpoint: Path) -> dict | None:
    return None


def environment(args: object) -> dict[str, object]:
    return {}
