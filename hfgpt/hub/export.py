"""A clean folder with the files that may leave this machine.

Weights and data are hard links to the files in the artifact's folder, or copies if the file system has no hard links; every text
file is a copy. Some files are rewritten: adapter_config.json, which contains the path of its base on this machine; and
passport.json, overview.png, evaluation.json and tokenizer_report.md, in which source files are identified by hash and extension, or
not named at all, unless card.yaml says `file_names: true`. Anything else that reveals details of this machine fails the gate
(gate/scan.py). The user's folder is not changed.
"""

import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, replace
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
_SHORTEST_TOKEN = 8  # a shorter word in HF_TOKEN is not a token, and would be found in any file
_BLOCK_BYTES = 1 << 24
_LARGEST_IN_GIT_BYTES = 10 << 20


@dataclass(frozen=True)
class ExportedFile:
    """A file to publish; it is read once, when a hash is first requested.

    Args:
        path: its location.
        name: its name in the repository.
    """

    path: Path
    name: str

    @cached_property
    def addition(self) -> CommitOperationAdd:
        """The object that huggingface_hub uploads; creating it computes the SHA-256."""
        return CommitOperationAdd(self.name, self.path)

    @cached_property
    def blob_id(self) -> str:
        """The git blob id of the content, if the Hub stores it in git; large files are not."""
        return git_hash(self.path.read_bytes()) if self.size <= _LARGEST_IN_GIT_BYTES else ""

    def take_hashes(self) -> None:
        """Compute the hashes now, so that a later change is detected."""
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
    """The publishable files of an artifact, in a separate clean folder, sorted by name."""

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
) -> Exported:
    """Write the publishable files of `artifact` to the empty folder `target`.

    Args:
        repo_id: where it will be published; only used in messages.
        base_repo_id, base_revision: for an adapter, the Hub id and commit of its base; without them, the file contains the name of
            the base's folder.
    Raises: ValueError if a file of the artifact is a link out of its folder, has a name that the Hub does not accept, is missing
        although another file refers to it, or contains this machine's token; and if config.json refers to missing code.
    """
    target = Path(target)
    if target.is_dir() and any(target.iterdir()):
        raise UserError(f"{target} is not empty; an export needs an empty folder, so that nothing else is published.")
    _refuse_leading_out(artifact)
    names = artifact.files()
    _check_names(artifact, names)
    target.mkdir(parents=True, exist_ok=True)
    file_names = bool(load_settings(artifact.folder).get("file_names"))
    anew = not file_names and Path(EVALUATION_FILE) in names  # evaluation.json and files derived from it
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
                check_code(target / name.parent)  # checks the exported files: a file that may not be published is missing
            except Disagreement as error:
                raise UserError(f"{artifact.folder / name}: {error}; nobody else could load it: {error.cure}.") from None
    if anew:
        written = write_eval_results(target, read_json(target / EVALUATION_FILE))
        names = sorted({*names, *(path.relative_to(target) for path in written)})
    refuse_tokens([target / name for name in names], where=f"the files for {repo_id}" if repo_id else str(artifact.folder))
    return Exported(artifact, target, [ExportedFile(target / name, name.as_posix()) for name in names])


def with_card(exported: Exported, card: str) -> Exported:
    """The export with `card` as its README.md. Raises: ValueError if it contains this machine's token."""
    name = "README.md"
    path = exported.folder / name
    path.write_text(card, encoding="utf-8", newline="\n")
    refuse_tokens([path], where=str(exported.artifact.folder))
    files = [file for file in exported.files if file.name != name]
    return replace(exported, files=sorted([*files, ExportedFile(path, name)], key=lambda file: Path(file.name)))


def _refuse_leading_out(artifact: Artifact) -> None:
    """A link out of the folder is never followed; if it has the name of a file to publish, that is an error rather than an
    omission."""
    inside = artifact.folder.resolve()
    for path in sorted(artifact.folder.rglob("*")):
        name = path.relative_to(artifact.folder)
        if path.is_symlink() and artifact.allows(name):
            if not path.resolve().is_relative_to(inside):
                raise UserError(
                    f"{path} is a link to {path.resolve()}, outside the folder; only files in the folder are published, because "
                    f"anything else may be private. Replace the link with the file itself."
                )
            if not path.is_file():
                raise UserError(f"{path} is a broken link; replace it with the file itself, or remove it.")


def _check_names(artifact: Artifact, names: list[Path]) -> None:
    for name in names:
        if not name.as_posix().isprintable() or "\\" in name.as_posix():
            raise UserError(f"{name.as_posix()!r} in {artifact.folder} is a name that the Hub does not accept; rename the file.")
    there = {name.as_posix() for name in names}
    for name in names:
        for needed in _named_files(artifact.folder / name):
            beside = (PurePosixPath(name.as_posix()).parent / needed).as_posix()
            if beside not in there:
                raise UserError(
                    f"{artifact.folder / name} refers to the file {needed!r}, which is not among the publishable files of "
                    f"{artifact.folder}; write the folder again with the recipe that made it."
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
    """Search every byte of `paths` for this machine's tokens (from `hf auth login` and HF_TOKEN).

    Raises: ValueError that names the file, never the token.
    """
    tokens = known_tokens()
    for path in paths if tokens else ():
        if _holds(path, tokens):
            raise UserError(
                f"{path.name} in {where} contains your Hugging Face token, so nothing is published: anyone who reads it could act "
                f"as you. Revoke that token at https://huggingface.co/settings/tokens, remove it from the file, and start again."
            )


def known_tokens() -> list[bytes]:
    """The tokens of this machine (from `hf auth login` and HF_TOKEN); must never be printed."""
    found = {get_token(), *(os.environ.get(name) for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"))}
    stored = Path(HF_TOKEN_PATH)
    if stored.is_file():  # HF_TOKEN takes precedence if both exist
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
