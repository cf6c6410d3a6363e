"""Places on this machine, as users write them, and files that are whole or not there."""

import os
from pathlib import Path


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


def write_whole(path: Path, text: str) -> None:
    """Write a small file under another name first: killed at any moment, it is the old one or the new one, never half of one."""
    temporary = path.with_name(f".{path.name}")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())  # a name that outlives a power cut names text that does
    temporary.replace(path)
