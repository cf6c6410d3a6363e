"""Which files a source refers to: an existing file, all that match a pattern, or the texts in a folder.

Existing files take precedence: `interview [final].txt` is a file, not a pattern, if there is such a file, and in `talks [v1]/*.txt`
only the last part is a pattern if there is such a folder. `~` is the home folder. Patterns are those of `glob` (`**` includes all
subfolders), except that suffixes ignore case: `*.txt` finds NOTES.TXT.

Files in subfolders that are not the user's own text are left out and counted in the log: output of hfgpt's recipes, environments
and packages, hidden folders, and links that lead outside the folder. Naming such a folder or link explicitly reads it.
"""

import codecs
import errno
import functools
import glob
import itertools
import logging
import os
import shlex
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

from hfgpt.artifacts import CONVERSION_FILE, RUN_FILE
from hfgpt.counting import counted
from hfgpt.data.remarks import say_once
from hfgpt.errors import MissingFileError, UserError

# Files that identify a folder written by a recipe: its card, samples and reports are not training text.
OUTPUT_MARKERS = ("passport.json", RUN_FILE, CONVERSION_FILE)
PACKAGE_FOLDERS = {"__pycache__", "node_modules", "site-packages"}
ENVIRONMENT_MARKER = "pyvenv.cfg"


# A folder is not read if more than this many times its texts are in text files of other kinds: a README among a program's files.
MOST_UNREAD = 10


class UnreadTextError(UserError):
    """Most of the text in a folder would not be read. Args: `reason` ends before the `pattern` that selects most of it."""

    def __init__(self, reason: str, *, folder: Path, pattern: str):
        super().__init__(f"{reason}: {shlex.quote(pattern)}")
        self.reason, self.folder, self.pattern = reason, folder, pattern


def path_of(name: str) -> Path:
    """The path of a source; `~/texts` is in the home folder, unless there is a path that begins with a tilde."""
    try:
        return Path(name) if Path(name).exists() else Path(name).expanduser()
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        raise UserError(f"{name[:50]!r}... is too long for the name of a file; give the names of files, not their text.") from None
    except RuntimeError:
        raise MissingFileError(f"{name}: there is no such user and so no such home folder; check the spelling.") from None


def files_matching(pattern: str) -> list[Path]:
    """The files that match a pattern, sorted.

    Raises: FileNotFoundError if there are none, saying what is there instead.
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
    backups = {path for path in paths if path.suffix.lower() == ".bak"} - left_out.keys()
    left_out |= dict.fromkeys(backups & {Path(f"{path}.bak") for path in paths}, "that are backups of others")
    kept = [path for path in paths if path not in left_out]
    if kept:
        _say_left_out(pattern, left_out)
        return kept
    if left_out:
        in_its_folder = str(next(iter(left_out)).parent / last)
        raise MissingFileError(
            f"all matches of {pattern!r} are left out: {_summed_up(left_out.values())}. To read them, name the folder explicitly, "
            f"as in {in_its_folder!r}."
        )
    raise MissingFileError(f"no file matches {pattern!r} (looked from {Path.cwd()}); {describe_folder(folder)}.")


def files_in(
    folder: Path,
    *,
    suffixes: tuple[str, ...],
    kind_of_file: Callable[[Path], str | None] = lambda path: None,
    refuse_rest: bool = False,
) -> list[Path]:
    """The files with these suffixes in a folder and its subfolders, sorted, and those of a kind that is known without a suffix.

    Args:
        kind_of_file: the kind of such a file; None for others.
        refuse_rest: refuses a folder of which these files are a small part of the text.
    Raises: ValueError if there are none, saying what is there instead, and for a folder written by a recipe.
    """
    if (marker := _output_marker(folder)) is not None:
        raise UserError(
            f"{folder} was written by an hfgpt recipe (it contains {marker}), so it is not a folder of texts; give the texts "
            f"themselves."
        )
    paths, left_out, counts, others, unread, hidden = [], {}, Counter(), Counter(), [], []
    kind_of = functools.cache(_kind_of)
    for place, folders, names in os.walk(folder):
        hidden += [path for name in folders if name.startswith(".") and ((path := Path(place, name)) / "cur").is_dir()]
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for path in (Path(place, name) for name in names if not name.startswith(".")):
            if not path.is_file():
                left_out[path] = "without text (a link to nothing, a pipe or a device)"
                continue
            suffix, kind = path.suffix.lower(), kind_of_file(path)
            if kind is None and suffix not in suffixes:
                others[path.suffix or path.name] += 1
                unread.append(path)
            elif (reason := _reason_to_leave_out(path, folder, kind_of)) is not None:
                left_out[path] = reason
            else:
                paths.append(path)
                counts[suffix if kind is None else f"files of kind {kind}"] += 1
    if not paths:
        ending = next(iter(others), ".txt") if others else ".txt"
        cure = f"; select files in it with a pattern, such as '{folder}/**/*{ending}'" if others else ""
        raise MissingFileError(
            f"the folder {str(folder)!r} has no {', '.join(suffixes)} file: {_counted(others) or 'it is empty'}{cure}."
        )
    if refuse_rest:
        _refuse_if_small_part(folder, paths, [path for path in unread if not _reason_to_leave_out(path, folder, kind_of)])
    _say_left_out(str(folder), left_out)
    if hidden:
        say_once(
            f"sources: {folder}, leaving out {counted(len(hidden), 'hidden mail folders')}; name them to read them: {min(hidden)}",
            logging.INFO,
        )
    said = f"sources: reading {_counted(counts)} in the folder {folder}"
    said += f"; not read: {_counted(others)} (a pattern such as '{folder}/**/*.py' selects other files)" if others else ""
    say_once(said, logging.INFO)
    return sorted(paths)


def _refuse_if_small_part(folder: Path, read: list[Path], unread: list[Path]) -> None:
    known = sum(path.stat().st_size for path in read)
    left, kinds = 0, Counter[str]()
    for path in unread:
        if path.suffix and path.is_file() and _begins_as_text(path):
            left += path.stat().st_size
            kinds[path.suffix] += 1
    if left <= MOST_UNREAD * known:
        return
    suffix = kinds.most_common(1)[0][0]
    these = " and ".join(sorted({path.suffix.lower() for path in read}))
    only = shlex.quote(f"{folder}/**/*{read[0].suffix}")
    raise UnreadTextError(
        f"the folder {str(folder)!r} has {left:,} bytes of text in files that are not read ({_counted(kinds)}), but only {known:,} "
        f"in its {these} files; select what to read with a pattern, in quotes, such as {only} for those, or for the {suffix} files",
        folder=folder,
        pattern=f"{folder}/**/*{suffix}",
    )


def _begins_as_text(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            start = file.read(1024)
        return b"\0" not in start and bool(codecs.getincrementaldecoder("utf-8")().decode(start).strip())
    except (OSError, UnicodeDecodeError):
        return False


def describe_folder(folder: Path) -> str:
    """The contents of a folder, for a message: "the folder texts holds 3 .md and 1 .pdf"."""
    names = [path.name + "/" if path.is_dir() else path.name for path in sorted(folder.iterdir()) if not path.name.startswith(".")]
    place = "this folder" if folder == Path() else f"the folder {str(folder)!r}"
    if not names:
        return f"{place} is empty"
    counts = Counter("folders" if name.endswith("/") else Path(name).suffix or name for name in names)
    return f"{place} holds {_counted(counts)}"


def _split_at_first_pattern(pattern: str) -> tuple[Path, list[str]]:
    """The existing folder at the beginning of a path, and the remaining parts."""
    parts = list(path_of(pattern).parts)
    folder = Path()
    while len(parts) > 1 and (folder / parts[0]).is_dir():
        folder /= parts.pop(0)
    return folder, parts


def _reason_to_leave_out(path: Path, below: Path, kind_of: Callable[[Path], str | None]) -> str | None:
    if not path.resolve().is_relative_to(below.resolve()):
        return "reached through links that lead outside the folder"
    folders = itertools.takewhile(lambda folder: folder != below, path.parents)
    return next((reason for folder in folders if (reason := kind_of(folder)) is not None), None)


def _kind_of(folder: Path) -> str | None:
    if folder.name in PACKAGE_FOLDERS or (folder / ENVIRONMENT_MARKER).is_file():
        return "of installed packages"
    if folder.name == "tmp" and all((folder.parent / name).is_dir() for name in ("cur", "new")):
        return "of unfinished deliveries in a Maildir"
    return "written by hfgpt recipes" if _output_marker(folder) else None


def _output_marker(folder: Path) -> str | None:
    return next((name for name in OUTPUT_MARKERS if (folder / name).is_file()), None)


def _say_left_out(name: str, left_out: dict[Path, str]) -> None:
    if left_out:
        say_once(f"sources: {name}, leaving out {_summed_up(left_out.values())}, such as {next(iter(left_out))}", logging.INFO)


def _summed_up(reasons: Iterable[str]) -> str:
    return " and ".join(f"{counted(count, 'files')} {reason}" for reason, count in Counter(reasons).most_common())


def _counted(kinds: Counter[str]) -> str:
    most = kinds.most_common(5)
    shown = [f"{count:,} {kind}" for kind, count in most]
    rest = kinds.total() - sum(count for _, count in most)
    return ", ".join([*shown, *([f"{rest:,} other files"] if rest else [])])
