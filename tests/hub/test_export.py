"""Only files on the allow-list leave this machine, and nothing in them reveals the machine (security cases C1, C4, C7)."""

import getpass
import json
import shutil
from pathlib import Path

import pytest
from recipes_in_process import recipe
from small_adapter import write_adapter

from hfgpt.artifacts import identify
from hfgpt.hub.export import export
from hfgpt.hub.file_names import is_place, published_passport

TOKEN = "hf_" + "aB3dE6gH9jK2mN5pQ8sT1vW4" * 2


@pytest.fixture
def folder(small_run, tmp_path):
    """A copy of a trained model's folder that may be modified."""
    return Path(shutil.copytree(small_run, tmp_path / "mine" / "base"))


def texts(target: Path) -> dict[str, bytes]:
    return {path.relative_to(target).as_posix(): path.read_bytes() for path in target.rglob("*") if path.is_file()}


def test_only_the_files_of_the_allow_list_leave_and_the_folder_stays_as_it_is(folder, tmp_path):
    junk = ("training_args.bin", "pytorch_model.bin", "optimizer.pt", "notes.pkl", ".env", "id_rsa", "server.pem", "card.yaml")
    for name in junk:
        (folder / name).write_text(f"# secret {name}")
    (folder / "seed-0").mkdir()
    (folder / "seed-0" / "model.safetensors").write_bytes(b"another model")
    before = texts(folder)
    assert {"run.yaml", *junk} < set(before)
    assert any(name.startswith("checkpoint-") for name in before)
    names = export(identify(folder), tmp_path / "out").names
    assert [name.as_posix() for name in names] == sorted(texts(tmp_path / "out"))
    assert {"config.json", "model.safetensors", "modeling_hfgpt.py", "tokenizer.json", "passport.json"} <= set(
        texts(tmp_path / "out")
    )
    assert not set(junk) & set(texts(tmp_path / "out"))
    assert not [name for name in texts(tmp_path / "out") if "/" in name or name.endswith((".bin", ".pt", ".pkl", ".pem"))]
    assert texts(folder) == before
    # Rewriting has not touched the originals.
    assert not (tmp_path / "out" / "passport.json").samefile(folder / "passport.json")
    assert not (tmp_path / "out" / "tokenizer.json").samefile(folder / "tokenizer.json")


def test_an_export_goes_into_an_empty_folder_only(folder, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match="is not empty; an export needs an empty folder"):
        export(identify(folder), tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]


# C4: no path of this machine


def test_no_path_of_this_machine_is_in_any_exported_file(folder, tmp_path, monkeypatch):
    passport = json.loads((folder / "passport.json").read_text())
    home = tmp_path / "home" / "jane doe"
    home.mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    passport["inputs"][0]["name"] = str(home / "my texts" / "diary.txt")
    passport["steps"].append({"step": f"read {home / 'my texts' / 'diary.txt'}, 3 lines dropped", "kept": 0.5})
    passport["settings"] = {"model": str(folder), "sources": ["../private/*.jsonl", "user/corpus", "C:\\Users\\jane\\corpus.txt"]}
    passport["base"] = {"name": "mine/base", "commit": None}
    (folder / "passport.json").write_text(json.dumps(passport))
    (tmp_path / "held_out.jsonl").write_text(json.dumps({"text": "A text that nobody has seen."}) + "\n")
    recipe("evaluate", model=str(folder), text=[str(tmp_path / "held_out.jsonl")])
    recipe("convert", source=str(folder), output_dir=str(tmp_path / "again"))
    export(identify(folder), tmp_path / "out")
    exported = texts(tmp_path / "out")
    places = [str(tmp_path), str(home), "jane", str(Path.cwd()), "/usr/bin", "/home/", "/root/", "../private", "Users"]
    places += [f"/{getpass.getuser()}/", str(Path(__file__).resolve().parents[2])]
    found = [(name, place) for name, content in exported.items() for place in places if place.encode() in content]
    export(identify(tmp_path / "again"), tmp_path / "converted")
    found += [
        (name, place) for name, content in texts(tmp_path / "converted").items() for place in places if place.encode() in content
    ]
    found += [(name, "~/") for name, content in exported.items() if name.endswith(".json") and b"~/" in content]
    assert found == []
    passport = json.loads(exported["passport.json"])
    label = f"file-{passport['inputs'][0]['sha256'][:8]}.txt"
    assert passport["inputs"][0]["name"] == label
    assert passport["steps"][-1] == {"step": f"read {label}, 3 lines dropped", "kept": 0.5}
    assert passport["settings"] == {"model": "base", "sources": ["*.jsonl", "user/corpus", "file-2.txt"]}
    assert passport["base"]["name"] == "base"
    (result,) = json.loads(exported["evaluation.json"])["results"]
    assert result["command"] == "hfgpt evaluate base --text FILE.jsonl"
    assert json.loads((folder / "evaluation.json").read_text())["results"][0]["command"].endswith("base --text held_out.jsonl")
    conversion = json.loads((tmp_path / "again" / "conversion.json").read_text())  # written this way, not cleaned later
    assert (conversion["source"], conversion["format"]) == ("base", "hfgpt")


@pytest.mark.parametrize(
    "text",
    ["openai-community/gpt2", "user/name:configuration", "https://huggingface.co/user/name", "hf://datasets/user/name/x.csv",
     "and/or", "tokens/s", "24/11/2026", "1/2", "", "a line\nand another", "<|endoftext|>", "2 ~ 3"],
)  # fmt: skip
def test_what_is_no_path_stays_as_it_is(text):
    assert not is_place(text)
    assert published_passport({"settings": {text: [text]}}) == {"settings": {text: [text]}}


def test_files_of_the_same_name_stay_apart_where_they_are_keys():
    inputs = [{"name": f"/home/ann/{folder}/test.jsonl", "kind": "json", "sha256": sha256 * 64} for folder, sha256 in ("a1", "b2")]
    passport = {"inputs": inputs, "steps": [{"step": "drop copies", "copies_of": {one["name"]: 1 for one in inputs}}]}
    for file_names, names in ((True, ["test.jsonl", "test.jsonl (2)"]), (False, ["file-11111111.jsonl", "file-22222222.jsonl"])):
        public = published_passport(passport, file_names=file_names)
        assert list(public["steps"][0]["copies_of"]) == names
        assert [one["name"] for one in public["inputs"]] == names


def test_an_adapter_names_its_base_on_the_hub_and_no_folder(small_run, tmp_path):
    artifact = identify(write_adapter(small_run, tmp_path / "mine" / "lora"))
    assert artifact.kind == "adapter"
    export(artifact, tmp_path / "one", base_repo_id="user/name-base", base_revision="5" * 40)
    settings = json.loads((tmp_path / "one" / "adapter_config.json").read_text())
    assert (settings["base_model_name_or_path"], settings["revision"]) == ("user/name-base", "5" * 40)
    export(artifact, tmp_path / "two")
    alone = json.loads((tmp_path / "two" / "adapter_config.json").read_text())
    assert alone["base_model_name_or_path"] == "base"
    original = json.loads((artifact.folder / "adapter_config.json").read_text())
    assert Path(original["base_model_name_or_path"]) == artifact.base.resolve()
    changed = {key for key in original if settings[key] != original[key]}
    assert changed == {"base_model_name_or_path", "revision"}
    assert "model.safetensors" not in texts(tmp_path / "one")  # the base is beside the adapter for local loading only
    assert not [name for name, content in texts(tmp_path / "one").items() if str(artifact.folder.parent).encode() in content]


def test_prepared_data_and_tokenizers_leave_with_what_loads_them(small_rows, small_tokenizer, tmp_path):
    from datasets import load_from_disk
    from transformers import AutoTokenizer

    export(identify(small_rows), tmp_path / "rows")
    assert load_from_disk(tmp_path / "rows")["train"][0] == load_from_disk(small_rows)["train"][0]
    export(identify(small_tokenizer), tmp_path / "tokenizer")
    ids = AutoTokenizer.from_pretrained(tmp_path / "tokenizer")("os.path").input_ids
    assert ids == AutoTokenizer.from_pretrained(small_tokenizer)("os.path").input_ids
    for folder in (tmp_path / "rows", tmp_path / "tokenizer"):
        found = [name for name, content in texts(folder).items() if str(tmp_path.parent.parent).encode() in content]
        assert found == []


# C7: links and odd names


def test_a_needed_file_that_leads_out_of_the_folder_is_an_error_by_name(folder, tmp_path):
    (tmp_path / "private.json").write_text('{"password": "x"}')
    (folder / "generation_config.json").unlink()
    (folder / "generation_config.json").symlink_to(tmp_path / "private.json")
    with pytest.raises(ValueError, match=r"generation_config\.json is a link to .*private\.json, outside the folder"):
        export(identify(folder), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (folder / "generation_config.json").unlink()
    (folder / "generation_config.json").symlink_to("nowhere.json")
    with pytest.raises(ValueError, match=r"generation_config\.json is a broken link"):
        export(identify(folder), tmp_path / "out")


def test_links_that_nobody_asked_for_are_not_followed(folder, tmp_path):
    private = tmp_path / "private"
    private.mkdir()
    (private / "a.yaml").write_text("nobody's business")
    (folder / "notes.txt").symlink_to(private / "a.yaml")
    (folder / ".eval_results").symlink_to(private)  # a folder whose name is on the allow-list
    (folder / "tokenizer_config.json").rename(folder / "other.json")
    (folder / "tokenizer_config.json").symlink_to("other.json")  # within the folder, so its target may be published
    export(identify(folder), tmp_path / "out")
    exported = texts(tmp_path / "out")
    assert not [name for name, content in exported.items() if b"business" in content or name in ("notes.txt", "other.json")]
    assert exported["tokenizer_config.json"] == (folder / "other.json").read_bytes()
    assert not (tmp_path / "out" / "tokenizer_config.json").is_symlink()


@pytest.mark.parametrize("name", ["../../outside.safetensors", "/etc/hostname", "model-00002-of-00002.safetensors"])
def test_an_index_that_names_other_files_is_refused(folder, tmp_path, name):
    (tmp_path / "outside.safetensors").write_bytes(b"secret")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "model.safetensors", "b": name}}))
    with pytest.raises(ValueError, match=r"index\.json refers to the file '.*', which is not among the publishable files"):
        export(identify(folder), tmp_path / "out")


def test_a_name_that_no_hub_takes_is_refused(folder, tmp_path):
    (folder / "model-\n-of-2.safetensors").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"'model-\\n-of-2\.safetensors' in .* is a name that the Hub does not accept"):
        export(identify(folder), tmp_path / "out")


# C1: the token


@pytest.mark.parametrize("name", ["README.md", "config.json", "model.safetensors"])
def test_a_file_that_holds_the_token_is_refused_without_saying_it(folder, tmp_path, monkeypatch, name):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    if name == "config.json":
        config = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**config, "note": f"push with {TOKEN}"}))
    else:
        with (folder / name).open("ab") as file:
            file.write(TOKEN.encode())
    with pytest.raises(ValueError, match=f"{name} in .* contains your Hugging Face token, so nothing is published") as refusal:
        export(identify(folder), tmp_path / "out")
    assert TOKEN not in str(refusal.value)
    monkeypatch.setenv("HF_TOKEN", TOKEN[::-1])  # another token, so the one in the file is not the user's
    assert export(identify(folder), tmp_path / "again")
