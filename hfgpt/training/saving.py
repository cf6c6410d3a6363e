"""How a run saves: a checkpoint is complete or absent, in all processes alike, and disk errors become clear messages."""

import copy
import logging
import shutil
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from accelerate.utils import gather_object
from peft import PeftModel
from transformers import PreTrainedModel, TrainingArguments
from transformers.trainer import SCALER_NAME, SCHEDULER_NAME, TRAINING_ARGS_NAME
from transformers.trainer_utils import SaveStrategy

from hfgpt.errors import UserError, sentence_of
from hfgpt.training.checkpoints import (
    StagedCheckpoint,
    checkpoint_of,
    manifest_head,
    remove_staged,
    rotate,
    whole_checkpoints,
    why_not_whole,
)
from hfgpt.training.sharding import ShardingTrainer, gathered, shard_state
from hfgpt.training.states import load_state, random_state, save_state, set_random_state

logger = logging.getLogger(__name__)

OPTIMIZER_FILE = "optimizer.safetensors"
SCHEDULER_FILE, SCALER_FILE = (str(Path(name).with_suffix(".safetensors")) for name in (SCHEDULER_NAME, SCALER_NAME))

Arguments = TypeVar("Arguments", bound=TrainingArguments)


def changed(args: Arguments, **values: object) -> Arguments:
    """A copy of a run's arguments with other values; the original is unchanged."""
    args = copy.copy(args)
    for name, value in values.items():
        setattr(args, name, value)
    return args


class SavingTrainer(ShardingTrainer):
    """Trainer whose checkpoints are written beside the others, hashed, synced to disk, and then published by one rename.

    They are Trainer's checkpoints plus a manifest, with safetensors and JSON instead of Trainer's pickles. Training continues while
    they are hashed and synced, at most until the next save. An error in one process is raised in all of them; earlier checkpoints
    stay untouched, and nothing half-written remains.

    DeepSpeed writes optimizer and schedule in its own format.

    Measured: benchmarks/checkpointing.py, 18 MB, 15 rounds, one thread of a quiet machine: a save takes 1.00 times as long as
    Trainer's, and 2.2 times including the work done in parallel with training (Trainer's with an fsync: 1.7); steps between saves
    take 1.03 times as long (0.85 to 1.12); 2026-11-28.

    Attributes: `run_id` distinguishes the checkpoints of this run from those of others; the code that creates the run sets it.
    """

    run_id = ""
    _staged: StagedCheckpoint | None = None
    _unpublished: Path | None = None  # renamed once it is on disk
    _published: Future[int] | None = None  # in the process that renames it
    _faults: list[Exception]
    _last_bytes = 0
    saved_step: int | None = None  # of the last checkpoint that this process took part in

    @property
    def folder(self) -> Path:
        """The output folder."""
        return Path(cast(str, self.args.output_dir))

    def train(self, resume_from_checkpoint=None, **kwargs):
        if self.args.should_save:
            remove_staged(self.folder)
        try:
            return super().train(resume_from_checkpoint, **kwargs)
        finally:
            if self._published is not None:  # if training has failed
                wait([self._published])

    def _prepare_for_training(self, max_steps, train_dataloader, resume_from_checkpoint):
        prepared = super()._prepare_for_training(max_steps, train_dataloader, resume_from_checkpoint)
        if self.args.save_strategy != SaveStrategy.NO and not self.is_deepspeed_enabled:
            with self._in_all(self.folder):
                if self.args.should_save:
                    self._require_space_for_training(max_steps - self.state.global_step)
        return prepared

    def _require_space_for_training(self, steps: int) -> None:
        """Raises: UserError if the disk has no room for everything the run will write."""
        there = len(whole_checkpoints(self.folder, run=self.run_id))
        at_once = (self.args.save_total_limit or 1) + 1  # the oldest is removed once the newest is complete
        more, each = max(0, min(at_once - there, steps)), self.checkpoint_bytes()
        model = _bytes_of(cast(torch.nn.Module, self.model).parameters())
        needed, free = more * each + model, shutil.disk_usage(self.folder).free
        if free < needed:
            raise UserError(
                f"output_dir {self.folder} needs about {needed:,} bytes ({more} more checkpoints of {each:,}, the model {model:,})"
                f", but only {free:,} are free there; free some space, or give a smaller --save_total_limit or "
                f"another --output_dir."
            )

    def _get_output_dir(self, trial):
        return super()._get_output_dir(trial) if self._staged is None else str(self._staged.place.parent)

    def _save_checkpoint(self, model, trial):
        self._wait_for_checkpoint()
        args, state = self.args, self.state
        if not args.load_best_model_at_end and args.save_strategy != SaveStrategy.BEST:
            # Schedules that follow a metric have Trainer note the best step, which no checkpoint needs.
            state.best_global_step = state.best_model_checkpoint = None
        staged = StagedCheckpoint(checkpoint_of(self.folder, state.global_step))
        best = state.best_global_step or 0
        if best == state.global_step or (best and checkpoint_of(self.folder, best).is_dir()):
            state.best_model_checkpoint = str(checkpoint_of(self.folder, best))
        # Trainer would record the path where the checkpoint is being written, not its final one; rotate by folder times; and push
        # incomplete checkpoints.
        self.args = changed(args, save_strategy=SaveStrategy.NO, save_total_limit=None, push_to_hub=False)
        self._staged = staged
        try:
            with self._in_all(staged.checkpoint):
                if args.should_save:
                    self._require_space(self.checkpoint_bytes(), staged.checkpoint)
                    staged.begin()
            with self._in_all(staged.checkpoint):
                super()._save_checkpoint(model, trial)
        except BaseException:
            if args.local_process_index == 0:
                staged.discard()
            raise
        finally:
            self.args, self._staged = args, None
        self._unpublished, self.saved_step = staged.checkpoint, state.global_step
        if args.should_save:
            self._published = staged.publish(
                manifest_head(args, run=self.run_id, step=state.global_step),
                then=partial(
                    rotate, self.folder, run=self.run_id, keep=args.save_total_limit, newest=state.global_step, best=best or None
                ),
            )
        if args.push_to_hub:
            self._wait_for_checkpoint()
            self._push_from_checkpoint(str(staged.checkpoint))

    def _wait_for_checkpoint(self) -> None:
        """Wait until the last checkpoint is published; called in every process. Raises: any error in the meantime."""
        if (checkpoint := self._unpublished) is None:
            return
        published, self._unpublished, self._published = self._published, None, None
        with self._in_all(checkpoint):
            if published is not None:
                self._last_bytes = published.result()

    def _finalize_training(self, *args, **kwargs):
        self._wait_for_checkpoint()
        before, self.args = self.args, changed(self.args, save_total_limit=None)  # with 1, Trainer deletes the newest checkpoint
        try:
            return super()._finalize_training(*args, **kwargs)
        finally:
            self.args = before

    @contextmanager
    def _in_all(self, checkpoint: Path) -> Iterator[None]:
        """Raise an error of one process in all of them, as a clear message if the machine is to blame; also acts as a barrier."""
        self._faults = []
        try:
            yield
        except Exception as error:  # any error is raised below
            self._faults.append(error)
        fault = self._faults[0] if self._faults else None
        sentence = fault and self._sentence_of(fault, checkpoint)
        said = [one for one in gather_object([fault and (sentence or f"{type(fault).__name__}: {fault}")]) if one]
        if fault is not None and sentence is None:
            raise fault  # a bug, with its traceback
        if said:
            raise UserError(said[0]) from fault

    def _sentence_of(self, error: Exception, checkpoint: Path) -> str | None:
        if isinstance(error, UserError):
            return str(error)
        said = sentence_of(error, place=str(self.folder))
        if not self.folder.is_dir():
            said = f"the folder {self.folder} has disappeared; restore it."
        return said and (
            f"{checkpoint} is not saved (about {self.checkpoint_bytes():,} bytes): {said} Earlier checkpoints are intact; "
            f"afterwards, the same command resumes from the newest one."
        )

    def _require_space(self, num_bytes: int, checkpoint: Path) -> None:
        free = shutil.disk_usage(self.folder).free
        if free < num_bytes:
            raise UserError(
                f"{checkpoint} is not saved: it needs {num_bytes:,} bytes, but only {free:,} are free in {self.folder}; free some "
                f"space. Earlier checkpoints are intact; afterwards, the same command resumes from the newest one."
            )

    def checkpoint_bytes(self) -> int:
        """Roughly how many bytes the next checkpoint needs: as many as the last one, or those of the trained weights and their
        optimizer."""
        if self._last_bytes:
            return self._last_bytes
        model = cast(torch.nn.Module, self.model)
        saved = [one for one in model.parameters() if one.requires_grad or not isinstance(model, PeftModel)]
        groups = cast(Any, self.optimizer).param_groups if self.optimizer is not None else []
        # Muon stores one number per weight; AdamW and most others store two.
        kept = sum(_bytes_of(group["params"]) * (1 if group.get("method") == "muon" else 2) for group in groups)
        return _bytes_of(saved) + kept

    @contextmanager
    def _noted(self) -> Iterator[None]:
        """Delay an error in this process's writing until the others no longer need it to gather their shards."""
        try:
            yield
        except Exception as error:
            if self._staged is None:
                raise
            self._faults.append(error)

    def _save(self, output_dir=None, state_dict=None):
        token, self.args.hub_token = self.args.hub_token, None
        try:
            with self._noted(), nullcontext() if self._staged is None else _with_names_in_memory(self.model):
                super()._save(output_dir, state_dict)
        finally:
            self.args.hub_token = token
        # Resuming does not read it: the arguments come from run.yaml and the command line.
        (Path(output_dir or self.folder) / TRAINING_ARGS_NAME).unlink(missing_ok=True)

    def _save_optimizer_and_scheduler(self, output_dir):
        if self.is_deepspeed_enabled:
            return super()._save_optimizer_and_scheduler(output_dir)
        if self._staged is not None and self.args.should_save:
            self._staged.seal()  # the weights
        state = cast(Any, self.optimizer).state_dict()
        if self.is_fsdp_enabled:
            state = gathered(state, wanted=self.args.should_save)
        if self.args.should_save:
            with self._noted():
                save_state(Path(output_dir) / OPTIMIZER_FILE, state)
                save_state(Path(output_dir) / SCHEDULER_FILE, cast(Any, self.lr_scheduler).state_dict())

    def _load_optimizer_and_scheduler(self, checkpoint):
        if checkpoint is None or self.is_deepspeed_enabled:
            return super()._load_optimizer_and_scheduler(checkpoint)
        cast(Any, self.optimizer).load_state_dict(load_state(Path(checkpoint) / OPTIMIZER_FILE))
        cast(Any, self.lr_scheduler).load_state_dict(load_state(Path(checkpoint) / SCHEDULER_FILE))
        if self.is_fsdp_enabled:
            shard_state(cast(torch.optim.Optimizer, self.optimizer))

    def _save_scaler(self, output_dir):
        if self.args.should_save and self.accelerator.scaler is not None:
            with self._noted():
                save_state(Path(output_dir) / SCALER_FILE, self.accelerator.scaler.state_dict())

    def _load_scaler(self, checkpoint):
        if checkpoint is not None and self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(load_state(Path(checkpoint) / SCALER_FILE))

    def _random_file(self, checkpoint: str) -> Path:
        process = f"_{self.args.process_index}" if self.args.world_size > 1 else ""
        return Path(checkpoint) / f"rng_state{process}.safetensors"

    def _save_rng_state(self, output_dir):
        Path(output_dir).mkdir(parents=True, exist_ok=True)
        save_state(self._random_file(output_dir), random_state(self.args.device))

    def _load_rng_state(self, checkpoint):
        if checkpoint is None:
            return
        path = self._random_file(checkpoint)
        if path.is_file():
            set_random_state(load_state(path), self.args.device)
        else:
            logger.info(
                f"{path.name} is not in {checkpoint}, which was written by a different number of processes: dropout uses new "
                f"random numbers."
            )

    def _load_best_model(self):
        best = self.state.best_model_checkpoint
        if best is not None and (fault := why_not_whole(Path(best), run=None)) is not None:
            raise UserError(
                f"{best}, the best state of this run, has been damaged since it was saved: {fault}. Start the same command again; "
                f"it will say what it can resume from."
            )
        super()._load_best_model()


@contextmanager
def _with_names_in_memory(model: object) -> Iterator[None]:
    """Store tensors under the names that they have in memory, by which Trainer restores them from a checkpoint.

    A model that is not a checkpoint is stored with the published names of its architecture, which differ for some (GPT-NeoX's head,
    Mixtral's experts).
    """
    if not isinstance(model, PreTrainedModel):
        yield
        return
    model.save_pretrained = cast(Any, partial(model.save_pretrained, save_original_format=False))
    try:
        yield
    finally:
        del model.save_pretrained


def _bytes_of(tensors: Iterable[torch.Tensor]) -> int:
    return sum(one.numel() * one.element_size() for one in tensors)
