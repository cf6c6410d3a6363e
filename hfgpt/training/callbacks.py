"""What a run shows while it goes: speed, samples, and a picture of the loss."""

import json
import logging
import os
import signal
import threading
import time
from pathlib import Path

from transformers import PreTrainedTokenizerFast, TrainerCallback

from hfgpt.evaluation.generation import generation_settings, sample

logger = logging.getLogger(__name__)


class ThroughputCallback(TrainerCallback):
    """Adds `tokens_per_second` of the steps since the last line to every line of the log.

    Args: `tokens_per_step` counts all devices and accumulated batches. Evaluations and checkpoints are left out of the time.
    """

    def __init__(self, tokens_per_step: int):
        self.tokens_per_step = tokens_per_step
        self.seconds = 0.0
        self.steps = 0
        self.total_seconds = 0.0
        self.total_steps = 0
        self._started = 0.0

    def on_step_begin(self, args, state, control, **kwargs):
        self._started = time.perf_counter()

    def on_step_end(self, args, state, control, **kwargs):
        seconds = time.perf_counter() - self._started
        self.seconds += seconds
        self.steps += 1
        self.total_seconds += seconds
        self.total_steps += 1

    def on_log(self, args, state, control, logs=None, **kwargs):
        if logs and "loss" in logs and self.seconds:
            logs["tokens_per_second"] = round(self.steps * self.tokens_per_step / self.seconds)
            state.log_history[-1]["tokens_per_second"] = logs["tokens_per_second"]
            self.seconds, self.steps = 0.0, 0

    @property
    def tokens_per_second(self) -> float | None:
        """Over the whole run so far; None before the first step."""
        return self.total_steps * self.tokens_per_step / self.total_seconds if self.total_seconds else None


class StopOnSignalCallback(TrainerCallback):
    """On SIGTERM or Ctrl-C the current step is finished, a checkpoint written, and training ended; a second signal kills.

    Attributes: `received` is the number of the signal, or None; `stopped` is True where a checkpoint answered it.

    Trainer's own `enable_jit_checkpoint` saves within a step, when dropout has already drawn its random numbers; the step is
    then repeated with others. At the end of a step nothing is repeated, and the resumed run is the uninterrupted one.
    """

    def __init__(self):
        self.received: int | None = None
        self.stopped = False
        self._handlers: dict[int, object] = {}
        self._process = os.getpid()

    def on_train_begin(self, args, state, control, **kwargs):
        self._process = os.getpid()
        if threading.current_thread() is threading.main_thread():  # nobody else may set handlers
            self._handlers = {number: signal.signal(number, self._receive) for number in (signal.SIGTERM, signal.SIGINT)}

    def _receive(self, number, frame):
        if os.getpid() != self._process:
            return  # Ctrl-C reaches the workers that read rows, too; the step that is finished needs them
        self.received = number
        logger.info("signal: finishing this step, then saving a checkpoint")
        self._restore()

    def _restore(self):
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}

    def on_step_end(self, args, state, control, **kwargs):
        if self.received:
            self.stopped = control.should_save = control.should_training_stop = True

    def on_train_end(self, args, state, control, **kwargs):
        self._restore()


class SamplesCallback(TrainerCallback):
    """Continues fixed prompts at every evaluation and adds the texts to `samples.md` in the output folder.

    The random numbers are drawn apart from training's: a run with samples is bit for bit the run without.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, prompts: list[str], *, max_new_tokens: int):
        self.tokenizer = tokenizer
        self.prompts = prompts
        self.settings = generation_settings(
            tokenizer, max_new_tokens=max_new_tokens, do_sample=True, temperature=0.8, top_k=50, use_cache=True
        )

    def on_evaluate(self, args, state, control, model=None, **kwargs):
        if not (state.is_world_process_zero and self.prompts):
            return
        lines = [f"\n## Step {state.global_step:,}\n"]
        for prompt in self.prompts:
            text = sample(model, self.tokenizer, prompt, generation_config=self.settings)[0]
            lines.append(f"```text\n{prompt}{text}\n```\n")
        with (Path(args.output_dir) / "samples.md").open("a", encoding="utf-8") as file:
            file.write("\n".join(lines))


class LossPictureCallback(TrainerCallback):
    """Draws training and validation loss into `loss.png` at every evaluation and at the end.

    Args: `unit` of the loss, as the axis names it.
    """

    def __init__(self, unit: str = "nats a token"):
        self.unit = unit

    def on_evaluate(self, args, state, control, **kwargs):
        if state.is_world_process_zero:
            draw_loss(state.log_history, Path(args.output_dir) / "loss.png", unit=self.unit)

    on_train_end = on_evaluate


def draw_loss(log_history: list[dict], path: Path, *, unit: str = "nats a token") -> None:
    """Draw the losses of `trainer.state.log_history` over the steps; the last validation loss is written beside its point."""
    from matplotlib.figure import Figure  # without pyplot: no global state, no display

    training = [(entry["step"], entry["loss"]) for entry in log_history if "loss" in entry]
    validation = [(entry["step"], entry["eval_loss"]) for entry in log_history if "eval_loss" in entry]
    if not training and not validation:
        return
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    if training:
        axes.plot(*zip(*training, strict=True), color="#9db4cf", linewidth=1.2, label="training")
    if validation:
        axes.plot(*zip(*validation, strict=True), color="#c0392b", marker="o", markersize=4, label="validation")
        last = next(entry for entry in reversed(log_history) if "eval_loss" in entry)
        note = f"{last['eval_loss']:.3f} {unit}"
        if "eval_bits_per_byte" in last:
            note += f"\n{last['eval_bits_per_byte']:.3f} bits a byte"
        axes.annotate(note, (last["step"], last["eval_loss"]), xytext=(-8, 24), textcoords="offset points", ha="right")
    axes.set_xlabel("step")
    axes.set_ylabel(f"loss ({unit})")
    axes.grid(alpha=0.3)
    axes.legend()
    temporary = path.with_name(f".{path.name}")
    figure.savefig(temporary, dpi=120, format="png")
    temporary.replace(path)


def write_json(path: Path, values: dict) -> None:
    """Write under another name first: a crash leaves the old file or the new one, never half of one."""
    temporary = path.with_name(f".{path.name}")
    temporary.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    temporary.replace(path)
