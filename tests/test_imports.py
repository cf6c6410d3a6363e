"""What is imported, and when. Imports can only be tested in a new process."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from recipes_in_process import RECIPES

NAMES = sorted(path.stem for path in RECIPES.glob("*.py"))


def run(*words: str | Path) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *map(str, words)], capture_output=True, text=True)


@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_begins_by_checking_the_command_line_that_it_launches_with(name):
    _, first, *_, last = ast.parse((RECIPES / f"{name}.py").read_text(encoding="utf-8")).body
    for guarded in (first, last):
        assert isinstance(guarded, ast.If)
        assert ast.unparse(guarded.test) == "__name__ == '__main__'"
    check, launch = first.body[-1].value, last.body[-1].value
    assert (check.func.id, launch.func.id) == ("check_command_line", "launch")
    module_name, _, class_name = check.args[0].value.partition(":")
    module = ast.parse((RECIPES.parent / (module_name.replace(".", "/") + ".py")).read_text(encoding="utf-8"))
    assert class_name == launch.args[1].id
    assert class_name in {node.name for node in module.body if isinstance(node, ast.ClassDef)}
    assert [ast.unparse(word) for word in check.keywords] == [ast.unparse(word) for word in launch.keywords]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["pretrain", "--help"], "--muon_learning_rate NUMBER"),
        (["pretrain", "--learning_rte", "1e-3"], "error: unknown key 'learning_rte'"),
        (["finetune_classification", "--model", "a/b", "--sources", "a.csv", "--lora_rank", "0"], "error: lora_rank is 0;"),
        (["prepare_data", "--context_length", "many"], "context_length is 'many'; it must be a whole number."),
    ],
)  # fmt: skip
def test_help_and_mistakes_are_answered_before_anything_heavy_is_imported(words, answer):
    name, *rest = words
    done = run("-X", "importtime", RECIPES / f"{name}.py", *rest)
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert done.returncode == (0 if rest == ["--help"] else 1)
    assert answer in done.stdout + done.stderr
    assert "hfgpt.arguments.launching" in imported
    assert not imported & {"torch", "accelerate", "datasets", "pandas", "pyarrow", "peft", "scipy", "matplotlib"}


@pytest.mark.slow
def test_nothing_is_imported_before_the_first_step_that_pretraining_does_not_use(small_rows, tmp_path):
    observer = """
import os, runpy, sys
from wrapt import register_post_import_hook
def observe(module):
    def on_step_begin(self, args, state, control):
        print("imported:", *sys.modules, flush=True)
        os._exit(0)
    module.CallbackHandler.on_step_begin = on_step_begin
register_post_import_hook(observe, "transformers.trainer_callback")
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
    done = run("-c", observer, RECIPES / "pretrain.py", "--dataset", small_rows, "--depth", "1", "--output_dir", tmp_path / "base")
    assert done.returncode == 0, done.stderr
    imported = set(done.stdout.rpartition("imported: ")[2].split())
    assert {"torch", "transformers.trainer", "hfgpt.model.modeling_hfgpt"} <= imported
    unused = {"hqq", "torch._inductor.compile_fx", "scipy", "sklearn", "matplotlib", "trl", "evaluate", "lm_eval", "rouge_score",
              "bitsandbytes", "tensorflow", "gguf", "nltk"}  # fmt: skip
    assert not imported & unused
