"""A user's mistake is one sentence; a bug of ours keeps its traceback; an error of the machine names the path."""

import dataclasses
import errno
import os
import re
import shutil
from types import SimpleNamespace

import pytest
from conftest import ROOT, run_python
from lab import start
from recipes_in_process import RECIPES, load, recipe, run_script

from hfgpt import errors

NAMES = sorted(path.stem for path in RECIPES.glob("*.py"))
# The minimum that each recipe accepts on its command line; none of the files exist.
SMALLEST = {
    "align_preferences": ("--model", "no/model", "--sources", "none.json", "--output_dir", "out"),
    "check": ("no/folder",),
    "convert": ("no/model.pth", "--output_dir", "out"),
    "evaluate": ("no/model", "--text", "none.txt", "--output_dir", "out"),
    "finetune_classification": ("--model", "no/model", "--sources", "none.csv", "--output_dir", "out"),
    "finetune_instructions": ("--model", "no/model", "--sources", "none.json", "--output_dir", "out"),
    "from_text": ("none.txt", "--output_dir", "out"),
    "generate": ("no/model",),
    "prepare_data": ("--sources", "none.txt", "--tokenizer", "no/tokenizer", "--output_dir", "out"),
    "pretrain": ("--dataset", "no/rows", "--output_dir", "out"),
    "publish": ("no/folder", "--repo", "ann/model"),
    "train_tokenizer": ("--sources", "none.txt", "--vocab_size", "300", "--output_dir", "out"),
}


class Buggy(SimpleNamespace):
    """Arguments that raise, like a bug of ours, at a recipe's first access."""

    def __getattribute__(self, name):
        if name.startswith("__"):
            return super().__getattribute__(name)
        return max([])


def test_every_recipe_is_tried():
    assert sorted(SMALLEST) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_bug_keeps_its_traceback(name, monkeypatch):
    monkeypatch.setattr("hfgpt.arguments.launching.parse_arguments", lambda *_, **__: Buggy())
    with pytest.raises(ValueError, match=r"^max\(\) .*empty") as bug:  # raised, not printed
        run_script(f"{name}.py", *SMALLEST[name])
    assert not isinstance(bug.value, errors.UserError)
    assert bug.traceback[-1].name == "__getattribute__"


@pytest.mark.parametrize("name", NAMES)
def test_a_mistake_is_one_sentence_and_leaves_nothing(name, tmp_path):
    done = run_script(f"{name}.py", *SMALLEST[name], cwd=tmp_path)
    assert done.returncode == 1
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("error: ")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", NAMES)
def test_main_takes_arguments_that_were_built_in_python(name, tmp_path, monkeypatch):
    """The recipe runs until the first missing file: it needs nothing that only the parser knows."""
    monkeypatch.chdir(tmp_path)
    arguments_class = load(name).main.__annotations__["args"]
    words = iter(SMALLEST[name])
    values, positional = {}, {"check": "folder", "convert": "source", "evaluate": "model", "from_text": "sources",
                                      "generate": "model", "publish": "folder"}  # fmt: skip
    for word in words:
        key = word.removeprefix("--") if word.startswith("--") else positional[name]
        value = next(words) if word.startswith("--") else word
        kind = {field.name: str(field.type) for field in dataclasses.fields(arguments_class)}[key]
        values[key] = [value] if "list" in kind else int(value) if "int" in kind else value
    with pytest.raises(errors.UserError):
        recipe(name, **values)


def test_kinds_of_errors_are_those_of_python_too():
    for kind, builtin in (
        (errors.MissingFileError, FileNotFoundError),
        (errors.AccessError, PermissionError),
        (errors.WrongTypeError, TypeError),
        (errors.UnreachableError, ConnectionError),
    ):
        assert issubclass(kind, builtin)
        assert errors.sentence_of(kind("no")) == "no"
        assert errors.sentence_of(builtin("no")) is None


def test_what_the_machine_refuses_names_its_place():
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "runs/base/model.safetensors")
    assert errors.sentence_of(full).startswith("runs/base/model.safetensors: No space left on device: the disk is full")
    assert errors.sentence_of(OSError(errno.EBADF, os.strerror(errno.EBADF))) is None


def test_a_file_that_vanished_with_its_folder_is_named_and_a_missing_file_alone_is_a_bug(tmp_path):
    gone = OSError(errno.ENOENT, os.strerror(errno.ENOENT), str(tmp_path / "mount" / "model.safetensors"))
    assert errors.sentence_of(gone) == f"{gone.filename}: its folder no longer exists; mount its disk again, or create it again."
    assert errors.sentence_of(OSError(errno.ENOENT, os.strerror(errno.ENOENT), str(tmp_path / "model.safetensors"))) is None


def test_a_cause_that_a_library_wraps_is_told():
    with pytest.raises(RuntimeError) as caught:
        raise RuntimeError("an error occurred while generating") from OSError(errno.EIO, os.strerror(errno.EIO), "rows.arrow")
    said = errors.sentence_of(caught.value)
    assert said.startswith("rows.arrow: Input/output error: the disk or its connection reports an error")


def test_damaged_files_are_named_with_their_bytes(small_run, small_rows, tmp_path):
    from datasets import Dataset
    from safetensors.torch import load_file

    for name, source, read in (
        ("model.safetensors", small_run / "model.safetensors", load_file),
        ("rows.arrow", next((small_rows / "train").glob("*.arrow")), lambda path: Dataset.from_file(path)[:]),
    ):
        cut = tmp_path / name
        cut.write_bytes(source.read_bytes()[:-3000])
        with pytest.raises(Exception) as caught:  # noqa: PT011
            read(str(cut))
        assert re.match(rf"{cut} \({cut.stat().st_size:,} bytes\) is damaged or cut off", errors.sentence_of(caught.value))


def test_only_a_text_that_is_nested_too_deeply_is_not_our_recursion():
    import json

    with pytest.raises(RecursionError) as nested:
        json.loads("[" * 100_000)
    assert errors.sentence_of(nested.value) == ("a JSON or YAML text is nested too deeply; use fewer brackets.")

    def endless():
        return endless()

    with pytest.raises(RecursionError) as ours:
        endless()
    assert errors.sentence_of(ours.value) is None


SCARCE = """
import resource, runpy, sys
import hfgpt.training.pretraining
limit = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize() + 2**28
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="Linux says what a process uses")  # noqa: PTH110
def test_memory_that_is_used_up_is_one_sentence(small_rows, tmp_path):
    words = ("--dataset", small_rows, "--output_dir", tmp_path / "out", "--depth", 4, "--max_steps", 1, "--use_cpu", "true",
             "--per_device_train_batch_size", "2000", "--num_train_epochs", "1")  # fmt: skip
    done = run_python("-c", SCARCE, ROOT / "recipes/pretrain.py", *words, cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    assert "error: out of memory" in done.stderr
    assert "Traceback" not in done.stderr.partition("error: ")[0]  # torch prints its own after it, at exit


@pytest.mark.slow
def test_files_of_which_no_more_may_be_open_are_one_sentence(small_rows, tmp_path):
    words = ("--dataset", small_rows, "--depth", 4, "--max_steps", 1, "--use_cpu", "true")
    job = start("pretrain", words, tmp_path / "out", open_files=3)
    assert job.wait() == 1, job.said
    assert "Too many open files: this process cannot open more files" in job.said
    assert "Traceback" not in job.said.partition("error: ")[0]


def test_a_disk_that_takes_no_more_is_one_sentence_and_nothing_stays(small_families, tmp_path):
    """Every file is limited to 200 KB; safetensors (Rust), numpy and torch each report this in their own words."""
    for number, target in enumerate(("native", "gguf")):
        job = start("convert", (small_families["book"], "--target", target), tmp_path / str(number), file_limit=200_000)
        assert job.wait() == 1, job.said
        (line,) = [line for line in job.said.splitlines() if line.startswith("error: ")]
        assert re.search(r"File too large|No space left", line)
        assert "Traceback" not in job.said
        job.log.unlink()
        assert not list(tmp_path.iterdir())


def test_the_room_that_is_needed_is_asked_for_before(tmp_path):
    free = shutil.disk_usage(tmp_path).free
    errors.require_space(tmp_path / "not" / "yet", 1)
    with pytest.raises(errors.UserError, match=rf"not/yet needs {free * 2:,} bytes, but only [\d,]+ are free there"):
        errors.require_space(tmp_path / "not" / "yet", free * 2)


def test_a_console_that_lacks_a_character_shows_another(small_run):
    environment = {"PYTHONIOENCODING": "cp1252"}
    done = run_python(
        ROOT / "recipes/generate.py", small_run, "--prompt", "→ 中文", "--max_new_tokens", 4, cwd=ROOT, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("? ??")


# Removes what only some systems have, after the libraries are imported. A module that is None cannot be imported.
ELSEWHERE = """
import importlib, pkgutil, signal, sys
import accelerate, datasets, huggingface_hub.hf_file_system, peft, transformers, transformers.trainer
for name in ("resource", "fcntl", "termios", "pwd", "grp", "tty", "readline"):
    sys.modules[name] = None
for name in ("SIGKILL", "SIGXCPU", "SIGHUP", "SIGUSR1"):
    delattr(signal, name)
import hfgpt
names = [module.name for module in pkgutil.walk_packages(hfgpt.__path__, "hfgpt.")]
for name in names:
    if name not in ("hfgpt.hub.gate.loading", "hfgpt.hub.gate.file_formats", "hfgpt.__main__"):  # programs
        importlib.import_module(name)
print(len(names))
"""


def test_no_module_of_one_system_is_needed_at_import(tmp_path):
    done = run_python("-c", ELSEWHERE, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 80


def test_a_tilde_is_the_home_of_the_user(tmp_path, small_corpus, monkeypatch):
    """In a YAML file and between quotes, no shell expands it."""
    home = tmp_path / "home"
    (home / "texts").mkdir(parents=True)
    (home / "texts" / "one.jsonl").write_bytes(small_corpus.read_bytes())
    (tmp_path / "run.yaml").write_text("sources: ['~/texts/*.jsonl']\nvocab_size: 300\noutput_dir: ~/runs/tokenizer\n")
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(home))
    done = run_script("train_tokenizer.py", "run.yaml", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (home / "runs" / "tokenizer" / "tokenizer.json").is_file()
    assert not (tmp_path / "~").exists()
