"""From a command line to a recipe's `main`: immediate answers to --help and mistakes, one line for signals and errors."""

import gc
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

from hfgpt.arguments.commands import as_started, discard_output
from hfgpt.arguments.keys import RecipeArguments
from hfgpt.arguments.parsing import parse_arguments
from hfgpt.arguments.processes import ending_with_launcher, note_start
from hfgpt.arguments.publishing import TOKEN
from hfgpt.arguments.terminal import hide_what_is_for_developers, lines_and_bars, open_closed_streams, reader_has_gone
from hfgpt.errors import RunStopped, UserError, sentence_of
from hfgpt.signals import StopRequest, ignore_stopping_signals, leave_on_ctrl_c, stopped_by

logger = logging.getLogger("hfgpt")
Arguments = TypeVar("Arguments", bound=RecipeArguments)


_modules = cast("dict[str, ModuleType | None]", sys.modules)  # importing a name that is None here fails
GO_ON, GO_ON_TRAINING = 98, 99  # exit codes of the process that reads the command line first


# Packages that transformers' core and PEFT import if installed, although they need them only for models and caches that no recipe
# uses; hqq also imports torch's inductor, which costs a second.
NEEDLESS = ("hqq", "scipy")


def check_command_line(arguments_class: str) -> None:
    """Answer `--help` and report mistakes at once; the first statement of a recipe, before imports that take seconds.

    A fork of this process parses the command line with torch made unimportable: without torch, transformers defines
    TrainingArguments instantly. If nothing is wrong, the process continues, and `launch` parses the command line again, with torch.

    From here until `launch`, nothing looks for garbage: what is imported stays, and searching it takes a quarter of the time.

    Args: `arguments_class` is "module:Class".
    """
    open_closed_streams()
    leave_on_ctrl_c()
    gc.disable()
    note_start()
    hide_what_is_for_developers()
    if "torch" in sys.modules or not hasattr(os, "fork"):
        return  # nothing to gain, or not possible: Windows
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
        _modules["torch"] = None  # importing it fails, and is_torch_available is False
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
        pass  # torch is needed for the rest, or it is a bug, which will appear again
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(exit_code)


def _import_core_without_needless_packages() -> None:
    """Import transformers' core and PEFT while the `NEEDLESS` packages appear not to be installed, then make them visible again."""
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
    print(f"error: {TOKEN.sub('hf_***', as_started(sentence))}", file=sys.stderr)  # a misplaced word may be a token


READER_GONE = 141  # as shells report SIGPIPE, which ends other programs
STOPPED_WITH_CHECKPOINT = 75  # sysexits.h calls it a temporary failure: the same command continues the run


def launch(main: Callable[[Arguments], dict], arguments_class: type[Arguments]) -> None:
    """Parse the command line and run a recipe's `main`.

    Everything a user can cause ends in one line and an exit code: 1 for a `UserError`, 75 for training stopped at a checkpoint by a
    signal, 130 for Ctrl-C at any other time, 129 for SIGHUP, 138 for SIGUSR1 and 143 for SIGTERM (128 plus the signal number, as in
    shells), 141 if nobody reads the text that it prints any more. If the launcher is gone, that counts as SIGTERM.
    """
    open_closed_streams()
    gc.freeze()  # the modules are not searched again; Trainer and accelerate ask for a full search several times a run
    gc.enable()
    # Python looks in the script's folder first: `import evaluate` would find the recipe of that name instead of the library.
    script = Path(sys.argv[0])
    if script.is_file():
        sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != script.resolve().parent]
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A cp1252 console or an ASCII pipe cannot print arrows or Chinese: print a question mark instead of failing.
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
        logger.info(stopped_by(number))
        sys.exit(128 + number)
    except Exception as error:
        if isinstance(error, BrokenPipeError) and reader_has_gone(sys.stdout):  # not a pipe between processes of ours
            discard_output(sys.stdout)
            sys.exit(READER_GONE)
        sentence = sentence_of(error, place=output_dir)
        if sentence is None:
            raise
        _say_error(sentence)
        sys.exit(1)


@contextmanager
def _signals_raised() -> Iterator[None]:
    """SIGTERM and the others exit like Ctrl-C, through an exception, so that half-finished files are removed on the way out."""

    def leave(number: int) -> None:
        raise KeyboardInterrupt(number)

    request = StopRequest(leave, children="end")  # a process forked from this one has nothing to remove or report
    request.listen()
    try:
        yield
    except KeyboardInterrupt:  # this process is exiting
        ignore_stopping_signals()
        raise
    except BaseException:
        request.close()
        raise
    request.close()
