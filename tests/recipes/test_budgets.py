"""Runs with a budget: the plan is chosen and written once, and every later start follows it."""

import json
import os
import signal

import pytest
import yaml
from conftest import ROOT, run_python
from killing import kill, run_main, sha256_of_weights
from lab import Job
from recipes_in_process import run_script

from hfgpt.arguments.parsing import parse_arguments
from hfgpt.arguments.pretraining import PretrainArguments
from hfgpt.errors import UserError

STEP_END = "hfgpt.training.plan_measuring.StepClock.on_step_end"
COMMON = ("--precision", "fp32", "--cpu_threads", "1", "--use_cpu", "true", "--sample_tokens", "4", "--disable_tqdm", "true")


def of_folder(folder, name="run.yaml"):
    return yaml.safe_load((folder / name).read_text())


@pytest.fixture(scope="module")
def budgeted(small_rows, tmp_path_factory):
    """A run of 20,000 tokens, and what it printed."""
    folder = tmp_path_factory.mktemp("budgeted") / "base"
    words = (*COMMON, "--dataset", small_rows, "--token_budget", "20000")
    done = run_script("pretrain.py", *words, "--output_dir", folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, words, done.stdout


def test_the_plan_is_said_with_its_reasons_before_the_training_and_compared_after_it(budgeted):
    folder, _, said = budgeted
    assert said.index("plan for 20,000 tokens:") < said.index("start: ")
    for part in ("  size: ", "  steps: ", "  rates: ", "  memory: ", "  time: ", "  expected: ", "<- chosen"):
        assert part in said.partition("start: ")[0], part
    metrics = json.loads((folder / "metrics.json").read_text())
    plan = of_folder(folder)["plan"]
    assert metrics["plan"]["expected"] == plan["expected"]
    assert metrics["steps"] == plan["chosen"]["max_steps"]
    assert metrics["parameters"] == plan["expected"]["parameters"]
    # Trainer counts the last batch of a pass as a whole one.
    assert metrics["epochs"] == pytest.approx(plan["expected"]["epochs"], rel=0.1)
    assert "s expected, " in (folder / "report.txt").read_text()


def test_the_budget_of_tokens_is_kept(budgeted):
    folder, _, _ = budgeted
    chosen = of_folder(folder)["plan"]["chosen"]
    tokens = chosen["max_steps"] * chosen["per_device_train_batch_size"] * chosen["gradient_accumulation_steps"] * 64
    assert 17_000 < tokens <= 20_000


def test_the_same_command_measures_nothing_again_and_another_budget_is_refused(budgeted):
    folder, words, _ = budgeted
    done = run_script("pretrain.py", *words, "--output_dir", folder)
    assert "nothing is measured again" in done.stdout
    assert "already done" in done.stdout
    assert "plan for" not in done.stdout
    refused = run_script("pretrain.py", *words[:-1], "30000", "--output_dir", folder)
    assert refused.returncode == 1
    assert "token_budget was 20000.0, is now 30000.0" in refused.stderr


def test_a_killed_run_goes_on_by_its_plan_and_run_yaml_alone_repeats_it(budgeted, tmp_path):
    folder, words, _ = budgeted
    entries = of_folder(folder) | {"output_dir": str(tmp_path / "killed")}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(entries))
    kill("pretrain", [*words, "--plan", json.dumps(entries["plan"]), "--output_dir", tmp_path / "killed"],
         at="transformers.Trainer.training_step", call=7)  # fmt: skip
    before = of_folder(tmp_path / "killed")["plan"]
    metrics = run_main("pretrain", [*words, "--output_dir", tmp_path / "killed"])  # no plan is given: run.yaml has it
    assert of_folder(tmp_path / "killed")["plan"] == before == entries["plan"]
    assert metrics["steps"] == before["chosen"]["max_steps"]
    assert sha256_of_weights(tmp_path / "killed") == sha256_of_weights(folder)


def test_what_is_given_is_kept_and_the_plan_is_made_around_it(small_rows, tmp_path):
    words = ("--depth", "1", "--per_device_train_batch_size", "16", "--learning_rate", "3e-3", "--flop_budget", "1e10")
    done = run_script("pretrain.py", *COMMON, *words, "--dataset", small_rows, "--output_dir", tmp_path / "base")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "with depth, per_device_train_batch_size, learning_rate as given" in done.stdout
    chosen = of_folder(tmp_path / "base")["plan"]["chosen"]
    assert not {"depth", "per_device_train_batch_size", "learning_rate"} & chosen.keys()  # 16 and 3e-3 are the defaults, but given
    config = json.loads((tmp_path / "base" / "config.json").read_text())
    assert (config["num_hidden_layers"], config["hidden_size"]) == (1, 128)


def test_a_budget_of_seconds_is_divided_and_counted(small_rows, tmp_path):
    done = run_script(
        "pretrain.py", *COMMON, "--time_budget", "60", "--depth", "1", "--per_device_train_batch_size", "16",
        "--dataset", small_rows, "--output_dir", tmp_path / "base",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    plan = json.loads((tmp_path / "base" / "metrics.json").read_text())["plan"]
    assert sum(plan["expected"]["seconds_by_part"].values()) == pytest.approx(plan["expected"]["seconds"], abs=0.3)
    assert plan["expected"]["seconds"] < 61
    assert plan["came"]["seconds"] > 1
    assert "60 s given" in done.stdout


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (dict(time_budget=60.0, max_steps=10), "max_steps is 10 and time_budget is 60; each sets the length"),
        (dict(token_budget=1e6, num_train_epochs=1.0), "num_train_epochs is 1.0 and token_budget is 1e"),
        (dict(time_budget=60.0, token_budget=1e6), "time_budget and token_budget are both given, but only one"),
        (dict(time_budget=60.0, model="base"), "model is 'base' and time_budget is given; a budget chooses the size"),
        (dict(flop_budget=-1.0), "flop_budget is -1.0; it must be a number of FLOPs above 0"),
        (dict(time_budget=60.0, plan={"depth": 2}), "plan needs the parts asked, chosen and expected"),
        (
            dict(time_budget=60.0, plan={"asked": {"time_budget": 50.0}, "chosen": {}, "expected": {}}),
            "plan was made for time_budget 50",
        ),
        (
            dict(time_budget=60.0, depth=4, plan={"asked": {"time_budget": 60.0}, "chosen": {"depth": 2}, "expected": {}}),
            "depth is given, but plan has already chosen it",
        ),
    ],
)
def test_what_contradicts_itself_is_refused(given, said, tmp_path):
    with pytest.raises(UserError, match=said.replace("+", r"\+")):
        PretrainArguments(dataset="rows", output_dir=str(tmp_path / "out"), use_cpu=True, **given)


def test_a_budget_may_follow_a_number_of_steps_that_is_switched_off(tmp_path):
    (tmp_path / "run.yaml").write_text("dataset: rows\noutput_dir: out\nmax_steps: 60\n")
    words = [str(tmp_path / "run.yaml"), "--max_steps", "-1", "--time_budget", "60"]
    assert "max_steps" not in parse_arguments(PretrainArguments, words).explicit  # so the plan sets it
    assert parse_arguments(PretrainArguments, [*words[:3], "--num_train_epochs", "2"]).max_steps == -1


def test_a_budget_for_nothing_is_refused_with_what_it_takes(small_rows, tmp_path):
    done = run_script("pretrain.py", *COMMON, "--time_budget", "1", "--dataset", small_rows, "--output_dir", tmp_path / "base")
    assert done.returncode == 1
    assert "time_budget is 1 seconds; here the startup takes" in done.stderr
    assert not (tmp_path / "base").exists()


LISTEN = """
import os, subprocess, sys, types
cores = sorted(os.sched_getaffinity(0))[:2]
os.sched_setaffinity(0, cores)
import torch
from hfgpt.training.budgets import threads_beside_others
torch.set_num_threads(len(cores))
args = types.SimpleNamespace(device=torch.device("cpu"), world_size=1, cpu_threads=None)
others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(4)]
try:
    print("fewer:", threads_beside_others(args))
    args.cpu_threads = 2
    print("given:", threads_beside_others(args))
finally:
    for one in others:
        one.kill()
"""


@pytest.mark.skipif(len(getattr(os, "sched_getaffinity", lambda _: [0])(0)) < 2, reason="two cores are needed to share them")
def test_beside_other_programs_a_plan_uses_fewer_threads_unless_they_are_given():
    done = run_python("-c", LISTEN, cwd=ROOT)
    assert done.stdout.splitlines()[-2:] == ["fewer: 1", "given: None"], done.stdout + done.stderr


@pytest.mark.slow
def test_a_signal_while_speeds_are_measured_ends_the_command(small_rows, tmp_path):
    """Whichever step of a measurement it meets, nothing goes on, and nothing is left behind."""
    words = (*COMMON, "--dataset", small_rows, "--time_budget", "60", "--output_dir", tmp_path / "base")
    for count in (1, 2, 5, 8):  # of the measured steps
        job = Job("pretrain", words, tmp_path / "log", at=(STEP_END, count, signal.SIGINT))
        assert job.wait() == 130, job.said
        assert "Traceback" not in job.said
        assert "plan for" not in job.said
        assert not (tmp_path / "base").exists()
