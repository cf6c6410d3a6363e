"""Which files a source means: one that exists, all that match a pattern, or the texts of a folder.

What exists comes first: `interview [final].txt` is a file, not a pattern, where there is such a file, and in
`talks [v1]/*.txt` only the last part is a pattern where there is such a folder. `~` is the home folder. Patterns are those of
`glob` (`**` goes into all folders below), but for a suffix, which is compared without case: `*.txt` finds NOTES.TXT.

What lies in folders below and is nobody's own text is left out, and how much is said in the log: what the recipes of hfgpt
wrote there, environments and packages, hidden folders, and what links lead to that leave the folder. Whoever names such a folder
or link itself reads it.
"""

import functools
import glob
import itertools
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

from hfgpt.errors import MissingFileError, UserError

logger = logging.getLogger(__name__)

# Files by which a folder is known that a recipe wrote: its card, its samples and its reports are no text to train on.
OUTPUT_MARKERS = ("passport.json", "run.yaml", "conversion.json")
PACKAGE_FOLDERS = {"__pycache__", "node_modules", "site-packages"}
ENVIRONMENT_MARKER = "pyvenv.cfg"


def expand_home(name: str) -> Path:
    """`~/texts` under the home folder; whatever else begins with a tilde and exists is left alone."""
    try:
        return Path(name) if Path(name).exists() else Path(name).expanduser()
    except RuntimeError:
        raise MissingFileError(f"{name}: there is no such user, so no such home folder; check the spelling.") from None


def files_matching(pattern: str) -> list[Path]:
    """The files that a pattern means, sorted.

    Raises: FileNotFoundError where there are none, with what is there instead.
    """
    folder, rest = _split_at_first_pattern(pattern)
    *parts, last = rest
    if parts and not glob.has_magic(parts[0]):
        missing = str(folder / parts[0])
        raise MissingFileError(f"{pattern}: the folder {missing!r} does not exist (looked from {Path.cwd()}); check the spelling.")
    stem, dot, suffix = last.rpartition(".")
    if dot and suffix.isalnum():
        last = f"{stem}." + "".join(f"[{c.lower()}{c.upper()}]" if c.isalpha() else c for c in suffix)
    matches = glob.glob("/".join([*parts, last]), root_dir=folder, recursive=True)
    paths = sorted(path for match in matches if (path := folder / match).is_file())
    kind_of = functools.cache(_kind_of)
    left_out = {path: reason for path in paths if (reason := _reason_to_leave_out(path, folder, kind_of))}
    kept = [path for path in paths if path not in left_out]
    if kept:
        _say_left_out(pattern, left_out)
        return kept
    if left_out:
        in_its_folder = str(next(iter(left_out)).parent / last)
        raise MissingFileError(
            f"all that matches {pattern!r} is left out: {_summed_up(left_out.values())}. To read it, name its folder, as in "
            f"{in_its_folder!r}."
        )
    raise MissingFileError(f"no file matches {pattern!r} (looked from {Path.cwd()}); {describe_folder(folder)}.")


def files_in(folder: Path, *, suffixes: tuple[str, ...]) -> list[Path]:
    """The files in a folder, and in those below it, whose suffixes these are, sorted.

    Raises: ValueError where there are none, with what is there instead, and for a folder that a recipe wrote.
    """
    if (marker := _output_marker(folder)) is not None:
        raise UserError(
            f"{folder} is what a recipe of hfgpt wrote ({marker} lies in it), not a folder of texts; name the texts themselves."
        )
    paths, left_out, others = [], {}, Counter()
    kind_of = functools.cache(_kind_of)
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for path in (Path(place, name) for name in names if not name.startswith(".")):
            if path.suffix.lower() not in suffixes:
                others[path.suffix or path.name] += 1
            elif (reason := _reason_to_leave_out(path, folder, kind_of)) is not None:
                left_out[path] = reason
            else:
                paths.append(path)
    if not paths:
        ending = next(iter(others), ".txt") if others else ".txt"
        cure = f"; name files in it with a pattern, such as '{folder}/**/*{ending}'" if others else ""
        raise MissingFileError(
            f"the folder {str(folder)!r} holds no {', '.join(suffixes)} file: {_counted(others) or 'it is empty'}{cure}."
        )
    _say_left_out(str(folder), left_out)
    said = f"sources: {folder} is a folder, {_counted(Counter(path.suffix.lower() for path in paths))} are read"
    _say(said + (f"; not read: {_counted(others)} (a pattern such as '{folder}/**/*.py' names other files)" if others else ""))
    return sorted(paths)


def describe_folder(folder: Path) -> str:
    """What lies in a folder, for a message: "the folder texts holds 3 .md and 1 .pdf"."""
    names = [path.name + "/" if path.is_dir() else path.name for path in sorted(folder.iterdir()) if not path.name.startswith(".")]
    place = "this folder" if folder == Path() else f"the folder {str(folder)!r}"
    if not names:
        return f"{place} is empty"
    counts = Counter("folders" if name.endswith("/") else Path(name).suffix or name for name in names)
    return f"{place} holds {_counted(counts)}"


def _split_at_first_pattern(pattern: str) -> tuple[Path, list[str]]:
    """The folder that exists as it is written, and the parts after it."""
    parts = list(expand_home(pattern).parts)
    folder = Path()
    while len(parts) > 1 and (folder / parts[0]).is_dir():
        folder /= parts.pop(0)
    return folder, parts


def _reason_to_leave_out(path: Path, below: Path, kind_of: Callable[[Path], str | None]) -> str | None:
    if not path.resolve().is_relative_to(below.resolve()):
        return "to which links lead that leave the folder"
    folders = itertools.takewhile(lambda folder: folder != below, path.parents)
    return next((reason for folder in folders if (reason := kind_of(folder)) is not None), None)


def _kind_of(folder: Path) -> str | None:
    if folder.name in PACKAGE_FOLDERS or (folder / ENVIRONMENT_MARKER).is_file():
        return "of installed packages"
    return "that recipes of hfgpt wrote" if _output_marker(folder) else None


def _output_marker(folder: Path) -> str | None:
    return next((name for name in OUTPUT_MARKERS if (folder / name).is_file()), None)


def _say_left_out(name: str, left_out: dict[Path, str]) -> None:
    if left_out:
        _say(f"sources: {name} without {_summed_up(left_out.values())}, such as {next(iter(left_out))}")


@functools.cache  # who reads the same sources twice is told once
def _say(message: str) -> None:
    logger.info(message)


def _summed_up(reasons: Iterable[str]) -> str:
    return " and ".join(
        f"{count:,} {'file' if count == 1 else 'files'} {reason}" for reason, count in Counter(reasons).most_common()
    )


def _counted(kinds: Counter[str], *, most: int = 5) -> str:
    shown = [f"{count:,} {kind}" for kind, count in kinds.most_common(most)]
    rest = kinds.total() - sum(count for _, count in kinds.most_common(most))
    return ", ".join([*shown, *([f"{rest:,} other files"] if rest else [])])
