"""What a run does between its steps: samples, a plot of the loss, finding its best checkpoint, and stopping on a signal."""

import logging
import math
import signal
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import distributed
from transformers import PreTrainedTokenizerFast, TrainerCallback, TrainerState
from transformers.trainer_utils import IntervalStrategy

from hfgpt.evaluation.generation import generation_settings, sample
from hfgpt.files import write_json, write_picture, write_step, write_whole
from hfgpt.signals import StopRequest
from hfgpt.training.checkpoints import checkpoint_of, why_not_whole
from hfgpt.training.curves import CURVES_PICTURE, draw_curves
from hfgpt.training.reporters import fenced

logger = logging.getLogger(__name__)

LOSS_PICTURE = "loss.png"
PICTURE_SECONDS = 10.0  # minimum between two pictures of an unfinished run
HISTORY_FILE = "history.json"  # the log of a training run, its unit and the step that is kept
SAMPLES_FILE = "samples.jsonl"  # one line per evaluation: the output for each prompt


class BestCheckpointCallback(TrainerCallback):
    """Finds the best checkpoint of a resumed run at its current location: its folder may have been moved or renamed.

    Trainer stores a path. If nothing is there and no step is left, it would silently end with the last weights.
    """

    def on_train_begin(self, args, state, control, **kwargs):
        if not (args.load_best_model_at_end and state.best_global_step):
            return
        best = checkpoint_of(Path(str(args.output_dir)), state.best_global_step)
        fault = why_not_whole(best, run=None)
        if fault is None:
            state.best_model_checkpoint = str(best)
        else:
            logger.warning(
                f"{best}, the best checkpoint so far, cannot be kept: {fault}. The best checkpoint from here on will be kept."
            )
            state.best_model_checkpoint = state.best_global_step = state.best_metric = None


class StopOnSignalCallback(TrainerCallback):
    """On SIGTERM, Ctrl-C, SIGUSR1 or SIGHUP, finish the current step, write a checkpoint, and end training.

    A second Ctrl-C, at least one second later, exits at once. Several processes all stop at the same step, whichever got the signal
    first: a cluster's signals do not arrive simultaneously, and a process that took one more step would wait for the others
    forever. They ask each other after every step, every evaluation during training, and every save; whichever is running is
    finished first.

    Attributes: `received` is the number of the signal, or None; `stopped` is True if a checkpoint was written in response.

    Trainer's own `enable_jit_checkpoint` saves within a step, after dropout has drawn its random numbers; the step is then repeated
    with different ones. At the end of a step nothing is repeated, and the resumed run equals the uninterrupted one.
    """

    def __init__(self):
        self.stopped = False
        # Data loader processes get Ctrl-C, too, but the step that is being finished needs them.
        self._request = StopRequest(self._say, children="ignore")
        self._training = False
        self._group: Any = None

    @property
    def received(self) -> int | None:
        return self._request.number

    def pass_on(self) -> None:
        """Hand a received signal to the handlers from before training, where nothing of it is to be kept."""
        if self.received:
            self._request.close()  # or the signal would come back here, and count as a repetition
            signal.raise_signal(self.received)

    def _say(self, number: int) -> None:
        logger.info(f"{signal.Signals(number).name}: finishing this step, then saving a checkpoint")

    def on_train_begin(self, args, state, control, **kwargs):
        self._training = True
        self._request.listen()
        if args.world_size > 1 and distributed.is_initialized():
            self._group = distributed.new_group(backend="gloo")  # asks on the CPU, so a GPU need not wait for the answer

    def _asked_to_stop(self) -> bool:
        """Whether any process got a signal; if so, this one counts as having got it, too."""
        if self._group is None:
            return self.received is not None
        number = torch.tensor(self.received or 0)
        distributed.all_reduce(number, distributed.ReduceOp.MAX, group=self._group)
        if number and not self.received:
            self._request.note(int(number))
        # A signal that came during the exchange is told at the next one: the others do not know of it and take another step.
        return bool(number)

    def on_step_end(self, args, state, control, **kwargs):
        if self._asked_to_stop():
            self.stopped = control.should_save = control.should_training_stop = True

    def on_epoch_end(self, args, state, control, **kwargs):
        if self.stopped and not _ends_epoch(state):
            # Trainer ends a stopped run as if its epoch were over; the resumed run would have one evaluation more.
            control.should_log = control.should_evaluate = control.should_save = False

    def on_evaluate(self, args, state, control, **kwargs):
        if self._training and not self.stopped:
            self.on_step_end(args, state, control)  # take no further step

    def on_save(self, args, state, control, **kwargs):
        if not self.stopped and self._asked_to_stop():
            self.stopped = control.should_training_stop = True  # this checkpoint is the response

    def on_train_end(self, args, state, control, **kwargs):
        self._training = False
        if not self.stopped:  # otherwise all exit, and a late signal would end a process that the others still communicate with
            self._request.close()
        if self._group is not None:
            distributed.destroy_process_group(self._group)
            self._group = None


def _ends_epoch(state: TrainerState) -> bool:
    """Whether Trainer evaluates after this step if it evaluates after every epoch."""
    return state.global_step >= state.max_steps or float(state.epoch or 0).is_integer()


class SaveAfterEvaluationCallback(TrainerCallback):
    """Delays the checkpoint of an epoch's last step until its evaluation, which a run resumed from there would lack."""

    def __init__(self):
        self._delayed = False

    def on_step_end(self, args, state, control, **kwargs):
        if control.should_save and args.eval_strategy == IntervalStrategy.EPOCH and _ends_epoch(state):
            control.should_save, self._delayed = False, True

    def on_epoch_end(self, args, state, control, **kwargs):
        if self._delayed:
            control.should_save, self._delayed = True, False


@dataclass(frozen=True)
class Said:
    """A model's output for a prompt; `note` is shown after it."""

    prompt: str
    text: str
    note: str = ""


class SayingCallback(TrainerCallback):
    """Generates text at every evaluation, for `samples.md` (to read), `samples.jsonl` (for the page) and the reporters."""

    between = ""  # between prompt and text in samples.md

    def __init__(self):
        self._said: dict[str, str] = {}

    def say(self, model: Any) -> list[Said]:
        """What the model generates now."""
        raise NotImplementedError

    def on_evaluate(self, args, state, control, model: Any = None, **kwargs):
        if not state.is_world_process_zero or not (said := self.say(model)):
            return
        folder = Path(str(args.output_dir))
        steps = write_step(folder / SAMPLES_FILE, {"step": state.global_step, "said": [asdict(one) for one in said]})
        page = ""
        for entry in steps:
            blocks = "\n".join(f"{fenced(self._as_text(Said(**one)))}\n" for one in entry["said"])
            page += f"\n## Step {entry['step']:,}\n\n{blocks}"
        write_whole(folder / "samples.md", page)
        self._said = {f"samples/{number}": self._as_text(one) for number, one in enumerate(said, start=1)}

    def _as_text(self, said: Said) -> str:
        return f"{said.prompt}{self.between}{said.text}{said.note and chr(10) + said.note}"

    def take_said(self) -> dict[str, str]:
        """Return the texts of the last evaluation by name, and forget them."""
        said, self._said = self._said, {}
        return said


class SamplesCallback(SayingCallback):
    """Continues fixed prompts.

    Its random numbers are separate from training's: a run with samples is bit for bit the same as one without.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, prompts: list[str], *, max_new_tokens: int):
        super().__init__()
        self.tokenizer = tokenizer
        self.prompts = prompts
        self.settings = generation_settings(
            tokenizer, max_new_tokens=max_new_tokens, do_sample=True, temperature=0.8, top_k=50, use_cache=True
        )

    def say(self, model: Any) -> list[Said]:
        return [Said(one, sample(model, self.tokenizer, one, generation_config=self.settings)[0]) for one in self.prompts]


class LossPictureCallback(TrainerCallback):
    """Plots training and validation loss in `loss.png` at evaluations and at the end; at the end also `curves.png` and the log.

    The log is `history.json`, the source of the run's page.

    Args: `unit` is the unit of the loss on the axis.
    Cost: a tenth of a second per picture, more on a busy machine, so evaluations in quick succession share one.
    """

    def __init__(self, unit: str = "nats per token"):
        self.unit = unit
        self._drawn_at = -math.inf

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step >= state.max_steps and args.logging_strategy != "no":
            control.should_log = True  # otherwise the curve would end before the run

    def on_evaluate(self, args, state, control, **kwargs):
        if state.is_world_process_zero and time.monotonic() - self._drawn_at >= PICTURE_SECONDS:
            self._drawn_at = time.monotonic()
            by = f"eval_{(args.metric_for_best_model or 'loss').removeprefix('eval_')}"
            path = Path(str(args.output_dir)) / LOSS_PICTURE
            draw_loss(state.log_history, path, unit=self.unit, by=by, greater_is_better=bool(args.greater_is_better))

    def on_train_end(self, args, state, control, **kwargs):
        self._drawn_at = -math.inf
        self.on_evaluate(args, state, control)
        if state.is_world_process_zero:
            folder = Path(str(args.output_dir))
            draw_curves(state.log_history, folder / CURVES_PICTURE)
            kept = state.best_global_step if args.load_best_model_at_end else None
            write_json(folder / HISTORY_FILE, {"unit": self.unit, "kept_step": kept, "log": state.log_history}, indent=None)


def draw_loss(
    log_history: list[dict],
    path: Path,
    *,
    unit: str = "nats per token",
    by: str = "eval_loss",
    greater_is_better: bool = False,
) -> None:
    """Plot the losses of `trainer.state.log_history` over the steps, with a ring around the best evaluation.

    Text is placed above the curves, never on them.

    Args: `by` is the key of the history that decides which evaluation is best.
    """
    from matplotlib.figure import Figure  # not pyplot: no global state, no display
    from matplotlib.ticker import MaxNLocator, StrMethodFormatter

    training = [(entry["step"], entry["loss"]) for entry in log_history if "loss" in entry]
    evaluations = [entry for entry in log_history if "eval_loss" in entry]
    if not training and not evaluations:
        return
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    if training:
        # A curve with few points shows them: a run of one step is a single point.
        marker = "." if len(training) <= 50 else None
        axes.plot(*zip(*training, strict=True), color="#7f9fc4", linewidth=1.2, marker=marker, label="training")
    if evaluations:
        validation = [(entry["step"], entry["eval_loss"]) for entry in evaluations]
        axes.plot(*zip(*validation, strict=True), color="#c0392b", marker="o", markersize=4, label="validation")
        best = (max if greater_is_better else min)(evaluations, key=lambda entry: entry[by])
        metric = by.removeprefix("eval_").replace("_", " ").replace("f1", "F1")
        what = "best" if metric == "loss" else f"best {metric}"
        note = f"{what}: {best[by]:.3f} at step {best['step']:,}"
        if "eval_bits_per_byte" in best:
            note += f", {best['eval_bits_per_byte']:.3f} bits per byte"
        ring: dict[str, Any] = dict(
            marker="o", markersize=11, markerfacecolor="none", markeredgecolor="#2c3e50", markeredgewidth=1.4
        )
        axes.plot(best["step"], best["eval_loss"], linestyle="none", label=note, **ring)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10], min_n_ticks=1))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.set_xlabel("step")
    axes.set_ylabel(f"loss ({unit})")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside upper center", ncols=3, frameon=False)
    write_picture(path, figure)
