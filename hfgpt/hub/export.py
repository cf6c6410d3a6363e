"""A clean folder with the files that may leave this machine, and nothing in them that tells of it.

Weights and data are hard links of what lies in the artifact's folder, or copies where the file system has none; every text is
a copy, and those that name places of this machine are written anew without them; files that were read go by hash and ending,
unless card.yaml says `file_names: true`. The user's folder stays as it is.
"""

import itertools
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from huggingface_hub import get_token
from huggingface_hub.constants import HF_TOKEN_PATH

from hfgpt.artifacts import ADAPTER_CONFIG, Artifact
from hfgpt.data.passport import PASSPORT_NAME
from hfgpt.errors import UserError
from hfgpt.evaluation.results import EVAL_RESULTS_FOLDER, EVALUATION_FILE, write_eval_results
from hfgpt.files import read_json, write_json
from hfgpt.hub.card.file_names import evaluation_without_names, passport_without_names
from hfgpt.hub.card.settings import load_settings
from hfgpt.hub.gate.report import Disagreement
from hfgpt.hub.remote_code import check_code

# What our recipes write about a run; other texts (the card, evaluation figures in the Hub's format) are made without places.
_ABOUT_THE_RUN = ("passport.json", "conversion.json", "evaluation.json", "metrics.json")
# Of a data set, what `datasets` notes about the files that it was made from.
_ABOUT_THE_DATA = ("dataset_info.json",)
_LINKED = (".safetensors", ".arrow", ".gguf")
_SHORTEST_TOKEN = 8  # a shorter word in HF_TOKEN is no token, and would be found in any file
_BLOCK_BYTES = 1 << 24

_QUOTED = re.compile(r"'[^'\n]*[/\\][^'\n]*'|\"[^\"\n]*[/\\][^\"\n]*\"")
_WORD = re.compile(r"[^\s'\"=,;()\[\]{}<>|]+")
_ANCHORED = re.compile(r"^(/|~|\.{1,2}[/\\]|[A-Za-z]:[/\\]|\\\\|file:)")
_DATA_FILE = re.compile(r"\.(jsonl?|txt|csv|tsv|parquet|arrow|ya?ml|py|md|pth?|safetensors|gguf|zip|gz|zst|xz)$", re.IGNORECASE)


def export(
    artifact: Artifact,
    target: Path,
    *,
    repo_id: str | None = None,
    base_repo_id: str | None = None,
    base_revision: str | None = None,
) -> list[Path]:
    """Write what may be published of `artifact` into the empty folder `target`.

    Args:
        repo_id: where it will be published; said in messages only.
        base_repo_id, base_revision: of an adapter, where its base lies on the Hub and at which commit; without them the file
            says the name of the base's folder.
    Returns: the files, relative to `target`, sorted.
    Raises: ValueError where a file that belongs to the artifact leads out of its folder, has a name that no Hub takes, is not
        there though another one names it, or holds this machine's token; and where config.json names code that is missing.
    """
    target = Path(target)
    if target.is_dir() and any(target.iterdir()):
        raise UserError(f"{target} holds files; an export goes into an empty folder, so that nothing else gets published.")
    _refuse_leading_out(artifact)
    names = artifact.files()
    _check_names(artifact, names)
    target.mkdir(parents=True, exist_ok=True)
    places = places_of(artifact)
    file_names = bool(load_settings(artifact.folder).get("file_names"))
    anew = not file_names and Path(EVALUATION_FILE) in names  # evaluation.json and what is made of it
    if anew:
        names = [name for name in names if name.parts[0] != EVAL_RESULTS_FOLDER]
    for name in names:
        source, copy = (artifact.folder / name).resolve(), target / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        if name.name == ADAPTER_CONFIG:
            write_json(copy, _with_base(read_json(source), places, base_repo_id, base_revision), ensure_ascii=False)
        elif name.as_posix() in _ABOUT_THE_RUN or name.name in _ABOUT_THE_DATA:
            content = read_json(source)
            content = without_places(content, places=[*_folders_in(content), *places])
            write_json(copy, content if file_names else _without_names(name, content), ensure_ascii=False)
        elif name.suffix.lower() in _LINKED:
            _link_or_copy(source, copy)
        else:
            shutil.copyfile(source, copy)
    for name in names:
        if name.name == "config.json":
            try:
                check_code(target / name.parent)  # of what is there now: a file that may not be published is missing
            except Disagreement as error:
                raise UserError(f"{artifact.folder / name}: {error}; nobody else could load it: {error.cure}.") from None
    if anew:
        written = write_eval_results(target, read_json(target / EVALUATION_FILE))
        names = sorted({*names, *(path.relative_to(target) for path in written)})
    refuse_tokens([target / name for name in names], where=f"the files for {repo_id}" if repo_id else str(artifact.folder))
    return names


def _without_names(name: Path, content: dict) -> dict:
    if name.as_posix() == PASSPORT_NAME:
        return passport_without_names(content)
    return evaluation_without_names(content) if name.as_posix() == EVALUATION_FILE else content


def _refuse_leading_out(artifact: Artifact) -> None:
    """A link out of the folder is never followed; one with the name of a file that is to be published is an error, not left out."""
    inside = artifact.folder.resolve()
    for path in sorted(artifact.folder.rglob("*")):
        name = path.relative_to(artifact.folder)
        if path.is_symlink() and artifact.allows(name):
            if not path.resolve().is_relative_to(inside):
                raise UserError(
                    f"{path} is a link that leads out of the folder, to {path.resolve()}; only files of the folder are published, "
                    "because what lies elsewhere may be private: put the file itself in its place."
                )
            if not path.is_file():
                raise UserError(f"{path} is a link to nothing; put the file itself in its place, or remove the link.")


def _check_names(artifact: Artifact, names: list[Path]) -> None:
    for name in names:
        if not name.as_posix().isprintable() or "\\" in name.as_posix():
            raise UserError(f"{name.as_posix()!r} in {artifact.folder} is a name that the Hub does not take; rename the file.")
    there = {name.as_posix() for name in names}
    for name in names:
        for needed in _named_files(artifact.folder / name):
            beside = (PurePosixPath(name.as_posix()).parent / needed).as_posix()
            if beside not in there:
                raise UserError(
                    f"{artifact.folder / name} names the file {needed!r}, which is not among the files of {artifact.folder} that "
                    "may be published; write the folder again with the recipe that made it."
                )


def _named_files(path: Path) -> Iterable[str]:
    if path.name == "model.safetensors.index.json":
        return sorted(set(map(str, dict(read_json(path).get("weight_map") or {}).values())))
    if path.name == "state.json":
        return [str(entry.get("filename")) for entry in read_json(path).get("_data_files") or []]
    return []


def _with_base(settings: dict, places: list[str], repo_id: str | None, revision: str | None) -> dict:
    if repo_id is not None:
        return settings | {"base_model_name_or_path": repo_id, "revision": revision}
    return settings | {"base_model_name_or_path": without_places(settings.get("base_model_name_or_path"), places=places)}


# Places of this machine, out of the texts


def places_of(artifact: Artifact) -> list[str]:
    """Folders of this machine that a text may begin a path with, the longest first."""
    folders = [artifact.folder.resolve(), Path.cwd(), Path.home(), Path(tempfile.gettempdir())]
    everything = {str(place) for folder in folders for place in (folder, *folder.parents) if len(place.parts) > 1}
    return sorted(everything, key=lambda place: (-len(place), place))


def _folders_in(content: Any) -> list[str]:
    """The folders of texts that are a path and nothing else: with them, "read /a b/c.txt" is read right in another text."""
    if isinstance(content, dict):
        content = list(content.values())
    if isinstance(content, list):
        return sorted({place for value in content for place in _folders_in(value)}, key=lambda place: (-len(place), place))
    if isinstance(content, str) and _is_lone_path(content):
        parent = re.sub(r"[/\\]+[^/\\]*$", "", content)
        return [parent] if len(parent) > 1 else []
    return []


def _is_lone_path(text: str) -> bool:
    return text == text.strip() and "\n" not in text and bool(_ANCHORED.match(text)) and not _has_several(text)


def without_places(content: Any, *, places: Iterable[str] = ()) -> Any:
    """The same JSON, with the name of the file or folder wherever a text in it is or holds a path of this machine.

    Args: `places` are folders, with or without spaces in their names, that paths may begin with.
    Returns: a copy; Hub ids such as `user/name`, addresses and numbers are as they were. `runs/base` is taken for a path where
        its first part is one of the names in `places` or a folder here, since nothing else tells it from a Hub id.
    """
    if isinstance(content, dict):
        named: dict[Any, Any] = {}
        for key, value in content.items():
            short = without_places(key, places=places)
            # a/test.jsonl and b/test.jsonl stay two entries
            short = key if short == key else next(name for name in _numbered(short) if name not in named and name not in content)
            named[short] = without_places(value, places=places)
        return named
    if isinstance(content, list):
        return [without_places(value, places=places) for value in content]
    if not isinstance(content, str) or not ("/" in content or "\\" in content or content.startswith("~")):
        return content
    if _is_lone_path(content):
        return _file_name(content)  # a path and nothing else, spaces in it included
    for place in places:
        content = re.sub(rf"(?<![\w.~-]){re.escape(place)}[/\\]", "./", content)
    roots = {part for place in places for part in PurePosixPath(place).parts}
    content = _QUOTED.sub(lambda match: _replaced(match.group(), roots, quotes=True), content)
    return _WORD.sub(lambda match: _replaced(match.group(), roots), content)


def _numbered(name: str) -> Iterator[str]:
    yield name
    yield from (f"{name} ({number})" for number in itertools.count(2))


def _has_several(text: str) -> bool:
    """Whether a text that begins like a path goes on with words, as a command does: /usr/bin/python /a/b.py."""
    return bool(re.search(r"\s(-|/|~|\.{1,2}/|[A-Za-z]:\\)", text))


def _replaced(text: str, roots: set[str], *, quotes: bool = False) -> str:
    word = text[1:-1] if quotes else text.rstrip(".:!?")
    if not _is_path(word, roots):
        return text
    name = _file_name(word)
    return f"{text[0]}{name}{text[-1]}" if quotes else name + text[len(word) :]


def _is_path(word: str, roots: set[str]) -> bool:
    if _ANCHORED.match(word):
        return len(word) > 1
    if re.match(r"^[a-z][a-z0-9+.-]*://", word) or ("/" not in word and "\\" not in word):
        return False
    parts = re.split(r"[/\\]", word)
    if len(parts) > 2 or "\\" in word:
        return all(parts[:-1]) and not re.fullmatch(r"[\d/.]+", word)  # 24/11/2026
    return bool(_DATA_FILE.search(word)) or parts[0] in roots or (bool(parts[0]) and Path(parts[0]).is_dir())


def _file_name(path: str) -> str:
    names = [name for name in re.split(r"[/\\]", path) if name not in ("", ".", "..", "~")]
    return names[-1] if names else "."


# Tokens


def refuse_tokens(paths: Iterable[Path], *, where: str) -> None:
    """Read every byte of `paths` for this machine's tokens, as `hf auth login` and HF_TOKEN hold them.

    Raises: ValueError that names the file, never the token.
    """
    tokens = known_tokens()
    for path in paths if tokens else ():
        if _holds(path, tokens):
            raise UserError(
                f"{path.name} among {where} holds your Hugging Face token, so nothing is published: whoever reads it could act as "
                "you. Revoke that token at https://huggingface.co/settings/tokens, remove it from the file, and begin again."
            )


def known_tokens() -> list[bytes]:
    """The tokens of this machine, as `hf auth login` and HF_TOKEN hold them; never to be printed."""
    found = {get_token(), *(os.environ.get(name) for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"))}
    stored = Path(HF_TOKEN_PATH)
    if stored.is_file():  # HF_TOKEN takes its place where both are there
        found.add(stored.read_text(encoding="utf-8"))
    stripped = {token.strip() for token in found if token}
    return sorted(token.encode() for token in stripped if len(token) >= _SHORTEST_TOKEN)


def _holds(path: Path, tokens: list[bytes]) -> bool:
    overlap = max(map(len, tokens)) - 1
    rest = b""
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            block = rest + block
            if any(token in block for token in tokens):
                return True
            rest = block[-overlap:]
    return False


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without hard links
        shutil.copyfile(source, target)
