"""From keyword arguments to a recipe's `main` in this process, restoring the process state afterwards."""

import importlib.util
import logging
import signal
import sys
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import fields
from functools import cache
from numbers import Integral, Real
from os import PathLike, environ, fspath
from types import ModuleType, NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from hfgpt.api.wording import in_python
from hfgpt.arguments.commands import RECIPES, started_from_python
from hfgpt.arguments.keys import RecipeArguments, default_of
from hfgpt.arguments.parsing import check_key
from hfgpt.errors import UserError
from hfgpt.files import held, release
from hfgpt.signals import STOPPING_SIGNALS
from hfgpt.tables import Table

Arguments = TypeVar("Arguments", bound=RecipeArguments)
Item = TypeVar("Item")
Place = str | PathLike[str]  # a path or, where documented, a Hub id


def run_recipe(name: str, given: Mapping[str, Any], *, where: str) -> tuple[Any, Any]:
    """Run the `main` of a recipe with arguments made from `given`.

    Args:
        name: the recipe's file name, without its suffix.
        given: values by the recipe's keys.
        where: the function's name in the message about an unknown key.
    Returns: the arguments, with `~` in output_dir expanded, and the result of `main`.
    Raises: UserError for impossible values; RunStopped if a signal ended training at a checkpoint.
    """
    with left_as_found():
        main = load_recipe(name).main
        arguments_class = main.__annotations__["args"]
        with worded_for_python(choices_of(arguments_class)):
            arguments = make_arguments(arguments_class, given, where=where)
            return arguments, main(arguments)


@contextmanager
def worded_for_python(choices: Mapping[str, Collection[str]] | None = None) -> Iterator[None]:
    """Inside this context, errors name keys as Python does, unless a recipe calls, such as recipes/from_text.py.

    Args: `choices` as in `in_python`.
    """
    try:
        yield
    except UserError as error:
        if started_from_python():
            error.args = (in_python(str(error), choices),)
        raise


def each_worded(items: Iterable[Item], choices: Mapping[str, Collection[str]]) -> Iterator[Item]:
    """The items of something that reads, and may fail, while it is used."""
    with worded_for_python(choices):
        yield from items


def choices_of(arguments_class: type[RecipeArguments]) -> dict[str, list[str]]:
    """For each key that takes one of some words, those words."""
    hints = get_type_hints(arguments_class)
    found = {key: _words_of(hint) for key, hint in hints.items()}
    for one in fields(cast(Any, arguments_class)):
        found.setdefault(one.name, []).extend(one.metadata.get("choices") or ())
    return {key: words for key, words in found.items() if words}


def _words_of(hint: Any) -> list[str]:
    if get_origin(hint) is Literal:
        return [value for value in get_args(hint) if isinstance(value, str)]
    return [word for one in get_args(hint) for word in _words_of(one)]


@cache
def load_recipe(name: str) -> ModuleType:
    """The recipe as a module: recipes are scripts, not a package."""
    spec = importlib.util.spec_from_file_location(f"hfgpt_recipe_{name}", RECIPES / f"{name}.py")
    assert spec is not None  # for the type checker, as below: a file that ends in .py has a loader
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# Arguments from Python


def make_arguments(arguments_class: type[Arguments], given: Mapping[str, Any], *, where: str) -> Arguments:
    """An instance of a recipe's argument class, with values checked as on the command line.

    A path becomes a string, and a single value a list of one.

    Raises: UserError for an unknown key, with the nearest known one, and for a value of a wrong type.
    """
    known = {one.name: one for one in fields(cast(Any, arguments_class)) if one.init}
    hints = get_type_hints(arguments_class)
    values = {}
    for key, value in given.items():
        check_key(key, known, where=where)
        if key not in known:  # options that only exist on a command line, such as no_overwrite
            raise UserError(f"unknown key {key!r} in {where}.")
        values[key] = _fitting(key, value, hints[key])
        choices = known[key].metadata.get("choices")
        if choices is not None and values[key] is not None:
            Table(key, dict(choices)).find(values[key])
        if values[key] == default_of(known[key]):
            del values[key]  # a default from a signature: code that chooses values for the user may change it
    try:
        return arguments_class(**values)
    except UserError:
        raise
    except ValueError as error:  # TrainingArguments refuses contradictions
        raise UserError(str(error)) from None


def _fitting(key: str, value: Any, hint: Any) -> Any:
    """The value converted to the key's type."""
    wanted = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    for one in wanted:
        if (fit := _as_type(key, value, one)) is not None:
            return fit[0]
    if any(get_origin(one) is Literal for one in wanted):
        choices = [repr(choice) for one in wanted if get_origin(one) is Literal for choice in get_args(one)]
        raise UserError(f"{key} is {value!r}; allowed: {', '.join(choices)}.")
    names = " or ".join("None" if one is NoneType else getattr(one, "__name__", str(one)) for one in wanted)
    raise UserError(f"{key} is {value!r}, a {type(value).__name__}; it must be {names}.")


def _as_type(key: str, value: Any, wanted: Any) -> tuple[Any] | None:
    """The value as type `wanted`, in a tuple, or None if it does not fit; an unknown type accepts everything."""
    if get_origin(wanted) is Literal:
        return (value,) if value in get_args(wanted) else None
    if wanted is NoneType:
        return (None,) if value is None else None
    if wanted is bool:
        return (value,) if isinstance(value, bool) else None
    if wanted is int:
        return (int(value),) if isinstance(value, Integral) and not isinstance(value, bool) else None
    if wanted is float:
        return (float(value),) if isinstance(value, Real) and not isinstance(value, bool) else None
    if wanted is str:
        return (fspath(value),) if isinstance(value, str | PathLike) else None
    if get_origin(wanted) is list:
        if value is None or isinstance(value, Mapping):
            return None
        several = value if isinstance(value, list | tuple) else [value]
        return ([_fitting(key, item, get_args(wanted)[0]) for item in several],)
    if wanted is dict or get_origin(wanted) is dict:
        return (value,) if isinstance(value, dict) else None
    return (value,)


# A process that continues afterwards


@contextmanager
def left_as_found() -> Iterator[None]:
    """Restore the process state that a recipe changes, because a script's process would end with it.

    Torch's threads, signal handlers (training responds with a checkpoint), the cache of datasets, and the root logger's handlers
    (absl, which rouge_score uses, adds one). Meanwhile, progress is shown as in `progress_shown`.
    """
    import datasets
    import torch

    with ExitStack() as after:
        after.callback(torch.set_num_threads, torch.get_num_threads())
        if threading.current_thread() is threading.main_thread():  # only the main thread may set handlers
            for number in STOPPING_SIGNALS:
                after.callback(signal.signal, number, signal.getsignal(number))
        root = logging.getLogger()
        handlers = list(root.handlers)
        after.callback(lambda: [root.removeHandler(one) for one in list(root.handlers) if one not in handlers])
        before = held()
        after.callback(lambda: release(*(folder for folder in held() if folder not in before)))
        if datasets.is_caching_enabled():
            # A recipe's results are in its output folder; the cache would fill up with copies.
            datasets.disable_caching()
            after.callback(datasets.enable_caching)
        after.enter_context(progress_shown())
        yield


class _PythonFormatter(logging.Formatter):
    """Messages that name keys as Python does."""

    def format(self, record: logging.LogRecord) -> str:
        return in_python(super().format(record))


@contextmanager
def progress_shown() -> Iterator[None]:
    """Show hfgpt's INFO messages on standard output, as the recipes do, unless the program has configured logging itself.

    A level or a handler of the logger "hfgpt" counts as configuration, and so does a root logger that shows INFO.
    """
    logger = logging.getLogger("hfgpt")
    if logger.handlers or logger.level != logging.NOTSET or (logger.isEnabledFor(logging.INFO) and logger.hasHandlers()):
        yield
        return
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(_PythonFormatter("%(message)s") if started_from_python() else logging.Formatter("%(message)s"))
    logger.addHandler(handler)
    logger.propagate = False  # a root logger with a handler, as in Colab, would print warnings twice
    logger.setLevel(logging.INFO if environ.get("RANK", "0") == "0" else logging.WARNING)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = True
        logger.setLevel(logging.NOTSET)
