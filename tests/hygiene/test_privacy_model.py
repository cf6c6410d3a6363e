import json
import pickle
import random

import pytest
import torch
import transformers
from datasets import load_from_disk
from recipes_in_process import recipe
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertForTokenClassification, PreTrainedTokenizerFast

from hfgpt.hygiene import privacy_model
from hfgpt.hygiene.privacy import privacy_steps
from hfgpt.hygiene.privacy_model import ModelFinder
from hfgpt.tokenization import load_tokenizer

WORDS = [
    *("the", "ship", "left", "harbour", "and", "rain", "until", "evening", "we", "saw", "a", "man", "called", "with"),
    *("from", "our", "house", "today", "."),
]
PEOPLE = ["Anna", "Berg", "Omar", "Haddad", "Lars", "Smith", "Yuki", "Tanaka"]
PLACES = ["Harbour", "Street", "Nine", "Lemon", "Road", "Four"]
LABELS = ["O", *(f"{place}-{kind}" for kind in ("private_person", "private_address") for place in "BIES")]


def labelled(draw: random.Random) -> list[tuple[str, str]]:
    words = [(word, "O") for word in draw.choices([*WORDS, "[UNK]"], k=draw.randrange(3, 9))]
    for kind, names in (("private_person", PEOPLE), ("private_address", PLACES)):
        chosen = draw.choices(names, k=draw.randrange(1, 4))
        marks = ["S"] if len(chosen) == 1 else ["B", *["I"] * (len(chosen) - 2), "E"]
        place = draw.randrange(len(words) + 1)
        if all(label == "O" for _, label in words[max(0, place - 1) : place + 1]):
            words[place:place] = [(name, f"{mark}-{kind}") for name, mark in zip(chosen, marks, strict=True)]
    return words


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A two-layer token classifier that knows the people and streets in this file after a few seconds of training."""
    folder = tmp_path_factory.mktemp("tagger")
    vocabulary = {word: number for number, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS, *PEOPLE, *PLACES, "?"])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    special = dict(pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]")
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=64, **special)
    torch.manual_seed(0)
    config = BertConfig(
        **dict(vocab_size=len(vocabulary), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64),
        **dict(max_position_embeddings=64, id2label=dict(enumerate(LABELS)), label2id={label: n for n, label in enumerate(LABELS)}),
    )
    tagger, draw = BertForTokenClassification(config), random.Random(0)
    optimizer = torch.optim.AdamW(tagger.parameters(), lr=5e-3)
    for _ in range(150):
        rows = [[("[CLS]", "O"), *labelled(draw), *labelled(draw), ("[SEP]", "O")] for _ in range(16)]
        longest = max(map(len, rows))
        ids = torch.tensor([[vocabulary[word] for word, _ in row] + [0] * (longest - len(row)) for row in rows])
        labels = torch.tensor([[LABELS.index(label) for _, label in row] + [-100] * (longest - len(row)) for row in rows])
        tagger(input_ids=ids, attention_mask=(ids > 0).long(), labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    tagger.save_pretrained(folder)
    wrapped.save_pretrained(folder)
    return str(folder)


def test_tokens_of_a_place_are_joined_and_masked_by_their_label(model):
    text = "we saw Anna Berg with  Omar and the ship left from Lemon Road Four today ."
    result = ModelFinder("mask", model)(text)
    assert result.text == "we saw <PERSON> with  <PERSON> and the ship left from <ADDRESS> today ."
    assert result.counts == {"person": 2, "address": 1}
    assert ModelFinder("drop", model)(text).text is None
    assert ModelFinder("mask", model)("the rain left today .").text == "the rain left today ."
    assert ModelFinder("mask", model)("").text == ""


def test_the_keys_of_the_recipes_put_the_model_behind_the_patterns(model):
    given = dict(personal_data_types=["email"], phone_regions=["US"], secrets="keep", privacy_model=model)
    text = "we saw Anna Berg with a@example.org ."
    for step in privacy_steps(personal_data="mask", **given):
        text = step(text).text
    assert text == "we saw <PERSON> with <EMAIL> ."
    assert privacy_steps(personal_data="keep", **given) == []


def test_a_document_of_many_windows_and_pieces_is_masked_as_a_short_one(model, monkeypatch):
    sentence = "we saw a man called Anna Berg from our house and the rain left the harbour until evening .\n"
    masked = sentence.replace("Anna Berg", "<PERSON>")
    for piece in (100_000, 1_000):
        monkeypatch.setattr(privacy_model, "PIECE", piece)
        result = ModelFinder("mask", model, batch_size=3)(sentence * 60)
        assert result.text == masked * 60
        assert result.counts == {"person": 60}


def test_special_tokens_in_a_text_are_text(model):
    assert ModelFinder("mask", model)("[PAD] [SEP] we saw Anna Berg today .").text == "[PAD] [SEP] we saw <PERSON> today ."


def test_the_passport_names_the_model_by_its_hash_and_not_its_place(model):
    step = ModelFinder("mask", model)
    assert step.settings["types"] == ["address", "person"]
    assert len(step.settings["sha256"]["model.safetensors"]) == 64
    assert model not in str(step.settings)
    assert pickle.loads(pickle.dumps(step)) == step


def test_a_model_of_another_kind_is_refused(tmp_path):
    config = transformers.GPT2Config(vocab_size=64, n_embd=8, n_layer=1, n_head=1, n_positions=8)
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path / "gpt2")
    with pytest.raises(ValueError, match="it must be a model for token classification"):
        ModelFinder("mask", str(tmp_path / "gpt2"))
    with pytest.raises(FileNotFoundError, match="nowhere"):
        ModelFinder("mask", str(tmp_path / "nowhere"))


def test_the_architecture_of_openais_filter_is_read(model, tmp_path):
    """A small model with random weights: the test is whether its labels, windows and outputs are understood."""
    if not hasattr(transformers, "OpenAIPrivacyFilterConfig"):
        pytest.skip(f"transformers {transformers.__version__} has no OpenAIPrivacyFilterConfig")
    torch.manual_seed(0)
    config = transformers.OpenAIPrivacyFilterConfig(
        **dict(
            vocab_size=64, hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_local_experts=4, num_experts_per_tok=2
        ),
        **dict(num_attention_heads=2, num_key_value_heads=1, head_dim=16, pad_token_id=0, eos_token_id=0),
    )
    transformers.OpenAIPrivacyFilterForTokenClassification(config).save_pretrained(tmp_path)
    PreTrainedTokenizerFast.from_pretrained(model).save_pretrained(tmp_path)
    step = ModelFinder("mask", str(tmp_path))
    assert step.settings["types"] == ["account_number", "address", "date", "email", "person", "phone", "secret", "url"]
    counts = step("the ship left harbour and rain until evening " * 30).counts
    assert counts
    assert set(counts) <= set(step.settings["types"])


@pytest.mark.slow
def test_what_the_model_finds_is_masked_in_tokenizer_and_rows_of_the_recipes(model, tmp_path):
    draw, corpus = random.Random(1), tmp_path / "letters.jsonl"
    texts = [" ".join(word for _ in range(4) for word, _ in labelled(draw)).replace("[UNK]", "boat") for _ in range(60)]
    corpus.write_text("".join(json.dumps({"text": f"{text} {number} ."}) + "\n" for number, text in enumerate(texts)))
    assert sum(any(name in text for name in PEOPLE) for text in texts) > 40
    asked = dict(personal_data="mask", personal_data_types=["email"], privacy_model=model)
    asked |= dict(deduplicate="none", split_by="document", validation_share=0.1, test_share=0.1)
    recipe("train_tokenizer", sources=[str(corpus)], vocab_size=400, output_dir=str(tmp_path / "tokenizer"), **asked)
    recipe(
        "prepare_data", tokenizer=str(tmp_path / "tokenizer"), context_length=64, leaks="ignore", output_dir=str(tmp_path / "rows")
    )
    tokenizer = load_tokenizer(tmp_path / "tokenizer")
    rows = " ".join(tokenizer.decode(row["input_ids"]) for part in load_from_disk(tmp_path / "rows").values() for row in part)
    assert rows.count("<PERSON>") > 100
    assert rows.count("<ADDRESS>") > 100
    assert not any(name in rows for name in PEOPLE)
    assert not {"Lemon", "Street", "Road"} & {*rows.split()}
    assert not any(name in token for name in PEOPLE for token in tokenizer.get_vocab())
    steps = []
    for folder in ("tokenizer", "rows"):
        passport = json.loads((tmp_path / folder / "passport.json").read_text())
        steps += [step for step in passport["steps"] if step["step"] == "personal data by a model"]
    assert steps[0] == steps[1]
    assert steps[0]["reasons"]["person"] == rows.count("<PERSON>")
