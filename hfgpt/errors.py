"""The errors that a recipe shows as one sentence: what a user can get wrong. All others keep their traceback: they are our bugs."""

import errno
import importlib
import os
import re
import shutil
from pathlib import Path
from types import ModuleType


class UserError(ValueError):
    """A mistake in what was given: the message says what was got, what is allowed, why, and what to do."""


class MissingFileError(FileNotFoundError, UserError):
    """A file, folder or repository that was named and is not there."""


class AccessError(PermissionError, UserError):
    """A place that may not be read or written, or a token that may not do what was asked."""


class WrongTypeError(TypeError, UserError):
    """An object of another kind than what is needed."""


class UnreachableError(ConnectionError, UserError):
    """A server that does not answer, or may not be asked."""


class RunStopped(KeyboardInterrupt):
    """Training ended at a signal, with a checkpoint to go on from: neither a mistake nor a bug, but no result either.

    As Ctrl-C at any other time, it passes by a loop over several runs that catches every Exception.
    """


# What the machine refuses, whoever asks: no line of ours can know it in advance or do better than to say it.
MACHINE_REFUSES = {
    errno.ENOSPC: "the disk is full; free some space",
    errno.EDQUOT: "the disk quota is used up; free some space",
    errno.EFBIG: "the file would be larger than this system allows (ulimit -f, or the file system)",
    errno.EROFS: "it lies on a file system that can only be read; give another place",
    errno.EACCES: "this user may not do that; give another place, or change its permissions",
    errno.EPERM: "this user may not do that; give another place, or change its permissions",
    errno.ENAMETOOLONG: "the name is too long for this file system; give a shorter one",
}
# Libraries in Rust and C++ report a full disk in words of their own: safetensors and tokenizers, numpy's tofile, torch.save.
_NO_SPACE = re.compile(r"requested and \d+ written|inline_container.*unexpected pos|PytorchStreamWriter failed writing")


def sentence_of(error: BaseException, *, place: str = "") -> str | None:
    """What a recipe says of an error instead of a traceback; None for a bug of ours.

    Args: `place` is where the recipe writes, named with the bytes that are free there where the error names no file.
    """
    if isinstance(error, UserError):
        return str(error)
    number = _number_of(error)
    if number is None:
        return None
    where = getattr(error, "filename", None) or place
    free = ""
    if place and number in (errno.ENOSPC, errno.EDQUOT):
        free = f" ({_free_bytes(Path(place)):,} bytes are free there)"
    return f"{where}{': ' if where else ''}{os.strerror(number)}: {MACHINE_REFUSES[number]}{free}."


def _number_of(error: BaseException) -> int | None:
    """The errno of what the machine refused, also where a library says it in words."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno if error.errno in MACHINE_REFUSES else None
    said = str(error)
    if _NO_SPACE.search(said):
        return errno.ENOSPC
    in_words = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
    return next((number for number in in_words if os.strerror(number) in said), None)


def require(module: str, *, extra: str, purpose: str) -> ModuleType:
    """Import a package that an extra of hfgpt brings. Raises: ValueError with the command that installs it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module:  # it is there, but something that it needs is not
            raise
        raise UserError(f"{purpose}, and {module} is not installed; pip install 'hfgpt[{extra}]'.") from None


def require_space(folder: Path, num_bytes: int) -> None:
    """Raises: UserError where the file system of `folder`, which need not exist yet, has no room for this many bytes."""
    free = _free_bytes(folder)
    if free < num_bytes:
        raise UserError(f"{folder} needs {num_bytes:,} bytes, {free:,} are free there; free some space, or give another place.")


def _free_bytes(folder: Path) -> int:
    existing = next(place for place in (folder.resolve(), *folder.resolve().parents) if place.exists())
    return shutil.disk_usage(existing).free
