import ast
import os
import re
import shlex
import subprocess
import sys

import pytest
from conftest import ROOT
from recipes_in_process import RECIPES, load, run_script

from hfgpt.arguments.help import KeyParser
from hfgpt.arguments.parsing import parse_arguments
from hfgpt.errors import UserError


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
    run = run_recipe if name == "generate" else run_script  # one as a user runs it, the others without a new process
    done = run(f"{name}.py", "--help")
    assert done.returncode == 0, done.stderr
    assert f"--{key}" in done.stdout


@pytest.mark.parametrize("recipe", sorted(path.stem for path in RECIPES.glob("*.py")))
def test_help_is_short_and_names_what_a_recipe_refuses_to_do_without(recipe, monkeypatch):
    arguments_class = load(recipe).main.__annotations__["args"]
    parser = KeyParser(arguments_class)
    monkeypatch.setenv("COLUMNS", "200")
    text = parser.explain(everything=False)
    assert len(text.splitlines()) <= 120
    named = re.search(r"^required, here or in run.yaml: (.+?) {4}", text, flags=re.MULTILINE)[1].split(", ")
    assert set(named) == {name.upper() if name == parser.positional else f"--{name}" for name in parser.required}
    assert text.count("[required]") == len(named) > 0
    for missing in parser.required:
        words = [word for name in parser.required if name != missing for word in (f"--{name}", "some/where")]
        with pytest.raises(UserError, match=rf"^{missing} (is|are) missing|^no {missing} given"):
            load(recipe).main(parse_arguments(arguments_class, words))


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.py")), ids=lambda path: path.stem)
def test_every_line_of_the_examples_is_a_command_with_keys_that_exist(path):
    """As `--help` prints them: wrapped like prose, an example would run into the one before."""
    parser = KeyParser(load(path.stem).main.__annotations__["args"])
    keys = {option for actions in parser.shown.values() for action in actions for option in action.option_strings}
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    lines = re.findall(r"^    .*", text.replace("\\\n", " "), flags=re.MULTILINE)
    commands = [words for line in lines if (words := shlex.split(line, comments=True))]
    assert len(commands) > 1
    for program, *words in commands:
        assert program in ("python", "torchrun", "accelerate", "pip")
        assert [word for word in words if word.endswith(".py")] == [f"recipes/{path.name}"] or program == "pip"
        given = {word for word in words if word.startswith("--")}
        assert given <= keys or program in ("torchrun", "accelerate"), given - keys
        assert not re.search(r" {3,}", shlex.join(words))


@pytest.mark.parametrize("command", [["recipes/pretrain.py", "--help"], ["-m", "hfgpt", "--help"]])
def test_a_reader_who_leaves_early_is_no_error(command):
    read_end, write_end = os.pipe()
    os.close(read_end)  # as `| head` does after its last line, but here before the first one
    done = subprocess.run([sys.executable, *command], cwd=ROOT, stdout=write_end, stderr=subprocess.PIPE, text=True)
    os.close(write_end)
    assert (done.returncode, done.stderr) == (0, "")
