"""Errors that a recipe shows as one sentence: mistakes a user can make. All others keep their traceback, because they are our
bugs."""

import errno
import importlib
import os
import re
import shutil
import traceback
from pathlib import Path
from types import FrameType, ModuleType


class UserError(ValueError):
    """A mistake in the user's input: the message says what was given, what is allowed, why, and what to do."""


class TooLittleTimeError(UserError):
    """A time budget is too small.

    Args:
        reason: what takes how long; the message ends in the `cure`, which names the key of the command that was typed.
        missing: seconds that would have to be added.
    """

    def __init__(self, reason: str, *, cure: str, missing: float):
        super().__init__(f"{reason}; {cure}")
        self.reason, self.missing = reason, missing


class TooLittleTextError(UserError):
    """A text is too short for a single row. Args: the message ends in the `cure`, which names a key of the command."""

    def __init__(self, reason: str, *, cure: str):
        super().__init__(f"{reason}; {cure}")
        self.reason = reason


class OtherResultError(UserError):
    """A folder holds another result than the one that was asked for. Args: `changed` says in words what differs."""

    def __init__(self, message: str, *, changed: list[str]):
        super().__init__(message)
        self.changed = changed


class MissingFileError(FileNotFoundError, UserError):
    """A given file, folder or repository does not exist."""


class AccessError(PermissionError, UserError):
    """A path that cannot be read or written, or a token without the required permission."""


class WrongTypeError(TypeError, UserError):
    """An object of the wrong type."""


class UnreachableError(ConnectionError, UserError):
    """A server that does not answer or must not be contacted."""


class RunStopped(KeyboardInterrupt):
    """A signal ended training, with a checkpoint to resume from: neither a mistake nor a bug, but not a result either.

    Like Ctrl-C, it is not caught by a loop over several runs that catches Exception.
    """


# Errors of the machine: our code cannot foresee them, only report them.
MACHINE_REFUSES = {
    errno.ENOSPC: "the disk is full; free some space",
    errno.EDQUOT: "the disk quota is used up; free some space",
    errno.EFBIG: "the file would be larger than this system allows (ulimit -f, or the file system)",
    errno.EROFS: "it is on a read-only file system; give another path",
    errno.EACCES: "you do not have permission to do that; give another path, or change its permissions",
    errno.EPERM: "you do not have permission to do that; give another path, or change its permissions",
    errno.ENAMETOOLONG: "the name is too long for this file system; give a shorter one",
    errno.EIO: "the disk or its connection reports an error; check it, or give another path",
    errno.EMFILE: "this process cannot open more files (ulimit -n); raise the limit, or use fewer processes and files",
    errno.ENFILE: "this machine cannot open more files; close other programs",
    errno.ESTALE: "the opened file no longer exists; mount the disk again",
    errno.EBUSY: "another program or the system is using it; give another path",
    errno.EXDEV: "it is on another file system; give another path",
    errno.ENOTCONN: "the file system is no longer there; mount it again",
}
# What a process sees when another one has ended with an error.
_PEER_GONE = re.compile(r"gloo/transport.*(closed|reset) by peer|ncclRemoteError", re.DOTALL)
# Libraries in Rust and C++ report a full disk in their own words: safetensors and tokenizers, numpy's tofile, torch.save.
_NO_SPACE = re.compile(r"requested and \d+ written|inline_container.*unexpected pos|PytorchStreamWriter failed writing")


_NO_MEMORY = re.compile(r"can't allocate memory|out of memory|std::bad_alloc|Cannot allocate memory")
# What Arrow and torch report for a truncated file; ArrowInvalid alone may also be caused by a wrong conversion of ours.
_CUT = re.compile(
    r"Expected to (be able to )?read [\d,]+ .*bytes|Tried reading schema message|not an? (Arrow|Parquet) file|Parquet magic bytes|"
    r"(Invalid|Corrupted) (IPC|message)|file is (smaller|too small)|PytorchStreamReader failed",
    re.IGNORECASE,
)


def sentence_of(error: BaseException, *, place: str = "") -> str | None:
    """The message a recipe shows for an error instead of a traceback; None for our own bugs.

    Args: `place` is the recipe's output path, shown with its free bytes if the error names no file.
    """
    one: BaseException | None = error
    while one is not None:  # libraries wrap machine errors: DatasetGenerationError from OSError
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
        cure = "add memory or use less: smaller batches, shorter texts, fewer processes, a smaller model."
        return f"out of memory{f' ({said})' if said else ''}; {cure}"
    if _PEER_GONE.search(said):
        return "another process of this run has ended, so this one cannot continue; the other one's message says why."
    number = _number_of(error)
    if number is None:
        return _sentence_of_damage(error, said)
    where = getattr(error, "filename", None) or place
    free = ""
    if place and number in (errno.ENOSPC, errno.EDQUOT):
        free = f" ({_free_bytes(Path(place)):,} bytes are free there)"
    return f"{where}{': ' if where else ''}{os.strerror(number)}: {MACHINE_REFUSES[number]}{free}."


def _sentence_of_damage(error: BaseException, said: str) -> str | None:
    """Messages for a file that is truncated, nested too deeply, or gone with its folder. A single missing file may be our bug."""
    if type(error).__name__ == "SafetensorError" or _CUT.search(said):
        cure = "download it again, or write it again with its recipe."
        return f"{_file_at_hand(error) or 'a file'} is damaged or cut off ({said}); {cure}"
    if "ignore_mismatched_sizes" in said:
        return "the weights do not match the shapes in their config.json (see the report above); download both again."
    if isinstance(error, RecursionError) and _innermost(error).partition(".")[0] in ("json", "yaml"):
        return f"{_file_at_hand(error) or 'a JSON or YAML text'} is nested too deeply; use fewer brackets."
    if isinstance(error, FileNotFoundError) and error.errno is not None:
        folder = Path(os.fsdecode(error.filename)).parent if error.filename else Path()
        if not folder.exists():
            return (
                f"{error.filename or 'the working folder'}: its folder no longer exists; mount its disk again, or create it again."
            )
    return None


def _frames(error: BaseException) -> list[FrameType]:
    """The stack where it was raised, the innermost frame first."""
    return [frame for frame, _ in traceback.walk_tb(error.__traceback__)][::-1]


def _innermost(error: BaseException) -> str:
    """The module that raised it."""
    return str(_frames(error)[0].f_globals.get("__name__", "")) if error.__traceback__ else ""


def _file_at_hand(error: BaseException) -> str | None:
    """The file being read when it was raised, if the error does not name it, with its size."""
    for frame in _frames(error):
        for value in frame.f_locals.values():
            if isinstance(value, str | Path) and len(str(value)) < 4096 and Path(value).suffix and Path(value).is_file():
                return f"{value} ({Path(value).stat().st_size:,} bytes)"
    return None


def _number_of(error: BaseException) -> int | None:
    """The errno of a machine error, even if a library only gives its text."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno if error.errno in MACHINE_REFUSES else None
    said = str(error)
    if _NO_SPACE.search(said):
        return errno.ENOSPC
    in_words = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.EMFILE)
    return next((number for number in in_words if os.strerror(number) in said), None)


def require(module: str, *, extra: str, purpose: str) -> ModuleType:
    """Import a package from an extra of hfgpt. Raises: ValueError with the command that installs it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module:  # it is installed, but one of its dependencies is not
            raise
        raise UserError(f"{purpose}, but {module} is not installed; pip install 'hfgpt[{extra}]'") from None


def require_space(folder: Path, num_bytes: int) -> None:
    """Raises: UserError if the file system of `folder`, which need not exist yet, does not have this many bytes free."""
    free = _free_bytes(folder)
    if free < num_bytes:
        raise UserError(
            f"{folder} needs {num_bytes:,} bytes, but only {free:,} are free there; free some space, or give another path."
        )


def _free_bytes(folder: Path) -> int:
    existing = next(place for place in (folder.resolve(), *folder.resolve().parents) if place.exists())
    return shutil.disk_usage(existing).free
