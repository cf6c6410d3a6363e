"""What the test Hub answers: one function for each address of the Hub's HTTP API (see hub_server.py)."""

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, quote, unquote

import yaml
from hub_repository import Blob, Commit, HubError, Repository, missing

if TYPE_CHECKING:
    from hub_server import HubServer, User


@dataclass
class Answer:
    """A body, as bytes or as a value to encode as JSON, with a status and headers."""

    content: object = b""
    status: HTTPStatus = HTTPStatus.OK
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Call:
    """A request with everything that an answer depends on, and the user who sent it."""

    hub: "HubServer"
    user: "User | None"
    parts: dict[str, str]
    query: str
    body: bytes

    def json(self) -> dict:
        return json.loads(self.body or b"{}")

    @property
    def repo_type(self) -> str:
        return (self.parts.get("kind") or "models")[:-1]  # the address of a model's file contains no kind

    @property
    def repo_id(self) -> str:
        return self.parts["repo"]

    def owns(self, repo_id: str) -> bool:
        return self.user is not None and repo_id.split("/")[0] == self.user.name

    def readable(self) -> Repository:
        """Raises: HubError if there is no such repository; to other users a private one does not exist."""
        repository = self.hub.find(self.repo_id, self.repo_type)
        if repository is None or (repository.private and not self.owns(self.repo_id)):
            if self.user is None:
                raise HubError(HTTPStatus.UNAUTHORIZED, "Invalid username or password.", "RepoNotFound")
            raise missing("RepoNotFound", "Repository not found")
        return repository

    def writable(self) -> Repository:
        repository = self.readable()
        self.require_right_to_write(self.repo_id)
        # The first write to a folder makes it a repository like any other.
        return self.hub.pushed.setdefault((self.repo_type, self.repo_id), repository)

    def require_right_to_write(self, repo_id: str) -> None:
        if self.user is None:
            raise HubError(HTTPStatus.UNAUTHORIZED, "Invalid username or password.")
        if self.user.role != "write" or not self.owns(repo_id):
            raise HubError(
                HTTPStatus.FORBIDDEN, f"you ({self.user.name}, role {self.user.role}) have no right to write to {repo_id}"
            )

    def commit(self) -> Commit:
        return self.readable().at(unquote(self.parts.get("revision") or "main"))

    @property
    def path(self) -> str:
        # A slash in a revision or a path may be encoded as %2F, so the address was split first and is decoded now.
        return unquote(self.parts["path"])


def _say_who(call: Call) -> Answer:
    if call.user is None:
        raise HubError(HTTPStatus.UNAUTHORIZED, "Invalid username or password.")
    token = {"displayName": "test", "role": call.user.role}
    return Answer({"type": "user", "name": call.user.name, "fullname": call.user.name, "orgs": [], "auth": {"accessToken": token}})


def _named_repository(call: Call) -> tuple[str, str]:
    asked = call.json()
    call.parts["repo"] = f"{asked.get('organization') or (call.user and call.user.name)}/{asked['name']}"
    call.parts["kind"] = asked.get("type", "model") + "s"
    call.require_right_to_write(call.repo_id)
    return call.repo_type, call.repo_id


def _create(call: Call) -> Answer:
    key = _named_repository(call)
    url = f"{call.hub.endpoint}/{'' if key[0] == 'model' else call.parts['kind'] + '/'}{call.repo_id}"
    said = {"url": url, "name": call.repo_id, "id": call.repo_id}
    with call.hub.lock:
        if call.hub.find(call.repo_id, call.repo_type) is not None:
            error = {"error": f"You already created this {call.repo_type} repo", **said}
            return Answer(error, HTTPStatus.CONFLICT)
        call.hub.pushed[key] = Repository.created(private=call.json().get("visibility") == "private", author=call.user.name)
    return Answer(said)


def _delete(call: Call) -> Answer:
    key = _named_repository(call)
    call.readable()
    call.hub.pushed.pop(key, None)
    return Answer()


def _set(call: Call) -> Answer:
    repository, asked = call.writable(), call.json()
    if "visibility" in asked:
        repository.private = asked["visibility"] == "private"
    repository.gated = asked.get("gated", repository.gated)
    return Answer({"private": repository.private, "gated": repository.gated})


def _validate(call: Call) -> Answer:
    text = call.json()["content"]
    if not text.startswith("---\n"):
        return Answer({"errors": [], "warnings": [{"message": "empty or missing yaml metadata in repo card"}]})
    try:
        metadata = yaml.safe_load(text[4:].partition("\n---")[0])
        if not isinstance(metadata, dict):
            raise yaml.YAMLError("the metadata is no mapping")
    except yaml.YAMLError as error:
        return Answer({"errors": [{"message": str(error)}], "warnings": []}, HTTPStatus.BAD_REQUEST)
    return Answer({"errors": [], "warnings": []})


def _prepare_upload(call: Call) -> Answer:
    repository, revision = call.writable(), unquote(call.parts["revision"])
    answers = []
    for file in call.json()["files"]:
        mode = "regular"
        if call.hub.large_files:
            sample = base64.b64decode(file["sample"])
            mode = repository.upload_mode(file["path"], size=file["size"], sample=sample, revision=revision)
        there = repository.at(revision).files.get(file["path"])
        more = {"oid": there.etag} if there else {}
        answers.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False, **more})
    return Answer({"files": answers, "commitOid": repository.resolve(revision)})


def _offer_large(call: Call) -> Answer:
    call.writable()
    objects = []
    for asked in call.json()["objects"]:
        one = {"oid": asked["oid"], "size": asked["size"]}
        if asked["oid"] not in call.hub.large_objects:  # objects that are already stored need no upload
            path = call.repo_id if call.repo_type == "model" else f"{call.repo_type}s/{call.repo_id}"
            one["actions"] = {
                "upload": {"href": f"{call.hub.storage}/storage/{asked['oid']}"},
                "verify": {"href": f"{call.hub.endpoint}/{path}.git/info/lfs/objects/verify"},
            }
        objects.append(one)
    return Answer({"transfer": "basic", "objects": objects})


def _verify_large(call: Call) -> Answer:
    call.writable()
    asked = call.json()
    if len(call.hub.large_objects.get(asked["oid"], b"")) != asked["size"]:
        raise missing("", f"object {asked['oid']} is not here in full")
    return Answer({})


def _store_large(call: Call) -> Answer:
    if Blob(call.body).sha256 != call.parts["oid"]:
        raise HubError(HTTPStatus.BAD_REQUEST, f"the content is not {call.parts['oid']}")
    call.hub.large_objects[call.parts["oid"]] = call.body
    return Answer()


def _send_large(call: Call) -> Answer:
    content = call.hub.large_objects.get(call.parts["oid"])
    if content is None:
        raise missing("", "no such object")
    return Answer(content, headers={"ETag": f'"{call.parts["oid"]}"', "Accept-Ranges": "bytes"})


def _commit(call: Call) -> Answer:
    operations = [json.loads(line) for line in call.body.splitlines() if line.strip()]
    sha = call.writable().commit(
        unquote(call.parts["revision"]), operations, author=call.user.name, large_objects=call.hub.large_objects
    )
    url = f"{call.hub.endpoint}/{call.repo_id}/commit/{sha}"
    return Answer({"success": True, "commitOid": sha, "commitUrl": url, "hookOutput": ""})


def _tell_about(call: Call) -> Answer:
    repository, commit = call.readable(), call.commit()
    siblings = [{"rfilename": path, **blob.described()} for path, blob in commit.files.items()]
    for sibling in siblings:
        sibling["blobId"] = sibling.pop("oid")
        if "lfs" in sibling:
            sibling["lfs"]["sha256"] = sibling["lfs"].pop("oid")
    return Answer(
        {
            **{"id": call.repo_id, "modelId": call.repo_id, "author": call.repo_id.split("/")[0], "sha": commit.sha},
            **{"private": repository.private, "gated": repository.gated, "disabled": False, "downloads": 0, "likes": 0, "tags": []},
            **{"lastModified": commit.date, "createdAt": commit.date, "siblings": siblings},
        }
    )


def _list(call: Call) -> Answer:
    commit, asked = call.commit(), parse_qs(call.query)
    paths = commit.paths(call.path, recursive=asked.get("recursive", [""])[0].lower() == "true")
    start = int(asked.get("cursor", ["0"])[0])
    end = start + call.hub.page_size
    headers = {}
    if end < len(paths):
        place = f"{call.hub.endpoint}/api/{call.repo_type}s/{call.repo_id}/tree/{call.parts['revision']}"
        place += f"/{call.parts['path']}" if call.path else ""
        more = "&".join(f"{name}={quote(values[0])}" for name, values in asked.items() if name != "cursor")
        headers["Link"] = f'<{place}?{more}&cursor={end}>; rel="next"'
    expand = asked.get("expand", [""])[0].lower() == "true"
    return Answer([commit.entry(path, expand=expand) for path in paths[start:end]], headers=headers)


def _find_paths(call: Call) -> Answer:
    commit, asked = call.commit(), parse_qs(call.body.decode())
    known = set(commit.paths("", recursive=True))
    expand = asked.get("expand", [""])[0].lower() == "true"
    return Answer([commit.entry(path, expand=expand) for path in asked.get("paths", []) if path in known])


def _list_references(call: Call) -> Answer:
    repository = call.readable()

    def named(kind: str, names: dict[str, str]) -> list[dict[str, str]]:
        return [{"name": name, "ref": f"refs/{kind}/{name}", "targetCommit": sha} for name, sha in names.items()]

    branches, tags = named("heads", repository.branches), named("tags", repository.tags)
    return Answer({"branches": branches, "tags": tags, "converts": [], "pullRequests": []})


def _list_commits(call: Call) -> Answer:
    history = call.readable().history(unquote(call.parts["revision"]))
    return Answer([{**commit.described(), "message": "", "authors": [{"user": commit.author}]} for commit in history])


def _name_commit(names: dict[str, str], name: str, sha: str, kind: str) -> Answer:
    if name in names:
        raise HubError(HTTPStatus.CONFLICT, f"{kind} {name} exists already")
    names[name] = sha
    return Answer({"name": name, "targetCommit": sha})


def _forget_name(names: dict[str, str], name: str) -> Answer:
    if names.pop(name, None) is None:
        raise missing("RevisionNotFound", f"Invalid rev id: {name}")
    return Answer()


def _add_tag(call: Call) -> Answer:
    repository = call.writable()
    return _name_commit(repository.tags, call.json()["tag"], repository.resolve(unquote(call.parts["revision"])), "tag")


def _delete_tag(call: Call) -> Answer:
    return _forget_name(call.writable().tags, unquote(call.parts["revision"]))


def _add_branch(call: Call) -> Answer:
    repository = call.writable()
    start = repository.resolve(call.json().get("startingPoint") or "main")
    return _name_commit(repository.branches, unquote(call.parts["revision"]), start, "branch")


def _delete_branch(call: Call) -> Answer:
    return _forget_name(call.writable().branches, unquote(call.parts["revision"]))


def _require_access(call: Call, repository: Repository) -> None:
    if repository.gated and not (call.owns(call.repo_id) or (call.user and call.user.name in repository.granted)):
        status = HTTPStatus.FORBIDDEN if call.user else HTTPStatus.UNAUTHORIZED
        raise HubError(status, f"Access to {call.repo_type} {call.repo_id} is restricted; ask for access.", "GatedRepo")


def _check_access(call: Call) -> Answer:
    _require_access(call, call.readable())
    if call.parts["write"]:
        call.require_right_to_write(call.repo_id)
    return Answer({})


def _send_file(call: Call) -> Answer:
    _require_access(call, call.readable())
    commit = call.commit()
    try:
        blob = commit.read(call.path)
    except HubError as error:  # with the commit, for which the client caches that the file is missing
        headers = {"X-Error-Code": error.code, "X-Error-Message": error.message, "X-Repo-Commit": commit.sha}
        return Answer({"error": error.message}, error.status, headers)
    headers = {"ETag": f'"{blob.etag}"', "X-Repo-Commit": commit.sha, "Accept-Ranges": "bytes"}
    if not blob.large:
        return Answer(blob.content, headers=headers)
    headers |= {"X-Linked-ETag": f'"{blob.etag}"', "X-Linked-Size": str(len(blob.content))}
    headers["Location"] = f"{call.hub.storage}/storage/{blob.sha256}"
    return Answer(b"", HTTPStatus.FOUND, headers)


def _route(methods: str, pattern: str, answer: Callable[[Call], Answer]) -> tuple[tuple[str, ...], str, Callable]:
    return tuple(methods.split()), pattern, lambda *words: answer(Call(*words))


_NAME = r"(?P<repo>\w[\w.-]*/\w[\w.-]*)"
_API = rf"/api/(?P<kind>datasets|models)/{_NAME}"
_FILES = rf"/((?P<kind>datasets)/)?{_NAME}"
_REVISION = r"(?P<revision>[^/]+)"
ROUTES = (
    _route("GET", "/api/whoami-v2", _say_who),
    _route("POST", "/api/repos/create", _create),
    _route("DELETE", "/api/repos/delete", _delete),
    _route("POST", "/api/validate-yaml", _validate),
    _route("GET HEAD", rf"{_API}(/revision/{_REVISION})?", _tell_about),
    _route("PUT", rf"{_API}/settings", _set),
    _route("GET", rf"{_API}/auth-check(?P<write>/write)?", _check_access),
    _route("POST", rf"{_API}/preupload/{_REVISION}", _prepare_upload),
    _route("POST", rf"{_API}/commit/{_REVISION}", _commit),
    _route("GET", rf"{_API}/commits/{_REVISION}", _list_commits),
    _route("GET", rf"{_API}/refs", _list_references),
    _route("POST", rf"{_API}/tag/{_REVISION}", _add_tag),
    _route("DELETE", rf"{_API}/tag/{_REVISION}", _delete_tag),
    _route("POST", rf"{_API}/branch/{_REVISION}", _add_branch),
    _route("DELETE", rf"{_API}/branch/{_REVISION}", _delete_branch),
    _route("GET", rf"{_API}/tree/{_REVISION}(/(?P<path>.+))?", _list),
    _route("POST", rf"{_API}/paths-info/{_REVISION}", _find_paths),
    _route("POST", rf"{_FILES}\.git/info/lfs/objects/batch", _offer_large),
    _route("POST", rf"{_FILES}\.git/info/lfs/objects/verify", _verify_large),
    _route("GET HEAD", rf"{_FILES}/resolve/{_REVISION}/(?P<path>.+)", _send_file),
    _route("PUT", "/storage/(?P<oid>[0-9a-f]{64})", _store_large),
    _route("GET HEAD", "/storage/(?P<oid>[0-9a-f]{64})", _send_large),
)
