"""What a training prints while it runs."""

import logging

import pytest
from transformers import TrainerControl, TrainerState, TrainingArguments

from hfgpt.training.progress import TrainingProgress


def test_lines_have_what_people_compare(caplog, tmp_path):
    state, control = TrainerState(max_steps=1200, is_world_process_zero=True), TrainerControl()
    args, progress = TrainingArguments(output_dir=str(tmp_path), use_cpu=True), TrainingProgress()
    progress.on_train_begin(args, state, control)
    with caplog.at_level(logging.INFO, logger="hfgpt"):
        state.global_step = 50
        progress.started -= 100  # seconds ago
        progress.on_log(args, state, control, logs={"loss": 3.21, "grad_norm": 1.0, "tokens_per_second": 12744.3})
        progress.on_log(args, state, control, logs={"eval_loss": 2.9, "eval_accuracy": 0.5, "eval_runtime": 3.0})
        progress.on_log(args, state, control, logs={"train_runtime": 100.0, "train_loss": 3.0})
    assert caplog.messages == [
        "step    50 of 1,200  loss 3.2100  12,744 tokens per second  38:20 left",
        "step    50 of 1,200  validation loss 2.9000, accuracy 50.00 %",
    ]


@pytest.mark.parametrize(("given", "expected"), [((), 1), (("logging_steps",), 4)])
def test_lines_come_now_and_then_unless_somebody_said_how_often(given, expected, caplog, tmp_path):
    state, control = TrainerState(max_steps=4, is_world_process_zero=True), TrainerControl()
    args, progress = TrainingArguments(output_dir=str(tmp_path), use_cpu=True), TrainingProgress()
    args.explicit = frozenset(given)
    progress.on_train_begin(args, state, control)
    with caplog.at_level(logging.INFO, logger="hfgpt"):
        for state.global_step in range(1, 5):
            progress.on_log(args, state, control, logs={"loss": 3.0})
        progress.on_log(args, state, control, logs={"eval_loss": 2.9})
    assert len(caplog.messages) == expected + 1
