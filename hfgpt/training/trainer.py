"""Our subclass of Trainer: what it keeps, measures, saves and pushes, and the order in which it reads the rows."""

import ctypes
import logging
import math
import platform
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence, Sized
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

import psutil
import torch
from datasets import Dataset
from peft import PeftModel
from torch.utils.data import DataLoader, SequentialSampler
from transformers import (
    EarlyStoppingCallback,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    TrainerCallback,
    TrainingArguments,
)
from transformers.trainer_callback import ExportableState
from transformers.trainer_pt_utils import LengthGroupedSampler
from transformers.trainer_utils import EvalPrediction, HubStrategy, IntervalStrategy
from transformers.utils.hub import PushInProgress, hf_api

from hfgpt.artifacts import identify, step_of
from hfgpt.counting import listed
from hfgpt.data.epoch_rows import EpochRows, EpochSampler
from hfgpt.errors import UserError
from hfgpt.evaluation.language_modeling import language_modeling_metrics, nats_and_tokens
from hfgpt.hub.export import export
from hfgpt.inference import full_precision
from hfgpt.signals import start_reader
from hfgpt.training.callbacks import (
    BestCheckpointCallback,
    SaveAfterEvaluationCallback,
    SayingCallback,
    StopOnSignalCallback,
)
from hfgpt.training.energy import EnergyCallback, energy_metrics, joules_everywhere
from hfgpt.training.finite import FiniteTrainer, set_epoch_of_sampler
from hfgpt.training.flops import TrainingMeter
from hfgpt.training.methods import trainable_parameters
from hfgpt.training.progress import show_progress
from hfgpt.training.reporters import Reporters
from hfgpt.training.saving import changed

logger = logging.getLogger(__name__)


def best_state(
    *,
    keep: str,
    eval_strategy: str,
    save_strategy: str,
    metric: str = "eval_loss",
    greater_is_better: bool = False,
) -> dict[str, object]:
    """The arguments with which training ends with the best weights on the validation set.

    Trainer itself requires evaluations and checkpoints at the same steps; `HfGptTrainer` saves the best state when it finds it.

    Args: `keep` is "best" or "last"; the best state is only kept if there are evaluations and checkpoints.
    Raises: UserError if `save_strategy` contradicts `keep`.
    """
    if keep == "last":
        if save_strategy == "best":
            raise UserError(
                "save_strategy is best, but keep is last; give --keep best, or --save_strategy steps, which saves the last."
            )
        return {}
    for key, value in (("eval_strategy", eval_strategy), ("save_strategy", save_strategy)):
        if value == "no":
            logger.info(f"keep: the last state, because {key} is no")
            return {}
    return {"load_best_model_at_end": True, "metric_for_best_model": metric, "greater_is_better": greater_is_better}


class EpochLengthGroupedSampler(LengthGroupedSampler):
    """Trainer's batches of texts of similar length, drawn from the seed and the epoch.

    Trainer's own sampler draws from the global random state, which changes within an epoch: a run resumed there would read
    different texts than an uninterrupted one.
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


class HfGptTrainer(FiniteTrainer):
    """Trainer that keeps the best state, stops at a signal, measures itself, and never uploads private run details.

    Trainer itself pickles all arguments beside every model, including a Hub token in clear text, and with `push_to_hub` uploads
    everything in the output folder, including the paths in run.yaml, to a public repository. Here, no such pickle is written, a new
    repository is private unless `hub_private_repo` is false, and the upload contains what recipes/publish.py would publish: the
    last checkpoint during the run, and the result at its end. Trainer's draft of a card is not written.

    A resumed run equals an uninterrupted one, even if it was stopped within an epoch or after its last step.

    Its log lines contain `tokens_per_second` and `mfu` since the previous line (`hfgpt/training/flops.py`), and `energy_joules`
    since training began; the last line has them for the whole training, as `train_tokens_per_second` and so on. A separate learning
    rate, such as Muon's, appears beside `learning_rate` under the name of its argument. Reporters get more than the log shows, and
    stay open until `reporters.close` (`hfgpt/training/reporters.py`).

    Args:
        args: copied, so changes made here do not affect the caller's.
        keep: "best" or "last", see `best_state`; None leaves that to `args`.
        best_by, greater_is_better: the evaluation metric that decides which state is best.
        early_stopping_patience: evaluations without improvement after which training stops, if the best state is kept; 0 never
            stops.
        skip_loss_spikes: multiple of the median gradient norm above which a step is skipped (`GradientNorms`); 0 skips none.
        callbacks: called after Trainer's own and ours.
        settings: all other arguments of Trainer.
    """

    def __init__(
        self,
        model: PreTrainedModel | PeftModel,
        args: TrainingArguments,
        *,
        keep: str | None = None,
        best_by: str = "eval_loss",
        greater_is_better: bool = False,
        early_stopping_patience: int = 0,
        skip_loss_spikes: float = 0.0,
        callbacks: Sequence[TrainerCallback] = (),
        **settings,
    ):
        if keep is not None:
            if settings.get("eval_dataset") is None:
                args = changed(args, eval_strategy=IntervalStrategy.NO)  # Trainer would refuse to start
            strategies = {"eval_strategy": args.eval_strategy, "save_strategy": args.save_strategy}
            args = changed(args, **best_state(keep=keep, **strategies, metric=best_by, greater_is_better=greater_is_better))
        if args.use_cpu:
            keep_freed_memory()
        # Trainer would log a non-finite loss as 0.
        args = changed(args, logging_nan_inf_filter=False)
        super().__init__(cast(PreTrainedModel, model), args=args, **settings)
        self.skip_loss_spikes = skip_loss_spikes
        self.early_stopping_patience = early_stopping_patience
        self.reporters = Reporters(self)
        self.rates: dict[str, float] = {}
        self.meter = TrainingMeter()
        self.energy = EnergyCallback()
        self.signals = StopOnSignalCallback()
        if early_stopping_patience and args.load_best_model_at_end:  # not without evaluations
            callbacks = [*callbacks, EarlyStoppingCallback(early_stopping_patience)]
        show_progress(self)
        own = (self.meter, self.energy, BestCheckpointCallback(), self.signals, SaveAfterEvaluationCallback())
        for callback in (*own, *callbacks):
            self.add_callback(callback)

    @property
    def trained(self) -> PreTrainedModel:
        """The model, which always exists; with an adapter it is a `PeftModel`, which forwards everything."""
        return cast(PreTrainedModel, self.model)

    @property
    def text_tokenizer(self) -> PreTrainedTokenizerFast:
        """The processing class, which here is a tokenizer."""
        return cast(PreTrainedTokenizerFast, self.processing_class)

    def train(self, resume_from_checkpoint=None, **kwargs):
        self.accelerator.wait_for_everyone()  # processes on one machine share its throughput
        dtype = torch.bfloat16 if self.args.bf16 else torch.float16 if self.args.fp16 else self.trained.dtype
        self.meter.prepare(self.trained, device=self.args.device, dtype=dtype, num_devices=max(1, self.args.n_gpu))
        if resume_from_checkpoint:
            # How many evaluations in a row brought no improvement, for early stopping.
            self.args.restore_callback_states_from_checkpoint = True
        result = super().train(resume_from_checkpoint, **kwargs)
        self.become_whole()
        return result

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        return super().get_batch_samples(self._without_repeats(epoch_iterator), num_batches, device)

    def _without_repeats(self, batches: Iterator[dict]) -> Iterator[dict]:
        """The batches, with no loss for rows that are repeated in the last step of an epoch so that all processes have the same
        number.

        A single process would have a smaller batch there. Repeated rows have no labels, so the step equals that of a single
        process.
        """
        rows, size, world = len(cast(Sized, self.train_dataset)), self.args.train_batch_size, self.args.world_size
        left = 0 if self.args.dataloader_drop_last else rows % (size * world)
        own = min(max(left - size * self.args.process_index, 0), size) if left else size
        for batch in batches:
            if own < size and self.accelerator.gradient_state.end_of_dataloader and "labels" in batch:
                batch["labels"][own:] = -100
            yield batch

    def training_step(self, model, inputs, num_items_in_batch=None):
        self.meter.count(inputs, pad_token_id=getattr(self.processing_class, "pad_token_id", None))
        return super().training_step(model, inputs, num_items_in_batch)

    def _maybe_log_save_evaluate(self, *args, **kwargs):
        if not (self.control.should_log or self.control.should_evaluate or self.control.should_save):
            return super()._maybe_log_save_evaluate(*args, **kwargs)
        with self.meter.paused():
            super()._maybe_log_save_evaluate(*args, **kwargs)
            if self.signals.stopped and self.saved_step != self.state.global_step:  # with save_strategy best, after no new best
                self._save_checkpoint(self.model, None)
                self.control = self.callback_handler.on_save(self.args, self.state, self.control)
            self._tell_samples()

    def _tell_samples(self) -> None:
        for callback in self.callback_handler.callbacks:
            if isinstance(callback, SayingCallback):
                self.reporters.tell(callback.take_said())

    def _get_learning_rate(self):
        # The first group is Muon's, if Muon is used; `learning_rate` is the current value of the argument of that name.
        rate = super()._get_learning_rate()
        groups = cast(Any, self.optimizer).param_groups if self.optimizer is not None else []
        self.rates = {f"{group.get('part', group['method'])}_learning_rate": group["lr"] for group in groups if "method" in group}
        return self.rates.pop("adamw_learning_rate", rate)

    def log(self, logs, start_time=None):
        # Here and not in a callback's on_log: reporters run before callbacks that are added later, and would miss it.
        if "loss" in logs:
            logs.update(self.rates | self.meter.lap() | self._energy() | self._skipped())
        elif "train_loss" in logs:
            self.meter.measure()  # under the current load of the machine
            logs.update({f"train_{key}": value for key, value in (self.meter.total() | self._energy()).items()})
            self.meter.correct(self.state.log_history)
        self.reporters.tell_what_waits()
        super().log(logs, start_time)

    def _skipped(self) -> dict[str, int]:
        return {"skipped_steps": self.spikes.skipped} if self.spikes is not None else {}

    def _energy(self) -> dict[str, float]:
        self.energy.read()
        joules = joules_everywhere(self.energy)
        return {"energy_joules": sum(joules.values())} if joules else {}

    def parameter_counts(self) -> dict[str, int]:
        """The number of parameters, and how many of them are trained."""
        trained, total = trainable_parameters(self.trained)
        return {"parameters": total, "trained_parameters": trained}

    def training_metrics(self) -> dict[str, float | str | None]:
        """The `metrics.json` entries of the finished training: kept step, time, speed, energy, memory and machine."""
        return {
            "steps": self.state.global_step,
            "kept_step": self.kept_step,
            **self._skipped(),
            "steps_timed": self.meter.steps,
            "training_seconds": self.meter.seconds,
            "tokens_per_second": None,
            "mfu": None,
            **self.meter.total(),
            "peak_memory_bytes": peak_memory_bytes(),
            **energy_metrics(self.energy),
        }

    @property
    def kept_step(self) -> int:
        """The step whose weights the model has after training."""
        best = self.state.best_model_checkpoint if self.args.load_best_model_at_end else None
        return step_of(Path(best)) if best else self.state.global_step

    def evaluate_as_loaded(
        self, rows: Dataset, *, name: str, metrics: Callable[[EvalPrediction], dict] | None = None
    ) -> dict[str, float]:
        """The figures of a split, `NAME_loss` and so on, computed in full precision, as by anyone who loads the saved model.

        Args: `metrics` for this split, if they differ from those of the evaluations.
        """
        with full_precision(self.trained), self.measured_by(metrics or self.compute_metrics):
            result = self.evaluate(cast(Any, rows), metric_key_prefix=name)
        self._tell_samples()
        return result

    @contextmanager
    def measured_by(self, metrics: Callable[[EvalPrediction], dict] | None) -> Iterator[None]:
        """Evaluate with other metrics; None only gathers predictions."""
        usual, self.compute_metrics = self.compute_metrics, metrics
        try:
            yield
        finally:
            self.compute_metrics = usual

    def _determine_best_metric(self, metrics, trial):
        is_best = super()._determine_best_metric(metrics, trial)
        if is_best and self.args.load_best_model_at_end:
            self.control.should_save = True  # regardless of save_steps: a state that is not on disk cannot be kept
        return is_best

    def _init_training_state(self, max_steps, *args, **kwargs):
        # A checkpoint stores the number of steps even if a share was given, and Trainer would warn that the two differ.
        for name in ("logging_steps", "eval_steps", "save_steps"):
            share = getattr(self.args, name)
            if share is not None and 0 < share < 1:
                setattr(self.args, name, math.ceil(max_steps * share))
        place = super()._init_training_state(max_steps, *args, **kwargs)
        self.state.compute_steps(self.args, max_steps)  # those of this run, if the checkpoint's differ
        for callback in self.callback_handler.callbacks:
            if isinstance(callback, ExportableState):  # Trainer saves into existing entries, and the checkpoint may lack it
                cast(Any, self.state.stateful_callbacks).setdefault(type(callback).__name__, {})
        return place

    def get_decay_parameter_names(self, model):
        partly = {name for name, parameter in model.named_parameters() if getattr(parameter, "only_some_rows", False)}
        return [name for name in super().get_decay_parameter_names(model) if name not in partly]

    def _load_callback_state(self):
        super()._load_callback_state()
        for callback in self.callback_handler.callbacks:
            if isinstance(callback, EarlyStoppingCallback):  # this run's patience, if the checkpoint's differs
                callback.early_stopping_patience = self.early_stopping_patience

    def _get_train_sampler(self, train_dataset=None):
        sampler = super()._get_train_sampler(train_dataset)
        rows = self.train_dataset if train_dataset is None else train_dataset
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        if isinstance(rows, EpochRows):
            return EpochSampler(rows, seed=seed, shuffled=not isinstance(sampler, SequentialSampler))
        if type(sampler) is LengthGroupedSampler:
            # By the rows of a step, so that the order is the same however processes and accumulated batches divide them.
            # sampler.batch_size counts the accumulated batches of one process.
            return EpochLengthGroupedSampler(sampler.batch_size * self.args.world_size, lengths=sampler.lengths, seed=seed)
        return sampler

    def _get_dataloader(self, *args, **kwargs) -> DataLoader:
        loader = super()._get_dataloader(*args, **kwargs)
        inner = getattr(loader, "base_dataloader", loader)  # accelerate's own has it inside
        inner.worker_init_fn = partial(start_reader, inner.worker_init_fn)
        return loader

    def get_test_dataloader(self, test_dataset) -> DataLoader:
        # In the order of the rows: if grouped by length, predictions would be assigned to the wrong texts.
        return self._get_dataloader(
            dataset=test_dataset,
            description="test",
            batch_size=self.args.eval_batch_size,
            sampler_fn=lambda rows: SequentialSampler(cast(Any, rows)) if self.args.world_size <= 1 else cast(Any, None),
        )

    def _run_epoch(self, *, epoch, train_dataloader, **kwargs):
        early = [one for one in self.callback_handler.callbacks if isinstance(one, EarlyStoppingCallback)]
        if self.state.global_step >= self.state.max_steps or any(
            one.early_stopping_patience_counter >= one.early_stopping_patience for one in early
        ):
            # A run stopped after its last step has none left, but Trainer would train one more step per epoch.
            self.control.should_training_stop = True
            return
        set_epoch_of_sampler(train_dataloader, epoch)
        super()._run_epoch(epoch=epoch, train_dataloader=train_dataloader, **kwargs)

    def _issue_warnings_after_load(self, load_result):
        # A matrix with two names is stored once: the second name is not missing.
        tensors = self.trained.state_dict(keep_vars=True)
        loaded = {id(tensor) for name, tensor in tensors.items() if name not in load_result.missing_keys}
        ignored = getattr(self.trained, "_keys_to_ignore_on_save", None) or ()
        missing = [name for name in load_result.missing_keys if id(tensors.get(name)) not in loaded and name not in ignored]
        if missing or load_result.unexpected_keys:
            raise UserError(
                f"the model of this run cannot be restored from its checkpoint: missing there are "
                f"{listed(missing, most=3) or 'none'}, and unknown here {listed(load_result.unexpected_keys, most=3) or 'none'}; "
                f"start anew with another --output_dir."
            )

    def save_model(self, output_dir=None, _internal_call=False):
        super().save_model(output_dir, _internal_call=True)  # without pushing: the metrics do not exist yet

    def init_hf_repo(self, token=None, private=None):
        super().init_hf_repo(token, self.args.hub_private_repo is not False if private is None else private)

    def push_to_hub(self, commit_message="End of training", blocking=True, token=None, revision=None, private=None, **kwargs):
        if self.hub_model_id is None:
            self.init_hf_repo(token=token, private=private)
        if not self.is_world_process_zero():
            return None
        self._finish_current_push()
        job = self._push(self.folder, commit_message or "End of training", token=token, revision=revision)
        return job.result() if blocking else job

    def _push_from_checkpoint(self, checkpoint_folder):
        if not self.is_world_process_zero() or self.args.hub_strategy == HubStrategy.END:
            return
        if self.push_in_progress is not None and not self.push_in_progress.is_done():
            if not self.args.hub_always_push:
                return
            self._finish_current_push()
        job = self._push(Path(checkpoint_folder), f"Training in progress, step {self.state.global_step}")
        self.push_in_progress = PushInProgress(cast(Any, [job]))

    def _push(self, folder: Path, message: str, *, token: str | None = None, revision: str | None = None) -> Future:
        # Beside the output folder, so that weights can be hard links, which survive if the checkpoint is deleted meanwhile.
        place = self.folder.resolve()
        staged = tempfile.TemporaryDirectory(dir=place.parent, prefix=f".{place.name}-push-")
        try:
            export(identify(folder), Path(staged.name), repo_id=self.hub_model_id)
            job: Future = hf_api().upload_folder(
                repo_id=cast(str, self.hub_model_id),
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
                logger.warning(f"push: {folder} was not uploaded to {self.hub_model_id}: {job.exception()}")

        job.add_done_callback(clean_up)
        return job


class LanguageModelTrainer(HfGptTrainer):
    """Trainer with an evaluation that weighs every token equally and checkpoints that generate with a cache."""

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        inputs = self._prepare_inputs(inputs)
        labels = inputs.pop("labels")
        with torch.no_grad(), self.compute_loss_context_manager():
            logits = model(**inputs).logits
        # Only two sums per row are gathered, whatever the vocabulary; compute_metrics divides once, at the end.
        sums = nats_and_tokens(logits, labels)
        return None, sums, sums[:, 1]

    def _save(self, output_dir=None, state_dict=None):
        # Training runs without a cache, and Trainer records that in the config; users of the model want one.
        config = self.accelerator.unwrap_model(self.trained).config
        use_cache, config.use_cache = config.use_cache, True
        super()._save(output_dir, state_dict)
        config.use_cache = use_cache


def token_metrics(num_bytes: int | None = None) -> Callable[[EvalPrediction], dict[str, float]]:
    """For `compute_metrics`: loss and perplexity over all tokens of a split; bits per byte if its `num_bytes` are known."""
    return lambda prediction: language_modeling_metrics(
        *cast(Any, prediction.predictions).astype("float64").sum(axis=0), num_bytes=num_bytes
    )


def keep_freed_memory() -> None:
    """Make glibc keep freed memory for the next step instead of returning large blocks to the kernel and faulting them in again.

    The logits of one step are tens of MB, allocated and freed several times; the page faults cost a CPU run a tenth of its time.
    Measured: pretrain.py quickstart/pretrain.yaml --max_steps 40 on two cores, alternating twice: 8,472 and 8,768 tokens/s without,
    10,502 and 10,877 with it, using 1,319 and 1,489 MiB; 2026-11-21.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(-4, 0)  # M_MMAP_MAX: take no block directly from the kernel
        libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: return memory only above 2 GiB


def peak_memory_bytes() -> int:
    """Peak memory so far: of the GPU if there is one, otherwise of this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset
    import resource  # not available on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes, Linux KiB
