"""Call a recipe in this process: its `main` with arguments from Python, or the whole script as from a command line."""

import contextlib
import gc
import importlib.util
import io
import logging
import os
import runpy
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from hfgpt.signals import STOPPING_SIGNALS

RECIPES = Path(__file__).resolve().parents[1] / "recipes"


def load(name: str):
    """The recipe as a module; recipes are scripts, not a package."""
    spec = importlib.util.spec_from_file_location(f"recipe_{name}", RECIPES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def recipe(name: str, **arguments):
    """Run `main` of recipe `name`; its argument class is the annotation of `main`."""
    module = load(name)
    arguments_class = module.main.__annotations__["args"]
    return module.main(arguments_class(**arguments))


def run_script(name: str, *words: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess:
    """Run the file `recipes/NAME` as `python recipes/NAME WORDS` does, without the seconds that a new process needs for imports.

    Returns: what `subprocess.run` returns: returncode, stdout and stderr. An error that would print a traceback is raised here.
    """
    path = str(RECIPES / name)
    return _run([path, *map(str, words)], lambda: runpy.run_path(path, run_name="__main__"), cwd)


def run_command(line: str, *, cwd: Path) -> subprocess.CompletedProcess:
    """Run `hfgpt COMMAND ...`, a line as for a shell, with the console script's `main`; otherwise like `run_script`."""
    from hfgpt import cli
    from hfgpt.arguments.commands import STARTED_AS

    try:
        return _run(shlex.split(line), cli.main, cwd)
    finally:
        os.environ.pop(STARTED_AS, None)


def _run(words: list[str], main: Callable[[], object], cwd: Path | None) -> subprocess.CompletedProcess:
    logger = logging.getLogger("hfgpt")
    before = (sys.argv, sys.path[:], Path.cwd(), logger.handlers[:], logger.propagate, logger.level)
    handlers = {number: signal.getsignal(number) for number in STOPPING_SIGNALS}  # a process that exits ignores them
    stdout, stderr = io.StringIO(), io.StringIO()
    returncode = 0
    gc.collect()  # `launch` freezes all existing objects
    sys.argv = words
    try:
        if cwd:
            os.chdir(cwd)
        with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
            try:
                main()
            except SystemExit as leaving:
                returncode = leaving.code or 0
    finally:
        sys.argv, sys.path[:], folder, logger.handlers, logger.propagate, level = before
        logger.setLevel(level)
        os.chdir(folder)
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return subprocess.CompletedProcess(words, returncode, stdout.getvalue(), stderr.getvalue())
