"""What every run shares, from its folder to its end: claim the folder, train or go on, leave together, say that it is finished."""

import ctypes
import json
import logging
import math
import platform
import shutil
import signal
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
from transformers import EarlyStoppingCallback, Trainer, TrainingArguments, set_seed
from transformers.trainer import TRAINING_ARGS_NAME
from transformers.trainer_pt_utils import LengthGroupedSampler
from transformers.trainer_utils import HubStrategy
from transformers.utils.hub import PushInProgress, hf_api

from hfgpt.arguments.run import RunArguments
from hfgpt.artifacts import identify
from hfgpt.data.passport import PASSPORT_NAME, Passport, contents_of
from hfgpt.errors import RunStopped, UserError
from hfgpt.evaluation.language_modeling import nats_and_tokens
from hfgpt.files import claim_output, write_whole
from hfgpt.hub.card.rendering import CARD_NAME, write_card
from hfgpt.hub.card.settings import save_settings
from hfgpt.hub.export import export
from hfgpt.training.callbacks import BestCheckpointCallback, StopOnSignalCallback
from hfgpt.training.energy import EnergyCallback, energy_metrics, joules_everywhere
from hfgpt.training.flops import TrainingMeter

logger = logging.getLogger(__name__)

# May differ when a run goes on: they change what is shown or kept, not one bit of the model.
FREE_TO_CHANGE = {
    *("output_dir", "overwrite", "run_name", "report_to", "disable_tqdm", "logging_steps", "logging_first_step"),
    *("save_steps", "save_total_limit", "eval_steps", "per_device_eval_batch_size", "sample_prompts", "sample_tokens", "card"),
}
# Places of what the passport knows by its hashes: that is compared, not how they are spelled.
PLACES = {"dataset", "model", "sources", "validation_sources", "test_sources"}
RUN_FILE = "run.yaml"
METRICS_FILE = "metrics.json"
REPORT_FILE = "report.txt"
RESULT_FILE = "result.json"  # of one seed among several, its last file: a seed that has it is finished
FINISHED_FILE = "finished.json"  # a run's last file: what it made, and how large its weights are


class EpochLengthGroupedSampler(LengthGroupedSampler):
    """Trainer's batches of texts of like length, drawn from the seed and the epoch.

    Trainer's own draws from the global random state, which within an epoch is no longer what it was at its begin: a run that
    goes on there would read other texts than the one that was not stopped.
    """

    def __init__(self, batch_size: int, *, lengths: list[int], seed: int):
        super().__init__(batch_size, lengths=lengths)
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self):
        self.generator = torch.Generator().manual_seed(self.seed + self.epoch)
        return super().__iter__()


def set_epoch_of_sampler(dataloader: object, epoch: int) -> None:
    """Tell the innermost sampler the epoch.

    Trainer's own way does not reach it below both the skipping of batches and their division among processes: with two, a run that
    goes on within its second epoch would read the first one's order.
    """
    place = dataloader
    while (inner := getattr(place, "batch_sampler", None) or getattr(place, "sampler", None)) is not None:
        place = inner
    if hasattr(place, "set_epoch"):
        place.set_epoch(epoch)


class DiscreetTrainer(Trainer):
    """Trainer that neither writes nor pushes what is nobody's business.

    Trainer's own pickles all arguments beside every model, a Hub token in clear, and with `push_to_hub` uploads whatever lies in
    the output folder, the paths in run.yaml included, to a repository that everybody sees. Here no such pickle is left, a new
    repository is private unless `hub_private_repo` is false, and what is pushed is what recipes/publish.py would: the last
    checkpoint while the run goes on, and the folder of the result at its end. Trainer's draft of a card is not written.

    A run that goes on is the run that was not stopped, also where it was stopped within an epoch or after its last step.

    Its lines of the log have `tokens_per_second` and `mfu` since the line before (`hfgpt/training/flops.py`), and `energy_joules`
    since training began; the line at the end has them of the whole training, as `train_tokens_per_second` and so on.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.meter = TrainingMeter()
        self.energy = EnergyCallback()
        for callback in (self.meter, self.energy, BestCheckpointCallback()):
            self.add_callback(callback)

    def train(self, *args, **kwargs):
        self.accelerator.wait_for_everyone()  # processes that share a machine share what it can do
        dtype = torch.bfloat16 if self.args.bf16 else torch.float16 if self.args.fp16 else self.model.dtype
        self.meter.prepare(self.model, device=self.args.device, dtype=dtype, num_devices=max(1, self.args.n_gpu))
        return super().train(*args, **kwargs)

    def training_step(self, model, inputs, num_items_in_batch=None):
        self.meter.count(inputs, pad_token_id=getattr(self.processing_class, "pad_token_id", None))
        return super().training_step(model, inputs, num_items_in_batch)

    def _maybe_log_save_evaluate(self, *args, **kwargs):
        if not (self.control.should_log or self.control.should_evaluate or self.control.should_save):
            return super()._maybe_log_save_evaluate(*args, **kwargs)
        with self.meter.paused():
            return super()._maybe_log_save_evaluate(*args, **kwargs)

    def log(self, logs, start_time=None):
        # Here and not in a callback's on_log: reporters come before the callbacks that are added later, and would miss it.
        if "loss" in logs:
            logs.update(self.meter.lap() | self._energy())
        elif "train_loss" in logs:
            logs.update({f"train_{key}": value for key, value in (self.meter.total() | self._energy()).items()})
        super().log(logs, start_time)

    def _energy(self) -> dict[str, float]:
        self.energy.read()
        joules = joules_everywhere(self.energy)
        return {"energy_joules": sum(joules.values())} if joules else {}

    def training_metrics(self) -> dict[str, float | str | None]:
        """What `metrics.json` says of the training just ended: which step is kept, time, speed, energy, memory and machine."""
        return {
            "steps": self.state.global_step,
            "kept_step": self.kept_step,
            "steps_timed": self.meter.steps,
            "training_seconds": self.meter.seconds,
            "tokens_per_second": None,
            "mfu": None,
            **self.meter.total(),
            "peak_memory_bytes": peak_memory_bytes(),
            **energy_metrics(self.callback_handler.callbacks),
        }

    @property
    def kept_step(self) -> int:
        """The step whose weights the model has once training is over."""
        best = self.state.best_model_checkpoint if self.args.load_best_model_at_end else None
        return int(best.rpartition("-")[2]) if best else self.state.global_step

    def _determine_best_metric(self, metrics, trial):
        is_best = super()._determine_best_metric(metrics, trial)
        if is_best and self.args.load_best_model_at_end:
            self.control.should_save = True  # whatever save_steps says: what is not on disk cannot be kept
        return is_best

    def _init_training_state(self, max_steps, *args, **kwargs):
        # A checkpoint has the number of steps where a share of all was given, and Trainer would warn that the two differ.
        for name in ("logging_steps", "eval_steps", "save_steps"):
            share = getattr(self.args, name)
            if share is not None and 0 < share < 1:
                setattr(self.args, name, math.ceil(max_steps * share))
        return super()._init_training_state(max_steps, *args, **kwargs)

    def _get_train_sampler(self, train_dataset=None):
        sampler = super()._get_train_sampler(train_dataset)
        if type(sampler) is LengthGroupedSampler:
            seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
            return EpochLengthGroupedSampler(sampler.batch_size, lengths=sampler.lengths, seed=seed)
        return sampler

    def _run_epoch(self, *, epoch, train_dataloader, **kwargs):
        early = [one for one in self.callback_handler.callbacks if isinstance(one, EarlyStoppingCallback)]
        if self.state.global_step >= self.state.max_steps or any(
            one.early_stopping_patience_counter >= one.early_stopping_patience for one in early
        ):
            # Stopped after its last step, a run has none left; Trainer would train one more of every epoch that it is handed.
            self.control.should_training_stop = True
            return
        set_epoch_of_sampler(train_dataloader, epoch)
        super()._run_epoch(epoch=epoch, train_dataloader=train_dataloader, **kwargs)

    def _issue_warnings_after_load(self, load_result):
        # A matrix with two names is stored once: the other name is not missing.
        tensors = self.model.state_dict(keep_vars=True)
        loaded = {id(tensor) for name, tensor in tensors.items() if name not in load_result.missing_keys}
        missing = [name for name in load_result.missing_keys if id(tensors.get(name)) not in loaded]
        super()._issue_warnings_after_load(type(load_result)(missing, load_result.unexpected_keys))

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


def keep_best(args: TrainingArguments, keep: str, *, metric: str = "eval_loss", greater_is_better: bool = False) -> None:
    """Have training end with the weights that were best on the validation set, where `keep` asks for it and it can be known.

    Trainer alone wants evaluations and checkpoints at the same steps; `DiscreetTrainer` saves the best state when it finds it.
    """
    if keep == "last":
        if args.save_strategy == "best":
            raise UserError("save_strategy is best, keep is last; give keep: best, or save_strategy: steps, which saves the last.")
        return
    for key in ("eval_strategy", "save_strategy"):
        if getattr(args, key) == "no":
            logger.info(f"keep: the last state, because {key} is no")
            return
    args.load_best_model_at_end, args.metric_for_best_model, args.greater_is_better = True, metric, greater_is_better


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
        _empty(folder)
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
    text = f"# python recipes/{recipe} run.yaml --output_dir ANOTHER repeats this run.\n"
    resolved = {key: value for key, value in args.resolved.items() if key not in ("overwrite", "hub_token")}
    write_whole(folder / RUN_FILE, text + yaml.safe_dump(resolved, allow_unicode=True, sort_keys=True))
    passport.save(folder)
    save_settings(folder, args.card)
    if (folder / FINISHED_FILE).is_file():
        if (fault := _fault_of_result(folder)) is not None:
            logger.warning(f"{folder} holds this run, finished but damaged since ({fault}); what is missing is made again.")
            for seed in folder.glob(f"seed-*/{RESULT_FILE}"):  # its model may be the damaged one, and its checkpoints are gone
                seed.unlink()
            (folder / FINISHED_FILE).unlink()
        elif args.card and (folder / CARD_NAME).is_file():
            write_card(folder)  # its owner's words have changed


def _empty(folder: Path) -> None:
    """Remove what is in the folder, which may be a link to the real one.

    What says that a run is finished goes first, and what says that this folder is a run's goes last: killed in between, the same
    command replaces the rest.

    Raises: OSError where something cannot be removed.
    """
    if folder.is_dir():
        for path in sorted(folder.iterdir(), key=lambda path: (path.name == RUN_FILE, path.name != FINISHED_FILE)):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()


def _fault_of_result(folder: Path) -> str | None:
    """What is wrong with the result of a run that was finished; None where all of it is there."""
    try:
        sizes = json.loads((folder / FINISHED_FILE).read_text(encoding="utf-8"))["bytes"]
    except (ValueError, KeyError, TypeError):
        return f"{FINISHED_FILE} is unreadable"
    for name, size in sizes.items():
        found = (folder / name).stat().st_size if (folder / name).is_file() else 0
        # What people read may be written anew, by its owner or for other words on the card; weights may not.
        if found != size if name.endswith(".safetensors") else not found:
            return f"{name} has {found:,} bytes, it had {size:,}"
    return None


def _contents(passport: Passport) -> tuple:
    """What a passport says of the rows, without where their files lay."""
    elsewhere = {"sources", "tokenizer", "asked", *PLACES, *FREE_TO_CHANGE}  # compared by what they hold, or not at all
    settings = {key: value for key, value in passport.settings.items() if key not in elsewhere}
    return contents_of(passport.inputs), settings, passport.tokenizer, passport.splits


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


def train_or_resume(trainer: Trainer, checkpoint: Path | None) -> None:
    """Train to the end, from `checkpoint` where there is one: bit for bit as if nothing had happened.

    From a checkpoint of the last step nothing is trained; its weights, or those of the best one, are loaded.

    Raises: RunStopped where a signal stopped the run; it has left a complete checkpoint, from which the same command goes on.
    """
    if checkpoint is None:
        # What was measured before has drawn from the random state, and a run that finds it measured has not.
        set_seed(trainer.args.seed)
    else:
        logger.info(f"resume: from {checkpoint}")
        # How often in a row nothing was better, which early stopping counts.
        trainer.args.restore_callback_states_from_checkpoint = True
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    (signals,) = [one for one in trainer.callback_handler.callbacks if isinstance(one, StopOnSignalCallback)]
    if signals.stopped:
        _leave_together(trainer)
        raise RunStopped(
            f"stopped: at step {trainer.state.global_step:,} of {trainer.state.max_steps:,}; the same command goes on from there."
        )
    if signals.received:  # after the last step, which nothing was left to answer it at
        signal.raise_signal(signals.received)


def finished_report(args: RunArguments) -> str | None:
    """The report of a run that came to its end in this folder, or None."""
    folder = Path(args.output_dir)
    return (folder / REPORT_FILE).read_text(encoding="utf-8") if (folder / FINISHED_FILE).is_file() else None


def close_run(args: RunArguments, *, card: bool = True) -> None:
    """Write the card, and then, last of all, that the run is finished and what belongs to its result."""
    if not args.should_save:
        return
    folder = Path(args.output_dir)
    if card:
        write_card(folder)
    named = [folder / name for name in (REPORT_FILE, CARD_NAME, "config.json", "adapter_config.json", "tokenizer.json")]
    weights = [path for pattern in ("", "base/", "merged/") for path in sorted(folder.glob(f"{pattern}*.safetensors"))]
    sizes = {path.relative_to(folder).as_posix(): path.stat().st_size for path in [*named, *weights] if path.is_file()}
    write_whole(folder / FINISHED_FILE, json.dumps({"bytes": sizes}, indent=2) + "\n")


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
