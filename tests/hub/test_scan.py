"""What must not leave this machine is found in the raw bytes; nothing in the folder is loaded for this (C2, C4, C6, C7)."""

import hashlib
import json
import os
import pickle
import socket
import zipfile
from pathlib import Path

import pytest
import torch
from gate_folders import change_json, copy_of, good_model, replace
from safetensors.torch import load_file, save_file

from hfgpt.artifacts import identify
from hfgpt.hub.gate.check import check_folder
from hfgpt.hub.gate.scan import is_pickle, scan


@pytest.fixture(scope="module")
def good(tmp_path_factory, small_tokenizer) -> Path:
    return good_model(tmp_path_factory.mktemp("scan") / "base", small_tokenizer)


@pytest.fixture
def folder(good, tmp_path) -> Path:
    return copy_of(good, tmp_path / "copy")


def scanned(folder: Path) -> dict:
    """The results by name; the folder itself stands in for its export."""
    artifact = identify(folder)
    return {result.name: result for result in scan(artifact, folder, artifact.files())}


def only_failure(folder: Path, name: str, *words: str) -> None:
    results = scanned(folder)
    assert [result.name for result in results.values() if result.status == "fail"] == [name]
    for word in words:
        assert word in results[name].detail
    assert results[name].cure


def test_a_good_folder_has_nothing_to_hide(good):
    results = scanned(good)
    assert {result.status for result in results.values()} == {"pass"}
    assert len(results) >= 6


PATHS = [
    "/home/alice/runs/base",
    "/Users/alice/gpt",
    r"C:\\Users\\alice\\gpt",
    "/root/.cache/x",
    "/tmp/tmpa1b2",
    "{folder}/base",
    "{cwd}/runs",
]


@pytest.mark.parametrize("place", PATHS)
def test_a_path_of_the_training_machine_is_named_with_file_and_line(folder, place):
    place = place.format(folder=folder, cwd=Path.cwd())
    replace(folder / "generation_config.json", f'{{"eos_token_id": 0,\n "source": "{place}"}}')
    only_failure(folder, "no path of this machine", "generation_config.json, line 2")


def test_the_name_of_the_machine_is_found_where_it_is_one(folder, monkeypatch):
    replace(folder / "README.md", (folder / "README.md").read_text() + "\nTrained on laptop and on gpu-node-17.\n")
    monkeypatch.setattr(socket, "gethostname", lambda: "laptop")
    assert scanned(folder)["no path of this machine"].status == "pass"
    monkeypatch.setattr(socket, "gethostname", lambda: "gpu-node-17")
    only_failure(folder, "no path of this machine", "README.md", "gpu-node-17")


def test_addresses_and_hub_ids_are_no_paths(folder):
    text = "See https://example.org/home/alice/x, https://huggingface.co/root/tmp and alice/home/base; a/tmp/b, s/root/x.\n"
    replace(folder / "README.md", (folder / "README.md").read_text() + text)
    assert scanned(folder)["no path of this machine"].status == "pass"


# Assembled here, so that no scanner reports this file as a leak.
SECRETS = {
    "a Hugging Face token": "hf_" + "Ab1" * 12,
    "an API key": "sk-" + "proj-4f" * 5,
    "an AWS key": "AKIA" + "ABCD1234" * 2,
    "a GitHub token": "ghp_" + "a1B2" * 9,
    "a private key": "-----BEGIN OPENSSH " + "PRIVATE KEY-----",
}


@pytest.mark.parametrize("what", SECRETS)
def test_a_secret_is_found_and_not_repeated(folder, what):
    replace(folder / "chat_template.jinja", "{# " + SECRETS[what] + " #}\n" + (folder / "chat_template.jinja").read_text())
    only_failure(folder, "no secret", f"chat_template.jinja, line 1 holds {what}")
    assert SECRETS[what] not in str(scanned(folder))


def test_a_secret_in_the_metadata_of_the_weights_is_found(folder):
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt", "note": SECRETS["a Hugging Face token"]})
    only_failure(folder, "no secret", "model.safetensors holds a Hugging Face token")


def test_words_that_only_begin_like_a_secret_are_none(folder):
    replace(folder / "README.md", (folder / "README.md").read_text() + "\nsk-learn-like-estimators-are-many, task-based, hf_hub.\n")
    assert scanned(folder)["no secret"].status == "pass"


class Bomb:
    def __init__(self, place: Path):
        self.place = place

    def __reduce__(self):
        return (os.mkdir, (str(self.place),))


@pytest.mark.parametrize("disguise", ["pickle", "torch"])
def test_a_pickle_in_the_clothes_of_safetensors_is_refused_and_never_loaded(folder, tmp_path, disguise):
    (folder / "model.safetensors").unlink()
    if disguise == "torch":
        torch.save(Bomb(tmp_path / "ran"), folder / "model.safetensors")
        assert zipfile.is_zipfile(folder / "model.safetensors")
    else:
        replace(folder / "model.safetensors", pickle.dumps(Bomb(tmp_path / "ran")))
    report = check_folder(folder, seconds=1)  # no need to wait for the doors
    failed = {result.name for result in report.failures}
    assert {"no pickle", "safetensors"} <= failed
    assert not (tmp_path / "ran").exists()


def test_pickles_beside_the_weights_stay_here_and_are_told_of(folder, tmp_path):
    for name in ("pytorch_model.bin", "training_args.bin", "optimizer.pt", "notes.pkl"):
        replace(folder / name, pickle.dumps(Bomb(tmp_path / "ran")))
    replace(folder / ".env", "HF_TOKEN=x")
    replace(folder / "id_rsa", "x")
    replace(folder / "server.pem", "x")
    results = scanned(folder)
    assert results["no pickle"].status == "pass"
    assert results["left here"].status == "warn"
    for name in ("pytorch_model.bin", "training_args.bin", "optimizer.pt", "notes.pkl", ".env", "id_rsa"):
        assert name in results["left here"].detail or "more" in results["left here"].detail
        assert Path(name) not in identify(folder).files()
    assert not (tmp_path / "ran").exists()
    assert is_pickle(folder / "notes.pkl")


def test_a_needed_file_that_leads_out_of_the_folder_closes_the_gate_by_its_name(folder, tmp_path):
    replace(tmp_path / "secret.json", "{}")
    (folder / "generation_config.json").unlink()
    (folder / "generation_config.json").symlink_to(tmp_path / "secret.json")
    report = check_folder(folder)
    assert [(result.name, result.status) for result in report.results] == [("export", "fail")]
    assert "generation_config.json is a link to" in report.results[0].detail
    assert not report.passed


def test_values_that_are_not_finite_are_named(folder):
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][0, 0] = float("nan")
    (folder / "model.safetensors").unlink()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    only_failure(folder, "safetensors", "model.layers.1.mlp.up_proj.weight contains values that are not finite")


def test_weights_that_are_cut_off_are_named(folder):
    replace(folder / "model.safetensors", (folder / "model.safetensors").read_bytes()[:-100])
    only_failure(folder, "safetensors", "model.safetensors is not a safetensors file")


def test_code_that_is_not_ours_is_named_by_its_hash(folder):
    code = (folder / "norms_hfgpt.py").read_bytes() + b"\n# changed\n"
    replace(folder / "norms_hfgpt.py", code)
    result = scanned(folder)["code as shipped"]
    assert result.status == "warn"
    assert f"norms_hfgpt.py (SHA-256 {hashlib.sha256(code).hexdigest()})" in result.detail


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("from .attention_hfgpt import x", "from .attention_hfgpt is not beside it"),
        ("from ..model import x", "from ..model is not beside it"),
        ("from hfgpt.tokenization import x", "imports hfgpt, which strangers do not have"),
        ("import hfgpt.data", "imports hfgpt, which strangers do not have"),
        ("def broken(:", "is not valid Python"),
    ],
)
def test_code_that_a_stranger_could_not_import_is_named(folder, line, sentence):
    replace(folder / "loss_hfgpt.py", (folder / "loss_hfgpt.py").read_text() + f"\n{line}\n")
    only_failure(folder, "code is complete", "loss_hfgpt.py", sentence)


def test_a_lost_file_of_code_is_missed_by_whoever_imports_it(folder):
    (folder / "loss_hfgpt.py").unlink()
    only_failure(folder, "code is complete", "modeling_hfgpt.py, line", "from .loss_hfgpt")


def test_a_path_in_the_data_itself_is_the_data(folder):
    """A tokenizer contains words of the corpus: paths of another machine are not leaks, paths of this one are."""
    vocabulary = json.loads((folder / "tokenizer.json").read_text())
    change_json(folder / "tokenizer.json", added_tokens=[*vocabulary["added_tokens"], {"id": 600, "content": "/home/alice/x"}])
    assert scanned(folder)["no path of this machine"].status == "pass"
    change_json(folder / "tokenizer.json", added_tokens=[{"id": 600, "content": f"{folder}/x"}])
    assert scanned(folder)["no path of this machine"].status == "fail"
