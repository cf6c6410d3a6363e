"""The test Hub answers huggingface_hub as the real Hub does: every call here is made by the real client, in its own process."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from hub_server import HubServer, User

# Every client program starts with this: helpers, a small and a large file, and no waiting between retries.
CLIENT = """
import hashlib, json, os, sys
from pathlib import Path
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, hf_hub_download, snapshot_download
from huggingface_hub import errors
import huggingface_hub.utils._http as http

http.time.sleep = lambda seconds: None  # the waits between retries

def error_of(call, *words, **named):
    try:
        call(*words, **named)
    except Exception as error:
        return type(error).__name__, getattr(getattr(error, "response", None), "status_code", None)
    return None

def folder(**files):
    for name, content in files.items():
        path = Path("files", name)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    return "files"

api, results = HfApi(), {}
LARGE = bytes(range(256)) * 4096
FILES = {"README.md": b"---\\nlicense: mit\\n---\\n# A model\\n", "model.safetensors": LARGE}
"""
LARGE = bytes(range(256)) * 4096
TOKENS = {"hf_annWrites": "ann", "hf_bobWrites": "bob", "hf_annReads": User("ann", "read")}


def ask(hub: HubServer, folder: Path, program: str, *, token: str | None = "hf_annWrites") -> dict:
    """Run the program with the real client and return what it left in `results`."""
    folder.mkdir(exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-c", CLIENT + program + "\nprint(json.dumps(results))"],
        env=hub.environment(home=folder / "home", token=token), cwd=folder, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture
def hub(tmp_path):
    with HubServer(tmp_path / "hub", tokens=TOKENS, page_size=2) as server:
        yield server


def test_a_repository_is_created_filled_tagged_listed_and_deleted(hub, tmp_path):
    program = """
results["me"] = api.whoami()["name"]
results["created"] = api.create_repo("ann/small", private=True).repo_id
results["again"] = error_of(api.create_repo, "ann/small")
api.create_repo("ann/small", exist_ok=True)
first = api.upload_folder(repo_id="ann/small", folder_path=folder(**FILES, **{"old.txt": b"old"}), commit_message="first").oid
api.create_tag("ann/small", tag="v1")
results["tag again"] = error_of(api.create_tag, "ann/small", tag="v1")
Path("files/old.txt").unlink()
second = api.upload_folder(repo_id="ann/small", folder_path=folder(**{"sub/new.txt": b"new"}), delete_patterns="*").oid
results["unchanged"] = api.upload_folder(repo_id="ann/small", folder_path="files").oid == second
results["tree"] = sorted(item.path for item in api.list_repo_tree("ann/small", recursive=True, expand=True))
results["tagged"] = sorted(api.list_repo_files("ann/small", revision="v1"))
results["info"] = [(info.path, info.size, info.lfs.sha256 if info.lfs else None)
                   for info in api.get_paths_info("ann/small", ["model.safetensors", "README.md", "no"])]
refs = api.list_repo_refs("ann/small")
results["tag"] = [(tag.name, tag.target_commit == first) for tag in refs.tags]
results["branch"] = [(branch.name, branch.target_commit == second) for branch in refs.branches]
results["history"] = [commit.title for commit in api.list_repo_commits("ann/small")]
results["revision"] = api.model_info("ann/small", revision="v1").sha == first
api.create_branch("ann/small", branch="a/b", revision="v1")
results["branched"] = api.model_info("ann/small", revision="a/b").sha == first
api.delete_branch("ann/small", branch="a/b")
api.update_repo_settings("ann/small", private=False)
api.create_repo("ann/data", repo_type="dataset")
api.upload_file(repo_id="ann/data", repo_type="dataset", path_in_repo="a.parquet", path_or_fileobj=b"PAR1")
api.create_repo("ann/gone")
api.delete_repo("ann/gone")
"""
    results = ask(hub, tmp_path / "client", program)
    assert (results["me"], results["created"]) == ("ann", "ann/small")
    assert results["again"] == results["tag again"] == ["HfHubHTTPError", 409]
    assert results["tree"] == [".gitattributes", "README.md", "model.safetensors", "sub", "sub/new.txt"]  # over three pages
    assert results["tagged"] == [".gitattributes", "README.md", "model.safetensors", "old.txt"]
    assert results["info"][0] == ["model.safetensors", len(LARGE), hashlib.sha256(LARGE).hexdigest()]
    assert [one[0] for one in results["info"]] == ["model.safetensors", "README.md"]
    assert results["info"][1][2] is None  # a small text is not an LFS object
    assert results["tag"] == [["v1", True]]
    assert results["branch"] == [["main", True]]
    assert results["history"] == ["Upload folder using huggingface_hub", "first", "initial commit"]
    assert results["unchanged"]
    assert results["revision"]
    assert results["branched"]
    assert hub.repos() == ["ann/small", "datasets/ann/data"]
    assert hub.files("ann/small")["model.safetensors"] == LARGE == hub.files("ann/small", "v1")["model.safetensors"]
    assert sorted(hub.files("ann/small")) == ["README.md", "model.safetensors", "sub/new.txt"]
    assert hub.files("ann/data", repo_type="dataset") == {"a.parquet": b"PAR1"}
    assert not hub.is_private("ann/small")
    assert list(hub.tags("ann/small")) == ["v1"]
    # Large content is uploaded once, and transferred without the token: the storage is another host.
    sent = [request for request in hub.requests if request.path.startswith("/storage/")]
    assert [(request.method, request.body_bytes) for request in sent[:1]] == [("PUT", len(LARGE))]
    assert sum(request.body_bytes == len(LARGE) for request in sent) == 1
    assert {request.host.split(":")[0] for request in sent} == {"localhost"}
    assert [request.authorization for request in sent] == [None] * len(sent)
    with pytest.raises(KeyError, match="ann/gone"):
        hub.files("ann/gone")


def test_who_may_not_read_or_write_gets_the_clients_own_exceptions(hub, tmp_path):
    program = """
def looked(user, token):
    api = HfApi(token=token)
    download = lambda *words, **named: hf_hub_download(*words, **named, token=token, cache_dir=user)  # a cache for each user
    return {
        **{name: error_of(download, f"ann/{name}", "model.safetensors") for name in ("private", "gated", "public", "missing")},
        "revision": error_of(download, "ann/public", "model.safetensors", revision="v9"),
        "entry": error_of(download, "ann/public", "no.txt"),
        "write": error_of(api.upload_file, repo_id="ann/public", path_in_repo="x.txt", path_or_fileobj=b"x"),
        "create": error_of(api.create_repo, "ann/another"),
    }

for name in ("private", "gated", "public"):
    api.create_repo(f"ann/{name}", private=name == "private")
    api.upload_folder(repo_id=f"ann/{name}", folder_path=folder(**FILES))
api.update_repo_settings("ann/gated", gated="auto")
tokens = {"bob": "hf_bobWrites", "nobody": False, "reader": "hf_annReads", "wrong": "hf_notAToken"}
results = {user: looked(user, token) for user, token in tokens.items()}
"""
    bob, nobody, reader, wrong = ask(hub, tmp_path / "client", program).values()
    assert bob["private"] == ["RepositoryNotFoundError", 404] == bob["missing"]
    assert nobody["private"] == ["RepositoryNotFoundError", 401] == nobody["missing"]
    assert bob["gated"] == ["GatedRepoError", 403]
    assert nobody["gated"] == ["GatedRepoError", 401]
    assert bob["public"] is nobody["public"] is reader["public"] is reader["private"] is reader["gated"] is None
    for results in (bob, nobody, reader):
        assert results["revision"] == ["RevisionNotFoundError", 404]
        assert results["entry"] == ["RemoteEntryNotFoundError", 404]
    assert bob["write"] == bob["create"] == reader["write"] == reader["create"] == ["HfHubHTTPError", 403]
    assert nobody["create"] == ["HfHubHTTPError", 401]
    assert nobody["write"][1] == 401
    assert wrong["public"][1] == 401
    hub.repository("ann/gated").granted.add("bob")
    again = 'results["gated"] = error_of(hf_hub_download, "ann/gated", "model.safetensors")'
    assert ask(hub, tmp_path / "bob", again, token="hf_bobWrites")["gated"] is None
    assert "another" not in "".join(hub.repos())
    assert "x.txt" not in hub.files("ann/public")


def test_two_who_push_at_once_are_told_apart_by_the_parent_commit(hub, tmp_path):
    program = """
api.create_repo("ann/small")
head = api.model_info("ann/small").sha
add = CommitOperationAdd("a.txt", b"a")
api.create_commit("ann/small", [add], commit_message="mine", parent_commit=head)
other = CommitOperationAdd("b.txt", b"b")
results["late"] = error_of(api.create_commit, "ann/small", [other], commit_message="theirs", parent_commit=head)
results["nowhere"] = error_of(api.create_commit, "ann/small", [other], commit_message="x", revision="no-branch")
"""
    results = ask(hub, tmp_path / "client", program)
    assert results == {"late": ["HfHubHTTPError", 412], "nowhere": ["RevisionNotFoundError", 404]}
    assert hub.files("ann/small") == {"a.txt": b"a"}


def test_an_error_that_was_asked_for_reaches_the_caller(hub, tmp_path):
    statuses = [401, 403, 404, 409, 429, 500]
    for status in statuses:
        hub.fail_next(status=status, path_contains="/whoami", headers={"Retry-After": "0"})
    results = ask(hub, tmp_path / "client", 'results["all"] = [error_of(api.whoami) for _ in range(7)]')
    assert [error and error[1] for error in results["all"]] == [*statuses, None]
    assert [request.status for request in hub.requests if "whoami" in request.path] == [*statuses, 200]


def test_a_push_survives_errors_that_pass_and_connections_that_break(hub, tmp_path):
    hub.fail_next(status=429, path_contains="/preupload/", headers={"Retry-After": "0"})
    hub.fail_next(status=500, path_contains="objects/batch", times=2)
    hub.cut_next(method="PUT", path_contains="/storage/", after_bytes=100_000)
    program = """
api.create_repo("ann/small")
api.upload_folder(repo_id="ann/small", folder_path=folder(**FILES))
"""
    ask(hub, tmp_path / "client", program)
    assert hub.files("ann/small")["model.safetensors"] == LARGE
    uploads = [(request.status, request.body_bytes) for request in hub.requests if request.path.startswith("/storage/")]
    assert len(uploads) == 2
    assert uploads[0][0] == 0
    assert 100_000 <= uploads[0][1] < len(LARGE)
    assert uploads[1] == (200, len(LARGE))
    assert [request.status for request in hub.requests if "preupload" in request.path] == [429, 200]
    assert [request.status for request in hub.requests if request.path.endswith("/batch")] == [500, 500, 200]


def test_a_push_that_was_given_up_goes_on_without_sending_again_what_arrived(hub, tmp_path):
    hub.fail_next(status=403, method="POST", path_contains="/commit/")
    program = """
results["push"] = error_of(api.upload_folder, repo_id="ann/small", folder_path=folder(**FILES))
"""
    first = ask(hub, tmp_path / "client", 'api.create_repo("ann/small")\n' + program)
    assert first["push"] == ["HfHubHTTPError", 403]
    assert hub.files("ann/small") == {}
    before = len(hub.requests)
    assert ask(hub, tmp_path / "client", program)["push"] is None
    assert hub.files("ann/small")["model.safetensors"] == LARGE
    assert [request.path for request in hub.requests[before:] if request.method == "PUT"] == []


def test_an_answer_that_gets_lost_leaves_what_was_done(hub, tmp_path):
    hub.cut_next(method="POST", path_contains="/commit/", after_bytes=None)
    program = """
api.create_repo("ann/small")
results["lost"] = error_of(api.upload_folder, repo_id="ann/small", folder_path=folder(**FILES))
results["again"] = error_of(api.upload_folder, repo_id="ann/small", folder_path="files")
"""
    results = ask(hub, tmp_path / "client", program)
    assert results["lost"][0] == "RemoteProtocolError"
    assert results["again"] is None
    assert len(hub.repository("ann/small").history("main")) == 2  # pushed once, although the client saw an error


def test_a_download_that_breaks_goes_on_where_it_broke(hub, tmp_path):
    large = LARGE * 13  # the client writes chunks of 10 MiB
    path = hub.root / "models" / "ann" / "large" / "model.safetensors"
    path.parent.mkdir(parents=True)
    path.write_bytes(large)
    hub.cut_next(method="GET", path_contains="/resolve/", after_bytes=11 * 2**20)
    program = """
path = hf_hub_download("ann/large", "model.safetensors")
results["sha256"] = hashlib.sha256(Path(path).read_bytes()).hexdigest()
"""
    results = ask(hub, tmp_path / "reader", program, token=None)
    assert results["sha256"] == hashlib.sha256(large).hexdigest()
    downloads = [(request.status, request.range) for request in hub.requests if request.method == "GET" and request.status]
    assert downloads[-2:] == [(200, None), (206, f"bytes={10 * 2**20}-")]


def test_a_client_with_xet_on_pushes_in_several_commits_where_all_files_are_regular(tmp_path):
    with HubServer(tmp_path / "hub", tokens=TOKENS, large_files=False) as hub:
        assert "HF_HUB_DISABLE_XET" not in hub.environment(home=tmp_path)
        program = """
from huggingface_hub.utils._runtime import is_xet_available
results["xet"] = is_xet_available()
api.create_repo("ann/many")
api.upload_folder(repo_id="ann/many", folder_path=folder(**FILES, **{f"{number}.txt": b"%d" % number for number in range(300)}))
"""
        if not ask(hub, tmp_path / "client", program)["xet"]:
            pytest.skip("hf_xet is not installed; huggingface_hub asks for LFS then")
        assert len(hub.files("ann/many")) == 302
        assert hub.files("ann/many")["model.safetensors"] == LARGE
        assert len(hub.repository("ann/many").history("main")) == 3  # 250 files per commit, and the Hub's initial commit
