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
from itertools import chain
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from hfgpt.data.passport import SPLITS
from hfgpt.files import HUB_NAME, PYTHON_DOCS, public_name

_PYTHON_DOCS = re.compile(rf"{PYTHON_DOCS}(-questions)?(:({'|'.join(SPLITS)}))?")
# The settings of a run that name source files.
_SOURCES = re.compile(r"(^|_)sources$|^decontaminate_against$")
# The keys of a command line in evaluation.json or passport.json whose values name source files.
_SOURCE_KEYS = ("--text", "--test_sources", "--tasks", "--sources", "--decontaminate_against")
# What a passport keys by names of sources; by those of benchmarks and splits; and what else holds names.
_BY_SOURCE, _COMPARED_WITH = ("sources", "by_source", "source_cards"), ("shared_with", "copies_of")
_NAMES = ("name", "given", "source")
_LEAK = re.compile(r"((?:exact copies|near copies|passages) of )(.*)", re.DOTALL)  # a reason of hygiene/leaks.py
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
    return entry.get("kind", "file") != "hub" and not is_python_docs(str(entry.get("name")))


def is_python_docs(name: str) -> bool:
    """Whether this is the name of Python's own documentation, of a part of it, or of questions about it."""
    return _PYTHON_DOCS.fullmatch(name) is not None


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
    labels = _labels(passport, file_names=file_names)
    told: dict[str, Any] = _told(passport, labels)
    if "inputs" in passport:  # not their licences and addresses, which are the user's own words
        named = [{key: entry[key] for key in _NAMES if key in entry} for entry in passport["inputs"]]
        told["inputs"] = [entry | _told(names, labels) for entry, names in zip(passport["inputs"], named, strict=True)]
    if not file_names:
        told |= {"command": _command_without_names(passport["command"])} if passport.get("command") else {}
        settings = told.get("settings") or {}
        for place in (settings, settings.get("asked") or {}):
            place.pop("source_cards", None)  # keyed by patterns that name files; their contents are with the inputs
    base = passport.get("base") or {}
    if base.get("name") and not base.get("commit"):
        told["base"] = base | {"name": PureWindowsPath(base["name"]).name}
    return told


def _labels(passport: dict, *, file_names: bool) -> dict[str, str]:
    """What is published for each name of a file, a folder or a pattern; different names have different labels."""
    settings = passport.get("settings") or {}
    asked = settings.get("asked") or {}
    against = [one for one in asked.get("decontaminate_against") or [] if isinstance(one, dict)]
    inputs = [*(passport.get("inputs") or []), *against]
    files = {str(entry["name"]): entry for entry in inputs if entry.get("name") and is_file(entry)}
    given = [str(entry["given"]) for entry in files.values() if "given" in entry]
    lists = [value if isinstance(value, list) else [value] for key, value in settings.items() if _SOURCES.search(key)]
    # Fine-tuning names the files of benchmarks only in its steps.
    steps = [step.get(key) or {} for step in passport.get("steps") or [] for key in _COMPARED_WITH]
    compared = [name for step in steps for name in step if name not in SPLITS]
    cards = [name for place in (settings, asked) for name in place.get("source_cards") or {}]
    others = [name for name in (*given, *chain(*lists), *compared, *cards) if isinstance(name, str)]
    # A folder may be called like a dataset on the Hub.
    folders = {*given, *(str(parent) for name in compared for parent in PurePosixPath(name).parents)}
    known = {str(entry.get("name")) for entry in inputs} - files.keys()
    others = [name for name in others if name not in known and (name in folders or not _is_public(name))]
    labels: dict[str, str] = {}
    counts: Counter[str] = Counter(SPLITS)  # of labels; those of files stand beside the splits
    for name in dict.fromkeys([*files, *others]):
        sha256 = files.get(name, {}).get("sha256")
        label = f"file-{str(sha256 or len(labels))[:8]}{_ending(name)}"
        if file_names:
            label = PureWindowsPath(name).name or name
        elif name not in files and has_magic(name):
            label = f"*{_ending(name)}"
        labels[name] = label
        while counts[labels[name]]:
            counts[label] += 1
            labels[name] = f"{label} ({counts[label]})"
        counts[labels[name]] += 1
    last_parts = {PureWindowsPath(name).name: label for name, label in reversed(labels.items())}  # a step may name only these
    return last_parts | labels


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
    return is_python_docs(name) or (bool(HUB_NAME.fullmatch(name)) and not _ending(name) and not name.startswith("."))


def _ending(name: str) -> str:
    """The extension of a file's name, in lower case and without the number of a label; left out if it is not a plain word."""
    suffix = PurePosixPath(name.replace("\\", "/")).suffix.lower()
    found = re.fullmatch(r"(\.[a-z0-9]{1,10})( \(\d+\))?", suffix)
    return found[1] if found else ""


def _told(content: Any, labels: dict[str, str], key: str = "") -> Any:
    """The content with the names replaced, and every path reduced to its last part.

    Only where a passport has names: a file may be called `train` or `documents`, and splits and counts keep these words.

    Args: `key` is the one that the content belongs to.
    """
    if isinstance(content, dict):
        if key in (*_BY_SOURCE, *_COMPARED_WITH, "reasons"):
            return {_renamed(name, labels, key): _told(value, labels) for name, value in content.items()}
        return {name: _told(value, labels, name) for name, value in content.items()}
    if isinstance(content, list):
        return [_told(one, labels, key if isinstance(one, str) else "") for one in content]
    if not isinstance(content, str):
        return content
    if key == "step" and content.startswith("read "):
        return f"read {_listed(content.removeprefix('read '), labels)}"
    text = labels.get(content, content) if key in _NAMES or _SOURCES.search(key) else content
    return public_name(text) if is_place(text) else text


def _renamed(name: str, labels: dict[str, str], key: str) -> str:
    """A key of what is keyed by names; of a reason, only the benchmark in it."""
    leak = _LEAK.fullmatch(name) if key == "reasons" else None
    what, name = leak.groups() if leak else ("", name)
    is_name = key in _BY_SOURCE or ((key in _COMPARED_WITH or leak) and name not in SPLITS)
    return what + (labels.get(name, name) if is_name else name)


def _listed(text: str, labels: dict[str, str]) -> str:
    """The text with names replaced that are listed in it, with commas between them; names may contain commas.

    Cost: grows with the text, not with the number of names, which may be thousands.
    """
    lengths = sorted({len(name) for name in labels}, reverse=True)  # at a place, the longest name counts
    parts, done = [], 0
    for start in (place.end() for place in re.finditer(r"^|, ", text)):
        for name in (text[start : start + length] for length in lengths if start >= done):
            if name in labels and text[start + len(name) :][:2] in ("", ", "):
                parts += [text[done:start], labels[name]]
                done = start + len(name)
                break
    return "".join([*parts, text[done:]])
