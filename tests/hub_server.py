"""A small Hugging Face Hub on this machine, for tests of code that loads or publishes by name: over HTTP, without a network.

It answers as the Hub does what huggingface_hub 2.4, transformers 5.23 and datasets 5.2 request when they create, push, tag and
load a model or a dataset; everything else is a 404. A repository is either pushed, and then kept in memory
(`hub_repository.py`), or it is a plain folder, `<root>/datasets/<user>/<name>/` or `<root>/models/<user>/<name>/`, which is
served as one commit on the branch `main` and read again for every request. Files should be small.

Large files use LFS: a batch request, then an upload or a download at another host than the Hub's own (`localhost` instead of
`127.0.0.1`), because the real ones are at a storage provider that must not receive the token. A server cannot decide whether
huggingface_hub uses Xet instead: only HF_HUB_DISABLE_XET or a missing hf_xet makes it use LFS, so `environment` sets the
variable. With `large_files=False` every file is a regular one, and a client with Xet uses its pipelined upload of several commits.
"""

import json
import os
import re
import threading
from dataclasses import dataclass, replace
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Literal

from hub_answers import ROUTES, Answer
from hub_repository import HubError, Repository, missing

# Names of the variables that would direct a process to another Hub, another cache or a proxy, or identify the user.
FOREIGN_SETTINGS = re.compile(r"(HF_|HUGGING|TRANSFORMERS_).*|(HTTP|HTTPS|ALL|NO)_PROXY", re.IGNORECASE)


@dataclass(frozen=True)
class User:
    """The owner of a token, and what it allows."""

    name: str
    role: Literal["read", "write"] = "write"


@dataclass
class Request:
    """One request as received; `status` is 0 if the connection ended before an answer."""

    method: str
    path: str
    host: str
    user: str | None
    authorization: str | None
    range: str | None = None
    body_bytes: int = 0
    status: int = 0


@dataclass
class _Fault:
    """What should go wrong with the next matching request."""

    method: str | None
    path_contains: str
    times: int
    status: int | None = None
    headers: dict[str, str] | None = None
    after_bytes: int | None = None

    def fits(self, method: str, path: str) -> bool:
        # Only a request or an answer with a body can be cut off.
        methods = (self.method,) if self.method else (method,) if self.status else ("GET", "POST", "PUT")
        return self.times > 0 and method in methods and self.path_contains in path


class HubServer:
    """Serves the repositories under `root`, and those that are pushed, at `endpoint` inside its `with` block.

    Args:
        root: contains the folders that are public repositories; it need not exist.
        tokens: who may push: from token to user name or `User`. Reading public repositories needs no token.
        large_files: False stores every file as a regular one (see above).
        page_size: entries per page of a tree.
    """

    def __init__(self, root: Path, *, tokens: dict[str, str | User] | None = None, large_files: bool = True, page_size: int = 1000):
        self.root = root
        self.users = {token: User(user) if isinstance(user, str) else user for token, user in (tokens or {}).items()}
        self.large_files = large_files
        self.page_size = page_size
        self.requests: list[Request] = []
        self.large_objects: dict[str, bytes] = {}
        self.pushed: dict[tuple[str, str], Repository] = {}
        self.lock = threading.Lock()
        self._faults: list[_Fault] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_RequestHandler, self))
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        self.storage = f"http://localhost:{self._server.server_port}"

    def __enter__(self) -> "HubServer":
        # The interval is the longest time that shutdown waits, once for every test with a server.
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def environment(self, *, home: Path, token: str | None = None) -> dict[str, str]:
        """The environment of a process that uses only this Hub, keeps its caches under `home` and logs in with `token`.

        It must be a new process: the libraries read HF_ENDPOINT once, when they are imported.
        """
        kept = {name: value for name, value in os.environ.items() if not FOREIGN_SETTINGS.fullmatch(name)}
        # This server is the proxy as well: it rejects requests to other hosts (dataset viewer, download counts) at once, so
        # they do not leave this machine or wait for a name server.
        proxies = {"HTTP_PROXY": self.endpoint, "HTTPS_PROXY": self.endpoint, "NO_PROXY": "127.0.0.1,localhost"}
        hub = {"HF_ENDPOINT": self.endpoint, "HF_HOME": str(home)}
        if self.large_files:
            hub["HF_HUB_DISABLE_XET"] = "1"
        if token is not None:
            hub["HF_TOKEN"] = token
        return {**kept, **proxies, **hub}

    def fail_next(
        self,
        *,
        status: int,
        method: str | None = None,
        path_contains: str = "",
        times: int = 1,
        headers: dict[str, str] | None = None,
    ) -> None:
        """Answer the next `times` matching requests with an error, with `headers` such as {"Retry-After": "0"}."""
        self._faults.append(_Fault(method, path_contains, times, status=status, headers=headers))

    def cut_next(self, *, after_bytes: int | None, path_contains: str = "", method: str | None = None, times: int = 1) -> None:
        """Close the connection in the next `times` matching requests, after so many bytes of the upload or download.

        Args: `after_bytes` None carries out the request and closes without an answer.
        """
        self._faults.append(_Fault(method, path_contains, times, after_bytes=after_bytes))

    def take_fault(self, method: str, path: str) -> _Fault | None:
        with self.lock:
            for fault in self._faults:
                if fault.fits(method, path):
                    fault.times -= 1
                    return replace(fault)
        return None

    def find(self, repo_id: str, repo_type: str = "model") -> Repository | None:
        """A pushed repository, or a folder as a repository."""
        if (repo_type, repo_id) in self.pushed:
            return self.pushed[repo_type, repo_id]
        folder = self.root / f"{repo_type}s" / repo_id
        return Repository.from_folder(folder) if folder.is_dir() else None

    def repository(self, repo_id: str, repo_type: str = "model") -> Repository:
        """Raises: KeyError if there is none, so that a test does not continue without one."""
        repository = self.find(repo_id, repo_type)
        if repository is None:
            raise KeyError(f"no {repo_type} {repo_id} here, only {self.repos()}")
        return repository

    def repos(self) -> list[str]:
        """What was created here, as `user/name` for a model and `datasets/user/name`."""
        return sorted(("" if repo_type == "model" else f"{repo_type}s/") + repo_id for repo_type, repo_id in self.pushed)

    def files(self, repo_id: str, revision: str = "main", repo_type: str = "model") -> dict[str, bytes]:
        """The contents of a revision's files by path; `.gitattributes`, which the Hub itself writes, is not among them."""
        files = self.repository(repo_id, repo_type).at(revision).files
        return {path: blob.content for path, blob in files.items() if path != ".gitattributes"}

    def is_private(self, repo_id: str, repo_type: str = "model") -> bool:
        return self.repository(repo_id, repo_type).private

    def tags(self, repo_id: str, repo_type: str = "model") -> dict[str, str]:
        """The tags with their commits."""
        return dict(self.repository(repo_id, repo_type).tags)

    def everything_received(self) -> dict[str, bytes]:
        """Every blob ever stored here, whether referenced, replaced, deleted or uploaded without a commit."""
        blobs = {f"lfs:{oid}": content for oid, content in self.large_objects.items()}
        for (repo_type, repo_id), repository in self.pushed.items():
            blobs |= {f"{repo_type} {repo_id}: {oid}": content for oid, content in repository.blobs().items()}
        return blobs


class _CutError(Exception):
    """The connection should end here."""


class _RequestHandler(BaseHTTPRequestHandler):
    def __init__(self, hub: HubServer, *request: object):
        self.hub = hub
        super().__init__(*request)

    def _handle(self) -> None:
        authorization = self.headers.get("Authorization")
        user = self.hub.users.get((authorization or "").removeprefix("Bearer "))
        record = Request(self.command, self.path, self.headers.get("Host", ""), user.name if user else None, authorization)
        record.range = self.headers.get("Range")
        self.hub.requests.append(record)
        fault = self.hub.take_fault(self.command, self.path)
        has_body = bool(int(self.headers.get("Content-Length", 0))) or "Transfer-Encoding" in self.headers
        cut = fault.after_bytes if fault and not fault.status else None
        try:
            body = self._read_body(record, cut if has_body else None)
            if fault and fault.status:
                answer = Answer({"error": f"{fault.status} as the test asked for"}, HTTPStatus(fault.status), fault.headers or {})
            else:
                answer = self._answer(user, authorization, body)
            if fault and not fault.status and cut is None:
                raise _CutError
            self._send(answer, record, None if has_body else cut)
        except (_CutError, ConnectionError):  # ours, or the client's
            self.close_connection = True

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _handle

    def log_message(self, *words: object) -> None:
        """Log nothing: http.server would write every request to stderr."""

    def _read_body(self, record: Request, at_most: int | None) -> bytes:
        body = bytearray()
        for part in self._body_parts():
            body += part
            record.body_bytes = len(body)
            if at_most is not None and len(body) >= at_most:
                raise _CutError
        return bytes(body)

    def _body_parts(self):
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            while size := int(self.rfile.readline().split(b";")[0], 16):
                yield self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return
        left = int(self.headers.get("Content-Length", 0))
        while left:
            part = self.rfile.read(min(left, 4096))
            if not part:
                raise ConnectionError("the client went away")
            left -= len(part)
            yield part

    def _answer(self, user: User | None, authorization: str | None, body: bytes) -> Answer:
        # A path with a host, which is a request to this server as a proxy, matches no route.
        path, _, query = self.path.partition("?")
        try:
            if authorization is not None and user is None:
                raise HubError(HTTPStatus.UNAUTHORIZED, "Invalid credentials in Authorization header")
            for methods, pattern, route in ROUTES:
                if self.command in methods and (match := re.fullmatch(pattern, path)):
                    return route(self.hub, user, match.groupdict(default=""), query, body)
            raise missing("", "there is nothing at this address")
        except HubError as error:
            headers = {"X-Error-Message": error.message, **({"X-Error-Code": error.code} if error.code else {})}
            return Answer({"error": error.message}, error.status, headers)

    def _send(self, answer: Answer, record: Request, cut: int | None) -> None:
        content, status, headers = answer.content, answer.status, dict(answer.headers)
        if not isinstance(content, bytes):
            content = json.dumps(content).encode()
            headers["Content-Type"] = "application/json"
        elif "Accept-Ranges" in headers and (asked := re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))):
            size = len(content)
            start = int(asked[1]) if asked[1] else max(size - int(asked[2]), 0)
            end = min(int(asked[2]) + 1, size) if asked[1] and asked[2] else size
            if start >= size:
                content, status, headers["Content-Range"] = b"", HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, f"bytes */{size}"
            else:
                content, status = content[start:end], HTTPStatus.PARTIAL_CONTENT
                headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
        record.status = int(status)
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content if cut is None else content[:cut])
        if cut is not None:
            self.wfile.flush()
            raise _CutError
