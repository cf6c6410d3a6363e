"""docs/extending.md: what another package adds to each table is really used by the usual functions."""

import contextlib
import importlib
import io
import json
import os
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from conftest import ROOT
from safetensors.torch import load_file

import hfgpt
from hfgpt.tables import Table
from hfgpt.training.states import load_state

PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
TABLES = re.findall(r"\| `(hfgpt\.[\w.]+)\.([A-Z_]+)` \|", PAGE)  # module and name; a module may have two

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> SimpleNamespace:
    """The variables after the examples have run, and what each printed; the tables are restored after the tests."""
    folder, here = tmp_path_factory.mktemp("page"), Path.cwd()
    tables = [getattr(importlib.import_module(module), name) for module, name in TABLES]
    entries = [dict(table) for table in tables]
    names: dict = {}
    printed = []
    os.chdir(folder)
    try:
        for code in re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL):
            code = code.replace("max_steps=", "cpu_threads=1, max_steps=")  # tests run side by side, one core each
            with contextlib.redirect_stdout(io.StringIO()) as output:
                exec(compile(code, "docs/extending.md", "exec"), names)
            printed.append(output.getvalue())
        os.chdir(here)
        yield SimpleNamespace(
            **{name: value for name, value in names.items() if not name.startswith("__")}, root=folder, printed=printed
        )
    finally:
        os.chdir(here)
        for table, before in zip(tables, entries):
            table.clear()
            table.update(before)


def test_every_table_of_the_page_is_one():
    assert len(TABLES) >= 11
    for module, name in TABLES:
        table = getattr(importlib.import_module(module), name)
        assert isinstance(table, Table)
        with pytest.raises(hfgpt.UserError, match=re.escape(f"is 'nothing'; allowed: {next(iter(table))}")):
            table.find("nothing")


def test_a_source_is_read_trained_on_and_known_again(page):
    assert [document["row_id"] for document in page.documents] == ["0", "1", "2"]
    assert page.documents[2]["source"] == "drill:3"
    (entry,) = json.loads((page.root / "runs/data/passport.json").read_text())["inputs"]
    assert (entry["name"], entry["kind"]) == ("drill:400", "drill")
    assert entry["sha256"] == page.identity_of_drill(SimpleNamespace(name="drill:400"), None)["sha256"]
    assert page.data.splits["train"].documents > 300


def test_a_tokenizers_algorithm_is_trained_checked_and_reported_on(page):
    from hfgpt.tokenization import encode_texts, load_tokenizer

    tokenizer = load_tokenizer(page.root / "runs/letters")
    assert page.letters.vocab_size == len(tokenizer) == 30
    assert tokenizer.convert_ids_to_tokens(encode_texts(tokenizer, ["Please~"])[0]) == [*"Please", "[UNK]"]
    report = (page.root / "runs/letters/tokenizer_report.md").read_text()
    assert report.splitlines()[2].startswith("characters, 30 tokens, trained on ")
    assert "unknown words" in report


def test_an_optimizer_moves_the_weights_and_refuses_what_it_has_not(page):
    assert yaml.safe_load((page.root / "runs/base/run.yaml").read_text())["optimizer"] == "sgd"
    state = load_state(next(page.root.glob("runs/base/checkpoint-*/optimizer.safetensors")))
    assert all(set(one) == {"momentum_buffer"} for one in state["state"].values())  # SGD's, not AdamW's
    assert any("muon_learning_rate" in text and "SGD has one rate, learning_rate." in text for text in page.printed)


def test_a_tuning_method_trains_what_it_says_and_nothing_else(page):
    before = load_file(page.root / "runs/base/model.safetensors")
    after = load_file(page.root / "runs/classifier/model.safetensors")
    changed = {name for name in before.keys() & after.keys() if not torch.equal(before[name], after[name])}
    assert changed
    assert all("norm" in name for name in changed)
    trained = page.classifier.metrics["seeds"]["0"]["trained_parameters"]
    assert trained == sum(value.numel() for name, value in after.items() if "norm" in name or name.startswith("score"))
    assert page.classifier.metrics["labels"] == ["delete", "import"]


def test_a_chat_style_is_kept_with_the_tokenizer_and_ends_answers(page):
    from transformers import AutoTokenizer, GenerationConfig

    tokenizer = AutoTokenizer.from_pretrained(page.root / "runs/assistant")
    said = tokenizer.apply_chat_template([{"role": "user", "content": "Ho?"}], tokenize=False, add_generation_prompt=True)
    assert said == "<|user|>Ho?<|assistant|>"
    stop = tokenizer.convert_tokens_to_ids("<|stop|>")
    stops = GenerationConfig.from_pretrained(page.root / "runs/assistant/merged").eos_token_id
    assert stop in stops


def test_a_weight_format_goes_out_and_comes_back_and_its_folder_passes_the_gate(page):
    base, back = (load_file(page.root / name / "model.safetensors") for name in ("runs/base", "runs/back"))
    rows = {name: value.shape[0] for name, value in base.items()}
    assert base.keys() == back.keys()
    assert all(torch.equal(value, back[name][: rows[name]]) for name, value in base.items())
    assert page.report.kind == "flat"
    assert page.report.failures == []
    assert "size of weights.f32" in {result.name for result in page.report.results if result.status == "pass"}
    card = (page.root / "runs/flat/README.md").read_text()
    assert "library_name: flat" in card
    assert "as one file of float32" in card
