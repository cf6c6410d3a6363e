"""One exported folder -> one repository on the Hub: only differences are uploaded, and the result is verified.

Everything goes into one commit, so nobody ever loads half a model. After an interrupted upload, the Hub recognizes the files that
arrived by their SHA-256, and the same command uploads the rest.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from huggingface_hub import CommitOperationDelete, HfApi, constants, get_token
from huggingface_hub.errors import (
    HTTPError,  # pyright: ignore[reportPrivateImportUsage]  # from httpx or httpx2, depending on the version of huggingface_hub
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoFile

from hfgpt.errors import AccessError, UnreachableError, UserError
from hfgpt.hub.export import ExportedFile, known_tokens

_HUBS_OWN = (".gitattributes",)  # written by the Hub when it creates a repository
RESUME = "Files that arrived are kept there; run the same command again to upload only the rest."
LOG_IN = "run `hf auth login`, or set HF_TOKEN in the environment, with a write token from https://huggingface.co/settings/tokens"


@dataclass(frozen=True)
class Repository:
    """The contents of a repository on the Hub at one commit."""

    repo_id: str
    repo_type: str
    private: bool
    commit: str
    files: dict[str, RepoFile] = field(default_factory=dict)
    tags: tuple[str, ...] = ()


def sign_in(api: HfApi, namespaces: Iterable[str]) -> str:
    """Ask the Hub who the user is, before anything is uploaded.

    Returns: the user's name.
    Raises: PermissionError without a token, with one that cannot write, or for a namespace that is not the user's;
        ConnectionError if the Hub does not answer.
    """
    if constants.HF_HUB_OFFLINE:
        raise UnreachableError(
            "HF_HUB_OFFLINE is set, so nothing can be uploaded; unset it, or leave out --push true for a dry run."
        )
    if not get_token():
        raise AccessError(f"publishing needs a token for {api.endpoint}: {LOG_IN}. Nothing was uploaded.")
    with one_sentence(f"signing in at {api.endpoint}", cure="Nothing was uploaded."):
        user = api.whoami()
    if user.get("auth", {}).get("accessToken", {}).get("role") == "read":
        raise AccessError(
            f"the token of {user['name']} is read-only, but publishing needs write access: {LOG_IN}. Nothing was uploaded."
        )
    # A member of an organisation with read-only access is refused now instead of after the gate of every part.
    writable = [user["name"], *(org["name"] for org in user.get("orgs", []) if org.get("roleInOrg") != "read")]
    for namespace in namespaces:
        if namespace not in writable:
            raise AccessError(
                f"{user['name']} cannot publish under {namespace!r}; this token can write under "
                f"{' and '.join(map(repr, writable))}: give that in --repo, or sign in as another user. Nothing was uploaded."
            )
    return user["name"]


def look_at(api: HfApi, repo_id: str, repo_type: str, *, revision: str | None = None) -> Repository | None:
    """The repository of this name, or None if there is none that this token may see.

    Raises: ConnectionError or PermissionError if the Hub does not answer or refuses.
    """
    with one_sentence(f"reading {repo_id} from {api.endpoint}"):
        try:
            info = api.repo_info(repo_id, repo_type=repo_type, revision=revision)
            entries = api.list_repo_tree(repo_id, repo_type=repo_type, revision=info.sha, recursive=True)
            files = {entry.path: entry for entry in entries if isinstance(entry, RepoFile)}
            tags = tuple(tag.name for tag in api.list_repo_refs(repo_id, repo_type=repo_type).tags)
        except (RepositoryNotFoundError, RevisionNotFoundError):
            return None
    return Repository(repo_id, repo_type, bool(info.private), info.sha or "", files, tags)


def others_in(repository: Repository, files: Iterable[ExportedFile]) -> list[str]:
    """Files on the Hub that are not in the export."""
    ours = {file.name for file in files}
    return sorted(name for name in repository.files if name not in ours and name not in _HUBS_OWN)


def differing(repository: Repository, files: Iterable[ExportedFile]) -> list[ExportedFile]:
    """The exported files that are missing or different on the Hub."""
    return [file for file in files if not _is_same(file, repository.files.get(file.name))]


def _is_same(file: ExportedFile, remote: RepoFile | None) -> bool:
    if remote is None or remote.size != file.size:
        return False
    return remote.lfs.sha256 == file.sha256 if remote.lfs else remote.blob_id == file.blob_id


def send(
    api: HfApi, repository: Repository, files: list[ExportedFile], *, message: str, delete_others: bool = False
) -> tuple[Repository, list[ExportedFile]]:
    """Commit the differences, and then compare every file on the Hub with the export.

    Returns: the current repository, and the files that differed before.
    Raises: ConnectionError if the connection broke or the Hub has different bytes, PermissionError if the Hub refused.
    """
    changed = differing(repository, files)
    gone = [CommitOperationDelete(name) for name in others_in(repository, files)] if delete_others else []
    if changed or gone:
        with one_sentence(f"uploading {len(changed)} files to {repository.repo_id}", cure=RESUME):
            # Not upload_folder, which uses several commits if hf_xet is installed. With the parent commit given, a commit that
            # somebody else made in the meantime is not overwritten.
            api.create_commit(
                repository.repo_id,
                [*(file.addition for file in changed), *gone],
                repo_type=repository.repo_type,
                commit_message=message,
                parent_commit=repository.commit,
            )
    now = look_at(api, repository.repo_id, repository.repo_type)
    wrong = [file.name for file in differing(now, files)] if now else [file.name for file in files]
    if wrong or now is None or (delete_others and others_in(now, files)):
        raise UnreachableError(
            f"{repository.repo_id} does not contain what was uploaded ({', '.join(wrong) or 'additional files'} differ in SHA-256 "
            f"or size): somebody else wrote to it, or a local file changed in the meantime. It was not tagged and not made public; "
            f"run the "
            "same command again."
        )
    return now, changed


@contextmanager
def one_sentence(doing: str, *, cure: str = "") -> Iterator[None]:
    """Errors of huggingface_hub as one sentence, without URLs that contain signatures, headers or tokens.

    Raises: PermissionError for 401 and 403, ConnectionError for everything else that goes wrong with the connection.
    """
    try:
        yield
    except (HTTPError, OSError, RuntimeError, ValueError) as error:
        kind, reason = _reason(error)
        raise kind(without_tokens(f"{doing} failed: {reason}. {cure}".strip())) from None


def _reason(error: BaseException) -> tuple[type[UserError], str]:
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, HTTPError):
        cause = cause.__cause__
    if isinstance(error, OfflineModeIsEnabled):
        return UnreachableError, "HF_HUB_OFFLINE is set; unset it"
    response = getattr(cause, "response", None) if cause is not None else None
    if response is None:
        text = " ".join(str(cause or error).split()) or type(cause or error).__name__
        return UnreachableError, ("the connection broke: " if cause is not None else "") + text[:300].rstrip(".")
    status = response.status_code
    said = " ".join(str(getattr(cause, "server_message", None) or "").split())[:200].rstrip(".")
    said = f" ({said})" if said else ""
    if status == 401:
        return AccessError, f"the Hub does not know this token (401){said}: {LOG_IN}"
    if status == 403:
        return AccessError, f"this token may not do that (403){said}: {LOG_IN}"
    if status in (409, 412):
        return UnreachableError, f"the repository changed in the meantime ({status}){said}; check its contents"
    if status == 429:
        return UnreachableError, f"the Hub limits the rate of requests (429){said}; wait a few minutes"
    if status >= 500:
        return UnreachableError, f"the Hub has a server error ({status}){said}; see https://status.huggingface.co"
    return UnreachableError, f"the Hub answers {status}{said}"


def without_tokens(text: str) -> str:
    """The text with this machine's tokens masked."""
    for token in known_tokens():
        text = text.replace(token.decode(), "hf_***")
    return text


def make_public(api: HfApi, repository: Repository) -> None:
    """Raises: ConnectionError or PermissionError if the Hub refuses."""
    with one_sentence(f"making {repository.repo_id} public", cure="It is complete, and still private."):
        api.update_repo_settings(repository.repo_id, repo_type=repository.repo_type, private=False)


def create_private(api: HfApi, repo_id: str, repo_type: str) -> Repository:
    """Create a new private repository, or return the existing one unchanged.

    Raises: ConnectionError or PermissionError if the Hub refuses.
    """
    found = look_at(api, repo_id, repo_type)
    if found is not None:
        return found
    with one_sentence(f"creating {repo_id}", cure=RESUME):
        api.create_repo(repo_id, repo_type=repo_type, private=True, exist_ok=True)
    found = look_at(api, repo_id, repo_type)
    if found is None:
        raise AccessError(f"{repo_id} exists, but this token cannot see it: {LOG_IN}.")
    return found


def progress_bars_only_in_a_terminal() -> None:
    """Keep job logs readable: show huggingface_hub's progress bars only in a terminal."""
    if not os.isatty(2):
        from huggingface_hub.utils import disable_progress_bars

        disable_progress_bars()
