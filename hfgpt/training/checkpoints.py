"""The checkpoints of a run: written completely or not at all, identified by their manifests, and verified before a run resumes from
one."""

import json
import logging
import os
import platform
import shutil
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import accelerate
import torch
import transformers
from transformers import TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME

from hfgpt.artifacts import step_of
from hfgpt.errors import UserError
from hfgpt.files import sha256_of_file, write_json
from hfgpt.training.decisions import decided_by_the_first
from hfgpt.training.energy import processor_name

logger = logging.getLogger(__name__)

MANIFEST_FILE = "manifest.json"  # a checkpoint's last file
FORMAT = 1


def checkpoint_of(folder: Path, step: int) -> Path:
    """The folder of the checkpoint of a step."""
    return folder / f"checkpoint-{step}"


def newest_whole_checkpoint(folder: Path, *, run: str | None) -> Path | None:
    """The newest checkpoint whose bytes are exactly those that were saved; skipped ones are reported with the reason.

    Called in every process; only the first one reads the disk.

    Args: `run` is the ID that its manifest must have; None accepts any run.
    Raises: UserError if checkpoints are complete but the best one, which they would need at the end, is not.
    Cost: reads the checkpoint, and the best one, at the speed of SHA-256 (1 to 2 GB per second).
    """
    return decided_by_the_first(lambda: _newest(folder, run=run))


def _newest(folder: Path, *, run: str | None) -> Path | None:
    needy: tuple[Path, str] | None = None  # complete, but its best checkpoint is not
    for path in _by_step(folder):
        fault = why_not_whole(path, run=run)
        if fault is None and (fault := _why_best_not_whole(path)) is not None:
            needy = needy or (path, fault)
        if fault is None:
            return path
        logger.warning(f"{path} is skipped: {fault}.")
    if needy is not None:
        path, fault = needy
        raise UserError(
            f"{folder} has no checkpoint from which the run could resume exactly: {fault}. Give --resume {path} to continue "
            f"without it (the best state from there on is kept), or --overwrite true to train again from the start."
        )
    return None


def whole_checkpoints(folder: Path, *, run: str) -> list[Path]:
    """The checkpoints of a run by step whose files are all present with the right size; their bytes are not read."""
    return [path for path in reversed(_by_step(folder)) if why_not_whole(path, run=run, hashed=False) is None]


def _by_step(folder: Path) -> list[Path]:
    """Everything named like a checkpoint, the newest first; names without a step come last."""
    return sorted(folder.glob("checkpoint-*"), key=step_of, reverse=True)


def why_not_whole(checkpoint: Path, *, run: str | None, hashed: bool = True) -> str | None:
    """What is wrong with something named like a checkpoint; None if it is complete.

    Args: as for `newest_whole_checkpoint`; with `hashed` False, only sizes are compared.
    """
    if checkpoint.is_symlink():
        return "it is a link"
    if not checkpoint.exists():
        return "it does not exist"
    if not checkpoint.is_dir():
        return "it is not a folder"
    try:
        if not any(checkpoint.iterdir()):
            return "it is empty"
        if not (checkpoint / MANIFEST_FILE).is_file():
            return f"{MANIFEST_FILE}, which is written last, is missing"
        manifest = read_manifest(checkpoint)
        if manifest is None:
            return f"{MANIFEST_FILE} is unreadable"
        if checkpoint != checkpoint_of(checkpoint.parent, manifest["step"]):
            return f"{MANIFEST_FILE} says it belongs to step {manifest['step']}"
        if run is not None and manifest["run"] != run:
            return "it belongs to another run"
        for name, saved in manifest["files"].items():
            path = checkpoint / name
            if not path.is_file():
                return f"{name} is missing"
            if (size := path.stat().st_size) != saved["bytes"]:
                return f"{name} has {size:,} bytes, but {saved['bytes']:,} were saved"
            if hashed and sha256_of_file(path) != saved["sha256"]:
                return f"{name} has changed since it was saved (SHA-256)"
    except OSError as error:
        return f"{Path(error.filename or checkpoint).name} cannot be read ({error.strerror})"
    return None


def read_manifest(checkpoint: Path) -> dict[str, Any] | None:
    """The manifest of a checkpoint; None if it is not in our format."""
    try:
        manifest = json.loads((checkpoint / MANIFEST_FILE).read_text(encoding="utf-8"))
        known = manifest["format"] == FORMAT and isinstance(manifest["run"], str) and isinstance(manifest["environment"], dict)
        sizes = [(one["bytes"] + 0, one["sha256"] + "") for one in manifest["files"].values()]
        return manifest if known and sizes and type(manifest["step"]) is int else None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _why_best_not_whole(checkpoint: Path) -> str | None:
    """What is wrong with the best checkpoint, which a run resumed from this one may need at the end."""
    state = json.loads((checkpoint / TRAINER_STATE_NAME).read_text(encoding="utf-8"))
    if not (state.get("best_model_checkpoint") and state.get("best_global_step")):
        return None
    best = checkpoint_of(checkpoint.parent, state["best_global_step"])
    if best == checkpoint:
        return None
    fault = why_not_whole(best, run=None)
    return fault and f"it needs {best.name}, the best one so far, but {fault}"


def environment(args: TrainingArguments) -> dict[str, object]:
    """What may change the exact bits of training besides its arguments: libraries, machine, and number of processes."""
    on_cpu = args.device.type == "cpu"
    cpu = f"{processor_name()}, {torch.backends.cpu.get_cpu_capability()}"  # with the instruction set that torch uses
    return {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "accelerate": accelerate.__version__,
        "python": platform.python_version(),
        "machine": cpu if on_cpu else torch.cuda.get_device_name() if torch.cuda.is_available() else args.device.type,
        "threads": torch.get_num_threads() if on_cpu else None,
        "world_size": args.world_size,
        "per_device_train_batch_size": args.per_device_train_batch_size,
        "gradient_accumulation_steps": args.gradient_accumulation_steps,
    }


def manifest_head(args: TrainingArguments, *, run: str, step: int) -> dict[str, object]:
    """What a manifest says about a checkpoint besides its files."""
    return {"format": FORMAT, "run": run, "step": step, "world_size": args.world_size, "environment": environment(args)}


class StagedCheckpoint:
    """A checkpoint being written, in `.checkpoint-STEP/` beside the others, where nothing mistakes it for a finished one.

    Attributes:
        checkpoint: the path it gets once it is complete.
        place: the folder to write it in, whose name is `checkpoint.name`.
    """

    def __init__(self, checkpoint: Path):
        self.checkpoint = checkpoint
        self._around = checkpoint.with_name(f".{checkpoint.name}")
        self.place = self._around / checkpoint.name
        self._sealed: dict[Path, Future[dict[str, Any]]] = {}
        self._sealer = ThreadPoolExecutor(1)

    def begin(self) -> None:
        """Make the folder. Raises: OSError if that fails."""
        shutil.rmtree(self._around, ignore_errors=True)
        self._around.mkdir()  # without parents: an output folder that has vanished is not recreated
        self.place.mkdir()

    def seal(self) -> None:
        """Hash and sync the files written so far, which no longer change, while others are being written."""
        for path in sorted(self.place.rglob("*")):
            if path.is_file() and path not in self._sealed:
                self._sealed[path] = self._sealer.submit(_seal, path)

    def publish(self, head: dict[str, object], *, then: Callable[[], None]) -> Future[int]:
        """Rename the checkpoint to its final name once its files and the manifest are on disk, while training continues.

        A damaged one of that name is replaced.

        Args: `head` is the manifest without its list of files; `then` is called once the checkpoint exists.
        Returns: the total bytes of its files, or the error.
        """
        self.seal()
        published = self._sealer.submit(self._publish, head, then)
        self._sealer.shutdown(wait=False)
        return published

    def _publish(self, head: dict[str, object], then: Callable[[], None]) -> int:
        try:
            files = {path.relative_to(self.place).as_posix(): future.result() for path, future in self._sealed.items()}
            write_json(self.place / MANIFEST_FILE, {**head, "files": files})
            for folder in [*(path for path in self.place.rglob("*") if path.is_dir()), self.place]:
                _sync_folder(folder)
            if self.checkpoint.is_symlink() or self.checkpoint.exists():
                self.checkpoint.rename(self._around / "replaced")
            self.place.rename(self.checkpoint)
            _sync_folder(self.checkpoint.parent)
        finally:
            shutil.rmtree(self._around, ignore_errors=True)
        then()
        return sum(one["bytes"] for one in files.values())

    def discard(self) -> None:
        """Remove the remains of one that is not published."""
        self._sealer.shutdown(cancel_futures=True)
        shutil.rmtree(self._around, ignore_errors=True)


def _seal(path: Path) -> dict[str, Any]:
    with path.open("r+b") as file:  # Windows flushes only files that are open for writing
        os.fsync(file.fileno())
    return {"bytes": path.stat().st_size, "sha256": sha256_of_file(path)}


def _sync_folder(folder: Path) -> None:
    if os.name != "nt":  # where folders cannot be opened
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def rotate(folder: Path, *, run: str, keep: int | None, newest: int, best: int | None) -> None:
    """Remove the oldest complete checkpoints of a run except `keep` of them, never the newest or the best one.

    Anything that is not a complete checkpoint of this run, or belongs to a later step, is neither counted nor removed.

    Args: `newest` and `best` are steps.
    """
    if not keep or keep < 1:
        return
    steps = [step for path in whole_checkpoints(folder, run=run) if (step := step_of(path)) <= newest]
    surplus = [step for step in steps if step not in (newest, best)]
    for step in surplus[: max(0, len(steps) - keep)]:
        _remove(checkpoint_of(folder, step))


def remove_checkpoints(folder: Path) -> None:
    """Remove all checkpoints of a run that no longer needs them, and what a killed process left behind while doing so."""
    for path in _by_step(folder):
        if path.is_dir() and not path.is_symlink():
            _remove(path)
    remove_staged(folder)


def _remove(checkpoint: Path) -> None:
    """Remove a checkpoint; if killed halfway, no partial one remains."""
    put_aside = checkpoint.with_name(f".{checkpoint.name}")
    try:
        checkpoint.rename(put_aside)
        shutil.rmtree(put_aside)
    except OSError as error:
        logger.warning(f"{checkpoint} is no longer needed but cannot be removed ({error.strerror}).")


def remove_staged(folder: Path) -> None:
    """Remove the remains of checkpoints that were being written or removed when a process was killed."""
    for path in folder.glob(".checkpoint-*"):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
