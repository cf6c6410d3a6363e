"""The repositories of the test Hub: commits, branches and tags in memory, with the hashes that git and LFS give them."""

import base64
import hashlib
import re
import threading
from dataclasses import dataclass, field
from datetime import datetime, timezone
from fnmatch import fnmatch
from functools import cached_property
from http import HTTPStatus
from pathlib import Path, PurePosixPath

# What the Hub writes into a new repository; git's patterns say which files are stored as LFS objects.
LARGE_NAMES = ("7z", "arrow", "bin", "ckpt", "gguf", "gz", "h5", "joblib", "model", "msgpack", "npy", "npz", "onnx", "parquet",
               "pickle", "pkl", "pt", "pth", "safetensors", "tar", "tgz", "zip", "zst")  # fmt: skip
GIT_ATTRIBUTES = "".join(f"*.{ending} filter=lfs diff=lfs merge=lfs -text\n" for ending in LARGE_NAMES).encode()
LARGEST_REGULAR_BYTES = 10 * 1024 * 1024


class HubError(Exception):
    """An error answer: a status, the X-Error-Code that tells huggingface_hub what is missing, and a sentence."""

    def __init__(self, status: HTTPStatus, message: str, code: str | None = None):
        super().__init__(message)
        self.status, self.message, self.code = status, message, code


def missing(code: str, message: str) -> HubError:
    """A 404 for something that does not exist."""
    return HubError(HTTPStatus.NOT_FOUND, message, code)


@dataclass(frozen=True)
class Blob:
    """The content of a file; `large` if it is stored as an LFS object and git has only a pointer."""

    content: bytes
    large: bool = False

    @property
    def pointer(self) -> bytes:
        return f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {len(self.content)}\n".encode()

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @cached_property
    def git_hash(self) -> str:
        stored = self.pointer if self.large else self.content
        return hashlib.sha1(b"blob %d\0%b" % (len(stored), stored)).hexdigest()

    @property
    def etag(self) -> str:
        """What caches use as the key, and what a client compares with its own file before it uploads it again."""
        return self.sha256 if self.large else self.git_hash

    def described(self) -> dict[str, object]:
        about = {"oid": self.git_hash, "size": len(self.content)}
        if self.large:
            about["lfs"] = {"oid": self.sha256, "size": len(self.content), "pointerSize": len(self.pointer)}
        return about


@dataclass(frozen=True)
class Commit:
    """All files as they were after one push."""

    files: dict[str, Blob]
    title: str = "initial commit"
    author: str = ""
    parent: str | None = None
    # A fixed time, so that hashes depend only on names, contents and history.
    date: str = datetime(2026, 1, 1, tzinfo=timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.000Z")

    @cached_property
    def sha(self) -> str:
        lines = [f"{blob.git_hash} {path}\n" for path, blob in self.files.items()]
        if self.parent:
            lines.append(f"{self.parent} {self.title}\n")
        return hashlib.sha1("".join(lines).encode()).hexdigest()

    def described(self) -> dict[str, str]:
        return {"id": self.sha, "title": self.title, "date": self.date}

    def read(self, path: str) -> Blob:
        if path not in self.files:
            raise missing("EntryNotFound", "Entry not found")
        return self.files[path]

    def entry(self, path: str, *, expand: bool = False) -> dict[str, object]:
        more = (
            {
                "lastCommit": self.described(),
                "securityFileStatus": {"status": "unscanned", "avScan": None, "pickleImportScan": None},
            }
            if expand
            else {}
        )
        if path in self.files:
            return {"type": "file", "path": path, **self.files[path].described(), **more}
        return {"type": "directory", "path": path, "oid": hashlib.sha1(path.encode()).hexdigest(), "size": 0, **more}

    def paths(self, folder: str, *, recursive: bool) -> list[str]:
        """What is in a folder, with `recursive` also below it; as in git, a folder exists only if it contains files."""
        prefix = f"{folder}/" if folder else ""
        found: dict[str, None] = {}
        for path in self.files:
            if path.startswith(prefix):
                below = path.removeprefix(prefix)
                found |= {path[: len(prefix) + slash.start()]: None for slash in re.finditer("/", below)}
                found[path] = None
        if folder and not found:
            raise missing("EntryNotFound", "Entry not found")
        return [path for path in found if recursive or "/" not in path.removeprefix(prefix)]


@dataclass
class Repository:
    """A model or dataset: who may read it, its commits, and its branches and tags."""

    private: bool = False
    gated: str | bool = False
    granted: set[str] = field(default_factory=set)
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def created(cls, *, private: bool, author: str) -> "Repository":
        repository = cls(private=private)
        repository.append("main", Commit({".gitattributes": Blob(GIT_ATTRIBUTES)}, author=author))
        return repository

    @classmethod
    def from_folder(cls, folder: Path) -> "Repository":
        """A folder as a public repository with one commit; the folder may change before the next request."""
        paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        repository = cls()
        repository.append("main", Commit({path.relative_to(folder).as_posix(): Blob(path.read_bytes()) for path in paths}))
        return repository

    def append(self, branch: str, commit: Commit) -> str:
        self.commits[commit.sha] = commit
        self.branches[branch] = commit.sha
        return commit.sha

    def resolve(self, revision: str) -> str:
        """The commit that a branch, a tag or a hash names."""
        revision = revision.removeprefix("refs/heads/").removeprefix("refs/tags/")
        sha = self.branches.get(revision) or self.tags.get(revision) or revision
        if sha not in self.commits:
            raise missing("RevisionNotFound", f"Invalid rev id: {revision}")
        return sha

    def at(self, revision: str) -> Commit:
        return self.commits[self.resolve(revision)]

    def history(self, revision: str) -> list[Commit]:
        """The commit that `revision` names, and all before it."""
        commits = [self.at(revision)]
        while commits[-1].parent:
            commits.append(self.commits[commits[-1].parent])
        return commits

    def upload_mode(self, path: str, *, size: int, sample: bytes, revision: str) -> str:
        """`lfs` or `regular`, depending on .gitattributes, the size and the first bytes."""
        attributes = self.at(revision).files.get(".gitattributes", Blob(b"")).content.decode()
        patterns = [line.split()[0] for line in attributes.splitlines() if "filter=lfs" in line]
        name = PurePosixPath(path).name
        large = any(fnmatch(name, pattern) for pattern in patterns) or size > LARGEST_REGULAR_BYTES or b"\0" in sample
        return "lfs" if large else "regular"

    def commit(self, branch: str, operations: list[dict], *, author: str, large_objects: dict[str, bytes]) -> str:
        """Apply the lines of a commit as the client sends them; all of them or none.

        Returns: the hash of the new commit, or of the last one if nothing changed.
        Raises: HubError 412 if somebody else has pushed since `parentCommit`, 400 for a file that cannot be stored.
        """
        with self.lock:
            if branch not in self.branches:
                raise missing("RevisionNotFound", f"Invalid rev id: {branch}")
            head = self.commits[self.branches[branch]]
            files = dict(head.files)
            header: dict = {}
            for operation in operations:
                key, value = operation["key"], operation["value"]
                if key == "header":
                    header = value
                elif key in ("file", "lfsFile"):
                    path = PurePosixPath(value["path"])
                    if path.is_absolute() or ".." in path.parts:
                        raise HubError(HTTPStatus.BAD_REQUEST, f"invalid path {value['path']!r}")
                    if key == "file":
                        files[value["path"]] = Blob(base64.b64decode(value["content"]))
                    elif value["oid"] in large_objects:
                        files[value["path"]] = Blob(large_objects[value["oid"]], large=True)
                    else:
                        raise HubError(HTTPStatus.BAD_REQUEST, f"LFS pointer of {value['path']!r} points to no object")
                elif key == "deletedFile":
                    files.pop(value["path"], None)
                elif key == "deletedFolder":
                    prefix = value["path"].rstrip("/") + "/"
                    files = {path: blob for path, blob in files.items() if not path.startswith(prefix)}
                else:
                    raise HubError(HTTPStatus.BAD_REQUEST, f"unknown operation {key!r}")
            if header.get("parentCommit") not in (None, head.sha):
                raise HubError(HTTPStatus.PRECONDITION_FAILED, "A commit has happened since. Please refresh and try again.")
            if files == head.files:
                return head.sha
            files = dict(sorted(files.items()))
            return self.append(branch, Commit(files, title=header.get("summary", ""), author=author, parent=head.sha))

    def blobs(self) -> dict[str, bytes]:
        """Everything ever stored here, by its hash: what is deleted later stays in the history."""
        return {blob.etag: blob.content for commit in self.commits.values() for blob in commit.files.values()}
