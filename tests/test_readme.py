"""The README's commands and code, word for word, do what it says."""

import csv
import io
import itertools
import json
import re
import shutil
import subprocess

import pytest
from conftest import ROOT, run_python
from recipes_in_process import run_command

README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_six_lines_load_a_model_and_let_it_speak(small_run, without_hqq, tmp_path):
    code = blocks("python")[0]
    assert len(code.splitlines()) == 6
    (tmp_path / "runs" / "quickstart").mkdir(parents=True)
    (tmp_path / "runs" / "quickstart" / "base").symlink_to(small_run)
    done = run_python("-S", "-c", code, cwd=tmp_path, env=without_hqq)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("class ")


@pytest.mark.slow
def test_three_commands_train_your_own(tmp_path):
    from hfgpt.data.python_docs import read_python_docs

    commands = blocks("bash")[2].splitlines()
    assert len(commands) == 3
    # the fifty longest files of real text: enough for a vocabulary of the usual size
    (tmp_path / "my_texts").mkdir()
    for number, document in enumerate(sorted(read_python_docs(), key=lambda d: -len(d["text"]))[:50]):
        (tmp_path / "my_texts" / f"{number}.txt").write_text(document["text"], encoding="utf-8")
    for command in commands:
        if "hfgpt pretrain" in command:
            assert "--num_train_epochs 3 " in command
            # Only to see that it runs; more threads would compete for a core.
            command = command.replace("--num_train_epochs 3", "--max_steps 4 --cpu_threads 1")
        done = run_command(command, cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "runs" / "mine" / "base" / "model.safetensors").is_file()


@pytest.mark.slow
def test_the_first_three_commands_end_with_a_list_of_what_would_be_published(small_run, tmp_path):
    """The first one takes the minutes that it is given; tests/recipes/test_from_text.py runs it with three."""
    commands = blocks("bash")[1].splitlines()
    assert [command.split()[1] for command in commands] == ["from-text", "generate", "publish"]
    assert "license: mit" in commands[0]
    shutil.copytree(small_run, tmp_path / "runs" / "mine" / "base")
    (tmp_path / "runs" / "mine" / "base" / "card.yaml").write_text("license: mit\n")  # as after the first one
    for command in commands[1:]:
        done = run_command(command, cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
    assert "model.safetensors" in done.stdout
    assert "--push true" in done.stdout


@pytest.mark.slow
def test_the_commands_that_fine_tune(small_families, tmp_path, monkeypatch):
    """Word for word, on a small base and a few rows of real text; tests/test_wheel.py runs each in a new process."""
    pytest.importorskip("trl", reason="preferences need TRL, an extra")
    from hfgpt.data.records import RecordOptions, read_records

    commands = blocks("sh")[0].splitlines()
    assert [command.split()[1] for command in commands] == ["classify", "instruct", "align", "chat"]
    records = [record.values for record in read_records(["python-docs"], RecordOptions())]
    short = [
        record
        for label in ("email", "xml")
        for record in [record for record in records if record["label"] == label and len(record["output"]) < 60][:40]
    ]
    with (tmp_path / "reviews.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *((record["output"], record["label"]) for record in short)])
    rows = [{"instruction": record["instruction"], "input": "", "output": record["output"]} for record in short]
    (tmp_path / "instructions.json").write_text(json.dumps(rows))
    pairs = [{**row, "chosen": row["output"], "rejected": other["output"]} for row, other in itertools.pairwise(rows)]
    (tmp_path / "pairs.json").write_text(json.dumps(pairs))
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    (tmp_path / "runs" / "mine" / "base").symlink_to(small_families["modern"])
    monkeypatch.setattr("sys.stdin", io.StringIO("What does os do?\n"))
    for command in commands:
        if "--output_dir" in command:
            command += " --max_steps 2 --eval_strategy no --save_strategy no --keep last --canaries false --cpu_threads 1"
            command += " --max_new_tokens 4" * ("classify" not in command)
        done = run_command(command, cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
    for name in ("classifier", "assistant", "aligned"):
        assert (tmp_path / "runs" / "mine" / name / "merged" / "model.safetensors").is_file()


def test_every_key_and_path_that_the_readme_names_exists():
    from dataclasses import fields

    from hfgpt.arguments.conversion import ConvertArguments
    from hfgpt.arguments.documents import PrepareArguments, TokenizerArguments
    from hfgpt.arguments.evaluation import EvaluateArguments
    from hfgpt.arguments.finetuning import ClassificationArguments, InstructionArguments
    from hfgpt.arguments.from_text import FromTextArguments
    from hfgpt.arguments.generation import GenerateArguments
    from hfgpt.arguments.preferences import PreferenceArguments
    from hfgpt.arguments.pretraining import PretrainArguments
    from hfgpt.arguments.publishing import CheckArguments, PublishArguments

    classes = (ConvertArguments, GenerateArguments, PrepareArguments, TokenizerArguments, PretrainArguments,
               ClassificationArguments, InstructionArguments, PreferenceArguments, EvaluateArguments, CheckArguments,
               PublishArguments, FromTextArguments)  # fmt: skip
    known = {field.name for arguments in classes for field in fields(arguments)} | {"help", "key", "launch"}
    # Without other programs, which have their own options.
    launchers = r"`torchrun [^`]*`|`accelerate launch[^`]*`|`--cpu --num_processes 2`"
    ours = re.sub(rf"```console\n.*?```|`--trust-remote-code`|{launchers}|python benchmarks[^\n]*", "", README, flags=re.DOTALL)
    named = set(re.findall(r"--([a-z_]+)", ours))
    assert len(named) > 12
    assert named <= known
    for path in set(re.findall(r"(?:recipes|benchmarks)/[\w/]+\.(?:py|yaml)", README)):
        assert (ROOT / path).is_file(), path


def test_the_readme_is_short_and_its_links_lead_somewhere():
    assert len(README.splitlines()) <= 200
    places = re.findall(r"\]\(([^)#]+)\)", README)
    assert len(places) > 20
    for place in places:
        assert (ROOT / place).exists(), place
    tree = README.partition("## Where to go next")[2]
    folders = re.findall(r"^(\w+)/ ", tree, flags=re.MULTILINE)
    assert {"hfgpt", "recipes", "tests"} <= set(folders)
    for folder in folders:
        assert (ROOT / folder).is_dir(), folder


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_make_knows_the_targets_of_the_readme():
    for target in set(re.findall(r"make (\w+)", README)):
        done = subprocess.run(["make", "--dry-run", target], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
