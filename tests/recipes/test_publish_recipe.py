"""recipes/publish.py as a user runs it: a dry run without token or network, the gate, a push, and what others then load."""

import json
import re
import shutil
from functools import partial
from pathlib import Path

import huggingface_hub.constants
import pytest
from conftest import ROOT, run_python
from hub_server import HubServer
from huggingface_hub import HfApi, ModelCard
from recipes_in_process import recipe, run_script
from transformers import AutoTokenizer

TOKEN = "hf_" + "aB3dE6gH9jK2mN5pQ8sT1vW4"


def owned(folder, target):
    """A copy of a folder, with a licence set by its owner."""
    copy = Path(shutil.copytree(folder, target))
    (copy / "card.yaml").write_text("license: apache-2.0\nlanguage: en\n")
    return copy


@pytest.fixture
def hub(tmp_path, monkeypatch):
    # The test suite is offline; the only Hub here is the one below, and every call names it.
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    with HubServer(tmp_path / "hub", tokens={TOKEN: "me"}) as server:
        yield server


def publish(hub, home, *words, token=TOKEN, **more):
    environment = {**hub.environment(home=home, token=token), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "0", **more}
    done = run_python(ROOT / "recipes" / "publish.py", *words, cwd=home.parent, env=environment)
    assert "Traceback" not in done.stderr, done.stderr
    assert TOKEN not in done.stdout + done.stderr
    return done


@pytest.fixture
def publish_here(hub, tmp_path, monkeypatch):
    """`publish` without the seconds that a new process takes."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr("huggingface_hub.HfApi", partial(HfApi, endpoint=hub.endpoint))

    def run(*words, token=TOKEN):
        monkeypatch.setenv("HF_TOKEN", token or "")
        done = run_script("publish.py", *words)
        assert TOKEN not in done.stdout + done.stderr
        return done

    return run


def difference(hub, repo, folder, stranger, tmp_path, *, token=None, **options) -> float:
    """How far the logits of `repo` are from those of the folder, without hfgpt; `options` are for loading `repo`.

    Its tokenizer gives the ids that the folder's gives here.
    """
    code = (
        "import json, sys, torch; from transformers import AutoModelForCausalLM as Auto, AutoTokenizer\n"
        "options = json.loads(sys.argv[3])\n"
        "one = Auto.from_pretrained(sys.argv[1], **options).eval()\n"
        "two = Auto.from_pretrained(sys.argv[2], trust_remote_code=True).eval()\n"
        "ids = AutoTokenizer.from_pretrained(sys.argv[1], **options)('import os.path').input_ids\n"
        "print(ids)\n"
        "print((one(torch.tensor([ids])).logits - two(torch.tensor([ids])).logits).abs().max().item())"
    )
    environment = {**hub.environment(home=tmp_path / "stranger", token=token), **stranger, "HF_HUB_OFFLINE": "0"}
    loaded = run_python("-S", "-c", code, repo, folder, json.dumps(options), cwd=tmp_path, env=environment)
    assert loaded.returncode == 0, loaded.stderr
    ids, largest = map(json.loads, loaded.stdout.splitlines()[-2:])
    assert ids == AutoTokenizer.from_pretrained(folder)("import os.path").input_ids
    return largest


def refused(done):
    assert done.returncode == 1, done.stdout + done.stderr
    (sentence,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    return sentence


@pytest.mark.slow
def test_a_dry_run_lists_every_file_and_with_push_exactly_these_are_sent(hub, small_tokenizer, tmp_path):
    folder = owned(small_tokenizer, tmp_path / "mine" / "words")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != "README.md"}
    dry = publish(hub, tmp_path / "home", folder, "--repo", "me/words", token=None, HF_HUB_OFFLINE="1")
    assert dry.returncode == 0, dry.stdout + dry.stderr
    assert hub.requests == []
    listed = {name: int(size.replace(",", "")) for size, name in re.findall(r"^ +([\d,]+)  (\S+)$", dry.stdout, re.MULTILINE)}
    tag = re.search(r"^me/words \(tokenizer, a model repository\), tag (tokenizer-[0-9a-f]{8})$", dry.stdout, re.MULTILINE)[1]
    assert re.search(rf"^check of {folder}: passed: \d+, failed: 0", dry.stdout, re.MULTILINE)
    assert f"dry run: nothing was uploaded. To upload {sum(listed.values()):,} bytes in {len(listed)} files:" in dry.stdout
    next_words = dry.stdout.splitlines()[-1].removeprefix(f"next: python {ROOT / 'recipes' / 'publish.py'} ").split()
    assert next_words == [str(folder), "--repo", "me/words", "--push", "true"]

    # The command it prints as the next step works.
    sent = publish(hub, tmp_path / "home", *next_words)
    assert sent.returncode == 0, sent.stdout + sent.stderr
    files = hub.files("me/words")
    assert {name: len(content) for name, content in files.items()} == listed
    assert {"README.md", "tokenizer.json", "passport.json"} <= set(files)
    assert hub.is_private("me/words")
    assert list(hub.tags("me/words")) == [tag]
    assert f"published: {hub.endpoint}/me/words (private), tag {tag}" in sent.stdout
    assert not [name for name, content in files.items() if TOKEN.encode() in content or str(tmp_path).encode() in content]
    assert {path: path.read_bytes() for path in before} == before
    assert [path.name for path in folder.parent.iterdir()] == ["words"]  # the export is gone


@pytest.mark.slow
def test_a_stranger_loads_by_its_tag_the_model_that_was_trained(hub, small_run, stranger, tmp_path):
    folder = owned(small_run, tmp_path / "mine" / "base")
    sent = publish(hub, tmp_path / "home", folder, "--repo", "me/gpt", "--push", "true", "--public", "true", "--tag", "v1.0")
    assert sent.returncode == 0, sent.stdout + sent.stderr
    assert f"published: {hub.endpoint}/me/gpt (public), tag v1.0" in sent.stdout
    assert {"config.json", "model.safetensors", "fingerprint.json", "modeling_hfgpt.py"} <= set(hub.files("me/gpt"))
    assert not [name for name, content in hub.everything_received().items() if TOKEN.encode() in content]
    later = dict(path_in_repo="model.safetensors", path_or_fileobj=b"spoiled later")
    HfApi(endpoint=hub.endpoint, token=TOKEN).upload_file(repo_id="me/gpt", **later)
    before = len(hub.requests)
    assert difference(hub, "me/gpt", folder, stranger, tmp_path, revision="v1.0", trust_remote_code=True) == 0.0
    asked = hub.requests[before:]
    assert {request.user for request in asked} == {None}
    assert [request.path.startswith("/storage/") for request in asked].count(True) == 1  # only the weights, through LFS


@pytest.mark.slow
def test_a_native_twin_is_loaded_without_code_and_a_gguf_file_arrives_whole(hub, publish_here, small_run, stranger, tmp_path):
    pytest.importorskip("gguf", reason="needs the package gguf, an extra")
    for target, words in (("native", {}), ("gguf", {"gguf_type": "q8_0"})):
        recipe("convert", source=str(small_run), target=target, output_dir=str(tmp_path / target), **words)
        folder = owned(tmp_path / target, tmp_path / "mine" / target)
        sent = publish_here(folder, "--repo", f"me/{target}", "--push", "true")
        assert sent.returncode == 0, sent.stdout + sent.stderr
    assert "base_model" not in ModelCard(hub.files("me/native")["README.md"].decode()).data.to_dict()  # no Hub id is known
    assert not [name for name in hub.files("me/native") if name.endswith(".py")]
    assert difference(hub, "me/native", small_run, stranger, tmp_path, token=TOKEN) < 1e-5
    files = hub.files("me/gguf")
    assert files["gguf-q8_0.gguf"] == (tmp_path / "gguf" / "gguf-q8_0.gguf").read_bytes()
    assert {"Modelfile", "README.md", "conversion.json"} <= set(files)


@pytest.mark.slow
def test_a_folder_that_fails_the_gate_is_not_sent(hub, publish_here, small_tokenizer, tmp_path):
    folder = owned(small_tokenizer, tmp_path / "words")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "note": "made in /home/jane/words"}))
    done = publish_here(folder, "--repo", "me/words", "--push", "true")
    assert "did not pass the check above, so nothing was uploaded" in refused(done)
    assert re.search(r"^fail +no path of this machine +.*/home/jane", done.stdout, re.MULTILINE)
    assert {request.method for request in hub.requests} == {"GET"}
    assert hub.repos() == []


@pytest.mark.slow
def test_without_a_token_a_push_ends_at_once_in_one_sentence(hub, publish_here, small_tokenizer):
    sentence = refused(publish_here(small_tokenizer, "--repo", "me/words", "--push", "true", token=None))
    assert "publishing needs a token for" in sentence
    assert "run `hf auth login`, or set HF_TOKEN" in sentence
    assert hub.requests == []


def test_a_token_anywhere_in_the_arguments_is_refused_without_saying_it():
    from hfgpt.arguments.parsing import parse_arguments
    from hfgpt.arguments.publishing import PublishArguments

    for words in ({"repo": f"me/{TOKEN}"}, {"tag": TOKEN}, {"parts": ["base", TOKEN]}, {"token": "anything"}, {"folder": TOKEN}):
        with pytest.raises(
            ValueError,
            match=f"{'a token is given' if 'token' in words else f'{next(iter(words))} contains a token'}. Tokens are not accepted",
        ) as refusal:
            PublishArguments(**({"folder": "x", "repo": "me/gpt"} | words))
        assert TOKEN not in str(refusal.value)
    with pytest.raises(ValueError, match="a token is given. .* use `hf auth login` or HF_TOKEN"):
        parse_arguments(PublishArguments, ["x", "--repo", "me/gpt", "--token", TOKEN])
    with pytest.raises(ValueError, match="base_revision is v1, but base_repo is missing"):
        PublishArguments(folder="x", repo="me/gpt", base_revision="v1")
    astray = run_script("publish.py", "x", TOKEN, "--repo", "me/gpt")
    assert (astray.returncode, astray.stdout) == (1, "")
    assert astray.stderr.startswith("error: on the command line, 'hf_***' belongs to no key")
