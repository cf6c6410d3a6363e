"""The errors that a recipe shows as one sentence: what a user can get wrong. All others keep their traceback: they are our bugs."""

import errno
import importlib
import os
import re
import shutil
import traceback
from pathlib import Path
from types import FrameType, ModuleType


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
    errno.EIO: "the disk, or what it is reached by, reports a fault; check it, or give another place",
    errno.EMFILE: "this process may not open more files (ulimit -n); raise that, or use fewer processes and files",
    errno.ENFILE: "this machine may not open more files; close other programs",
    errno.ESTALE: "what was opened is no longer there; mount the disk again",
    errno.ENOTCONN: "the file system is no longer there; mount it again",
}
# What a process hears of one that has ended with an error of its own.
_PEER_GONE = re.compile(r"gloo/transport.*(closed|reset) by peer|ncclRemoteError", re.DOTALL)
# Libraries in Rust and C++ report a full disk in words of their own: safetensors and tokenizers, numpy's tofile, torch.save.
_NO_SPACE = re.compile(r"requested and \d+ written|inline_container.*unexpected pos|PytorchStreamWriter failed writing")


_NO_MEMORY = re.compile(r"can't allocate memory|out of memory|std::bad_alloc|Cannot allocate memory")
# What Arrow and torch say of a file that was cut; of ArrowInvalid alone, a wrong conversion of ours may be the cause.
_CUT = re.compile(
    r"Expected to (be able to )?read [\d,]+ .*bytes|Tried reading schema message|not an? (Arrow|Parquet) file|Parquet magic bytes|"
    r"(Invalid|Corrupted) (IPC|message)|file is (smaller|too small)|PytorchStreamReader failed",
    re.IGNORECASE,
)


def sentence_of(error: BaseException, *, place: str = "") -> str | None:
    """What a recipe says of an error instead of a traceback; None for a bug of ours.

    Args: `place` is where the recipe writes, named with the bytes that are free there where the error names no file.
    """
    one: BaseException | None = error
    while one is not None:  # libraries wrap what the machine says: DatasetGenerationError from OSError
        sentence = _sentence_of_one(one, place)
        if sentence is not None:
            return sentence
        one = one.__cause__
    return None


def _sentence_of_one(error: BaseException, place: str) -> str | None:
    if isinstance(error, UserError):
        return str(error)
    said = " ".join(str(error).split())[:300]
    if isinstance(error, MemoryError) or _NO_MEMORY.search(said):
        cure = "give it more, or less at a time: smaller batches, shorter texts, fewer processes, a smaller model."
        return f"out of memory{f' ({said})' if said else ''}; {cure}"
    if _PEER_GONE.search(said):
        return "another process of this run has ended, without which this one cannot go on; its own message says why."
    number = _number_of(error)
    if number is None:
        return _sentence_of_damage(error, said)
    where = getattr(error, "filename", None) or place
    free = ""
    if place and number in (errno.ENOSPC, errno.EDQUOT):
        free = f" ({_free_bytes(Path(place)):,} bytes are free there)"
    return f"{where}{': ' if where else ''}{os.strerror(number)}: {MACHINE_REFUSES[number]}{free}."


def _sentence_of_damage(error: BaseException, said: str) -> str | None:
    """Of a file that is cut, nested without end, or gone with its folder. One that is missing alone may be our bug."""
    if type(error).__name__ == "SafetensorError" or _CUT.search(said):
        cure = "download it again, or write it again with its recipe."
        return f"{_file_at_hand(error) or 'a file'} is damaged or cut off ({said}); {cure}"
    if "ignore_mismatched_sizes" in said:
        return "the weights do not have the shapes of their config.json (the report above names them); download both again."
    if isinstance(error, RecursionError) and _innermost(error).partition(".")[0] in ("json", "yaml"):
        return f"{_file_at_hand(error) or 'a JSON or YAML text'} is nested too deeply to be read; write it with fewer brackets."
    if isinstance(error, FileNotFoundError) and error.errno is not None:
        folder = Path(os.fsdecode(error.filename)).parent if error.filename else Path()
        if not folder.exists():
            return f"{error.filename or 'the working folder'}: its folder is gone; mount its disk again, or make it again."
    return None


def _frames(error: BaseException) -> list[FrameType]:
    """Where it was raised, the innermost place first."""
    return [frame for frame, _ in traceback.walk_tb(error.__traceback__)][::-1]


def _innermost(error: BaseException) -> str:
    """The module that raised it."""
    return str(_frames(error)[0].f_globals.get("__name__", "")) if error.__traceback__ else ""


def _file_at_hand(error: BaseException) -> str | None:
    """The file that was read when it was raised, which the error itself does not name, with its bytes."""
    for frame in _frames(error):
        for value in frame.f_locals.values():
            if isinstance(value, str | Path) and len(str(value)) < 4096 and Path(value).suffix and Path(value).is_file():
                return f"{value} ({Path(value).stat().st_size:,} bytes)"
    return None


def _number_of(error: BaseException) -> int | None:
    """The errno of what the machine refused, also where a library says it in words."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno if error.errno in MACHINE_REFUSES else None
    said = str(error)
    if _NO_SPACE.search(said):
        return errno.ENOSPC
    in_words = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.EMFILE)
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
