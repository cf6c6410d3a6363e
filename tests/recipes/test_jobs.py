"""Hugging Face Jobs and SkyPilot: the metadata at the top of a recipe, and how it is used."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import ROOT, SMALL_RUN, run_python
from huggingface_hub.cli._uv_script_header import parse_uv_script_header

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10, where pytest installs its backport
    import tomli as tomllib

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
# The recipes that are worth their own machine, and the extras that each may need.
EXTRAS = {
    "train_tokenizer": ["data"],
    "prepare_data": ["data"],
    "pretrain": [],
    "finetune_classification": [],
    "finetune_instructions": [],
    "align_preferences": ["preferences"],
}


def header(recipe: str) -> tuple[str, dict]:
    """The text of a recipe, and its metadata block (PEP 723)."""
    text = (ROOT / "recipes" / f"{recipe}.py").read_text(encoding="utf-8")
    (block,) = re.findall(r"^# /// script\n((?:#.*\n)+?)# ///$", text, flags=re.MULTILINE)
    return text, tomllib.loads(re.sub(r"^# ?", "", block, flags=re.MULTILINE))


@pytest.mark.parametrize("recipe", EXTRAS)
def test_a_recipe_asks_for_what_the_package_asks_for(recipe):
    text, metadata = header(recipe)
    needed = PROJECT["dependencies"] + [line for extra in EXTRAS[recipe] for line in PROJECT["optional-dependencies"][extra]]
    assert metadata["dependencies"] == [line.replace(" ", "") for line in needed]
    # TRL 1.16 is for Python 3.11 and later.
    assert metadata["requires-python"] == (">=3.11" if "preferences" in EXTRAS[recipe] else PROJECT["requires-python"])
    assert text.startswith('"""')  # the docstring stays first
    jobs = parse_uv_script_header(text)
    assert jobs.flavor
    assert jobs.timeout
    assert jobs.secrets == ["HF_TOKEN"]


def hf_jobs(*words: str, options: str) -> subprocess.CompletedProcess:
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "JOB_OPTIONS": options}
    command = ["bash", "recipes/jobs/train.sh", *words]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)


def test_a_dry_run_shows_the_job_that_would_start():
    words = ("recipes/pretrain.py", "recipes/configs/gpt2-124m/pretrain.yaml", "--output_dir", "/runs/base")
    done = hf_jobs("you/bucket", *words, options="--dry-run --flavor h200")
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line.split() for line in (done.stdout + done.stderr).splitlines() if line.startswith("  ")]
    said = {first: " ".join(rest) for first, *rest in lines}
    assert said["script"] == words[0]
    assert said["args"] == " ".join(words[1:])
    assert said["flavor"] == "h200"  # the command line overrides the recipe
    assert said["timeout"] == "1d (from script)"
    assert said["env"] == "PYTHONPATH=/code (from script)"
    assert {"./recipes:/code/recipes", "hf://buckets/you/bucket:/runs"} <= set(said)  # each volume on its own line


def test_the_files_that_a_job_gets_are_enough(stranger, small_rows, tmp_path):
    """The recipe and its YAML alone in a folder, hfgpt and recipes mounted elsewhere, and no hfgpt installed."""
    jobs = parse_uv_script_header(header("pretrain")[0])
    for volume in jobs.volumes:
        source, mounted = volume.split(":")
        place = tmp_path / mounted.lstrip("/")
        shutil.copytree(ROOT / source, place, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "data").mkdir()
    script = shutil.copy(ROOT / "recipes" / "pretrain.py", tmp_path / "data")
    environment = {"PYTHONPATH": f"{tmp_path}{jobs.env['PYTHONPATH']}:{stranger['PYTHONPATH']}"}
    words = [*SMALL_RUN, "--max_steps", 2, "--eval_steps", 2, "--save_steps", 2]
    done = run_python("-S", script, *words, "--dataset", small_rows, "--output_dir", "runs/base", cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "runs" / "base" / "model.safetensors").is_file()


def test_skypilot_reads_its_example():
    """SkyPilot itself is not among the dependencies; where it is installed, it reads the file."""
    path = ROOT / "recipes" / "sky" / "train.yaml"
    task = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert task["resources"]["use_spot"] is True
    assert task["file_mounts"]["/runs"]["mode"] == "MOUNT"
    for commands in (task["setup"], task["run"]):
        assert subprocess.run(["bash", "-n"], input=commands, text=True).returncode == 0
    sky = pytest.importorskip("sky", reason="needs SkyPilot, which is not part of the project's dependencies")
    sky.Task.from_yaml(str(path))
