"""The card in a repository names it, its tag and the parts beside it; an edited card names it, too, and nothing else is changed."""

import re
from pathlib import Path

import pytest
from conftest import ROOT
from gate_folders import change_json, copy_of, good_adapter, good_model, replace
from huggingface_hub import ModelCard
from recipes_in_process import run_script

from hfgpt.artifacts import identify
from hfgpt.hub.card.placeholder import placeholders_in, with_repo_id
from hfgpt.hub.card.rendering import CARD_NAME, edited_cards, published_card, render_card, write_card
from hfgpt.hub.gate.card_checks import check_card
from hfgpt.hub.publish import parts_of, prepare


@pytest.fixture(scope="module")
def model(tmp_path_factory, small_tokenizer) -> Path:
    return good_model(tmp_path_factory.mktemp("models") / "my model", small_tokenizer)


@pytest.fixture(scope="module")
def adapter(tmp_path_factory, model) -> Path:
    return good_adapter(tmp_path_factory.mktemp("adapters") / "lora", model)


@pytest.fixture
def edited(model, tmp_path) -> Path:
    """A copy whose card has a sentence of its owner's."""
    folder = copy_of(model, tmp_path / "my model")
    text = (folder / CARD_NAME).read_text(encoding="utf-8")
    replace(folder / CARD_NAME, text.replace("## Licence", "My own words.\n\n## Licence"))
    return folder


def examples_of(folder: Path):
    """What the gate says about the examples in a card."""
    card = (folder / CARD_NAME).read_text(encoding="utf-8")
    (found,) = [one for one in check_card(identify(folder), folder, card) if one.name == "card's examples"]
    return found


def test_an_edited_card_is_published_with_its_repository_in_the_examples_and_otherwise_as_it_is(edited):
    card = (edited / CARD_NAME).read_text(encoding="utf-8")
    assert 'name = "USER/my-model"  # or the folder with these files\n' in card
    published = published_card(identify(edited), repo_id="me/gpt")
    assert published == card.replace('"USER/my-model"  # or the folder with these files', '"me/gpt"')
    assert "My own words." in published
    assert examples_of(edited).status == "pass"
    assert edited_cards(edited) == [edited / CARD_NAME]


def test_the_gate_refuses_a_placeholder_that_would_be_published(edited):
    card = (edited / CARD_NAME).read_text(encoding="utf-8")
    replace(edited / CARD_NAME, f"{card}Ask USER/my-model.\n")
    found = examples_of(edited)
    line = len(card.splitlines()) + 1
    assert (found.status, found.detail) == ("fail", f"README.md, line {line}, names USER/my-model, which is only a placeholder")
    assert "write the id of the repository there" in found.cure


def test_check_and_publish_say_which_cards_were_edited(edited, monkeypatch):
    monkeypatch.setattr("hfgpt.hub.gate.check.open_as_stranger", lambda *args, **kwargs: [])
    said = {name: run_script(f"{name}.py", edited, *more) for name, more in (("check", ()), ("publish", ("--repo", "me/gpt")))}
    for name, sentence in (
        ("check", "so it would be published as it is"),
        ("publish", "so it is published as it is, with me/gpt as its name"),
    ):
        assert said[name].returncode == 0, said[name].stdout + said[name].stderr
        assert f"card: {edited / CARD_NAME} was edited by hand, {sentence}\n" in said[name].stdout
    replace(edited / CARD_NAME, (edited / CARD_NAME).read_text(encoding="utf-8") + "Ask USER/my-model.\n")
    refused = run_script("publish.py", edited, "--repo", "me/gpt")
    assert refused.returncode == 1
    assert re.search(r"^fail +card's examples +README.md, line \d+, names USER/my-model", refused.stdout, re.MULTILINE)


def test_a_card_that_hfgpt_wrote_has_no_placeholder_to_refuse(model, adapter):
    for folder in (model, adapter, adapter / "base", adapter / "merged"):
        assert examples_of(folder).status == "pass"
        assert edited_cards(folder) == []
        assert placeholders_in(published_card(identify(folder), repo_id="me/gpt"), folder) == []


@pytest.mark.parametrize(
    ("line", "published"),
    [
        ('name = "USER/lora"  # or the folder with these files', 'name = "me/gpt"'),
        ("name = 'USER/lora'", "name = 'me/gpt'"),  # as a formatter for Python writes it
        ('name = "USER/before-it-was-renamed"  # or the folder with these files', 'name = "me/gpt"'),
        ('model = Llama.from_pretrained("USER/lora", filename="f16.gguf")',
         'model = Llama.from_pretrained("me/gpt", filename="f16.gguf")'),
        ("Publish it with hfgpt publish FOLDER --repo USER/NAME.", "Publish it with hfgpt publish FOLDER --repo USER/NAME."),
        ('a = "USER/lora-2"', 'a = "USER/lora-2"'),
    ],
)  # fmt: skip
def test_only_what_hfgpt_wrote_is_filled_in(line, published, tmp_path):
    assert with_repo_id(line, tmp_path / "lora", "me/gpt") == published
    left = placeholders_in(published, tmp_path / "lora")
    assert left == ([(1, "USER/lora-2")] if "lora-2" in line else [])


def test_the_cards_of_an_adapter_its_base_and_its_merged_twin_name_each_other_and_their_tags(adapter, tmp_path):
    parts = parts_of(adapter, "me/lora")
    place = {"base_repo_id": "me/lora-base", "base_revision": None}
    exports = {part.name: prepare(part, tmp_path, beside=parts, **place) for part in parts}
    cards = {name: (one.exported.folder / CARD_NAME).read_text(encoding="utf-8") for name, one in exports.items()}
    assert "Load the adapter instead, [me/lora](https://huggingface.co/me/lora): it names this model as its base" in cards["base"]
    assert "[me/lora-merged](https://huggingface.co/me/lora-merged) is the same model in one piece" in cards["adapter"]
    for name in ("adapter", "merged"):
        assert exports[name].tag.startswith("weights-")
        assert f'Give `revision="{exports[name].tag}"` after the name to load exactly this version' in cards[name]
    for place, text in ((adapter, render_card(identify(adapter))), (adapter / "base", render_card(identify(adapter / "base")))):
        assert "revision=" not in text, place
        assert "huggingface.co" not in text, place  # not known before it is published


def test_a_tag_of_ones_own_is_in_the_card_that_is_uploaded(model, tmp_path):
    (part,) = parts_of(model, "me/gpt")
    prepared = prepare(part, tmp_path, tag="v1.0")
    assert 'Give `revision="v1.0"` after the name' in (prepared.exported.folder / CARD_NAME).read_text(encoding="utf-8")
    names = [file.name for file in prepared.exported.files]
    assert names == sorted(names, key=Path)
    assert names.count(CARD_NAME) == 1


@pytest.mark.parametrize("named", [None, "me/base"])
def test_a_converted_model_names_where_it_came_from_only_if_others_can_find_it(named, tmp_path):
    folder = tmp_path / "gguf"
    folder.mkdir()
    (folder / "model-f16.gguf").write_bytes(b"GGUF")
    replace(folder / "conversion.json", '{"source": "annas-run", "commit": null, "format": "hfgpt", "target": "gguf"}')
    replace(folder / "card.yaml", f"base_model: {named}\n" if named else "license: mit\n")
    card = published_card(identify(folder), repo_id="me/novels")
    assert 'ollama create "novels" -f Modelfile\nollama run "novels"\n' in card
    assert "annas-run" not in card
    assert ModelCard(card).data.base_model == named
    told = "Converted from [me/base](https://huggingface.co/me/base), read as hfgpt weights." if named else "from hfgpt weights."
    assert told in card
    assert "revision=" not in published_card(identify(folder), repo_id="me/novels", tag="v1.0")  # llama_cpp takes none


def test_the_context_is_what_the_tokenizer_leaves_of_a_text(model, tmp_path):
    folder = copy_of(model, tmp_path / "short")
    assert "It sees at most 64 tokens at once." in render_card(identify(folder))
    for longest, seen in ((16, 16), (10**30, 64), (None, 64)):
        change_json(folder / "tokenizer_config.json", model_max_length=longest)
        write_card(folder)
        text = (folder / CARD_NAME).read_text(encoding="utf-8")
        assert f"It sees at most {seen} tokens at once." in text
        assert f"| Context | {seen} tokens |" in text


def test_a_card_says_where_hfgpt_is_to_be_found(model):
    homepage = re.search(r'^Homepage = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[1]
    assert re.search(rf"^\[hfgpt\]\({re.escape(homepage)}\) generated this card", render_card(identify(model)), re.MULTILINE)
