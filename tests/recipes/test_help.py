import os
import subprocess
import sys

import pytest
from conftest import ROOT
from recipes_in_process import run_script


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("from_text", "minutes"),
        ("train_tokenizer", "vocab_size"),
        ("prepare_data", "stride"),
        ("pretrain", "optimizer"),
        ("generate", "top_p"),
        ("convert", "gguf_type"),
        ("evaluate", "stride"),
        ("check", "record"),
        ("publish", "delete_others"),
    ],
)
def test_every_recipe_explains_its_keys(run_recipe, name, key):
    run = run_recipe if name == "generate" else run_script  # one as a user asks for it, the others without a new process
    done = run(f"{name}.py", "--help")
    assert done.returncode == 0, done.stderr
    assert f"--{key}" in done.stdout


@pytest.mark.parametrize("command", [["recipes/pretrain.py", "--help"], ["-m", "hfgpt", "--help"]])
def test_a_reader_who_leaves_early_is_no_error(command):
    read_end, write_end = os.pipe()
    os.close(read_end)  # as `| head` does when it has its lines, but for sure before the first one
    done = subprocess.run([sys.executable, *command], cwd=ROOT, stdout=write_end, stderr=subprocess.PIPE, text=True)
    os.close(write_end)
    assert (done.returncode, done.stderr) == (0, "")
