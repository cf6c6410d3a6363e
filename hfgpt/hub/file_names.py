"""What is published about a user's files: kinds, sizes and hashes instead of names, because a name reveals something about the
content.

With `file_names: true` in card.yaml, the names are published, without their folders. The files in the user's own folder always
contain the names.
"""

import re
import shlex
from collections import Counter
from collections.abc import Iterable
from glob import has_magic
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from hfgpt.files import HUB_NAME, PYTHON_DOCS, public_name

# The settings of a run that name source files.
_SOURCES = re.compile(r"(^|_)sources$|^decontaminate_against$")
# The keys of a command line in evaluation.json or passport.json whose values name source files.
_SOURCE_KEYS = ("--text", "--test_sources", "--tasks", "--sources", "--decontaminate_against")
# Where the name of a file may begin within a text, and what it may not be followed by.
_NAME_BEGINS, _NAME_GOES_ON = re.compile(r"(?<![\w-])(?=.)", re.DOTALL), re.compile(r"[\w-]")
_ANCHORED = re.compile(r"^(/|~|\.{1,2}[/\\]|[A-Za-z]:[/\\]|\\\\|file:)")


def summed_up(files: Iterable[tuple[str, str]]) -> str:
    """Files by kind and extension, such as "269 text files (.md 200, .py 69)".

    Args: `files` contains pairs of name and kind, as in a passport.
    """
    files = list(files)
    # A message in a Maildir ends with the name of the host.
    endings = Counter(".eml" if kind == "eml" else _ending(name) or "no ending" for name, kind in files)
    what = "text file" if {kind for _, kind in files} == {"text"} else "file"
    if len(files) == 1:
        return f"1 {what} ({next(iter(endings))})"
    return f"{len(files):,} {what}s ({', '.join(f'{ending} {count:,}' for ending, count in endings.most_common())})"


def is_file(entry: dict) -> bool:
    """Whether an input in a passport is one of the user's files, rather than on the Hub or Python's own documentation."""
    return entry.get("kind", "file") not in ("hub", PYTHON_DOCS) and not str(entry.get("name")).startswith(PYTHON_DOCS)


def is_place(text: str) -> bool:
    """Whether the whole text is the path of a file or folder, as opposed to Hub ids, addresses, dates and prose."""
    if not re.search(r"[/\\]|^~", text) or re.match(r"[a-z][a-z0-9+.-]*://", text) or re.fullmatch(r"[\d/.]+", text):
        return False
    if _ANCHORED.match(text):
        return len(text) > 1
    if re.search(r"\s", text):
        return len(text) < 200 and Path(text).exists()
    return not HUB_NAME.fullmatch(text) or Path(text.partition(":")[0]).exists()


def published_passport(passport: dict, *, file_names: bool = False) -> dict:
    """The passport for publication: without paths, and with `file-1a2b3c4d.md` for a file, from its hash and extension.

    Args: `file_names` keeps the files' own names; equal names are numbered.
    """
    named: dict[str, str] = {}
    labels: set[str] = set()
    inputs = []
    for number, entry in enumerate(passport.get("inputs") or [], start=1):
        if is_file(entry):
            name = str(entry.get("name", ""))
            alone = PureWindowsPath(name).name
            label = f"file-{str(entry.get('sha256') or number)[:8]}{_ending(name)}"
            if file_names:
                label = alone if alone not in labels else f"{alone} ({number})"
            labels.add(label)
            named |= {name: label} if file_names else {name: label, alone: label}
            entry = entry | {"name": label}
        inputs.append(entry)
    public = {str(entry.get("name")) for entry in inputs if not is_file(entry)}
    sources = [value for key, value in (passport.get("settings") or {}).items() if _SOURCES.search(key) and not file_names]
    for one in (one for value in sources for one in (value if isinstance(value, list) else [value])):
        if isinstance(one, str) and one not in public and not _is_public(one):
            named.setdefault(one, f"*{_ending(one)}" if has_magic(one) else f"file-{len(set(named.values()))}{_ending(one)}")
    given = iter(_told([entry["given"] for entry in inputs if "given" in entry], named))
    inputs = [entry | ({"given": next(given)} if "given" in entry else {}) for entry in inputs]
    told: dict[str, Any] = dict(zip(passport, _told(list(passport.values()), named)))
    if not file_names:
        told |= {"command": _command_without_names(passport["command"])} if passport.get("command") else {}
        settings = told.get("settings") or {}
        for place in (settings, settings.get("asked") or {}):
            place.pop("source_cards", None)  # keyed by patterns that name files; their contents are with the inputs
    base = passport.get("base") or {}
    if base.get("name") and not base.get("commit"):
        told["base"] = base | {"name": PureWindowsPath(base["name"]).name}
    return told | ({"inputs": inputs} if "inputs" in passport else {})


def evaluation_without_names(evaluation: dict) -> dict:
    """The same evaluation.json with hash and extension instead of the names of evaluation files."""
    return evaluation | {"results": [_result_without_names(entry) for entry in evaluation.get("results") or []]}


def _result_without_names(entry: dict) -> dict:
    names = str(entry.get("dataset", "")).split(", ")
    is_task = entry.get("task") == "benchmark" and "sha256" not in entry
    files = [] if entry.get("dataset_id") or is_task else [name for name in names if not _is_public(name)]
    if files:
        label = summed_up((name, "file") for name in files)
        if len(names) == 1 and entry.get("sha256"):
            label = f"file-{entry['sha256'][:8]}{_ending(names[0])}"
        entry = entry | {"dataset": ", ".join([*(name for name in names if name not in files), label])}
    if entry.get("command"):
        entry = entry | {"command": _command_without_names(entry["command"])}
    return entry


def _command_without_names(command: str) -> str:
    try:
        given = shlex.split(command)
    except ValueError:  # not one of our lines
        return ""
    words, of_sources, of_tasks = [], False, False
    for word in given:
        if word.startswith("--"):
            of_sources, of_tasks = word in _SOURCE_KEYS, word == "--tasks"
        elif of_sources and not _is_public(word):
            file, _, task = word.rpartition(":") if of_tasks else (word, "", "")
            if file:  # a task without its own file is the benchmark's name
                word = f"FILE{_ending(file)}" + (f":{task}" if of_tasks else "")
        words.append(word)
    return command if words == given else shlex.join(words)


def _is_public(name: str) -> bool:
    return name.startswith(PYTHON_DOCS) or (bool(HUB_NAME.fullmatch(name)) and not _ending(name) and not name.startswith("."))


def _ending(name: str) -> str:
    """The extension of a file's name, in lower case; left out if it is not a plain word."""
    suffix = PurePosixPath(name.replace("\\", "/")).suffix.lower()
    return suffix if re.fullmatch(r"\.[a-z0-9]{1,10}", suffix) else ""


def _told(content: Any, named: dict[str, str]) -> Any:
    """The content with the names in all its texts and keys replaced, and every path reduced to its last part.

    Cost: grows with the content, not with the number of names, which may be thousands.
    """
    lengths = sorted({len(name) for name in named if name}, reverse=True)  # at a place, the longest name counts

    def replaced(text: str) -> str:
        parts, done = [], 0
        for start in (place.start() for place in _NAME_BEGINS.finditer(text)):
            if start < done:
                continue
            for name in (text[start : start + length] for length in lengths):
                if name in named and not _NAME_GOES_ON.match(text, start + len(name)):
                    parts += [text[done:start], named[name]]
                    done = start + len(name)
                    break
        return "".join([*parts, text[done:]])

    def walk(value: Any) -> Any:
        if isinstance(value, dict):
            return {walk(key): walk(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [walk(inner) for inner in value]
        if not isinstance(value, str):
            return value
        text = replaced(value)
        return public_name(text) if is_place(text) else text

    return walk(content)
