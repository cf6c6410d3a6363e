"""Startup cost: `import hfgpt` compared with `import transformers`, every recipe's --help, and pretraining up to its first step.

    python benchmarks/import_time.py [--repeats 5]
    python benchmarks/import_time.py --pretrain recipes/configs/quickstart/pretrain.yaml     # from launch to its first step, too

CPU seconds (user and system) of fresh processes, alternating, so that a slow moment of the machine affects all of them; the minimum
of each counts. CONFIG's data must have been prepared; its run is not touched.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

RECIPES = Path(__file__).resolve().parents[1] / "recipes"
STATEMENTS = (
    "pass",
    "import torch",
    "import transformers",
    "import hfgpt",
    "import transformers, hfgpt",
    "from transformers import AutoModelForCausalLM",
    "import hfgpt; from transformers import AutoModelForCausalLM",
    "import hfgpt; hfgpt.HfGptForCausalLM",
)
# Runs a recipe until the first training step begins.
UNTIL_FIRST_STEP = """
import os, runpy, sys
from wrapt import register_post_import_hook
def leave(*_):
    os._exit(0)
register_post_import_hook(lambda module: setattr(module.CallbackHandler, "on_step_begin", leave), "transformers.trainer_callback")
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
MEASURE = (
    "import resource, subprocess, sys; code = subprocess.run(sys.argv[2:], capture_output=True).returncode; "
    "used = resource.getrusage(resource.RUSAGE_CHILDREN); print(used.ru_utime + used.ru_stime); sys.exit(code != int(sys.argv[1]))"
)


def cpu_seconds(words: list[str], *, exit_code: int = 0) -> float:
    command = [sys.executable, "-c", MEASURE, str(exit_code), sys.executable, *words]
    return float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def main(repeats: int, config: str | None) -> None:
    with tempfile.TemporaryDirectory() as folder:
        processes = {statement: (["-c", statement], 0) for statement in STATEMENTS}
        for recipe in sorted(RECIPES.glob("*.py")):
            processes[f"recipes/{recipe.name} --help"] = ([str(recipe), "--help"], 0)
        processes["recipes/pretrain.py --learning_rte 1"] = ([str(RECIPES / "pretrain.py"), "--learning_rte", "1"], 1)
        if config:
            words = ["-c", UNTIL_FIRST_STEP, str(RECIPES / "pretrain.py"), config]
            words += ["--output_dir", f"{folder}/run", "--overwrite", "true"]
            processes["launch to first step"] = (words, 0)
        seconds: dict[str, list[float]] = {name: [] for name in processes}
        for _ in range(repeats):
            for name, (words, exit_code) in processes.items():
                seconds[name].append(cpu_seconds(words, exit_code=exit_code))
    least = {name: min(times) for name, times in seconds.items()}
    print(f"CPU s, minimum of {repeats} | above `import torch` | process")
    for name, cpu in least.items():
        print(f"{cpu:22.2f} | {cpu - least['import torch']:20.2f} | {name}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--pretrain", metavar="CONFIG", help="A configuration whose dataset has been prepared.")
    arguments = parser.parse_args()
    main(arguments.repeats, arguments.pretrain)
