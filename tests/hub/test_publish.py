"""Publishing to a local Hub: private first, only what differs, verified, tagged; after an interruption only the rest (C1)."""

import importlib
import json
import logging
import re
import shutil
from pathlib import Path

import huggingface_hub.constants
import pytest
from conftest import run_python
from hub_server import HubServer, User
from huggingface_hub import HfApi
from recipes_in_process import load as load_recipe
from small_adapter import write_adapter

from hfgpt.arguments.publishing import PublishArguments
from hfgpt.artifacts import identify
from hfgpt.hub.publish import check_base, check_repo_id, check_tag, parts_of, prepare, publish
from hfgpt.hub.upload import look_at, sign_in

TOKEN, READ_ONLY = "hf_" + "aB3dE6gH9jK2mN5pQ8sT1vW4", "hf_" + "zY9xW8vU7tS6rQ5pO4nM3lK2"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    # The test suite is offline; the only Hub here is the one below, and every call names it.
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with HubServer(tmp_path / "hub", tokens={TOKEN: "me", READ_ONLY: User("me", "read")}) as server:
        yield server


@pytest.fixture
def api(hub):
    return HfApi(endpoint=hub.endpoint)


@pytest.fixture
def folder(small_run, tmp_path):
    """A copy of a trained model's folder that may be changed; several of its files go through LFS."""
    copy = Path(shutil.copytree(small_run, tmp_path / "mine" / "base"))
    (copy / "card.yaml").write_text("license: apache-2.0\nlanguage: en\n")
    assert (copy / "loss.png").is_file()
    return copy


def push(api, folder, workspace, *, repo="me/gpt", **options):
    """What recipes/publish.py does after the gate."""
    exports = [prepare(part, workspace, tag=options.get("tag")) for part in parts_of(folder, repo)]
    return exports, publish(exports, api=api, **options)


def uploads(hub, since=0):
    """The SHA-256 of every large file whose upload began, and the number of commits."""
    requests = hub.requests[since:]
    stored = [
        request.path.removeprefix("/storage/") for request in requests if request.method == "PUT" and "/storage/" in request.path
    ]
    return stored, sum(request.method == "POST" and "/commit/" in request.path for request in requests)


def test_a_new_repository_is_private_holds_the_export_and_is_tagged_by_its_weights(hub, api, folder, tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="hfgpt")
    ((prepared,), (published,)) = push(api, folder, tmp_path / "one")
    files = hub.files("me/gpt")
    assert {name: len(content) for name, content in files.items()} == {file.name: file.size for file in prepared.exported.files}
    assert files == {file.name: (prepared.exported.folder / file.name).read_bytes() for file in prepared.exported.files}
    assert {"README.md", "model.safetensors", "modeling_hfgpt.py"} <= set(files)
    assert b"me/gpt" in files["README.md"]
    assert hub.is_private("me/gpt")
    (weights,) = [file.sha256 for file in prepared.exported.files if file.name == "model.safetensors"]
    assert hub.tags("me/gpt") == {f"weights-{weights[:8]}": published.repository.commit}
    assert len(published.sent) == len(prepared.exported.files)
    assert f"{len(files)} files uploaded; all {prepared.exported.size:,} bytes match the SHA-256 of the export" in caplog.text
    assert {path.name for path in folder.iterdir()} - set(files) >= {"run.yaml", "card.yaml"}


def test_the_same_again_sends_nothing_and_a_change_sends_only_itself(hub, api, folder, tmp_path):
    (_, (first,)) = push(api, folder, tmp_path / "one")
    assert len(set(uploads(hub)[0])) == 3
    assert uploads(hub)[1] == 1
    before = len(hub.requests)
    (_, (second,)) = push(api, folder, tmp_path / "two")
    assert uploads(hub, before) == ([], 0)
    assert (second.sent, second.repository.commit) == ([], first.repository.commit)
    before = len(hub.requests)
    (folder / "card.yaml").write_text("license: mit\nlanguage: en\n")
    (_, (third,)) = push(api, folder, tmp_path / "three")
    assert [file.name for file in third.sent] == ["README.md"]
    assert uploads(hub, before) == ([], 1)
    # The tag names the weights, which have not changed, so it stays where it was.
    assert hub.tags("me/gpt") == {first.tag: first.repository.commit}
    assert third.repository.commit != first.repository.commit


# A broken upload


@pytest.fixture
def no_pauses(monkeypatch):
    """huggingface_hub waits up to 8 seconds between its attempts."""
    pauses = []
    monkeypatch.setattr("time.sleep", pauses.append)
    return pauses


def test_a_cut_connection_is_tried_again_by_huggingface_hub(hub, api, folder, tmp_path, no_pauses):
    hub.cut_next(path_contains="/storage/", after_bytes=10_000)
    (_, (published,)) = push(api, folder, tmp_path / "one")
    assert len(uploads(hub)[0]) == 4  # three files, one of them twice
    assert no_pauses
    assert hub.files("me/gpt")["model.safetensors"] == (folder / "model.safetensors").read_bytes()
    assert published.tag in hub.tags("me/gpt")


@pytest.mark.parametrize("how", ["cut", "500", "commit"])
def test_after_a_broken_upload_the_same_command_sends_the_rest_only(hub, api, folder, tmp_path, no_pauses, how):
    ((prepared,), _) = push(api, folder, tmp_path / "elsewhere", repo="me/first")  # to get the hashes
    sha256 = {file.name: file.sha256 for file in prepared.exported.files}
    hub.large_objects.clear()
    broken = {"path_contains": "/commit/" if how == "commit" else sha256["model.safetensors"], "times": 20}
    if how == "cut":
        hub.cut_next(after_bytes=10_000, **broken)
    else:
        hub.fail_next(status=500, **broken)
    with pytest.raises(ConnectionError, match="uploading .* files to me/gpt failed: .* to upload only the rest") as failure:
        push(api, folder, tmp_path / "one")
    assert "500" in str(failure.value) or how == "cut"
    assert "\n" not in str(failure.value)
    assert "http://" not in str(failure.value)  # addresses of a storage provider carry signatures
    assert hub.files("me/gpt") == {}  # no incomplete model can be loaded
    assert hub.is_private("me/gpt")
    assert hub.tags("me/gpt") == {}
    assert sha256["loss.png"] in hub.large_objects
    hub._faults.clear()
    before = len(hub.requests)
    push(api, folder, tmp_path / "two")
    assert uploads(hub, before)[0] == ([] if how == "commit" else [sha256["model.safetensors"]])
    assert set(hub.files("me/gpt")) == set(sha256)


def test_a_hub_that_asks_for_a_pause_ends_in_one_sentence(hub, api, folder, tmp_path, no_pauses):
    hub.fail_next(status=429, path_contains="/api/repos/create", times=20)
    with pytest.raises(ConnectionError, match=r"creating me/gpt failed: the Hub limits the rate of requests \(429\)"):
        push(api, folder, tmp_path / "one")
    assert hub.repos() == []


# Visibility and existing content


def test_it_is_public_only_after_every_file_has_been_compared(hub, api, folder, tmp_path, no_pauses):
    (_, (published,)) = push(api, folder, tmp_path / "one", public=True)
    assert not hub.is_private("me/gpt")
    assert not published.repository.private
    order = [request.path.split("/")[5] for request in hub.requests if request.path.startswith("/api/models/me/gpt/")]
    assert order.index("commit") < len(order) - 1 - order[::-1].index("tree") < order.index("tag") < order.index("settings")
    # The list of files after the commit does not arrive, so nothing is called complete.
    hub.fail_next(status=503, path_contains="/api/models/me/other/refs", times=40)
    with pytest.raises(ConnectionError, match=r"the Hub has a server error \(503\)"):
        push(api, folder, tmp_path / "two", repo="me/other", public=True)
    assert hub.is_private("me/other")
    assert hub.tags("me/other") == {}


def test_other_bytes_on_the_hub_are_noticed_before_anything_is_public(hub, api, folder, tmp_path):
    exports = [prepare(part, tmp_path / "one") for part in parts_of(folder, "me/gpt")]
    config = exports[0].exported.folder / "config.json"
    config.write_text(config.read_text().replace('"use_cache": true', '"use_cache":  1'))  # changed after hashing
    with pytest.raises(OSError, match=r"me/gpt does not contain what was uploaded \(config.json differ in SHA-256"):
        publish(exports, api=api, public=True)
    assert hub.is_private("me/gpt")
    assert hub.tags("me/gpt") == {}


def test_a_public_repository_stays_public_and_its_other_files_stay_unless_asked(hub, api, folder, tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="hfgpt")
    api.create_repo("me/gpt", private=False)
    api.upload_file(path_or_fileobj=b"old", path_in_repo="pytorch_model.bin", repo_id="me/gpt")
    push(api, folder, tmp_path / "one")
    assert not hub.is_private("me/gpt")
    assert "me/gpt: is already public and stays public" in caplog.text
    assert "1 file not in the export, kept (--delete_others true deletes such files): pytorch_model.bin" in caplog.text
    assert hub.files("me/gpt")["pytorch_model.bin"] == b"old"
    push(api, folder, tmp_path / "two", delete_others=True)
    assert "pytorch_model.bin" not in hub.files("me/gpt")
    assert "model.safetensors" in hub.files("me/gpt")


def test_a_tag_with_other_content_is_refused_before_anything_is_sent(hub, api, folder, tmp_path):
    (_, (first,)) = push(api, folder, tmp_path / "one", tag="v1.0")
    push(api, folder, tmp_path / "two", tag="v1.0")  # the same content: nothing to refuse
    (folder / "card.yaml").write_text("license: mit\n")
    before = len(hub.requests)
    with pytest.raises(ValueError, match=r"tag v1\.0 of me/gpt has different content \(README\.md\) .* give a new one with --tag"):
        push(api, folder, tmp_path / "three", tag="v1.0")
    assert uploads(hub, before) == ([], 0)
    assert hub.tags("me/gpt") == {"v1.0": first.repository.commit}
    (_, (third,)) = push(api, folder, tmp_path / "four", tag="v1.1")
    assert hub.tags("me/gpt") == {"v1.0": first.repository.commit, "v1.1": third.repository.commit}


# Permissions


@pytest.mark.parametrize(
    ("token", "namespace", "message"),
    [
        (None, "me", "publishing needs a token for .*: run `hf auth login`, or set HF_TOKEN"),
        (READ_ONLY, "me", "the token of me is read-only"),
        ("hf_" + "unknownToTheHub123456789", "me", r"the Hub does not know this token \(401\)"),
        (TOKEN, "somebody", "me cannot publish under 'somebody'; this token can write under 'me': give"),
    ],
)
def test_who_may_not_publish_is_told_before_anything_is_sent(hub, api, tmp_path, monkeypatch, token, namespace, message):
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(PermissionError, match=message) as refusal:
        sign_in(api, [namespace])
    assert "Nothing was uploaded." in str(refusal.value)
    assert not token or token not in str(refusal.value)
    assert [request.path for request in hub.requests if request.method != "GET"] == []


def test_whoever_may_is_named(hub, api):
    assert sign_in(api, ["me"]) == "me"


def test_the_token_goes_to_the_hub_alone_and_into_no_file(hub, api, folder, tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    push(api, folder, tmp_path / "one")
    received = hub.everything_received()
    assert len(received) > 5
    assert not [name for name, content in received.items() if TOKEN.encode() in content]
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and TOKEN.encode() in path.read_bytes()]
    assert TOKEN not in caplog.text
    hosts = {request.host.split(":")[0] for request in hub.requests if request.authorization}
    assert hosts == {"127.0.0.1"}
    assert [request for request in hub.requests if request.host.startswith("localhost")]  # storage, which does not get the token


# Adapters

LOAD = """
import json, sys, torch
from peft import AutoPeftModelForCausalLM
from transformers import AutoModelForCausalLM, AutoTokenizer
ids = torch.tensor([[5, 9, 11, 3, 96]])
models = {
    "adapter": AutoPeftModelForCausalLM.from_pretrained("me/lora", trust_remote_code=True),
    "merged": AutoModelForCausalLM.from_pretrained("me/lora-merged", trust_remote_code=True),
    "base": AutoModelForCausalLM.from_pretrained("me/lora-base", trust_remote_code=True, revision=sys.argv[1]),
}
with torch.no_grad():
    print(json.dumps({name: model.eval()(ids).logits.tolist() for name, model in models.items()}))
"""


@pytest.mark.slow
def test_an_adapter_names_the_commit_of_its_base_and_loads_as_its_merged_twin_does(hub, api, small_run, stranger, tmp_path):
    import torch
    from transformers import AutoModelForCausalLM

    lora = write_adapter(small_run, tmp_path / "mine" / "lora")
    parts = parts_of(lora, "me/lora")
    assert [(part.name, part.repo_id) for part in parts] == [
        ("base", "me/lora-base"), ("adapter", "me/lora"), ("merged", "me/lora-merged"),
    ]  # fmt: skip
    exports = [prepare(part, tmp_path / "one", base_repo_id="me/lora-base") for part in parts]
    done = {published.part.name: published for published in publish(exports, api=api)}
    settings = json.loads(hub.files("me/lora")["adapter_config.json"])
    commit = done["base"].repository.commit
    assert (settings["base_model_name_or_path"], settings["revision"]) == ("me/lora-base", commit)
    assert "model.safetensors" not in hub.files("me/lora")
    assert all(hub.is_private(name) for name in ("me/lora", "me/lora-base", "me/lora-merged"))
    # The base changes on the Hub, but the adapter still asks for the commit that it was made for.
    api.upload_file(path_or_fileobj=b"nothing to load", path_in_repo="model.safetensors", repo_id="me/lora-base")
    environment = {**hub.environment(home=tmp_path / "home", token=TOKEN), **stranger, "HF_HUB_OFFLINE": "0"}
    loaded = run_python("-S", "-c", LOAD, commit, cwd=tmp_path, env=environment)
    assert loaded.returncode == 0, loaded.stderr
    logits = {name: torch.tensor(values) for name, values in json.loads(loaded.stdout.splitlines()[-1]).items()}
    assert (logits["adapter"] - logits["merged"]).abs().max() < 1e-4
    assert (logits["adapter"] - logits["base"]).abs().max() > 1e-2
    with torch.no_grad():
        ours = AutoModelForCausalLM.from_pretrained(lora / "merged").eval()(torch.tensor([[5, 9, 11, 3, 96]])).logits
    assert (logits["merged"] - ours).abs().max() < 1e-4
    # A base that is already on the Hub is compared by the SHA-256 of its files.
    assert "its weight files have the same SHA-256 as those in base/" in check_base(
        api, identify(lora), look_at(api, "me/lora-base", "model", revision=commit)
    )
    (lora / "passport.json").unlink()
    with pytest.raises(ValueError, match=r"me/lora-base has different files than .*base, and no passport\.json says"):
        check_base(api, identify(lora), look_at(api, "me/lora-base", "model"))


@pytest.mark.slow
def test_each_part_is_exported_scanned_and_opened_once_and_what_was_opened_is_sent(hub, small_run, tmp_path, monkeypatch):
    """Run recipes/publish.py in this process with nothing skipped: the doors are opened, too.

    tests/hub/test_check.py opens a merged model; here two parts take one process less.
    """
    counts = dict.fromkeys(("export", "scan", "open_as_stranger"), 0)
    opened: dict[str, dict[str, bytes]] = {}

    def counted(place: str) -> None:
        module, _, name = place.rpartition(".")
        original = getattr(importlib.import_module(module), name)

        def wrapper(first, *rest, **more):
            counts[name] += 1
            if name == "open_as_stranger":
                folder = Path(first["folder"])
                opened[folder.name] = {path.name: path.read_bytes() for path in folder.iterdir()}
            return original(first, *rest, **more)

        monkeypatch.setattr(place, wrapper)

    for place in ("publish.export", "gate.check.export", "gate.check.scan", "gate.check.open_as_stranger"):
        counted(f"hfgpt.hub.{place}")
    folder = write_adapter(small_run, tmp_path / "mine" / "lora")
    (folder / "card.yaml").write_text("license: apache-2.0\n")
    publishing = load_recipe("publish")
    monkeypatch.setattr(publishing, "HfApi", lambda: HfApi(endpoint=hub.endpoint))
    publishing.main(PublishArguments(folder=str(folder), repo="me/lora", push=True, parts=["base", "adapter"]))
    assert counts == {"export": 3, "scan": 2, "open_as_stranger": 2}  # the adapter is also compared with its merged twin
    sent = {name: hub.files(name) for name in hub.repos()}
    assert {name.replace("/", "--") for name in sent} == set(opened)
    for name, files in sent.items():
        of_stranger = opened[name.replace("/", "--")]
        assert files.keys() == of_stranger.keys()
        changed = [one for one in files if files[one] != of_stranger[one]]
        assert changed == (["adapter_config.json"] if name == "me/lora" else [])
    # The one value that is known only once the base is uploaded.
    before, after = (json.loads(files["adapter_config.json"]) for files in (opened["me--lora"], sent["me/lora"]))
    assert before["base_model_name_or_path"] == "me/lora-base"
    assert after == before | {"revision": hub.repository("me/lora-base").resolve("main")}


def test_a_base_that_is_on_the_hub_is_known_by_its_weights_whatever_its_files(hub, api, small_run, tmp_path, monkeypatch):
    from safetensors.torch import load_file, save_file

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    artifact = identify(write_adapter(small_run, tmp_path / "mine" / "lora"))
    weights = load_file(artifact.base / "model.safetensors")
    for name, change in (("same", 0.0), ("other", 1e-3)):
        copy = Path(shutil.copytree(artifact.base, tmp_path / name))
        changed = {key: tensor + change for key, tensor in weights.items()}
        save_file(changed, copy / "model.safetensors", metadata={"format": "pt", "note": "another file"})
        api.create_repo(f"me/{name}")
        api.upload_folder(repo_id=f"me/{name}", folder_path=copy)
    same, other = (look_at(api, f"me/{name}", "model") for name in ("same", "other"))
    assert check_base(api, artifact, same) == "its weights have the SHA-256 recorded in the adapter's passport.json"
    trained_on = json.loads((artifact.folder / "passport.json").read_text())["base"]["sha256"]
    with pytest.raises(ValueError, match=f"me/other at {other.commit[:8]} has weights with the SHA-256 .*trained on {trained_on}"):
        check_base(api, artifact, other)
    api.upload_file(path_or_fileobj=b"no weights", path_in_repo="model.safetensors", repo_id="me/other")
    with pytest.raises(ValueError, match="me/other is not a model that loads as a base"):
        check_base(api, artifact, look_at(api, "me/other", "model"))


def test_parts_are_those_that_are_there(small_run, small_rows, small_tokenizer, tmp_path):
    assert [(part.name, part.repo_type) for part in parts_of(small_rows, "me/rows")] == [("dataset", "dataset")]
    assert [(part.name, part.repo_type) for part in parts_of(small_tokenizer, "me/words")] == [("tokenizer", "model")]
    with pytest.raises(ValueError, match="is a model; only adapters have parts and a base"):
        parts_of(small_run, "me/gpt", names=["merged"])
    lora = write_adapter(small_run, tmp_path / "lora")
    assert [part.repo_id for part in parts_of(lora, "me/x", base_repo_id="you/base")] == ["me/x", "me/x-merged"]
    assert [part.name for part in parts_of(lora, "me/x", names=["adapter", "base"])] == ["base", "adapter"]
    with pytest.raises(ValueError, match="parts has 'mergd'; allowed: base, adapter, merged"):
        parts_of(lora, "me/x", names=["mergd"])
    with pytest.raises(ValueError, match="the adapter would be published without its base"):
        parts_of(lora, "me/x", names=["adapter"])
    shutil.rmtree(lora / "merged")
    with pytest.raises(ValueError, match=r"parts has 'merged', but .* has no merged/"):
        parts_of(lora, "me/x", names=["base", "merged"])


@pytest.mark.parametrize(
    "name", ["gpt", "me/", "me/a/b", "me/a b", "me/a--b", "me/../b", "me/g.git", "me/x\n", "/me/gpt", "", "me/" + "x" * 97]
)
def test_what_is_no_place_on_the_hub_is_refused(name):
    with pytest.raises(ValueError, match="Give USER/NAME|give USER/NAME"):
        check_repo_id(name)


@pytest.mark.parametrize("tag", ["main", "a b", "v1..2", "-v", "v1.lock", "refs/tags/x", "1a2b3c4d", "", "v1\n"])
def test_what_is_no_tag_is_refused(tag):
    with pytest.raises(ValueError, match=f"tag {re.escape(repr(tag))} "):
        check_tag(tag)
    assert check_tag("v1.0") == "v1.0"


@pytest.mark.parametrize("kind", ["rows", "tokenizer"])
def test_prepared_data_and_tokenizers_have_a_place_and_a_tag_of_their_own(hub, api, small_rows, small_tokenizer, tmp_path, kind):
    folder = {"rows": small_rows, "tokenizer": small_tokenizer}[kind]
    (_, (published,)) = push(api, folder, tmp_path, repo=f"me/{kind}")
    assert hub.repos() == [f"datasets/me/{kind}" if kind == "rows" else f"me/{kind}"]
    repo_type = "dataset" if kind == "rows" else "model"
    assert published.tag.startswith("data-" if kind == "rows" else "tokenizer-")
    assert hub.tags(f"me/{kind}", repo_type) == {published.tag: published.repository.commit}
    assert hub.is_private(f"me/{kind}", repo_type)
    assert "README.md" in hub.files(f"me/{kind}", repo_type=repo_type)
