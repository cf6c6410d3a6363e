"""Atomic file writes, folders that are claimed and replaced, and paths as written by users."""

import atexit
import errno
import hashlib
import io
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path, PureWindowsPath
from typing import IO, TYPE_CHECKING, Any, BinaryIO

from hfgpt.errors import AccessError, MissingFileError, UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# A data set or model on the Hub: user/name or user/name:configuration. Always with the owner, because load_dataset treats a bare
# "json" or "text" as one of its own loaders and reads local files.
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+(:[\w.-]+)?")
PYTHON_DOCS = "python-docs"  # the source that every machine has

PARTIAL = ".hfgpt-part"  # suffix of a file while it is being written

# Files


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file atomically: if killed at any moment, it is the old one or the new one, never half of one.

    A hard link to another file is replaced, not written through.

    Args: `content` is text, written in UTF-8 with its line breaks as they are, or bytes.
    """
    temporary = path.with_name(f".{path.name}{PARTIAL}")
    try:
        with temporary.open("wb") as file:
            file.write(content.encode("utf-8") if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())  # if the name survives a power cut, so must the content
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):  # the original error is the one to report
            temporary.unlink()
        raise


def remove_partial_files(folder: Path) -> None:
    """Remove partial files in this folder, left by `write_whole` when its process was killed."""
    for path in folder.glob(f".*{PARTIAL}"):
        path.unlink(missing_ok=True)


def write_json(path: Path, values: Any, **options: Any) -> None:
    """`write_whole` with values as JSON; `options` are passed to `json.dumps`."""
    write_whole(path, json.dumps(values, **{"indent": 2, **options}) + "\n")


def write_step(path: Path, entry: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Add the entry of a step to a JSON lines file, written atomically.

    Lines of this step or a later one come from a run that was stopped and resumed from an earlier checkpoint, and are dropped; so
    are incomplete lines.

    Returns: all entries of the file.
    """
    entries: list[dict[str, Any]] = []
    for line in path.read_bytes().splitlines() if path.is_file() else ():
        with suppress(ValueError, KeyError, TypeError):
            known = json.loads(line)
            if known["step"] < entry["step"]:
                entries.append(known)
    entries.append(dict(entry))
    write_whole(path, "".join(json.dumps(one) + "\n" for one in entries))
    return entries


def write_picture(path: Path, figure: "Figure") -> None:
    """`write_whole` with a matplotlib figure as PNG."""
    content = io.BytesIO()
    figure.savefig(content, dpi=120, format="png")
    write_whole(path, content.getvalue())


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises: FileNotFoundError; ValueError, with the file's name, for any other content."""
    if not path.is_file():
        raise MissingFileError(f"{path} does not exist; its folder is incomplete without it.")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise UserError(f"{path} is not valid JSON ({error}); download it again, or write it again with its recipe.") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} contains a {type(content).__name__}, but must contain a JSON object.")
    return content


def sha256_of_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return getattr(hashlib, "file_digest", _file_digest)(file, "sha256").hexdigest()


def _file_digest(file: BinaryIO, name: str) -> "hashlib._Hash":
    # hashlib.file_digest is new in Python 3.11
    digest = hashlib.new(name)
    while block := file.read(1 << 20):
        digest.update(block)
    return digest


# Folders


def claim_output(folder: str, *, overwrite: bool, marker: str, whole: bool = False) -> Path:
    """Check, before any work, that `folder` can be written and may be replaced; creates its parents.

    Args:
        marker: a file that identifies our own folders: nothing else is ever replaced.
        whole: whether the folder itself is replaced (`replaced_folder`), not only its contents.
    Raises: ValueError for a path that is a file, a non-empty folder that may not be replaced, or one that cannot be renamed;
        PermissionError.
    """
    path = Path(folder)
    if whole and path.resolve() in (here := Path.cwd().resolve(), *here.parents):
        raise UserError(f"output_dir {folder} is the current folder or contains it, so it cannot be replaced; give another one.")
    if whole and os.path.ismount(path.resolve()):
        raise UserError(f"output_dir {folder} is a mount point, so it cannot be replaced; give a folder in it.")
    if path.exists() and not path.is_dir():
        raise UserError(f"output_dir {folder} is a file; give a folder.")
    if path.is_symlink() and not path.exists() and not (_work_place(path) / REPLACED).exists():
        raise UserError(
            f"output_dir {folder} is a link to {path.readlink()}, which does not exist; create that folder, or give another one."
        )
    # If its process was killed just after claiming it, a folder may contain only the temporary marker file.
    if path.is_dir() and any(entry.name != f".{marker}{PARTIAL}" for entry in path.iterdir()):
        if not (path / marker).is_file():
            raise UserError(f"output_dir {folder} contains files that this recipe did not write; give another one.")
        if not overwrite:
            raise UserError(f"output_dir {folder} is not empty; give another one, or --overwrite true to replace it.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _work_place(path).mkdir(exist_ok=True)
        with suppress(OSError):  # it is in use, or has leftovers of a killed process; `work_folder` handles both
            _work_place(path).rmdir()
        if path.is_dir() and not os.access(path, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise AccessError(f"output_dir {folder} cannot be written ({error.strerror}); give another one.") from None
    return path


@contextmanager
def work_folder(output: Path) -> Iterator[Path]:
    """A temporary folder beside `output`, used only by this process; leftovers of a killed process are removed first.

    Raises: UserError if another running process is writing the same output.
    """
    work = _work_place(output)
    with _locked(work, output):
        put_aside = work / REPLACED
        if put_aside.exists() and not output.exists():  # killed between the two renames of `replaced_folder`
            put_aside.rename(output.resolve())
        for path in work.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif path.name != LOCK:
                path.unlink()
        try:
            yield work
        finally:
            shutil.rmtree(work, ignore_errors=True)


_held: dict[Path, ExitStack] = {}  # the folders locked by this process


def hold(output: Path) -> None:
    """Lock a folder that is written incrementally, until `release` or until this process ends, however it ends.

    Raises: UserError if another running process holds it.
    """
    place = output.resolve()
    if place in _held:
        return
    lock = ExitStack()
    try:
        lock.enter_context(_locked(_work_place(place), output))
    except OSError as error:
        raise AccessError(f"output_dir {output} cannot be locked in {place.parent} ({error.strerror}); give another one.") from None
    owner = os.getpid()
    lock.callback(lambda: shutil.rmtree(_work_place(place), ignore_errors=True) if os.getpid() == owner else None)
    _held[place] = lock


def release(*outputs: Path) -> None:
    """Release the locks on these folders, if held."""
    for output in outputs:
        if lock := _held.pop(output.resolve(), None):
            lock.close()


def was_held(output: Path) -> bool:
    """Whether a process holds a folder, or was killed while holding it."""
    return _work_place(output).is_dir()


def held() -> list[Path]:
    """The folders locked by this process."""
    return list(_held)


atexit.register(lambda: release(*held()))


@contextmanager
def replaced_folder(path: Path, *, work: Path | None = None) -> Iterator[Path]:
    """A folder beside `path` to write to; it replaces `path` on success, and is removed otherwise.

    If `path` is a link, the folder that it points to is replaced.

    Args: `work` is the `work_folder` of `path`, if the caller already has it.
    """
    with nullcontext(work) if work else work_folder(path) as place:
        target = path.resolve()
        staged = place / "new" / target.name
        staged.mkdir(parents=True)
        yield staged
        if target.exists():
            target.rename(place / REPLACED)
        staged.rename(target)


LOCK, REPLACED = "lock", "replaced"  # in a work folder


def _work_place(output: Path) -> Path:
    output = output.resolve()  # beside the folder itself, from where it can be renamed, and not beside a link to it
    return output.parent / f".hfgpt-{output.name}"


@contextmanager
def _locked(work: Path, output: Path) -> Iterator[None]:
    """Create the folder and hold its lock, which ends with the process, however it ends, and is not inherited by children."""
    while True:
        work.mkdir(exist_ok=True)
        with suppress(FileNotFoundError):  # the holder has just removed the folder: create it again
            file = (work / LOCK).open("a+")
            if _lock(file):
                if (work / LOCK).exists() and os.path.samestat(os.fstat(file.fileno()), (work / LOCK).stat()):
                    break
                file.close()
                continue
            file.seek(0)
            holder = file.read().strip()
            file.close()
            raise UserError(
                f"output_dir {output} is being written by another process{f' ({holder})' if holder else ''}; wait until it has "
                "ended, or give another --output_dir."
            )
    with file:
        file.truncate(0)
        file.write(f"process {os.getpid()}")
        file.flush()
        yield


def _lock(file: IO[str]) -> bool:
    """Whether this process has the lock now. If the system or the file system does not support locks, everybody has it."""
    try:
        import fcntl

        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except ImportError:  # Windows
        return True
    except OSError as error:
        return error.errno not in (errno.EACCES, errno.EAGAIN)
    return True


def link_or_copy(source: Path, target: Path) -> None:
    """A hard link, or a copy if `target` is on another file system or one without hard links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


# Paths as written by users


def expand_home(arguments: object, *keys: str) -> None:
    """Replace a leading `~` or `~user` in these attributes, strings or lists of strings, as a shell does with an unquoted word."""
    for key in keys:
        value = getattr(arguments, key)
        if isinstance(value, str):
            setattr(arguments, key, with_home(value))
        elif value:
            setattr(arguments, key, [with_home(item) for item in value])


def with_home(place: str) -> str:
    """`~/texts` as `/home/ann/texts`; anything else, such as a Hub id or a pattern, is unchanged."""
    return os.path.expanduser(place)  # noqa: PTH111  (Path's version fails for an unknown user, and folds slashes)


def public_name(place: str) -> str:
    """The name of a file, folder or Hub id for publication: the last part of a path, but a full Hub id."""
    if HUB_NAME.fullmatch(place) and not place.startswith(".") and not Path(place.partition(":")[0]).exists():
        return place
    # Both kinds of slashes: a passport may have been written on another system.
    return Path(place).resolve().name if Path(place).exists() else PureWindowsPath(place).name
