"""One exported folder -> one repository on the Hub: only what differs is sent, and what arrived is compared.

All of it is one commit, so nobody ever loads half a model. What of a broken upload has arrived, the Hub knows by its SHA-256: the
same command sends the rest.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from huggingface_hub import CommitOperationDelete, HfApi, constants, get_token
from huggingface_hub.errors import (
    HTTPError,  # pyright: ignore[reportPrivateImportUsage]  # of httpx or httpx2, as the version of huggingface_hub has it
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoFile

from hfgpt.errors import AccessError, UnreachableError, UserError
from hfgpt.hub.export import ExportedFile, known_tokens

_HUBS_OWN = (".gitattributes",)  # written by the Hub when it creates a repository
RESUME = "What arrived is kept there: run the same command again, and only the rest is sent."
LOG_IN = (
    "run `hf auth login`, or set HF_TOKEN in the environment, with a token of https://huggingface.co/settings/tokens that may write"
)


@dataclass(frozen=True)
class Repository:
    """What lies on the Hub under one name, at one commit."""

    repo_id: str
    repo_type: str
    private: bool
    commit: str
    files: dict[str, RepoFile] = field(default_factory=dict)
    tags: tuple[str, ...] = ()


def sign_in(api: HfApi, namespaces: Iterable[str]) -> str:
    """Ask the Hub who we are, before anything is sent.

    Returns: the user's name.
    Raises: PermissionError without a token, with one that cannot write, or for a namespace that is not the user's;
        ConnectionError where the Hub does not answer.
    """
    if constants.HF_HUB_OFFLINE:
        raise UnreachableError("HF_HUB_OFFLINE is set, so nothing can be sent; unset it, or leave out --push true for a dry run.")
    if not get_token():
        raise AccessError(f"there is no token for {api.endpoint}, which publishing needs: {LOG_IN}. Nothing was sent.")
    with one_sentence(f"signing in at {api.endpoint}", cure="Nothing was sent."):
        user = api.whoami()
    if user.get("auth", {}).get("accessToken", {}).get("role") == "read":
        raise AccessError(f"the token of {user['name']} may only read, publishing writes: {LOG_IN}. Nothing was sent.")
    # A member of an organisation who may only read there is refused now instead of after the gate of every part.
    writable = [user["name"], *(org["name"] for org in user.get("orgs", []) if org.get("roleInOrg") != "read")]
    for namespace in namespaces:
        if namespace not in writable:
            raise AccessError(
                f"{user['name']} cannot publish under {namespace!r}; {', '.join(map(repr, writable))} can be written to with this "
                "token: give one of these in --repo, or sign in as somebody else. Nothing was sent."
            )
    return user["name"]


def look_at(api: HfApi, repo_id: str, repo_type: str, *, revision: str | None = None) -> Repository | None:
    """What the Hub has under this name, or None where it has nothing that this token may see.

    Raises: ConnectionError, PermissionError where it does not answer.
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
    """Files on the Hub that the export does not hold."""
    ours = {file.name for file in files}
    return sorted(name for name in repository.files if name not in ours and name not in _HUBS_OWN)


def differing(repository: Repository, files: Iterable[ExportedFile]) -> list[ExportedFile]:
    """The exported files that the Hub lacks, or has with other bytes."""
    return [file for file in files if not _is_same(file, repository.files.get(file.name))]


def _is_same(file: ExportedFile, remote: RepoFile | None) -> bool:
    if remote is None or remote.size != file.size:
        return False
    return remote.lfs.sha256 == file.sha256 if remote.lfs else remote.blob_id == file.blob_id


def send(
    api: HfApi, repository: Repository, files: list[ExportedFile], *, message: str, delete_others: bool = False
) -> tuple[Repository, list[ExportedFile]]:
    """Commit what differs, and compare every file that the Hub then has with the export.

    Returns: the repository as it is now, and the files that differed before.
    Raises: ConnectionError where it broke off or the Hub has other bytes, PermissionError where the Hub refused.
    """
    changed = differing(repository, files)
    gone = [CommitOperationDelete(name) for name in others_in(repository, files)] if delete_others else []
    if changed or gone:
        with one_sentence(f"sending {len(changed)} files to {repository.repo_id}", cure=RESUME):
            # Not upload_folder, which sends in several commits where hf_xet is installed. With the parent named, a commit that
            # somebody else made meanwhile is not overwritten.
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
            f"{repository.repo_id} does not hold what was sent ({', '.join(wrong) or 'more files than that'} differ in SHA-256 or "
            "size): somebody else wrote to it, or a file here changed meanwhile. It was not tagged and not made public; run the "
            "same command again."
        )
    return now, changed


@contextmanager
def one_sentence(doing: str, *, cure: str = "") -> Iterator[None]:
    """Errors of huggingface_hub as one sentence, without addresses that carry signatures, headers or tokens.

    Raises: PermissionError for 401 and 403, ConnectionError for everything else that goes wrong on the way.
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
        return UnreachableError, f"the repository changed meanwhile ({status}){said}; look at what it holds now"
    if status == 429:
        return UnreachableError, f"the Hub asks for a pause (429){said}; wait some minutes"
    if status >= 500:
        return UnreachableError, f"the Hub has trouble ({status}){said}; https://status.huggingface.co says more"
    return UnreachableError, f"the Hub answers {status}{said}"


def without_tokens(text: str) -> str:
    """The text with this machine's tokens blackened."""
    for token in known_tokens():
        text = text.replace(token.decode(), "hf_***")
    return text


def make_public(api: HfApi, repository: Repository) -> None:
    """Raises: ConnectionError, PermissionError where the Hub refuses."""
    with one_sentence(f"making {repository.repo_id} public", cure="It is complete, and still private."):
        api.update_repo_settings(repository.repo_id, repo_type=repository.repo_type, private=False)


def create_private(api: HfApi, repo_id: str, repo_type: str) -> Repository:
    """A new private repository, or the one that is there, as it is.

    Raises: ConnectionError, PermissionError where the Hub refuses.
    """
    found = look_at(api, repo_id, repo_type)
    if found is not None:
        return found
    with one_sentence(f"creating {repo_id}", cure=RESUME):
        api.create_repo(repo_id, repo_type=repo_type, private=True, exist_ok=True)
    found = look_at(api, repo_id, repo_type)
    if found is None:
        raise AccessError(f"{repo_id} exists and this token may not see it: {LOG_IN}.")
    return found


def progress_bars_only_in_a_terminal() -> None:
    """Logs of jobs keep their lines: huggingface_hub draws progress for people only."""
    if not os.isatty(2):
        from huggingface_hub.utils import disable_progress_bars

        disable_progress_bars()
