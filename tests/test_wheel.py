"""A wheel of this checkout, in an empty folder: the whole quickstart, with the commands that it installs."""

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from conftest import ROOT

pytestmark = pytest.mark.slow
# The smallest size: the test is that everything is there and fits together, not how good the models are.
ON_CPU = ("--use_cpu", "true", "--cpu_threads", "1", "--precision", "fp32")
QUICKSTART = {
    "tokenizer": ("tokenizer", "quickstart/tokenizer.yaml", "--vocab_size", "1024"),
    "data": ("data", "recipes/configs/quickstart/data.yaml", "--lzma_baseline", "false"),
    "base": ("pretrain", "quickstart/pretrain.yaml", "--launch", "cpu.yaml", *ON_CPU, "--depth", "1", "--max_steps", "6",
             "--per_device_train_batch_size", "4", "--logging_steps", "3"),
    "classifier": ("classify", "quickstart/classification.yaml", *ON_CPU, "--num_train_epochs", "1", "--max_records", "200",
                   "--canaries", "false"),
    "assistant": ("instruct", "quickstart/instructions.yaml", *ON_CPU, "--max_steps", "2", "--eval_steps", "2", "--save_steps", "2",
                  "--max_records", "200", "--max_new_tokens", "8", "--max_answers", "2", "--seen_answers", "2",
                  "--canaries", "false"),
}  # fmt: skip
NEXT = {"tokenizer": "hfgpt data --tokenizer", "data": "hfgpt pretrain --dataset", "base": "hfgpt generate runs/quickstart/base",
        "classifier": "python -c", "assistant": "hfgpt chat runs/quickstart/assistant"}  # fmt: skip


@pytest.fixture(scope="module")
def hfgpt(tmp_path_factory):
    """Run the installed console script in a folder that is empty at first; later calls see the results of earlier ones."""
    pytest.importorskip("hatchling", reason="a wheel is built by hatchling, which pip installs with the extra dev")
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run([*pip, "wheel", "--no-build-isolation", "--no-deps", "--wheel-dir", folder, ROOT], check=True)
    (wheel,) = folder.glob("hfgpt-*.whl")
    environment = folder / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    python = environment / "bin" / "python"
    # A .pth file adds the packages of this environment, but not what their own .pth files name, such as this checkout.
    (packages,) = environment.glob("lib/python*/site-packages")
    (packages / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    subprocess.run([*pip, "--python", python, "install", "--no-deps", "--ignore-installed", wheel], check=True)
    here = folder / "here"
    here.mkdir()

    def run(*words: str) -> subprocess.CompletedProcess:
        variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}
        return subprocess.run([environment / "bin" / "hfgpt", *words], cwd=here, env=variables, capture_output=True, text=True)

    run.here, run.python = here, python
    return run


def test_the_package_is_the_wheels_and_the_checkout_is_not_on_its_path(hfgpt):
    code = "import hfgpt, sys; print(hfgpt.__file__); print(*sys.path, sep='\\n')"
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([hfgpt.python, "-c", code], cwd=hfgpt.here, env=variables, capture_output=True, text=True, check=True)
    file, *path = done.stdout.splitlines()
    assert Path(file).is_relative_to(hfgpt.python.parents[1])
    assert str(ROOT) not in path
    assert not list(hfgpt.here.iterdir())


def test_the_quickstart_runs_from_a_wheel_in_an_empty_folder(hfgpt):
    results = hfgpt.here / "runs" / "quickstart"
    for name, words in QUICKSTART.items():
        done = hfgpt(*words)
        assert done.returncode == 0, done.stdout + done.stderr
        (line,) = [line for line in done.stdout.splitlines() if line.startswith("next: ")]
        assert line.removeprefix("next: ").lstrip().startswith(NEXT[name])
        assert (results / name / "README.md").is_file()  # the card templates are installed
    for name, figure, picture in (
        ("base", "bits per byte", "loss.png"),
        ("classifier", "macro F1", "confusion.png"),
        ("assistant", "stopped on their own", "answers.html"),
    ):
        assert figure in (results / name / "report.txt").read_text()
        assert (results / name / picture).stat().st_size > 0
        assert json.loads((results / name / "metrics.json").read_text())
    assert sorted(path.name for path in hfgpt.here.iterdir()) == ["runs"]

    said = hfgpt("generate", "runs/quickstart/base", "--prompt", "os.", "--max_new_tokens", "4")
    assert said.returncode == 0, said.stderr
    assert said.stdout.startswith("os.")
    planned = hfgpt("publish", "runs/quickstart/base", "--repo", "somebody/base")  # checks it first, as `hfgpt check` does
    assert planned.returncode == 0, planned.stdout + planned.stderr
    assert "failed: 0" in planned.stdout
    assert "next: hfgpt publish runs/quickstart/base --repo somebody/base --push true" in planned.stdout
