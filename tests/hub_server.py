"""A small Hugging Face Hub on this machine: what reads by name is tested over HTTP and without a network.

A repository is a plain folder, `<root>/datasets/<user>/<name>/` or `<root>/models/<user>/<name>/`, served read-only as one
commit on the branch `main`. The server answers what huggingface_hub 2.4, transformers 5.23 and datasets 5.2 ask for when they
load a model or a dataset of data files, as the Hub answers it; everything else is a 404. Files are read and hashed anew for
every request, so they should be small.
"""

import hashlib
import json
import os
import re
import threading
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

# Names of the variables that would lead a process to another Hub, another cache or a proxy, or say who the user is.
FOREIGN_SETTINGS = re.compile(r"(HF_|HUGGING|TRANSFORMERS_).*|(HTTP|HTTPS|ALL|NO)_PROXY", re.IGNORECASE)


class HubServer:
    """Serves the repositories under `root` at `endpoint` while its `with` block lasts."""

    def __init__(self, root: Path):
        self.root = root
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_RequestHandler, root))
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "HubServer":
        # The interval is how long shutdown waits at most, once for every test with a server.
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def environment(self, *, home: Path) -> dict[str, str]:
        """The environment of a process that knows no Hub but this one and keeps its caches under `home`.

        It has to be a new process: the libraries read HF_ENDPOINT once, when they are imported.
        """
        kept = {name: value for name, value in os.environ.items() if not FOREIGN_SETTINGS.fullmatch(name)}
        # We are the proxy as well: what the libraries ask of other hosts (dataset viewer, download counts) is refused here at
        # once, instead of leaving this machine or waiting for a name server.
        proxies = {"HTTP_PROXY": self.endpoint, "HTTPS_PROXY": self.endpoint, "NO_PROXY": "127.0.0.1"}
        return {**kept, **proxies, "HF_ENDPOINT": self.endpoint, "HF_HOME": str(home)}


class _MissingError(Exception):
    """A 404 with the X-Error-Code by which huggingface_hub tells what is missing."""


class _Repository:
    """A folder as a repository of one commit; all hashes follow from names and contents, since caches go by them."""

    def __init__(self, folder: Path, revision: str):
        if not folder.is_dir():
            raise _MissingError("RepoNotFound")
        self.contents = {
            path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
        }
        self.commit = hashlib.sha1("".join(f"{self.hash_of(path)} {path}\n" for path in self.contents).encode()).hexdigest()
        if revision not in ("main", self.commit):
            raise _MissingError("RevisionNotFound")

    def read(self, path: str) -> bytes:
        if path not in self.contents:
            raise _MissingError("EntryNotFound")
        return self.contents[path]

    def hash_of(self, path: str) -> str:
        return hashlib.sha1(b"blob %d\0%b" % (len(self.contents[path]), self.contents[path])).hexdigest()  # as git does

    def entries(self, folder: str, *, recursive: bool) -> list[dict[str, object]]:
        """What lies in a folder, with `recursive` also what lies below it; as in git, only files make a folder exist."""
        prefix = f"{folder}/" if folder else ""
        found = {}
        for path in self.contents:
            if path.startswith(prefix):
                for slash in re.finditer("/", path.removeprefix(prefix)):
                    parent = path[: len(prefix) + slash.start()]
                    found[parent] = {"type": "directory", "path": parent, "oid": hashlib.sha1(parent.encode()).hexdigest()}
                found[path] = {"type": "file", "path": path, "oid": self.hash_of(path), "size": len(self.contents[path])}
        if folder and not found:
            raise _MissingError("EntryNotFound")
        return [entry for path, entry in found.items() if recursive or "/" not in path.removeprefix(prefix)]


class _RequestHandler(BaseHTTPRequestHandler):
    def __init__(self, root: Path, *request: object):
        self.root = root
        super().__init__(*request)

    def do_GET(self) -> None:
        url = urlsplit(self.path)  # with the host asked for, where we are the proxy; its paths match no route
        for pattern, answer in _ROUTES:
            if match := re.fullmatch(pattern, url.path):
                # A slash inside a revision or a path may come as %2F, so the address is taken apart first and decoded then.
                parts = {name: unquote(value) for name, value in match.groupdict(default="").items()}
                try:
                    folder = self.root / (parts["kind"] or "models") / parts["repo"]  # the address of a model's file has no kind
                    repository = _Repository(folder, parts.get("revision") or "main")
                    answer(self, repository, parts, parse_qs(url.query))
                except _MissingError as error:
                    self._send(HTTPStatus.NOT_FOUND, headers={"X-Error-Code": str(error)})
                return
        self._send(HTTPStatus.NOT_FOUND)

    do_HEAD = do_GET  # the same answer, of which `_send` leaves out the body

    def log_message(self, *words: object) -> None:
        """Say nothing of requests, which http.server would write to stderr one by one."""

    def _send(self, status: HTTPStatus, body: bytes = b"", *, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _send_json(self, value: object) -> None:
        self._send(HTTPStatus.OK, json.dumps(value).encode(), headers={"Content-Type": "application/json"})

    def _send_info(self, repository: _Repository, parts: dict[str, str], query: dict[str, list[str]]) -> None:
        siblings = [{"rfilename": path} for path in repository.contents]
        self._send_json({"id": parts["repo"], "sha": repository.commit, "siblings": siblings})

    def _send_tree(self, repository: _Repository, parts: dict[str, str], query: dict[str, list[str]]) -> None:
        self._send_json(repository.entries(parts["path"], recursive=query.get("recursive") == ["true"]))

    def _send_file(self, repository: _Repository, parts: dict[str, str], query: dict[str, list[str]]) -> None:
        content = repository.read(parts["path"])
        headers = {"ETag": f'"{repository.hash_of(parts["path"])}"', "X-Repo-Commit": repository.commit, "Accept-Ranges": "bytes"}
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if asked is None:
            self._send(HTTPStatus.OK, content, headers=headers)
            return
        start = int(asked[1])
        part = content[start : int(asked[2]) + 1 if asked[2] else None]
        headers["Content-Range"] = f"bytes {start}-{start + len(part) - 1}/{len(content)}"
        self._send(HTTPStatus.PARTIAL_CONTENT, part, headers=headers)


_NAME = r"(?P<repo>\w[\w.-]*/\w[\w.-]*)"
_API = rf"/api/(?P<kind>datasets|models)/{_NAME}"
_ROUTES = (
    (rf"{_API}(/revision/(?P<revision>[^/]+))?", _RequestHandler._send_info),
    (rf"{_API}/tree/(?P<revision>[^/]+)(/(?P<path>.+))?", _RequestHandler._send_tree),
    (rf"/((?P<kind>datasets)/)?{_NAME}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", _RequestHandler._send_file),
)
