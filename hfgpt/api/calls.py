"""From keyword arguments to a recipe's `main` in this process, which is left as it was found."""

import importlib.util
import logging
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import fields
from functools import cache
from numbers import Integral, Real
from os import PathLike, environ, fspath
from types import ModuleType, NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from hfgpt.arguments.commands import RECIPES
from hfgpt.arguments.keys import RecipeArguments, default_of
from hfgpt.arguments.parsing import check_key
from hfgpt.errors import UserError
from hfgpt.files import held, release
from hfgpt.signals import STOPPING_SIGNALS
from hfgpt.tables import Table

Arguments = TypeVar("Arguments", bound=RecipeArguments)
Place = str | PathLike[str]  # a path, or where that is said a Hub id


def run_recipe(name: str, given: Mapping[str, Any], *, where: str) -> tuple[Any, Any]:
    """Run the `main` of a recipe with the arguments that `given` makes.

    Args:
        name: of the recipe's file, without its ending.
        given: values by the recipe's keys.
        where: what the sentence about an unknown key calls the function.
    Returns: the arguments, whose output_dir has its `~` replaced, and what `main` returns.
    Raises: UserError for what cannot be; RunStopped where a signal ended a training at a checkpoint.
    """
    with left_as_found():
        main = load_recipe(name).main
        arguments = make_arguments(main.__annotations__["args"], given, where=where)
        return arguments, main(arguments)


@cache
def load_recipe(name: str) -> ModuleType:
    """The recipe as a module: recipes are scripts, not a package."""
    spec = importlib.util.spec_from_file_location(f"hfgpt_recipe_{name}", RECIPES / f"{name}.py")
    assert spec is not None  # for the type checker, as below: what ends in .py has a loader
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# Arguments from Python


def make_arguments(arguments_class: type[Arguments], given: Mapping[str, Any], *, where: str) -> Arguments:
    """An instance of a recipe's argument class, its values checked as the command line checks words.

    A path is taken for a string, and one value for a list of one.

    Raises: UserError for an unknown key, with the nearest known one, and for a value of another type.
    """
    known = {one.name: one for one in fields(cast(Any, arguments_class)) if one.init}
    hints = get_type_hints(arguments_class)
    values = {}
    for key, value in given.items():
        check_key(key, known, where=where)
        if key not in known:  # what only a command line has, such as no_overwrite
            raise UserError(f"unknown key {key!r} in {where}.")
        values[key] = _fitting(key, value, hints[key])
        choices = known[key].metadata.get("choices")
        if choices is not None and values[key] is not None:
            Table(key, dict(choices)).find(values[key])
        if values[key] == default_of(known[key]):
            del values[key]  # a default of a signature; whoever chooses for the user may choose that
    try:
        return arguments_class(**values)
    except UserError:
        raise
    except ValueError as error:  # TrainingArguments refuses what contradicts itself
        raise UserError(str(error)) from None


def _fitting(key: str, value: Any, hint: Any) -> Any:
    """The value as the key's type has it."""
    wanted = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    for one in wanted:
        if (fit := _as_type(key, value, one)) is not None:
            return fit[0]
    if any(get_origin(one) is Literal for one in wanted):
        choices = [repr(choice) for one in wanted if get_origin(one) is Literal for choice in get_args(one)]
        raise UserError(f"{key} is {value!r}; it can be {', '.join(choices)}.")
    names = " or ".join("None" if one is NoneType else getattr(one, "__name__", str(one)) for one in wanted)
    raise UserError(f"{key} is {value!r}, a {type(value).__name__}; {names} is needed.")


def _as_type(key: str, value: Any, wanted: Any) -> tuple[Any] | None:
    """The value as `wanted` has it, in a tuple, or None where it does not fit; a type that is not known here takes all."""
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


# A process that goes on afterwards


@contextmanager
def left_as_found() -> Iterator[None]:
    """What a recipe may change for its whole process, because it ends with it, is afterwards as it was before.

    Threads of torch, handlers of signals (a training answers them with a checkpoint), the cache of datasets. While it lasts,
    progress is shown as `progress_shown` says.
    """
    import datasets
    import torch

    with ExitStack() as after:
        after.callback(torch.set_num_threads, torch.get_num_threads())
        if threading.current_thread() is threading.main_thread():  # nobody else may set handlers
            for number in STOPPING_SIGNALS:
                after.callback(signal.signal, number, signal.getsignal(number))
        before = held()
        after.callback(lambda: release(*(folder for folder in held() if folder not in before)))
        if datasets.is_caching_enabled():
            # What a recipe keeps, it keeps in its output folder; the cache would fill up with copies.
            datasets.disable_caching()
            after.callback(datasets.enable_caching)
        after.enter_context(progress_shown())
        yield


@contextmanager
def progress_shown() -> Iterator[None]:
    """hfgpt's messages at INFO on standard output, as the recipes print them, where the program has not said what it wants.

    A level or a handler of the logger "hfgpt" is such a word, and so is a root logger that shows INFO.
    """
    logger = logging.getLogger("hfgpt")
    if logger.handlers or logger.level != logging.NOTSET or (logger.isEnabledFor(logging.INFO) and logger.hasHandlers()):
        yield
        return
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger.addHandler(handler)
    logger.propagate = False  # a root logger with a handler, as in Colab, would print warnings twice
    logger.setLevel(logging.INFO if environ.get("RANK", "0") == "0" else logging.WARNING)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = True
        logger.setLevel(logging.NOTSET)
