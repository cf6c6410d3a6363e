"""One entry point loads every kind of model: an adapter on the Hub comes with its own tokenizer and labels."""

import json
import re

import huggingface_hub
import pytest
from peft import LoraConfig, get_peft_model
from transformers import AutoTokenizer, BertConfig
from twins import modern_model

import hfgpt
from hfgpt import HfGptForSequenceClassification
from hfgpt.errors import UserError
from hfgpt.evaluation.loading import open_folder
from hfgpt.tokenization import load_tokenizer


@pytest.fixture
def on_the_hub(tmp_path, monkeypatch):
    """The folder of a repository in a Hub cache that this process uses."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))

    def folder_of(repo_id):
        place = tmp_path / "hub" / f"models--{repo_id.replace('/', '--')}"
        (place / "refs").mkdir(parents=True)
        (place / "refs" / "main").write_text("a" * 40)
        return place / "snapshots" / ("a" * 40)

    return folder_of


@pytest.mark.parametrize(
    ("file", "facts"),
    [
        ("metrics.json", {"labels": ["ham", "spam", "eggs"]}),
        ("config.json", {"id2label": {"0": "ham", "1": "spam", "2": "eggs"}, "max_text_length": 8}),
    ],
)
def test_an_adapter_on_the_hub_brings_its_tokenizer_and_the_names_of_its_labels(file, facts, small_tokenizer, on_the_hub):
    tokenizer = AutoTokenizer.from_pretrained(small_tokenizer)
    base, adapter = on_the_hub("user/base"), on_the_hub("user/classifier")
    modern_model(vocab_size=len(tokenizer), pad_token_id=1).save_pretrained(base)
    tokenizer.save_pretrained(base)
    classifier = HfGptForSequenceClassification.from_pretrained(base, num_labels=3)
    get_peft_model(classifier, LoraConfig(task_type="SEQ_CLS", target_modules=["q_proj"])).save_pretrained(adapter)
    settings = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(settings | {"base_model_name_or_path": "user/base"}))
    tokenizer.model_max_length = 8
    tokenizer.save_pretrained(adapter)
    more = {"problem_type": "multi_label_classification"}
    (adapter / file).write_text(json.dumps(facts | more))

    loaded = hfgpt.load_model("user/classifier")
    assert loaded.tokenizer.model_max_length == 8
    assert loaded.model.config.id2label == {0: "ham", 1: "spam", 2: "eggs"}
    assert loaded.model.config.label2id == {"ham": 0, "spam": 1, "eggs": 2}
    assert loaded.model.config.problem_type == "multi_label_classification"
    assert loaded.model.config.max_text_length == facts.get("max_text_length")


def test_a_slow_tokenizer_is_refused_in_a_sentence(tmp_path):
    (tmp_path / "vocab.txt").write_text("[UNK]\n[PAD]\na\n")
    shape = dict(vocab_size=3, hidden_size=8, num_attention_heads=1, num_hidden_layers=1, intermediate_size=8)
    BertConfig(**shape).save_pretrained(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "BertJapaneseTokenizer", "word_tokenizer_type": "basic"}')
    for read in (load_tokenizer, lambda folder: open_folder(folder).load_tokenizer()):
        with pytest.raises(UserError, match=f"the tokenizer in {re.escape(str(tmp_path))} is a .*which has no tokenizer.json"):
            read(tmp_path)


def test_fine_tuning_an_adapter_names_the_command_that_merges_it(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(UserError, match=f"convert.py BASE --adapter {re.escape(str(tmp_path))} and give the result"):
        open_folder(tmp_path, merged=True)
