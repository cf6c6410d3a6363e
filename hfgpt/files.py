"""Places on this machine, as users write them, and files that are whole or not there."""

import errno
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PureWindowsPath

from hfgpt.errors import AccessError, UserError

# A data set or model on the Hub, always with its owner: user/name or user/name:configuration.
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+(:[\w.-]+)?")


def expand_home(arguments: object, *keys: str) -> None:
    """Replace a leading `~` or `~user` in these attributes, strings or lists of strings, as a shell does with an unquoted word."""
    for key in keys:
        value = getattr(arguments, key)
        if isinstance(value, str):
            setattr(arguments, key, with_home(value))
        elif value:
            setattr(arguments, key, [with_home(item) for item in value])


def with_home(place: str) -> str:
    """`~/texts` as `/home/ann/texts`; whatever has no such beginning, a Hub id or a pattern, stays as it is written."""
    return os.path.expanduser(place)  # noqa: PTH111  (Path's fails for a user that is not there, and folds slashes)


def public_name(place: str) -> str:
    """What a file, folder or Hub id may be called where everybody reads it: of a path the last part, of a Hub id all of it."""
    if HUB_NAME.fullmatch(place) and not place.startswith(".") and not Path(place.partition(":")[0]).exists():
        return place
    # Both kinds of slash: a passport may have been written on another system.
    return Path(place).resolve().name if Path(place).exists() else PureWindowsPath(place).name


def write_whole(path: Path, text: str) -> None:
    """Write a small file under another name first: killed at any moment, it is the old one or the new one, never half of one.

    A hard link to it elsewhere keeps what it had.
    """
    temporary = path.with_name(f".{path.name}")
    with temporary.open("w", encoding="utf-8", newline="\n") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())  # a name that outlives a power cut names text that does
    temporary.replace(path)


def claim_output(folder: str, *, overwrite: bool, marker: str) -> Path:
    """Check, before any work, that `folder` can be written and may be replaced; its parents are made.

    Args: `marker` names a file by which a folder of ours is known: nothing else is ever replaced.
    Raises: ValueError for a path that is a file, or a filled folder that may not be replaced; PermissionError.
    """
    path = Path(folder)
    if path.exists() and not path.is_dir():
        raise UserError(f"output_dir {folder} is a file; give a folder.")
    # A folder that was just claimed when its process was killed may hold the marker under its temporary name alone.
    if path.is_dir() and any(entry.name != f".{marker}" for entry in path.iterdir()):
        if not (path / marker).is_file():
            raise UserError(f"output_dir {folder} holds files that this recipe did not write; give another one.")
        if not overwrite:
            raise UserError(f"output_dir {folder} is not empty; give another one, or --overwrite true to replace it.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".hfgpt-"):
            pass
        if path.is_dir() and not os.access(path, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise AccessError(f"output_dir {folder} cannot be written ({error.strerror}); give another one.") from None
    return path


@contextmanager
def replaced_folder(path: Path) -> Iterator[Path]:
    """A folder beside `path` to write into; it takes the place of `path` when all went well, and vanishes otherwise."""
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-") as temporary:
        staged = Path(temporary) / path.name
        staged.mkdir()
        yield staged
        if path.exists():
            path.rename(Path(temporary) / "replaced")
        staged.rename(path)


def link_or_copy(source: Path, target: Path) -> None:
    """A hard link, or a copy where `target` is on another file system, or on one without hard links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def write_json(path: Path, values: dict) -> None:
    """Write under another name first: a crash leaves the old file or the new one, never half of one."""
    temporary = path.with_name(f".{path.name}")
    temporary.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    temporary.replace(path)


def read_json(path: Path) -> dict:
    """Raises: ValueError, with the file's name, where it holds no JSON object."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"{path} is no JSON ({error}); write it again with the recipe that made it.") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a {type(content).__name__}, an object is needed.")
    return content


def sha256_of_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _sha256_of(file)


def _sha256_of(file) -> str:
    # hashlib.file_digest came with Python 3.11
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()
