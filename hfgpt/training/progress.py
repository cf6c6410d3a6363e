"""What training shows while it runs: a bar in a terminal, and everywhere an occasional line with the figures people compare."""

import logging
import sys
import time
from collections.abc import Mapping, Sized
from typing import Any, cast

from tqdm.auto import tqdm
from transformers import PrinterCallback, ProgressCallback, Trainer, TrainingArguments
from transformers.trainer_utils import has_length

logger = logging.getLogger(__name__)
# The evaluation figures shown in its line; the history and the report have all of them.
EVALUATED = {
    "eval_loss": ("loss", "{:.4f}"),
    "eval_perplexity": ("perplexity", "{:,.2f}"),
    "eval_bits_per_byte": ("bits per byte", "{:.4f}"),
    "eval_accuracy": ("accuracy", "{:.2%}"),
    "eval_macro_f1": ("macro F1", "{:.4f}"),
    "eval_reward_margin": ("reward margin", "{:.3f}"),
    "eval_reward_accuracy": ("reward accuracy", "{:.2%}"),
}


LINE_SECONDS = 10.0  # minimum between two step lines, unless `logging_steps` was given


class TrainingProgress(ProgressCallback):
    """Trainer's bar, with lines such as `step 150 of 600  loss 3.2140  12,744 tokens per second  1:20 left`.

    The history and the reporters get every entry.
    """

    _last_line = float("-inf")

    def on_train_begin(self, args, state, control, **kwargs):
        self.current_step = self.first_step = state.global_step
        self.started = time.monotonic()
        if state.is_world_process_zero:
            self.training_bar = _bar("training", args, total=state.max_steps, initial=state.global_step, unit=" steps")

    def on_prediction_step(self, args, state, control, eval_dataloader=None, **kwargs):
        if self.prediction_bar is None and state.is_world_process_zero and has_length(eval_dataloader):
            self.prediction_bar = _bar("evaluating", args, total=len(cast(Sized, eval_dataloader)), unit=" batches", leave=False)
        super().on_prediction_step(args, state, control, eval_dataloader=eval_dataloader, **kwargs)

    def on_log(self, args, state, control, logs=None, **kwargs):
        if not state.is_world_process_zero or not logs or self.training_bar is None:
            return
        parts = evaluated(logs) if "eval_loss" in logs else trained(logs)
        if "loss" in logs:
            self.training_bar.set_postfix_str(", ".join(parts), refresh=False)
        if parts and ("loss" not in logs or self._line_is_due(args)):
            done, left = state.global_step - self.first_step, state.max_steps - state.global_step
            seconds = (time.monotonic() - self.started) / max(1, done) * left
            if "loss" in logs and done and seconds >= 1:
                parts.append(f"{tqdm.format_interval(seconds)} left")
            width = len(f"{state.max_steps:,}")
            logger.info("  ".join([f"step {state.global_step:>{width},} of {state.max_steps:,}", *parts]))

    def _line_is_due(self, args: TrainingArguments) -> bool:
        now = time.monotonic()
        if "logging_steps" not in getattr(args, "explicit", ()) and now - self._last_line < LINE_SECONDS:
            return False
        self._last_line = now
        return True


def _bar(what: str, args: TrainingArguments, **settings) -> tqdm:
    hidden = args.disable_tqdm or not sys.stderr.isatty()
    return tqdm(desc=what, dynamic_ncols=True, disable=hidden, **settings)


def trained(logs: Mapping[str, Any]) -> list[str]:
    """The line for a log entry about training steps; nothing at the end of training, because the report says more."""
    if "loss" not in logs:
        return []
    speed = [f"{logs['tokens_per_second']:,.0f} tokens per second"] if "tokens_per_second" in logs else []
    return [f"loss {logs['loss']:.4f}", *speed]


def evaluated(logs: Mapping[str, Any]) -> list[str]:
    """The line for an evaluation."""
    figures = [f"{name} {form.format(logs[key])}" for key, (name, form) in EVALUATED.items() if key in logs]
    return [f"validation {', '.join(figures)}".replace("%", " %")]


def show_progress(trainer: Trainer) -> None:
    """Let `trainer` show its progress this way instead of Trainer's own, which is kept in a notebook."""
    if trainer.pop_callback(ProgressCallback) or trainer.pop_callback(PrinterCallback):
        trainer.add_callback(TrainingProgress())
