"""What every run shares, from its folder to its end: claim the folder, train or go on, leave together."""

import ctypes
import json
import logging
import platform
import shutil
import sys
import tempfile
import zipfile
from concurrent.futures import Future
from pathlib import Path

import psutil
import torch
import yaml
from accelerate import PartialState
from safetensors import SafetensorError, safe_open
from transformers import Trainer
from transformers.trainer import TRAINING_ARGS_NAME
from transformers.trainer_utils import HubStrategy
from transformers.utils.hub import PushInProgress, hf_api

from hfgpt.data.passport import PASSPORT_NAME, Passport
from hfgpt.errors import UserError
from hfgpt.evaluation.language_modeling import nats_and_tokens
from hfgpt.hub.artifacts import identify
from hfgpt.hub.card import CARD_NAME, write_card
from hfgpt.hub.card_settings import save_settings
from hfgpt.hub.export import export
from hfgpt.training.arguments import claim_output
from hfgpt.training.trainer_arguments import RunArguments

logger = logging.getLogger(__name__)

# May differ when a run goes on: they change what is shown or kept, not one bit of the model.
FREE_TO_CHANGE = {
    *("output_dir", "overwrite", "run_name", "report_to", "disable_tqdm", "logging_steps"),
    *("save_steps", "save_total_limit", "eval_steps", "per_device_eval_batch_size", "sample_prompts", "sample_tokens", "card"),
}
# Places of what the passport knows by its hashes: that is compared, not how they are spelled.
PLACES = {"dataset", "model", "sources", "validation_sources", "test_sources"}
RUN_FILE = "run.yaml"
METRICS_FILE = "metrics.json"
REPORT_FILE = "report.txt"  # written last: a folder that has it holds a finished run


class DiscreetTrainer(Trainer):
    """Trainer that neither writes nor pushes what is nobody's business.

    Trainer's own pickles all arguments beside every model, a Hub token in clear, and with `push_to_hub` uploads whatever lies in
    the output folder, the paths in run.yaml included, to a repository that everybody sees. Here no such pickle is left, a new
    repository is private unless `hub_private_repo` is false, and what is pushed is what recipes/publish.py would: the last
    checkpoint while the run goes on, and the folder of the result at its end. Trainer's draft of a card is not written.
    """

    def _save(self, output_dir=None, state_dict=None):
        token, self.args.hub_token = self.args.hub_token, None
        try:
            super()._save(output_dir, state_dict)
        finally:
            self.args.hub_token = token
        # Going on with a run does not read it: the arguments come from run.yaml and the command line.
        (Path(output_dir or self.args.output_dir) / TRAINING_ARGS_NAME).unlink(missing_ok=True)

    def save_model(self, output_dir=None, _internal_call=False):
        super().save_model(output_dir, _internal_call=True)  # without pushing: the metrics are not there yet

    def init_hf_repo(self, token=None, private=None):
        super().init_hf_repo(token, self.args.hub_private_repo is not False if private is None else private)

    def push_to_hub(self, commit_message="End of training", blocking=True, token=None, revision=None, private=None, **kwargs):
        if self.hub_model_id is None:
            self.init_hf_repo(token=token, private=private)
        if not self.is_world_process_zero():
            return None
        self._finish_current_push()
        job = self._push(Path(self.args.output_dir), commit_message, token=token, revision=revision)
        return job.result() if blocking else job

    def _push_from_checkpoint(self, checkpoint_folder):
        if not self.is_world_process_zero() or self.args.hub_strategy == HubStrategy.END:
            return
        if self.push_in_progress is not None and not self.push_in_progress.is_done():
            if not self.args.hub_always_push:
                return
            self._finish_current_push()
        job = self._push(Path(checkpoint_folder), f"Training in progress, step {self.state.global_step}")
        self.push_in_progress = PushInProgress([job])

    def _push(self, folder: Path, message: str, *, token: str | None = None, revision: str | None = None) -> Future:
        # Beside the output folder, where weights can be hard links, which stay when the checkpoint is deleted meanwhile.
        place = Path(self.args.output_dir).resolve()
        staged = tempfile.TemporaryDirectory(dir=place.parent, prefix=f".{place.name}-push-")
        try:
            export(identify(folder), Path(staged.name), repo_id=self.hub_model_id)
            job = hf_api().upload_folder(
                repo_id=self.hub_model_id,
                folder_path=staged.name,
                commit_message=message,
                token=token or self.args.hub_token,
                revision=revision or self.args.hub_revision,
                run_as_future=True,
            )
        except BaseException:
            staged.cleanup()
            raise

        def clean_up(job: Future) -> None:
            staged.cleanup()
            if not job.cancelled() and job.exception() is not None:
                logger.warning(f"push: {folder} did not get to {self.hub_model_id}: {job.exception()}")

        job.add_done_callback(clean_up)
        return job


class LanguageModelTrainer(DiscreetTrainer):
    """Trainer, with an evaluation that weighs every token alike and checkpoints that generate with a cache."""

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        inputs = self._prepare_inputs(inputs)
        labels = inputs.pop("labels")
        with torch.no_grad(), self.compute_loss_context_manager():
            logits = model(**inputs).logits
        # Two sums a row are all that is gathered, whatever the vocabulary; compute_metrics divides once, at the end.
        sums = nats_and_tokens(logits, labels)
        return None, sums, sums[:, 1]

    def _save(self, output_dir=None, state_dict=None):
        # Training runs without a cache, and Trainer notes that in the config; whoever loads the model wants one.
        config = self.accelerator.unwrap_model(self.model).config
        use_cache, config.use_cache = config.use_cache, True
        super()._save(output_dir, state_dict)
        config.use_cache = use_cache


def keep_freed_memory() -> None:
    """Have glibc keep freed memory for the next step, where it would give large blocks back to the kernel and fault them in again.

    The logits of one step are tens of MB, allocated and freed several times; the page faults cost a CPU run a tenth of its time.
    Measured: pretrain.py quickstart/pretrain.yaml --max_steps 40 on two cores, twice in turn: 8,472 and 8,768 tokens/s without,
    10,502 and 10,877 with, and 1,319 against 1,489 MiB; 2026-11-21.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(-4, 0)  # M_MMAP_MAX: take no block straight from the kernel
        libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: give back only above 2 GiB


def prepare_output(args: RunArguments, passport: Passport, *, recipe: str, data: str) -> Path | None:
    """Make the output folder ready and return the newest complete checkpoint in it, or None for a fresh start.

    The resolved run is written to `run.yaml`; that file alone repeats the run. The data's passport goes beside it. A run goes on
    only as the run that it was, on the data that it had.

    Args:
        recipe: file name of the recipe, for the line in `run.yaml` that says how to repeat the run.
        data: what the rows were read from, for the sentence that refuses others.
    Raises: ValueError where output_dir holds another run or foreign files; PermissionError where it cannot be written.
    """
    if args.process_index == 0:  # of several processes one writes, and the others wait for it
        _claim_run_folder(args, passport, recipe=recipe, data=data)
    PartialState().wait_for_everyone()
    return newest_complete_checkpoint(Path(args.output_dir))


def _claim_run_folder(args: RunArguments, passport: Passport, *, recipe: str, data: str) -> None:
    folder = Path(args.output_dir)
    claim_output(args.output_dir, overwrite=args.overwrite or (folder / RUN_FILE).is_file(), marker=RUN_FILE)
    if args.overwrite:
        shutil.rmtree(folder, ignore_errors=True)
    elif (folder / RUN_FILE).is_file():
        earlier = yaml.safe_load((folder / RUN_FILE).read_text(encoding="utf-8")) or {}
        not_compared = FREE_TO_CHANGE | (PLACES if (folder / PASSPORT_NAME).is_file() else set())
        changed = [
            f"{key} was {earlier.get(key, 'the default')}, is {args.resolved.get(key, 'the default')}"
            for key in sorted(set(earlier) | set(args.resolved))
            if key not in not_compared and earlier.get(key) != args.resolved.get(key)
        ]
        if changed:
            raise UserError(
                f"output_dir {folder} holds another run ({'; '.join(changed)}); give another output_dir, or --overwrite true to "
                "replace it."
            )
        if (folder / PASSPORT_NAME).is_file():
            before = Passport.load(folder)
            if before.base.get("sha256") != passport.base.get("sha256"):
                raise UserError(
                    f"the run in {folder} began with other weights of {passport.base.get('name')!r} (SHA-256 "
                    f"{before.base.get('sha256')}, now {passport.base.get('sha256')}); give another output_dir, or --overwrite "
                    "true to replace it."
                )
            if _contents(before) != _contents(passport):
                raise UserError(
                    f"the rows in {data} are not those that the run in {folder} began with; prepare the same data "
                    "again, give another output_dir, or --overwrite true to replace it."
                )
    folder.mkdir(exist_ok=True)
    text = f"# accelerate launch recipes/{recipe} run.yaml --output_dir ANOTHER repeats this run.\n"
    resolved = {key: value for key, value in args.resolved.items() if key not in ("overwrite", "hub_token")}
    (folder / RUN_FILE).write_text(text + yaml.safe_dump(resolved, allow_unicode=True, sort_keys=True), encoding="utf-8")
    passport.save(folder)
    save_settings(folder, args.card)
    if args.card and (folder / REPORT_FILE).is_file() and (folder / CARD_NAME).is_file():
        write_card(folder)  # of a run that is finished: its owner's words have changed


def _contents(passport: Passport) -> tuple:
    """What a passport says of the rows, without where their files lay."""
    inputs = [{key: value for key, value in one.items() if key != "name" or "sha256" not in one} for one in passport.inputs]
    settings = {key: value for key, value in passport.settings.items() if key not in ("sources", "tokenizer")}
    return inputs, settings, passport.tokenizer, passport.splits


def newest_complete_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint that a crash did not leave half-written; such ones are passed over with a warning."""
    checkpoints = [path for path in folder.glob("checkpoint-*") if path.name.rpartition("-")[2].isdigit()]
    for path in sorted(checkpoints, key=lambda path: int(path.name.rpartition("-")[2]), reverse=True):
        fault = _fault_of(path)
        if fault is None:
            return path
        logger.warning(f"{path} is not complete ({fault}); going back to the one before it.")
    return None


def _fault_of(checkpoint: Path) -> str | None:
    # Trainer writes trainer_state.json last, so a checkpoint with a readable one is whole unless a disk lost part of it.
    try:
        json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
        shards = [*checkpoint.glob("model*.safetensors"), *checkpoint.glob("adapter_model.safetensors")]
        for shard in sorted(shards) or [checkpoint / "model.safetensors"]:
            with safe_open(shard, framework="pt") as tensors:
                tensors.keys()
        for name in ("optimizer.pt", "scheduler.pt"):
            if not zipfile.is_zipfile(checkpoint / name):
                return f"{name} is missing or cut off"
    except FileNotFoundError as error:
        return f"{Path(error.filename or 'a file').name} is missing"
    except (ValueError, SafetensorError) as error:
        return f"unreadable: {error}"
    return None


def train_or_resume(trainer: Trainer, checkpoint: Path | None) -> bool:
    """Train to the end, from `checkpoint` where there is one; False where a signal stopped the run before it.

    A stopped run leaves a complete checkpoint; the same command goes on from it, bit for bit as if nothing had happened.
    """
    if checkpoint is not None:
        logger.info(f"resume: from {checkpoint}")
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    if trainer.state.global_step < trainer.state.max_steps:
        logger.info(
            f"stopped: at step {trainer.state.global_step:,} of {trainer.state.max_steps:,}; the same command goes on from there."
        )
        _leave_together(trainer)
        return False
    return True


def finished_report(args: RunArguments) -> str | None:
    """The report of a run that came to its end in this folder, or None."""
    path = Path(args.output_dir) / REPORT_FILE
    return path.read_text(encoding="utf-8") if path.is_file() else None


def part_company(trainer: Trainer) -> None:
    """The end of a finished run: push what it made, where that was asked for, and leave together."""
    if trainer.args.push_to_hub:
        trainer.push_to_hub()
    _leave_together(trainer)


def _leave_together(trainer: Trainer) -> None:
    # A process that exits while another still talks to it takes that one down with an abort.
    trainer.accelerator.wait_for_everyone()
    trainer.accelerator.end_training()


def peak_memory_bytes() -> int:
    """Most memory so far: of the GPU where there is one, else of this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset
    import resource  # Windows has no such module

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes, Linux KiB
