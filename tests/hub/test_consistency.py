"""Files in a folder that contradict each other are found by reading them; each case breaks one thing in a good folder."""

import json
from pathlib import Path

import pytest
from gate_folders import change_json, copy_of, good_model, replace
from safetensors.torch import load_file, save_file

from hfgpt.artifacts import identify
from hfgpt.hub.gate.card_checks import check_card
from hfgpt.hub.gate.consistency import judged as judge
from hfgpt.hub.kinds import HUB_KINDS


@pytest.fixture(scope="module")
def good(tmp_path_factory, small_tokenizer) -> Path:
    folder = good_model(tmp_path_factory.mktemp("agreement") / "base", small_tokenizer)
    inputs = [{"name": "user/tales_of_1001_nights", "kind": "hub"}, {"name": "file-00000000.txt", "kind": "text"}]
    passport = {"inputs": inputs}
    (folder / "passport.json").write_text(json.dumps(passport))
    (folder / "metrics.json").write_text(json.dumps({"test_bits_per_byte": 1.25, "parameters": 1}))
    (folder / "README.md").write_text(CARD)
    return folder


CARD = """---
license: apache-2.0
library_name: transformers
pipeline_tag: text-generation
tags: [hfgpt, custom_code]
model-index:
- name: base
  results:
  - task: {type: text-generation}
    dataset: {type: tales, name: tales}
    metrics: [{type: bits_per_byte, value: 1.25}]
---
It was trained on tales\\_of\\_1001\\_nights.
"""


def judged(folder: Path) -> dict:
    card = (folder / "README.md").read_text() if (folder / "README.md").is_file() else None
    artifact = identify(folder)
    of_files = [judge(name, lambda check=check: check(artifact, folder)) for name, check in HUB_KINDS[artifact.kind].checks]
    return {result.name: result for result in [*of_files, *check_card(artifact, folder, card)]}


def test_a_good_folder_agrees_with_itself(good):
    results = judged(good)
    assert {name: result.status for name, result in results.items() if result.status != "pass"} == {}
    assert len(results) == 11


def card(old: str, new: str):
    def change(folder: Path) -> None:
        assert old in CARD
        replace(folder / "README.md", CARD.replace(old, new))

    return change


def json_of(name: str, **fields):
    return lambda folder: change_json(folder / name, **fields)


def without(name: str):
    return lambda folder: (folder / name).unlink()


def auto_map(**changes):
    def change(folder: Path) -> None:
        entries = json.loads((folder / "config.json").read_text())["auto_map"] | changes
        change_json(folder / "config.json", auto_map={key: value for key, value in entries.items() if value})

    return change


def second_head(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"] * 2
    (folder / "model.safetensors").unlink()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


CASES = [
    (json_of("config.json", dtype="bfloat16"), "config", "says dtype bfloat16, but the weights are float32"),
    (json_of("config.json", vocab_size=700), "config", "says vocab_size 700, but the embedding has 512 rows"),
    (auto_map(AutoModelForTokenClassification=None), "auto_map", "lacks AutoModelForTokenClassification"),
    (auto_map(AutoModel="modeling_hfgpt.HfGptModul"), "auto_map", "modeling_hfgpt.py does not define HfGptModul"),
    (auto_map(AutoModel="other_hfgpt.HfGptModel"), "auto_map", "there is no other_hfgpt.py beside it"),
    (auto_map(AutoModel="../x.HfGptModel"), "auto_map", "AutoModel is ../x.HfGptModel"),
    (without("configuration_hfgpt.py"), "auto_map", "there is no configuration_hfgpt.py beside it"),
    (json_of("config.json", tie_word_embeddings=False), "tied weights", "no lm_head.weight is stored"),
    (second_head, "tied weights", "are both stored and differ"),
    (json_of("generation_config.json", eos_token_id=None), "generation config", "would never end"),
    (json_of("generation_config.json", eos_token_id=[3, 5000]), "generation config", "eos_token_id is [3, 5000]"),
    (json_of("generation_config.json", eos_token_id=3), "generation config", "the tokenizer's eos_token 0 is not among them"),
    (json_of("generation_config.json", pad_token_id=None), "generation config", "batches could not be padded"),
    (without("generation_config.json"), "generation config", "there is no generation_config.json"),
    (json_of("config.json", pad_token_id=7), "special tokens", "pad_token has the id 1 in the tokenizer and 7 in config.json"),
    (json_of("tokenizer_config.json", pad_token="<|endoftext|>"), "special tokens", "pad_token has the id 0"),
    (json_of("tokenizer_config.json", eos_token="<|lost|>"), "special tokens", "does not have"),
    (without("tokenizer.json"), "special tokens", "no tokenizer.json"),
    (lambda folder: replace(folder / "passport.json.json", "[1]"), "JSON files", "passport.json.json contains a list"),
    (without("README.md"), "card", "there is no README.md"),
    (card("license: apache-2.0\n", ""), "licence", "has no license"),
    (card("apache-2.0", "other"), "licence", "requires license_name and license_link"),
    (card("pipeline_tag: text-generation", "pipeline_tag: text-classification"), "card", "pipeline_tag is text-classification"),
    (card("library_name: transformers", "library_name: peft"), "card", "library_name is peft"),
    (card(", custom_code", ""), "card", "the tag custom_code is missing"),
    (card("value: 1.25", "value: 0.9"), "card's figures", "says bits_per_byte 0.9 on tales"),
    (card("tales\\_of", "stories of"), "data named", "does not name the data tales_of_1001_nights,"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "name", "sentence"), CASES)
def test_one_contradiction_is_one_failure_with_its_cure(good, tmp_path, change, name, sentence):
    folder = copy_of(good, tmp_path / "copy")
    change(folder)
    results = judged(folder)
    assert [result.name for result in results.values() if result.status == "fail"] == [name]
    assert sentence in results[name].detail
    assert results[name].cure


@pytest.mark.parametrize("front", ["---\nlicense: [\n---\n", "no front matter\n", "---\n- a\n- list\n---\n", ""])
def test_a_front_matter_that_the_hub_could_not_read_closes_the_gate(good, tmp_path, front):
    folder = copy_of(good, tmp_path / "copy")
    replace(folder / "README.md", front)
    results = judged(folder)
    assert results["card"].status == "fail"
    assert f"correct it there, or delete it and run python recipes/check.py {folder}" in results["card"].cure
