"""What a run keeps, and what it reports about itself: to reporters, in its files, in its picture."""

import json
import logging
import shutil
import time
from pathlib import Path

import pytest
import torch
from recipes_in_process import recipe
from safetensors.torch import load_file
from transformers import TrainerCallback
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

from hfgpt.arguments.pretraining import PretrainArguments
from hfgpt.errors import UserError
from hfgpt.training import energy
from hfgpt.training.advice import before_training
from hfgpt.training.callbacks import draw_loss
from hfgpt.training.trainer import best_state

# The learning rate rises until the end and becomes far too high, so validation is best somewhere in between.
SETTINGS = dict(
    depth=2, config_overrides={"hidden_size": 32, "num_attention_heads": 2, "residual_dropout": 0.1, "tie_word_embeddings": True},
    optimizer="adamw",
    learning_rate=0.5, seed=0, max_steps=20, warmup_steps=20, per_device_train_batch_size=4, eval_steps=0.2, save_steps=7,
    save_total_limit=1, precision="fp32", cpu_threads=1, use_cpu=True, disable_tqdm=True, sample_prompts=[],
)  # fmt: skip


RATES = ("learning_rate", "muon_learning_rate", "embedding_learning_rate")


class Recorder(TrainerCallback):
    """A reporter like Trainer's own: found by name, called before all other callbacks."""

    lines: list[dict]

    def on_train_begin(self, args, state, control, **kwargs):
        Recorder.lines = []

    def on_log(self, args, state, control, logs=None, **kwargs):
        Recorder.lines.append({**logs, "step": state.global_step})


class Crash(TrainerCallback):
    """Ends the process in step 15; `LateCrash` does so after the last step."""

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 15:
            raise RuntimeError("crash")


class LateCrash(TrainerCallback):
    def on_log(self, args, state, control, logs=None, **kwargs):
        if "train_loss" in logs:
            raise RuntimeError("crash")


@pytest.fixture(scope="module", autouse=True)
def reporters():
    ours = {"recorder": Recorder, "crash": Crash, "late crash": LateCrash}
    INTEGRATION_TO_CALLBACK.update(ours)
    yield
    for name in ours:
        del INTEGRATION_TO_CALLBACK[name]


@pytest.fixture(scope="module")
def run(small_rows, tmp_path_factory):
    """The folder of a run, what it sent to a reporter, and its warnings.

    The energy counter is faked with CPU time.
    """
    folder = tmp_path_factory.mktemp("kept") / "base"
    warnings: list[str] = []
    handler = logging.Handler("WARNING")
    handler.emit = lambda record: warnings.append(record.getMessage())
    logging.getLogger("hfgpt.training.run").addHandler(handler)
    with pytest.MonkeyPatch.context() as patch:
        counter = energy.Counter("CPU (RAPL)", lambda: 20 * time.process_time())
        patch.setattr(energy, "find_counters", lambda *args, **kwargs: [counter])
        recipe("pretrain", dataset=str(small_rows), output_dir=str(folder), report_to=["recorder"], **SETTINGS)
    logging.getLogger("hfgpt.training.run").removeHandler(handler)
    return folder, Recorder.lines, warnings


def metrics_of(folder: Path) -> dict:
    return json.loads((folder / "metrics.json").read_text())


def evaluations(lines: list[dict]) -> dict[int, float]:
    return {line["step"]: line["eval_loss"] for line in lines if "eval_loss" in line}


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def assert_same_weights(first: Path, second: Path):
    first, second = weights(first), weights(second)
    assert first.keys() == second.keys()
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def test_speed_use_and_energy_reach_every_reporter_and_agree_with_the_files(run):
    folder, lines, _ = run
    training = [line for line in lines if "loss" in line]
    assert [line["step"] for line in training] == list(range(1, 21))  # with few steps, every step is logged
    for line in training:
        assert line["tokens_per_second"] > 0
        assert line["mfu"] > 0
    joules = [line["energy_joules"] for line in training]
    assert joules == sorted(joules)
    assert joules[-1] > joules[0] > 0  # since training began
    (end,) = [line for line in lines if "train_loss" in line]
    metrics = metrics_of(folder)
    for key in ("tokens_per_second", "mfu", "energy_joules"):
        assert metrics[key] == end[f"train_{key}"]
    last = max(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    history = json.loads((last / "trainer_state.json").read_text())["log_history"]
    assert history == [line for line in lines if line["step"] <= history[-1]["step"]][: len(history)]
    report, card = ((folder / name).read_text() for name in ("report.txt", "README.md"))
    assert f"{metrics['tokens_per_second']:,.0f} tokens per second (MFU {100 * metrics['mfu']:.1f} %), " in report
    assert f"tokens per second, with an MFU of {100 * metrics['mfu']:.2f} %: the model's arithmetic" in card
    assert metrics["energy_source"] == "CPU (RAPL)"
    assert "Wh, counted by CPU (RAPL)" in card


def test_the_best_weights_are_kept_wherever_checkpoints_fall(run):
    """Evaluated every 4 steps, saved every 7: the best weights of an evaluation are on disk nevertheless."""
    folder, lines, _ = run
    by_step = evaluations(lines)
    best = min(by_step, key=by_step.get)
    assert list(by_step) == [4, 8, 12, 16, 20]
    assert 4 <= best < 20
    metrics = metrics_of(folder)
    assert (metrics["steps"], metrics["kept_step"]) == (20, best)
    assert metrics["validation_loss"] == pytest.approx(by_step[best], rel=1e-6)
    assert_same_weights(folder, folder / f"checkpoint-{best}")
    assert f"validation was best at step {best} of 20" in (folder / "report.txt").read_text()
    assert f"The weights are those of step {best}, the best on the validation set." in (folder / "README.md").read_text()


@pytest.mark.parametrize("crash", ["crash", "late crash"])
def test_a_run_that_crashed_and_moved_keeps_the_very_same_weights(run, small_rows, tmp_path, monkeypatch, crash):
    settings = dict(SETTINGS, dataset=str(small_rows))
    with pytest.raises(RuntimeError, match="crash"):
        recipe("pretrain", **settings, output_dir=str(tmp_path / "before"), report_to=[crash])
    shutil.move(tmp_path / "before", tmp_path / "after")
    monkeypatch.chdir(tmp_path)
    recipe("pretrain", **settings, output_dir="after")
    assert_same_weights(run[0], tmp_path / "after")
    same = ("validation_loss", "test_loss", "kept_step")
    assert [metrics_of(tmp_path / "after")[key] for key in same] == [metrics_of(run[0])[key] for key in same]
    assert metrics_of(tmp_path / "after")["steps_timed"] < 20


def test_the_last_weights_are_kept_where_they_are_asked_for(run, small_rows, tmp_path):
    settings = dict(SETTINGS, dataset=str(small_rows), output_dir=str(tmp_path / "base"))
    recipe("pretrain", **settings, keep="last")
    metrics = metrics_of(tmp_path / "base")
    assert metrics["kept_step"] == metrics["steps"] == 20
    assert metrics["validation_loss"] == pytest.approx(evaluations(run[1])[20], rel=1e-6)
    assert "the last state is kept (--keep best would keep the best one)" in (tmp_path / "base" / "report.txt").read_text()


def pretrain_arguments(tmp_path, **settings) -> PretrainArguments:
    return PretrainArguments(dataset="rows", output_dir=str(tmp_path / "base"), **settings)


@pytest.mark.parametrize("key", ["eval_strategy", "save_strategy"])
def test_without_evaluations_or_checkpoints_the_last_is_kept_and_that_is_said(tmp_path, key, caplog):
    args = pretrain_arguments(tmp_path, **{key: "no"})
    with caplog.at_level("INFO", logger="hfgpt"):
        assert best_state(keep=args.keep, eval_strategy=args.eval_strategy, save_strategy=args.save_strategy) == {}
    assert f"keep: the last state, because {key} is no" in caplog.text


def test_trainers_own_keys_for_the_best_model_are_refused_with_the_one_to_use(tmp_path):
    with pytest.raises(UserError, match="are set through keep; give --keep best or --keep last"):
        pretrain_arguments(tmp_path, load_best_model_at_end=True)
    args = pretrain_arguments(tmp_path, keep="last", save_strategy="best")
    with pytest.raises(UserError, match="save_strategy is best, but keep is last; give --keep best"):
        best_state(keep=args.keep, eval_strategy=args.eval_strategy, save_strategy=args.save_strategy)


def test_a_run_that_is_too_short_says_so_before_it_trains(run):
    """In the recipe's own words: how many steps on what, and each key that helps."""
    (short, warm) = run[2]
    assert "this run is short: 20 steps on 274 rows of 64 tokens; with fewer than 50" in short
    assert "Give --max_steps 50 or more" in short
    assert "the learning rate never reaches its peak: warmup_steps is 20, but the run has only 20 steps" in warm


def test_the_cures_of_a_short_run_are_keys_that_make_more_steps(tmp_path):
    args = pretrain_arguments(tmp_path, per_device_train_batch_size=8)
    (warning,) = before_training(args, 20, unit="rows of 1,024 tokens", also="a smaller context_length of prepare_data.py")
    for words in ("3 steps on 20 rows of 1,024 tokens", "num_train_epochs 17", "per_device_train_batch_size", "context_length"):
        assert words in warning
    assert before_training(args, 400, unit="rows") == []
    (warning,) = before_training(pretrain_arguments(tmp_path, max_steps=12), 5000, unit="rows", also="a smaller context_length")
    assert "max_steps 50" in warning
    assert "context_length" not in warning  # would make no more steps


def test_a_warm_up_that_never_ends_is_said(tmp_path):
    for steps, schedule, said in ((80, "linear", 1), (101, "linear", 0), (80, "constant", 0)):
        args = pretrain_arguments(tmp_path, warmup_steps=100, max_steps=steps, lr_scheduler_type=schedule)
        assert len(before_training(args, 5000, unit="rows")) == said


# Loss pictures


@pytest.fixture
def drawn(tmp_path, monkeypatch):
    """Draw a history of losses and return matplotlib's figure as it was saved."""
    from matplotlib.figure import Figure

    figures = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda figure, *args, **kwargs: (figures.append(figure), save(figure, *args, **kwargs)))

    def draw(history, **settings) -> Figure:
        draw_loss(history, tmp_path / "loss.png", **settings)
        assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")
        assert [path.name for path in tmp_path.iterdir()] == ["loss.png"]
        return figures[-1]

    return draw


def history(steps: int, *, every: int = 1, best: int | None = None) -> list[dict]:
    training = [{"step": step, "loss": 5 - step / steps} for step in range(1, steps + 1)]
    validation = [
        {"step": step, "eval_loss": 5 + abs(step - (best or steps)) / steps, "eval_bits_per_byte": 2.0}
        for step in range(every, steps + 1, every)
    ]
    return training + validation


@pytest.mark.parametrize("steps", [1, 3, 30, 400, 120_000])
def test_the_axis_counts_whole_steps_and_no_word_lies_on_a_curve(drawn, steps):
    shown = history(min(steps, 400), every=max(1, min(steps, 400) // 10))
    figure = drawn([*shown, {"step": steps, "loss": 3.0}])
    (axes,) = figure.axes
    ticks = [tick for tick in axes.get_xticks() if axes.get_xlim()[0] <= tick <= axes.get_xlim()[1]]
    assert len(ticks) >= 2
    assert all(tick == int(tick) for tick in ticks)
    assert not axes.texts
    assert axes.get_legend() is None
    (legend,) = figure.legends
    assert legend.get_window_extent().y0 >= axes.get_window_extent().y1


def test_the_best_evaluation_is_ringed_and_named(drawn):
    figure = drawn(history(30, every=3, best=15))
    training, _, ring = figure.axes[0].lines
    assert len(training.get_xdata()) == 30
    assert (list(ring.get_xdata()), list(ring.get_ydata())) == ([15], [5.0])
    assert figure.legends[0].get_texts()[-1].get_text() == "best: 5.000 at step 15, 2.000 bits per byte"
    assert figure.axes[0].get_ylabel() == "loss (nats per token)"


def test_the_ring_is_where_the_kept_weights_are(drawn):
    """A classifier's best step may be chosen by another figure than its loss."""
    entries = [
        {"step": step, "eval_loss": loss, "eval_macro_f1": f1} for step, loss, f1 in ((3, 0.6, 0.4), (6, 0.7, 0.9), (9, 0.5, 0.8))
    ]
    figure = drawn(entries, unit="nats per text", by="eval_macro_f1", greater_is_better=True)
    *_, ring = figure.axes[0].lines
    assert (list(ring.get_xdata()), list(ring.get_ydata())) == ([6], [0.7])
    assert figure.legends[0].get_texts()[-1].get_text() == "best macro F1: 0.900 at step 6"


def test_the_picture_of_a_run_has_all_its_steps(run):
    assert (run[0] / "loss.png").stat().st_size > 10_000


def test_tensorboard_shows_all_of_it(small_rows, tmp_path):
    """The start, every line of the log, all learning rates, samples, and the test, in one folder inside the run's."""
    pytest.importorskip("tensorboard", reason="needs tensorboard, of the extra watching")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    settings = dict(SETTINGS, optimizer="muon", max_steps=2, warmup_steps=0, eval_steps=1, save_strategy="no", keep="last")
    settings |= dict(sample_prompts=["os.", "`````"], sample_tokens=4)
    settings["config_overrides"] = settings["config_overrides"] | {"tie_word_embeddings": False}  # for the embedding's own rate
    recipe("pretrain", **settings, dataset=str(small_rows), output_dir=str(tmp_path / "base"), report_to=["tensorboard"])
    assert [path.name for path in tmp_path.iterdir()] == ["base"]
    (place,) = {path.parent for path in (tmp_path / "base").rglob("events.out.tfevents.*")}
    assert place == tmp_path / "base" / "runs"
    shown = EventAccumulator(str(place)).Reload()
    for tag in ("loss", "grad_norm", *RATES, "tokens_per_second", "mfu", "train_loss"):
        assert [event.step for event in shown.Scalars(f"train/{tag}")] == ([2] if tag == "train_loss" else [1, 2]), tag
    rates = [shown.Scalars(f"train/{tag}")[0].value for tag in RATES]
    assert rates == pytest.approx([0.5, 0.02, 0.2])
    assert [event.step for event in shown.Scalars("eval/bits_per_byte")] == [1, 2]
    metrics = metrics_of(tmp_path / "base")
    for name in ("test_loss", "validation_bits_per_byte", "parameters"):
        assert shown.Scalars(f"train/final/{name}")[0].value == pytest.approx(metrics[name])
    texts = {
        tag: [event.tensor_proto.string_val[0].decode() for event in shown.Tensors(f"train/{tag}/text_summary")]
        for tag in ("start", "run", "samples/1", "samples/2", "final/report")
    }
    assert "2 steps; muon, fp32" in texts["start"][0]
    assert "max_steps: 2" in texts["run"][0]
    assert texts["final/report"][0] == f"```text\n{(tmp_path / 'base' / 'report.txt').read_text()}\n```"
    assert len(texts["samples/1"]) == len(texts["samples/2"]) == 2
    assert texts["samples/1"][1].startswith("```text\nos.")
    assert texts["samples/2"][1].startswith("``````text\n`````")  # a longer fence than any in the text


def test_trackio_has_all_of_it_in_one_run_and_asks_no_network(small_rows, tmp_path, monkeypatch):
    trackio = pytest.importorskip("trackio", reason="needs trackio, of the extra watching")
    import trackio.sqlite_storage as storage

    monkeypatch.setattr(storage, "TRACKIO_DIR", tmp_path / "trackio")
    settings = dict(SETTINGS, max_steps=2, warmup_steps=0, eval_steps=1, save_strategy="no", keep="last", sample_prompts=["os."])
    settings |= dict(sample_tokens=4, project="small", report_to=["trackio"])
    recipe("pretrain", **settings, dataset=str(small_rows), output_dir=str(tmp_path / "base"))
    (run,) = trackio.Api().runs("small")
    lines = storage.SQLiteStorage.get_logs("small", run.name)
    told = {name: value for line in lines for name, value in line.items()}
    metrics = metrics_of(tmp_path / "base")
    for name in ("train/loss", "train/learning_rate", "train/grad_norm", "train/tokens_per_second", "train/mfu", "eval/loss"):
        assert len([line for line in lines if name in line]) == 2, name
    assert told["train/final/test_loss"] == pytest.approx(metrics["test_loss"])
    assert told["test/loss"] == pytest.approx(metrics["test_loss"])
    assert told["train/samples/1"].startswith("```text\nos.")
    assert "2 steps; adamw, fp32" in told["train/start"]


def test_a_reporter_that_is_missing_or_unknown_is_refused_before_anything_is_read(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="report_to is 'trakio', which is unknown; did you mean 'trackio'"):
        pretrain_arguments(tmp_path, report_to=["trakio"])
    monkeypatch.setattr("hfgpt.arguments.options.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"report_to is trackio, but trackio is not installed; pip install 'hfgpt\[watching\]'"):
        pretrain_arguments(tmp_path, report_to=["trackio"])
