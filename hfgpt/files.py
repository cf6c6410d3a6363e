"""Places on this machine, as users write them, and files that are whole or not there."""

import errno
import hashlib
import io
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from hfgpt.errors import AccessError, UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a small file under another name first: killed at any moment, it is the old one or the new one, never half of one."""
    temporary = path.with_name(f".{path.name}")
    with temporary.open("wb") as file:
        file.write(content.encode("utf-8") if isinstance(content, str) else content)
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


def write_json(path: Path, values: dict | list, **settings) -> None:
    """Write JSON as `write_whole` writes. Args: `settings` of `json.dumps`, for example `ensure_ascii=False`."""
    write_whole(path, json.dumps(values, indent=2, **settings) + "\n")


def write_figure(path: Path, figure: "Figure") -> None:
    """Draw a figure of matplotlib as a PNG, written as `write_whole` writes."""
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=120, format="png")
    write_whole(path, drawn.getvalue())


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
