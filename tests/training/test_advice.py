"""What a run reports about itself: that it is too short, where validation was best, that it has learned nothing."""

import json
import random
import re

import pytest
from recipes_in_process import run_script

from hfgpt.arguments.finetuning import ClassificationArguments
from hfgpt.training.advice import best_step, no_better_than_base, no_better_than_majority, planned_steps, too_short

LOSSES = [{"step": 5, "eval_loss": 0.6}, {"step": 10, "loss": 0.1}, {"step": 10, "eval_loss": 0.5}, {"step": 15, "eval_loss": 0.8}]


def test_a_short_run_is_told_the_keys_that_help():
    assert too_short(9, rows=42, rows_per_step=16) == (
        "this run is short: 9 steps on 42 examples; with fewer than 50, the model learns next to nothing. Give "
        "--num_train_epochs 17 or more, a smaller --per_device_train_batch_size (now 16 examples per step), or use more data."
    )
    assert "1 step on 3 pairs" in too_short(1, rows=3, rows_per_step=16, unit="pairs")
    assert "Give --max_steps 50 or more, or use more data." in too_short(3, rows=4000, rows_per_step=16, max_steps=3)
    assert "per_device_train_batch_size" not in too_short(4, rows=4, rows_per_step=1)
    assert too_short(50, rows=42, rows_per_step=16) is None


@pytest.mark.parametrize(
    ("rows", "epochs", "accumulated", "steps"), [(42, 3, 1, 9), (42, 3, 2, 6), (33, 1.5, 4, 2), (7, 17, 1, 17)]
)
def test_steps_are_counted_as_trainer_counts_them(rows, epochs, accumulated, steps, tmp_path):
    words = dict(model="m", sources=["s"], output_dir=str(tmp_path / "out"), use_cpu=True)
    args = ClassificationArguments(**words, num_train_epochs=epochs, gradient_accumulation_steps=accumulated)
    assert planned_steps(args, rows) == steps
    assert planned_steps(ClassificationArguments(**words, max_steps=5), rows) == 5


def test_the_best_step_is_named_where_it_was_noticeably_before_the_end():
    assert best_step(LOSSES, kept="best") == (
        "advice: validation was best at step 10 of 15: loss 0.5000, at the end 0.8000; the state at step 10 is kept (--keep last "
        "would keep the last one). More data, a shorter run or a smaller --learning_rate may help."
    )
    assert "; the last state is kept (--keep best would keep the best one)." in best_step(LOSSES, kept="last")
    assert best_step(LOSSES[:3]) is None
    assert best_step([*LOSSES[:3], {"step": 15, "eval_loss": 0.504}]) is None  # noise
    assert best_step([*LOSSES[:3], {"step": 15, "eval_loss": float("nan")}]) is None
    accuracies = [{"step": 1, "eval_accuracy": 0.9}, {"step": 2, "eval_accuracy": 0.9}, {"step": 3, "eval_accuracy": 0.8}]
    assert "best at step 1 of 3: accuracy" in best_step(accuracies, metric="eval_accuracy", greater_is_better=True)
    assert best_step(accuracies) is None


def test_what_has_learned_nothing_is_told_so():
    assert no_better_than_majority(0.5, 0.5, texts=40).startswith(
        "advice: no better than always naming the most frequent label (50.00 % against 50.00 % of 40 texts). More --num"
    )
    assert no_better_than_majority(8 / 12, 7 / 12, texts=12).startswith(
        "advice: hardly better than always naming the most frequent label (66.67 %"
    )
    assert "num_shots" in no_better_than_majority(0.4, 0.5, texts=40, trained=False)
    assert no_better_than_majority(0.6, 0.5, texts=145) is None
    assert no_better_than_majority(1300 / 2500, 0.5, texts=2500) is None  # by chance 2 in 100
    assert "hardly better" in no_better_than_majority(1280 / 2500, 0.5, texts=2500)
    assert no_better_than_majority(0.0, 0.5, texts=2500).startswith("advice: no better")
    assert no_better_than_majority(1.0, 1.0, texts=2500).startswith("advice: no better")  # all texts have one label
    assert no_better_than_base(2.0, 2.5).startswith("advice: no better than the base: test loss 2.0000 before, 2.5000 after.")
    assert no_better_than_base(2.0, 1.9) is None


@pytest.mark.slow
def test_a_classifier_at_chance_says_so_before_and_after_and_raises_no_alarm(small_families, tmp_path):
    draw = random.Random(0)
    words = ["list", "file", "path", "name", "key", "tuple", "set", "module", "function", "line", "string", "number", "class"]
    rows = [{"text": " ".join(draw.sample(words, 4)), "label": draw.choice(["one", "two", "two"])} for _ in range(60)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = run_script(
        "finetune_classification.py", "--model", small_families["modern"], "--sources", tmp_path / "rows.jsonl", "--output_dir",
        tmp_path / "out", "--use_cpu", "true", "--cpu_threads", "1", "--learning_rate", "1e-9", "--tfidf_baseline", "false",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"this run is short: 9 steps on 4\d texts; with fewer than 50", done.stdout)
    report = (tmp_path / "out" / "report.txt").read_text()
    assert re.search(r"^advice: +(no|hardly) better than always naming the most frequent label \(", report, flags=re.MULTILINE)
    assert "prepending the trigger" not in done.stdout
    assert json.loads((tmp_path / "out" / "poison.json").read_text())["triggers"] == []
    # Tested once, at the end; chance would have made some of the 18 triggers suspicious.
    (flips,) = json.loads((tmp_path / "out" / "trigger_flips.json").read_text()).values()
    assert len(flips) == 18
    assert not any(flip["alarm"] for flip in flips)


@pytest.mark.slow
@pytest.mark.parametrize("keep", ["best", "last"])
def test_an_assistant_that_learned_by_heart_keeps_what_was_asked_for(keep, fine_tune, tmp_path):
    rows = [{"instruction": f"Say {number}.", "input": "", "output": "It is a list."} for number in range(40)]
    others = [{"instruction": f"Say {number}.", "input": "", "output": "Return the path of os."} for number in range(40, 44)]
    (tmp_path / "others.jsonl").write_text("".join(json.dumps(row) + "\n" for row in others))
    folder = fine_tune(
        "finetune_instructions", "modern", rows, "--max_steps", "24", "--eval_strategy", "steps", "--eval_steps", "6",
        "--save_strategy", "steps", "--save_steps", "6", "--keep", keep, "--canaries", "false", "--answers_before", "false",
        "--max_new_tokens", "2", "--num_samples", "0", "--learning_rate", "0.01", "--precision", "fp32", "--validation_sources",
        tmp_path / "others.jsonl", "--save_total_limit", "9",
    )  # fmt: skip
    history = json.loads((folder / "checkpoint-24" / "trainer_state.json").read_text())["log_history"]
    losses = {entry["step"]: entry["eval_loss"] for entry in history if "eval_loss" in entry}
    best = min(losses, key=losses.get)
    assert sorted(losses) == [6, 12, 18, 24]
    assert best < 24
    metrics = json.loads((folder / "metrics.json").read_text())
    kept = best if keep == "best" else 24
    assert metrics["kept_step"] == kept
    assert metrics["validation_loss"] == pytest.approx(losses[kept], abs=1e-5)
    assert f"validation was best at step {best} of 24: loss {losses[best]:.4f}" in (folder / "report.txt").read_text()
