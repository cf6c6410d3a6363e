"""A value that is not finite stops a run before the update; a gradient spike is skipped if the user asked for it."""

import json
import math
import os
import re
import resource
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT
from killing import CONTEXT
from tiny_runs import assert_same, tiny_trainer, train, weights
from together import environment_of
from torch.nn.functional import cross_entropy
from transformers import TrainerCallback

from hfgpt.errors import UserError
from hfgpt.training.checkpoints import newest_whole_checkpoint, why_not_whole
from hfgpt.training.finite import LEAST, GradientNorms


class Poisoned:
    """The loss of a language model, times `factor` plus `value` for every batch with a row that begins with the token `first`."""

    def __init__(self, value: float, *, first: int, factor: float = 1.0):
        self.value, self.first, self.factor = value, first, factor

    def __call__(self, outputs, labels, num_items_in_batch=None):
        logits = outputs["logits"][:, :-1]
        learned = labels[:, 1:].reshape(-1)
        loss = cross_entropy(logits.reshape(-1, logits.shape[-1]), learned, reduction="sum") / (learned != -100).sum().clamp(min=1)
        if (labels[:, 0] == self.first).any():
            return loss * self.factor + self.value
        return loss


def row_of(token: int) -> int:
    """The row of `tiny_trainer` that begins with this token."""
    return next(row for row in range(22) if row * 7 % 60 == token)


@pytest.mark.slow
@pytest.mark.parametrize(("value", "said"), [(math.nan, "nan"), (math.inf, "inf")])
@pytest.mark.parametrize("max_grad_norm", [1.0, 0.0])
def test_a_loss_that_is_not_finite_stops_before_the_update_and_names_step_and_rows(tmp_path, value, said, max_grad_norm):
    """Case A12. With two batches per step, only the rows of the batch with that loss are named."""
    bad = 7 * 13 % 60
    settings = dict(save_steps=1, per_device_train_batch_size=2, gradient_accumulation_steps=2, max_grad_norm=max_grad_norm)
    seen = []

    class Noted(Poisoned):
        def __call__(self, outputs, labels, num_items_in_batch=None):
            seen.append([first * 43 % 60 for first in labels[:, 0].tolist()])  # 7 * 43 = 1 modulo 60
            return super().__call__(outputs, labels, num_items_in_batch)

    trainer = tiny_trainer(tmp_path / "run", loss=Noted(value, first=bad), **settings)
    before = []
    get_grad_norm = trainer._get_grad_norm
    trainer._get_grad_norm = lambda *args, **kwargs: (before.append(weights(trainer)), get_grad_norm(*args, **kwargs))[1]
    with pytest.raises(UserError) as stopped:
        train(trainer, None)
    step = trainer.state.global_step + 1
    batch = next(rows for rows in seen if row_of(bad) in rows)
    assert len(batch) == 2
    assert f"step {step} is not taken: the loss is {said} (rows {', '.join(map(str, sorted(batch)))} of the training" in str(
        stopped.value
    )
    assert_same(trainer, before[-1])
    newest = newest_whole_checkpoint(tmp_path / "run", run="one")
    if step > 1:
        assert newest == tmp_path / "run" / f"checkpoint-{step - 1}"
        assert f"The newest checkpoint, {newest}, is finite" in str(stopped.value)
    assert not (tmp_path / "run" / f"checkpoint-{step}").exists()
    # Without the bad loss, the same run resumes from there, also in a later epoch.
    trainer = tiny_trainer(tmp_path / "run", loss=Poisoned(0.0, first=bad), **settings)
    train(trainer, newest)
    assert trainer.state.global_step == 8


@pytest.mark.slow
def test_rows_of_a_later_epoch_and_of_a_run_that_went_on_are_those_that_were_read(tmp_path):
    poisoned = Poisoned(0.0, first=7 * 5 % 60)
    read = []

    class Noted(Poisoned):
        def __call__(self, outputs, labels, num_items_in_batch=None):
            read.append(sorted(first * 43 % 60 for first in labels[:, 0].tolist()))
            return super().__call__(outputs, labels, num_items_in_batch)

    trainer = tiny_trainer(tmp_path / "run", loss=poisoned, save_steps=7)
    train(trainer, None)
    trainer = tiny_trainer(tmp_path / "run", loss=Noted(math.nan, first=0), max_steps=30)
    with pytest.raises(UserError) as stopped:
        train(trainer, tmp_path / "run" / "checkpoint-7")
    assert trainer.state.global_step >= 7  # the second epoch, of 6 steps each
    assert f"(rows {', '.join(map(str, read[-1]))} of the training set" in str(stopped.value)


@pytest.mark.slow
def test_a_gradient_that_is_not_finite_stops_though_the_loss_is(tmp_path):
    class Infinite(Poisoned):
        def __call__(self, outputs, labels, num_items_in_batch=None):
            loss = super().__call__(outputs, labels, num_items_in_batch)
            # The square root of 0 is 0, but its slope is infinite.
            return loss + torch.sqrt(outputs["logits"][0, 0, 0] * 0.0) if (labels[:, 0] == self.first).any() else loss

    trainer = tiny_trainer(tmp_path / "run", loss=Infinite(0.0, first=0))
    with pytest.raises(UserError, match=r"is not taken: the norm of the gradient is nan \(rows (\d+, )+\d+ of the training set"):
        train(trainer, None)


def test_weights_that_are_not_finite_are_never_saved(tmp_path):
    trainer = tiny_trainer(tmp_path / "run", save_steps=4, save_total_limit=1)
    train(trainer, None)
    with torch.no_grad():
        trainer.trained.get_input_embeddings().weight[3, 5] = math.inf
    trainer.state.global_step = 9
    with pytest.raises(
        UserError, match=r"weights after step 9 are not finite, so no checkpoint is written. The newest .*checkpoint-8"
    ):
        trainer._save_checkpoint(trainer.model, None)
    assert [path.name for path in (tmp_path / "run").glob("*checkpoint-*")] == ["checkpoint-8"]
    assert why_not_whole(tmp_path / "run" / "checkpoint-8", run="one") is None


@pytest.mark.slow
def test_an_evaluation_that_is_not_finite_is_named(tmp_path):
    trainer = tiny_trainer(tmp_path / "run", keep="best", loss=Poisoned(0.0, first=60), eval_strategy="steps", eval_steps=2)
    train(trainer, None)
    with pytest.raises(UserError, match=r"^test_loss after step 8 is nan, although the weights are finite: check the rows"):
        trainer.evaluate_as_loaded(trainer.eval_dataset, name="test", metrics=lambda _: {"loss": math.nan})


def test_norms_are_spikes_by_the_median_of_those_before():
    norms = GradientNorms()
    assert not any(norms.is_spike(norm, factor=2.0) for norm in [100.0, *[1.0] * (LEAST - 1)])
    assert not norms.is_spike(2.0, factor=2.0)
    assert norms.is_spike(2.1, factor=2.0)
    assert norms.skipped == 1
    again = GradientNorms()
    vars(again).update(json.loads(json.dumps(norms.state()["attributes"])))
    assert again.norms == norms.norms
    skipped = [again.is_spike(10.0, factor=2.0) for _ in range(60)]
    assert skipped[0]
    assert not skipped[-1]  # the gradients have become larger permanently


@pytest.mark.slow
def test_a_spike_moves_nothing_is_counted_and_is_skipped_again_by_a_run_that_goes_on(tmp_path, caplog):
    settings = dict(skip=3.0, max_steps=32, save_steps=23, loss=Poisoned(0.0, first=7 * 9 % 60, factor=1000.0), max_grad_norm=0)

    class Watched(TrainerCallback):
        """Notes which steps changed no weight."""

        def __init__(self):
            self.moved_nothing, self.before = [], {}

        def on_pre_optimizer_step(self, *args, **kwargs):
            self.before = weights(trainer)

        def on_optimizer_step(self, args, state, control, **kwargs):
            if all(torch.equal(one, self.before[name]) for name, one in weights(trainer).items()):
                self.moved_nothing.append(state.global_step + 1)

    trainer, watched = tiny_trainer(tmp_path / "straight", **settings), Watched()
    trainer.add_callback(watched)
    train(trainer, None)
    skipped = [int(number) for number in re.findall(r"step (\d+) is skipped: its gradient norm", caplog.text)]
    assert skipped
    assert watched.moved_nothing == skipped
    assert trainer.training_metrics()["skipped_steps"] == len(skipped)
    assert trainer.state.log_history[-2]["skipped_steps"] == len(skipped)
    assert any(step > 23 for step in skipped)
    caplog.clear()
    resumed = tiny_trainer(tmp_path / "straight", **settings)
    train(resumed, tmp_path / "straight" / "checkpoint-23")
    assert [int(number) for number in re.findall(r"step (\d+) is skipped", caplog.text)] == [step for step in skipped if step > 23]
    assert_same(resumed, weights(trainer))
    assert resumed.training_metrics()["skipped_steps"] == len(skipped)


def _one_of_two(rank: int, environment: dict[str, str], folder: Path, kind: str, answers) -> None:
    """A run in which one process alone has a loss that is not finite, or the first one alone meets a file size limit."""
    os.environ.update(environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
    settings: dict[str, Any] = {"per_device_train_batch_size": 2, "optimizer": "adamw"}
    if kind == "loss":
        trainer = tiny_trainer(folder, loss=Poisoned(math.nan, first=0), save_steps=1, **settings)
    else:
        trainer = tiny_trainer(folder, **settings)
        if rank == 0:
            trainer.add_callback(Limit())
    try:
        train(trainer, None)
    except UserError as error:
        answers.put((rank, str(error), trainer.state.global_step))


class Limit(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 3:
            resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))


@pytest.mark.slow
@pytest.mark.parametrize("file", ["ddp", "fsdp2"])
@pytest.mark.parametrize("kind", ["loss", "disk"])
def test_two_processes_stop_together_with_one_sentence(tmp_path, file, kind):
    environment = environment_of(ROOT / "recipes" / "accelerate" / f"{file}.yaml")
    answers = CONTEXT.Queue()
    arguments = (environment, tmp_path / "run", kind, answers)
    processes = [CONTEXT.Process(target=_one_of_two, args=(rank, *arguments)) for rank in range(2)]
    for process in processes:
        process.start()
    told = sorted(answers.get(timeout=300) for _ in processes)
    for process in processes:
        process.join(timeout=60)
    assert [process.exitcode for process in processes] == [0, 0]
    (_, first, step), (_, second, _) = told
    assert first == second
    if kind == "loss":
        assert re.match(rf"step {step + 1} is not taken: the loss is nan \(rows (0, \d+|\d+, 0) of the training set", first)
        last = step
    else:
        assert first.startswith(f"{tmp_path / 'run' / 'checkpoint-4'} is not saved")
        assert "ulimit -f" in first
        last = 2
    newest = tmp_path / "run" / f"checkpoint-{last}"
    assert max(path.name for path in (tmp_path / "run").glob("*checkpoint-*")) == newest.name
    assert why_not_whole(newest, run="one") is None
    assert json.loads((newest / "manifest.json").read_text())["world_size"] == 2
    assert {path.name for path in newest.glob("rng_state*")} == {"rng_state_0.safetensors", "rng_state_1.safetensors"}
