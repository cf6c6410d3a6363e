"""`hfgpt COMMAND`: its help, which recipe a command runs, and how it ends."""

import os
import re
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, run_python
from recipes_in_process import RECIPES

from hfgpt import cli
from hfgpt.arguments.commands import COMMANDS, STARTED_AS, Command, as_started, command_in, command_line, repeats, shipped
from hfgpt.errors import UserError

NAMES = ["from-text", "tokenizer", "data", "pretrain", "classify", "instruct", "align", "generate", "chat", "evaluate", "convert",
         "check",
         "publish"]  # fmt: skip


@pytest.fixture
def as_hfgpt(monkeypatch):
    """Run `hfgpt` in this process, and undo what it sets."""
    monkeypatch.setenv(STARTED_AS, "")

    def run(*words: str) -> int:
        monkeypatch.setattr(sys, "argv", ["hfgpt", *words])
        monkeypatch.setattr(sys, "path", sys.path[:])
        try:
            cli.main()
        except SystemExit as leaving:
            if isinstance(leaving.code, str):
                print(leaving.code, file=sys.stderr)
                return 1
            return leaving.code or 0
        return 0

    return run


def test_every_recipe_is_a_command_and_every_command_a_recipe():
    assert list(COMMANDS) == NAMES
    assert {command.recipe for command in COMMANDS.values()} == {path.name for path in RECIPES.glob("*.py")}
    assert {name: command.words for name, command in COMMANDS.items() if command.words} == {"chat": ("--chat", "true")}


def test_help_has_a_line_for_every_command_in_groups(as_hfgpt, capsys):
    assert as_hfgpt() == as_hfgpt("--help") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if re.fullmatch(r"\w+:", line)] == ["Start:", "Data:", "Train:", "Use:", "Share:"] * 2
    assert [line.split()[0] for line in lines if line.startswith("  ") and line.split()[0] in COMMANDS] == NAMES * 2
    assert max(map(len, lines)) <= 132


@pytest.mark.slow
def test_help_and_version_need_none_of_the_heavy_packages():
    done = run_python("-X", "importtime", "-m", "hfgpt", "--help", cwd=ROOT)
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert "hfgpt.cli" in imported
    assert not imported & {"torch", "transformers", "yaml", "datasets", "accelerate", "numpy", "huggingface_hub"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = run_python("-m", "hfgpt", "--version", cwd=ROOT)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert re.fullmatch(r"hfgpt [\w.+]+\n", done.stdout)
    # CPU time: wall-clock time depends on what else runs on this machine.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.3


def test_an_unknown_command_is_one_sentence(as_hfgpt, capsys):
    assert as_hfgpt("pretran") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: command is 'pretran'; allowed: from-text, tokenizer, data, ")
    assert line.endswith("Did you mean 'pretrain'?")


def test_a_command_from_outside_is_one_entry(as_hfgpt, capsys, monkeypatch, tmp_path):
    recipe = tmp_path / "greet.py"
    recipe.write_text("import sys\nif __name__ == '__main__':\n    print('hello', *sys.argv[1:])\n    sys.exit(7)\n")
    monkeypatch.setitem(COMMANDS, "greet", Command(str(recipe), "Use", "Say hello."))
    assert as_hfgpt("greet", "you") == 7
    assert capsys.readouterr().out == "hello you\n"
    assert as_hfgpt("--help") == 0
    assert "  greet      Say hello.\n" in capsys.readouterr().out


def test_the_keys_of_a_command_come_first_and_trainers_on_request(as_hfgpt, capfd):
    assert as_hfgpt("pretrain", "--help") == 0
    short = capfd.readouterr().out
    assert short.startswith("usage: hfgpt pretrain [run.yaml] [--key value ...]")
    titles = re.findall(r"^(\w[\w ]*):$", short, flags=re.MULTILINE)
    assert titles == ["Data", "Model", "Method", "Training", "Evaluation", "Machine", "Output"]
    assert re.search(r"--learning_rate NUMBER +Peak learning rate of AdamW. \[0.003\]", short)
    assert "hfgpt pretrain recipes/configs/quickstart/pretrain.yaml" in short
    assert re.search(r"^Data:\n  --dataset TEXT [^-]*\[required\]$", short, flags=re.MULTILINE)  # before the optional keys
    assert "--fsdp " not in short
    assert short.rstrip().splitlines()[-1].endswith("--help all")
    assert as_hfgpt("pretrain", "--help", "all") == 0
    everything = capfd.readouterr().out
    for words in (["--help", "trainer"], ["--help-all"]):
        assert as_hfgpt("pretrain", *words) == 0
        assert capfd.readouterr().out == everything
    assert re.search(r"^Trainer:$", everything, flags=re.MULTILINE)
    assert "--fsdp " in everything
    assert len(re.findall(r"^  --\w+", everything, flags=re.MULTILINE)) > 100 > len(re.findall(r"^  --\w+", short, flags=re.M))


def test_chat_is_generate_with_its_switch(as_hfgpt, capfd, tmp_path):
    assert as_hfgpt("chat", "--help") == 0
    assert capfd.readouterr().out.startswith("usage: hfgpt chat [MODEL | run.yaml]")
    assert as_hfgpt("chat", str(tmp_path / "none"), "--num_samples", "2") == 1  # generate.py's own error message
    assert f"error: {tmp_path / 'none'} does not exist" in capfd.readouterr().err


def test_a_shipped_file_is_found_where_none_lies_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    expected = RECIPES / "configs" / "quickstart" / "data.yaml"
    for name in ("quickstart/data.yaml", "recipes/configs/quickstart/data.yaml"):
        assert shipped(name, kind="configs").samefile(expected)
    for name in ("cpu.yaml", "recipes/accelerate/cpu.yaml"):
        assert shipped(name, kind="accelerate").samefile(RECIPES / "accelerate" / "cpu.yaml")
    (tmp_path / "quickstart").mkdir()
    mine = tmp_path / "quickstart" / "data.yaml"
    mine.write_text("output_dir: mine\n")
    assert shipped("quickstart/data.yaml", kind="configs").samefile(mine)
    assert shipped("nowhere.yaml", kind="configs") == Path("nowhere.yaml")


def test_launch_takes_its_file_from_anywhere_among_the_words(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cpu = str(RECIPES / "accelerate" / "cpu.yaml")
    assert cli.split_launch(["a.yaml", "--launch", "cpu.yaml", "--depth", "2"]) == (["a.yaml", "--depth", "2"], cpu)
    assert cli.split_launch(["--launch=cpu.yaml", "a.yaml"]) == (["a.yaml"], cpu)
    assert cli.split_launch(["a.yaml"]) == (["a.yaml"], None)
    with pytest.raises(UserError, match=r"--launch tpu.yaml does not exist .*; the shipped files are cpu.yaml, ddp.yaml"):
        cli.split_launch(["--launch", "tpu.yaml"])
    with pytest.raises(UserError, match="--launch needs an accelerate file"):
        cli.split_launch(["a.yaml", "--launch"])


def test_commands_are_named_as_the_process_was_started(monkeypatch, tmp_path):
    monkeypatch.delenv(STARTED_AS, raising=False)
    monkeypatch.setattr(sys, "argv", [str(RECIPES / "pretrain.py")])
    sentence = "cure it: python recipes/check.py x, or recipes/convert.py BASE"
    assert as_started(sentence) == sentence
    assert command_line("chat", "it's mine") == "python recipes/generate.py 'it'\"'\"'s mine' --chat true"
    assert repeats("pretrain.py", "run.yaml", what="this run") == (
        "# python recipes/pretrain.py run.yaml --output_dir ANOTHER repeats this run.\n"
    )
    monkeypatch.chdir(RECIPES)
    monkeypatch.setattr(sys, "argv", ["pretrain.py"])
    assert as_started(sentence) == "cure it: python check.py x, or convert.py BASE"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(RECIPES / "pretrain.py")])
    assert as_started(sentence) == f"cure it: python {RECIPES / 'check.py'} x, or {RECIPES / 'convert.py'} BASE"
    monkeypatch.setattr(sys, "argv", ["mine.py"])  # a Python program: `hfgpt` is there wherever the package is installed
    assert as_started(sentence) == "cure it: hfgpt check x, or hfgpt convert BASE"
    assert command_line("chat", "it's mine") == "hfgpt chat 'it'\"'\"'s mine'"
    monkeypatch.setenv(STARTED_AS, "check")
    assert as_started(sentence) == "cure it: hfgpt check x, or hfgpt convert BASE"
    first = repeats("pretrain.py", "run.yaml", what="this run")
    assert first == "# hfgpt pretrain run.yaml --output_dir ANOTHER repeats this run.\n"
    assert command_in(first) == ("pretrain", "run.yaml --output_dir ANOTHER repeats this run.\n")
    assert command_in("python recipes/prepare_data.py --stride 8") == ("data", "--stride 8")
    assert command_in("python mine.py --stride 8") is command_in("hfgpt nothing x") is None
    assert as_started("torchrun --nproc_per_node 2 recipes/pretrain.py a") == (
        f"torchrun --nproc_per_node 2 {RECIPES / 'pretrain.py'} a"
    )
    assert as_started("/home/me/recipes/check.py is mine") == "/home/me/recipes/check.py is mine"
    assert command_line("chat", "it's mine") == "hfgpt chat 'it'\"'\"'s mine'"


ENDINGS = """
import os, signal, sys, time
def say(text):
    os.write(1, (text + chr(10)).encode())  # whole, whatever another process says
def stop(number, frame):
    say("stopped")
    sys.exit(75)
signal.signal(signal.SIGTERM, stop)
signal.signal(signal.SIGINT, stop)
say(" ".join(["ready", *sys.argv[1:], os.environ["ACCELERATE_DYNAMO_BACKEND"]]))
if sys.argv[1] == "exit":
    sys.exit(int(sys.argv[2]))
time.sleep(60)
"""


def launched(tmp_path: Path, machine: str, *words: str) -> subprocess.Popen:
    """A process that starts a recipe with these arguments as `hfgpt COMMAND --launch MACHINE` does."""
    (tmp_path / "recipe.py").write_text(ENDINGS)
    machine, recipe = str(RECIPES / "accelerate" / machine), str(tmp_path / "recipe.py")
    code = f"from hfgpt.cli import launch; launch({machine!r}, {recipe!r}, {list(words)!r})"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, "-c", code], env=environment, cwd=tmp_path, stdout=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_under_accelerate_the_exit_code_of_two_processes_is_the_recipes(tmp_path):
    process = launched(tmp_path, "ddp.yaml", "exit", "75")
    said, _ = process.communicate(timeout=120)
    assert said == "ready exit 75 NO\n" * 2
    assert process.returncode == 75


@pytest.mark.slow
@pytest.mark.parametrize(("machine", "number"), [("cpu.yaml", signal.SIGINT), ("cpu.yaml", signal.SIGTERM),
                                                 ("ddp.yaml", signal.SIGTERM)])  # fmt: skip
def test_under_accelerate_a_signal_reaches_the_recipe_and_its_exit_code_the_shell(tmp_path, machine, number):
    process = launched(tmp_path, machine, "wait")
    assert process.stdout.readline() == "ready wait NO\n"
    if machine != "cpu.yaml":
        assert process.stdout.readline() == "ready wait NO\n"
    process.send_signal(number)
    said, _ = process.communicate(timeout=120)
    assert said == "stopped\n" * (1 if machine == "cpu.yaml" else 2)
    assert process.returncode == (75 if machine == "cpu.yaml" else 128 + number)  # torchrun answers a signal itself
