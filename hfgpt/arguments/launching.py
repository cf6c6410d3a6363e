"""From a command line to a recipe's `main`: help and mistakes at once, signals and errors in one line."""

import importlib
import io
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TypeVar, cast

from transformers.utils import import_utils

from hfgpt.arguments.commands import as_started
from hfgpt.arguments.keys import RecipeArguments
from hfgpt.arguments.parsing import parse_arguments
from hfgpt.arguments.processes import ending_with_launcher, note_start
from hfgpt.arguments.publishing import TOKEN
from hfgpt.arguments.terminal import hide_what_is_for_developers, lines_and_bars
from hfgpt.errors import RunStopped, UserError, sentence_of
from hfgpt.signals import StopRequest, ignore_stopping_signals

logger = logging.getLogger("hfgpt")
Arguments = TypeVar("Arguments", bound=RecipeArguments)


_modules = cast("dict[str, ModuleType | None]", sys.modules)  # an import of a name that is None there fails
GO_ON, GO_ON_TRAINING = 98, 99  # exit codes of the process that reads the command line first


# Packages that transformers' core and PEFT import where they are installed, though they need them for models and caches that no
# recipe makes; hqq takes torch's inductor along, which costs a second.
NEEDLESS = ("hqq", "scipy")

SPINS = "1000"  # a few microseconds


def check_command_line(arguments_class: str) -> None:
    """Answer `--help` and mistakes at once; the first statement of a recipe, before imports that take seconds.

    The command line is read by a fork of this process in which torch cannot be imported: without it, transformers defines
    TrainingArguments in no time. Where nothing is found, the process goes on, and `launch` reads the command line again, with all
    that torch knows of it.

    Args: `arguments_class` is "module:Class".
    """
    note_start()
    hide_what_is_for_developers()
    let_waiting_threads_sleep()
    if "torch" in sys.modules or not hasattr(os, "fork"):
        return  # nothing to save, or no way to: Windows
    child = os.fork()
    if child:
        exit_code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if exit_code == GO_ON_TRAINING:
            _import_core_without_needless_packages()
        elif exit_code != GO_ON:
            sys.exit(exit_code)
        return
    exit_code = GO_ON
    try:
        _modules["torch"] = None  # an import of it fails, and is_torch_available is False
        import_utils.is_torch_available.cache_clear()
        import_utils.is_accelerate_available.cache_clear()  # it needs torch
        module_name, _, class_name = arguments_class.partition(":")
        found = getattr(importlib.import_module(module_name), class_name)
        if issubclass(found, importlib.import_module("transformers.training_args").TrainingArguments):
            exit_code = GO_ON_TRAINING
        parse_arguments(found, sys.argv[1:])
    except SystemExit as answered:  # --help
        exit_code = int(answered.code or 0)
    except UserError as error:
        _say_error(str(error))
        exit_code = 1
    except BaseException:
        pass  # torch is needed for more, or it is a bug, which shows itself again
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(exit_code)


def _import_core_without_needless_packages() -> None:
    """Import transformers' core and PEFT while `NEEDLESS` packages seem not to be installed; afterwards they are."""
    answers = (import_utils.is_hqq_available, import_utils.is_scipy_available)
    hidden = [package for package in NEEDLESS if package not in sys.modules]
    _modules.update(dict.fromkeys(hidden))
    for answer in answers:
        answer.cache_clear()
    try:
        for core in ("transformers.cache_utils", "transformers.loss.loss_utils", "peft"):
            importlib.import_module(core)
    finally:
        for package in hidden:
            del sys.modules[package]
        for answer in answers:
            answer.cache_clear()


def _say_error(sentence: str) -> None:
    print(f"error: {TOKEN.sub('hf_***', as_started(sentence))}", file=sys.stderr)  # a word at a wrong place may be one


STOPPED_WITH_CHECKPOINT = 75  # sysexits.h calls it a temporary failure: the same command goes on


def launch(main: Callable[[Arguments], dict], arguments_class: type[Arguments]) -> None:
    """Parse the command line and run a recipe's `main`.

    Whatever a user can bring about ends in one line and an exit code: a `UserError` in 1, a training that a signal stopped at a
    checkpoint in 75, Ctrl-C at any other time in 130, SIGHUP in 129, SIGUSR1 in 138 and SIGTERM in 143 (128 and the signal's
    number, as shells have it). A launcher that is gone counts as SIGTERM.
    """
    # Python looks beside a script first: `import evaluate` would find the recipe of this name instead of the library.
    script = Path(sys.argv[0])
    if script.is_file():
        sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != script.resolve().parent]
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A console in cp1252, or a pipe in ASCII, has no arrow and no Chinese: a question mark there, and the run goes on.
            stream.reconfigure(errors="replace")
    output_dir = ""
    try:
        with lines_and_bars(logger), _signals_raised(), ending_with_launcher():
            args = parse_arguments(arguments_class, sys.argv[1:])
            output_dir = getattr(args, "output_dir", "")
            main(args)
    except RunStopped as stopped:
        logger.info(stopped)
        sys.exit(STOPPED_WITH_CHECKPOINT)
    except KeyboardInterrupt as interrupt:
        number = interrupt.args[0] if interrupt.args else signal.SIGINT
        logger.info(f"stopped: by {signal.Signals(number).name}; the same command starts again, or goes on where it can.")
        sys.exit(128 + number)
    except Exception as error:
        sentence = sentence_of(error, place=output_dir)
        if sentence is None:
            raise
        _say_error(sentence)
        sys.exit(1)


def let_waiting_threads_sleep() -> None:
    """Before torch is loaded: its threads on a CPU wait for each other briefly, then sleep, unless the environment says how.

    By default GNU's OpenMP spins for milliseconds, on a core that the thread it waits for may need: two threads beside other busy
    processes are then several times slower than one. benchmarks/busy_machine.py measures both, and what a quiet machine loses.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)


@contextmanager
def _signals_raised() -> Iterator[None]:
    """SIGTERM and the others leave as Ctrl-C does, by an exception: what is half made is removed on the way out."""

    def leave(number: int) -> None:
        raise KeyboardInterrupt(number)

    request = StopRequest(leave, children="end")  # a process that was forked from this one has nothing to remove or to say
    request.listen()
    try:
        yield
    except KeyboardInterrupt:  # this process is leaving
        ignore_stopping_signals()
        raise
    except BaseException:
        request.close()
        raise
    request.close()
