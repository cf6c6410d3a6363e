"""A classifier reads the last token of a text: the same logits alone or in a batch, wherever the padding is."""

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import hfgpt  # noqa: F401  registers the classes

TEXTS = ["os.path", "The class of the object is called when os.path.join(", "Return a new string"]


@pytest.fixture(scope="module", params=["book", "modern"])
def classifier(request, small_families):
    """A model whose logits differ by whole units, and its tokenizer."""
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(small_families[request.param], num_labels=3).eval()
    torch.nn.init.normal_(model.score.weight, std=0.5)
    return model, AutoTokenizer.from_pretrained(small_families[request.param])


@pytest.fixture
def alone(classifier) -> torch.Tensor:
    """Logits (3, 3) of the three texts, one at a time, none padded."""
    model, tokenizer = classifier
    with torch.no_grad():
        logits = torch.cat([model(**tokenizer(text, return_tensors="pt")).logits for text in TEXTS])
    assert logits.std() > 1
    return logits


def padded(tokenizer, side: str):
    """The three texts as one batch; their lengths differ, so two rows are padded."""
    batch = tokenizer(TEXTS, return_tensors="pt", padding=True, padding_side=side)
    assert batch.attention_mask.sum(-1).unique().numel() == 3
    assert batch.attention_mask[0, 0 if side == "left" else -1] == 0
    return batch


def assert_same(logits: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("classifier", "side"),
    [
        ("book", "right"),
        ("book", "left"),
        ("modern", "right"),
        ("modern", "left"),
    ],
    indirect=["classifier"],
)
@torch.no_grad()
def test_a_batch_has_the_logits_of_its_texts_alone(classifier, alone, side):
    model, tokenizer = classifier
    assert_same(model(**padded(tokenizer, side)).logits, alone)


@pytest.mark.parametrize("side", ["left", "right"])
@torch.no_grad()
def test_positions_that_begin_at_the_text_give_the_logits_of_the_texts_alone(classifier, alone, side):
    model, tokenizer = classifier
    batch = padded(tokenizer, side)
    positions = (batch.attention_mask.cumsum(-1) - 1).clamp(min=0)
    assert_same(model(**batch, position_ids=positions).logits, alone)


@pytest.mark.parametrize("side", ["right", "left"])
@torch.no_grad()
def test_without_a_mask_the_padding_is_known_by_its_id(classifier, alone, side):
    model, tokenizer = classifier
    assert_same(model(padded(tokenizer, side).input_ids).logits, alone)


@pytest.mark.parametrize(
    ("classifier", "side"),
    [
        ("book", "right"),
        ("book", "left"),
        ("modern", "right"),
        ("modern", "left"),
    ],
    indirect=["classifier"],
)
@torch.no_grad()
def test_embeddings_with_a_mask_are_read_at_the_last_token_of_the_mask(classifier, alone, side):
    model, tokenizer = classifier
    batch = padded(tokenizer, side)
    embeddings = model.get_input_embeddings()(batch.input_ids)
    assert_same(model(inputs_embeds=embeddings, attention_mask=batch.attention_mask).logits, alone)


@pytest.mark.parametrize("place", [3, -1])
@torch.no_grad()
def test_the_padding_id_inside_a_text_is_a_token_like_others(classifier, place):
    model, tokenizer = classifier
    ids = tokenizer(TEXTS[1], return_tensors="pt").input_ids
    ids[0, place] = tokenizer.pad_token_id
    hidden = model.model(ids).last_hidden_state
    assert_same(model(ids, attention_mask=torch.ones_like(ids)).logits, model.score(hidden[:, -1]))


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@torch.no_grad()
def test_a_row_of_padding_alone_is_finite_and_changes_no_other_row(classifier, alone, attention):
    model, tokenizer = classifier
    batch = padded(tokenizer, "right")
    batch["input_ids"][0], batch["attention_mask"][0] = tokenizer.pad_token_id, 0
    model.set_attn_implementation(attention)
    logits = model(**batch).logits
    model.set_attn_implementation("sdpa")
    assert logits.isfinite().all()
    assert_same(logits[1:], alone[1:])


@pytest.fixture
def classifier_without_padding(classifier):
    model, tokenizer = classifier
    model.config.pad_token_id = None
    yield model, tokenizer
    model.config.pad_token_id = tokenizer.pad_token_id


@torch.no_grad()
def test_without_a_padding_id_one_text_is_read_at_its_end(classifier_without_padding):
    model, tokenizer = classifier_without_padding
    ids = tokenizer(TEXTS[0], return_tensors="pt").input_ids
    assert_same(model(ids).logits, model.score(model.model(ids).last_hidden_state[:, -1]))


@torch.no_grad()
def test_without_a_padding_id_and_a_mask_several_texts_are_refused(classifier_without_padding):
    model, tokenizer = classifier_without_padding
    ids = padded(tokenizer, "right").input_ids
    with pytest.raises(ValueError, match="neither a padding token"):
        model(ids)


@torch.no_grad()
def test_without_a_padding_id_the_mask_says_where_each_text_ends(classifier, alone):
    model, tokenizer = classifier
    batch = padded(tokenizer, "right")
    model.config.pad_token_id = None
    try:
        assert_same(model(**batch).logits, alone)
    finally:
        model.config.pad_token_id = tokenizer.pad_token_id


@torch.no_grad()
def test_a_text_is_read_up_to_the_length_of_the_config(classifier, monkeypatch):
    """Alone, in a batch padded on either side, as embeddings, with its positions given, and longer than the context."""
    model, tokenizer = classifier
    texts = [*TEXTS, "A text that goes on. " * 200]
    cut = torch.cat([model(**tokenizer(text, return_tensors="pt", truncation=True, max_length=4)).logits for text in texts])
    monkeypatch.setattr(model.config, "max_text_length", 4)
    alone = [tokenizer(text, return_tensors="pt") for text in texts]
    assert alone[-1].input_ids.shape[1] > model.config.max_position_embeddings
    assert_same(torch.cat([model(**one).logits for one in alone]), cut)
    assert_same(torch.cat([model(input_ids=one.input_ids).logits for one in alone]), cut)
    embedded = [model.get_input_embeddings()(one.input_ids) for one in alone]
    assert_same(torch.cat([model(inputs_embeds=one).logits for one in embedded]), cut)
    positions = [torch.arange(one.input_ids.shape[1])[None] for one in alone]
    assert_same(torch.cat([model(**one, position_ids=place).logits for one, place in zip(alone, positions)]), cut)
    for side in ("left", "right"):
        batch = tokenizer(texts, return_tensors="pt", padding=True, padding_side=side)
        assert_same(model(**batch).logits, cut)
        assert_same(model(input_ids=batch.input_ids).logits, cut)  # the padding marks the text
        assert_same(model(input_ids=batch.input_ids, attention_mask=batch.attention_mask.bool()).logits, cut)
    monkeypatch.setattr(model.config, "max_text_length", None)
    assert (model(**alone[1]).logits - cut[1]).abs().max() > 0.1
