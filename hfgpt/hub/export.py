"""A clean folder with the files that may leave this machine.

Weights and data are hard links of what lies in the artifact's folder, or copies where the file system has none; every text is
a copy. Some files are written anew: adapter_config.json, which names the place of its base on this machine; passport.json,
overview.png, evaluation.json and tokenizer_report.md, in which files that were read go by hash and ending, or without their names,
unless card.yaml says `file_names: true`.
Whatever else tells of this machine closes the gate (gate/scan.py). The user's folder stays as it is.
"""

import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath, PureWindowsPath

from huggingface_hub import CommitOperationAdd, get_token
from huggingface_hub.constants import HF_TOKEN_PATH
from huggingface_hub.utils.sha import git_hash

from hfgpt.artifacts import ADAPTER_CONFIG, BASE_FOLDER, Artifact, base_on_the_hub
from hfgpt.data.overview import OVERVIEW_NAME, draw_overview
from hfgpt.data.passport import PASSPORT_NAME, Passport
from hfgpt.errors import UserError
from hfgpt.evaluation.results import EVAL_RESULTS_FOLDER, EVALUATION_FILE, write_eval_results
from hfgpt.files import link_or_copy, read_json, write_json, write_whole
from hfgpt.hub.card.settings import load_settings
from hfgpt.hub.file_names import evaluation_without_names, published_passport
from hfgpt.hub.gate.report import Disagreement
from hfgpt.hub.remote_code import check_code
from hfgpt.tokenization.report import REPORT_NAME, without_names

_LINKED = (".safetensors", ".arrow", ".gguf")
_SHORTEST_TOKEN = 8  # a shorter word in HF_TOKEN is no token, and would be found in any file
_BLOCK_BYTES = 1 << 24
_LARGEST_IN_GIT_BYTES = 10 << 20


@dataclass(frozen=True)
class ExportedFile:
    """A file that is to be published; it is read once, when a hash is first asked for.

    Args:
        path: where it lies.
        name: what it is called in the repository.
    """

    path: Path
    name: str

    @cached_property
    def addition(self) -> CommitOperationAdd:
        """What huggingface_hub sends; making it takes the SHA-256."""
        return CommitOperationAdd(self.name, self.path)

    @cached_property
    def blob_id(self) -> str:
        """What git calls the content, where the Hub keeps it in git; larger files never are."""
        return git_hash(self.path.read_bytes()) if self.size <= _LARGEST_IN_GIT_BYTES else ""

    def take_hashes(self) -> None:
        """Hash it now: what is changed afterwards differs from what the Hub is told, and is noticed."""
        _ = self.size, self.addition, self.blob_id

    @property
    def sha256(self) -> str:
        return self.addition.upload_info.sha256.hex()

    @cached_property
    def size(self) -> int:
        """Bytes."""
        return self.path.stat().st_size


@dataclass(frozen=True)
class Exported:
    """What may be published of an artifact, in a clean folder of its own; the files are sorted by their names."""

    artifact: Artifact
    folder: Path
    files: list[ExportedFile]

    @property
    def names(self) -> list[Path]:
        """The files, relative to the folder."""
        return [Path(file.name) for file in self.files]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)


def export(
    artifact: Artifact,
    target: Path,
    *,
    repo_id: str | None = None,
    base_repo_id: str | None = None,
    base_revision: str | None = None,
    card: str | None = None,
) -> Exported:
    """Write what may be published of `artifact` into the empty folder `target`.

    Args:
        repo_id: where it will be published; said in messages only.
        base_repo_id, base_revision: of an adapter, where its base lies on the Hub and at which commit; without them the file
            says the name of the base's folder.
        card: the text of README.md, in place of the one in the folder.
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
    file_names = bool(load_settings(artifact.folder).get("file_names"))
    anew = not file_names and Path(EVALUATION_FILE) in names  # evaluation.json and what is made of it
    if anew:
        names = [name for name in names if name.parts[0] != EVAL_RESULTS_FOLDER]
    for name in names:
        source, copy = (artifact.folder / name).resolve(), target / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        if name.as_posix() == ADAPTER_CONFIG:
            write_json(copy, _with_base(read_json(source), base_repo_id, base_revision), ensure_ascii=False)
        elif name.as_posix() == PASSPORT_NAME:
            write_json(copy, published_passport(read_json(source), file_names=file_names), ensure_ascii=False)
        elif name.as_posix() == OVERVIEW_NAME and (artifact.folder / PASSPORT_NAME).is_file():
            public = published_passport(read_json(artifact.folder / PASSPORT_NAME), file_names=file_names)
            draw_overview(Passport.read(public, artifact.folder / PASSPORT_NAME), copy)
        elif anew and name.as_posix() == EVALUATION_FILE:
            write_json(copy, evaluation_without_names(read_json(source)), ensure_ascii=False)
        elif name.as_posix() == REPORT_NAME and not file_names:
            write_whole(copy, without_names(source.read_text(encoding="utf-8")))
        elif name.suffix.lower() in _LINKED:
            link_or_copy(source, copy)
        else:
            shutil.copyfile(source, copy)
    for name in names:
        if name.name == "config.json":
            try:
                check_code(target / name.parent)  # of what is there now: a file that may not be published is missing
            except Disagreement as error:
                raise UserError(f"{artifact.folder / name}: {error}; nobody else could load it: {error.cure}.") from None
    if card is not None:
        (target / "README.md").write_text(card, encoding="utf-8", newline="\n")
        names = sorted({*names, Path("README.md")})
    if anew:
        written = write_eval_results(target, read_json(target / EVALUATION_FILE))
        names = sorted({*names, *(path.relative_to(target) for path in written)})
    refuse_tokens([target / name for name in names], where=f"the files for {repo_id}" if repo_id else str(artifact.folder))
    return Exported(artifact, target, [ExportedFile(target / name, name.as_posix()) for name in names])


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


def _with_base(settings: dict, repo_id: str | None, revision: str | None) -> dict:
    if repo_id is not None:
        return settings | {"base_model_name_or_path": repo_id, "revision": revision}
    named = str(settings.get("base_model_name_or_path") or BASE_FOLDER)
    return settings if base_on_the_hub(settings) else settings | {"base_model_name_or_path": PureWindowsPath(named).name}


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
