"""The pipelines of transformers, with hfgpt imported and without; for question answering, which has none, the model class."""

import json

import pytest
import torch
from conftest import run_python
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    pipeline,
    set_seed,
)

import hfgpt  # noqa: F401  registers the classes

TEXTS = ["os.path", "The class of the object is called when os.path.join(", "Return a new string"]
CHAT = [{"role": "user", "content": "What does os.getcwd do?"}]


@pytest.fixture(scope="module", params=["book", "modern"])
def folder(request, small_families):
    return small_families[request.param]


@pytest.fixture(scope="module")
def tokenizer(folder):
    return AutoTokenizer.from_pretrained(folder)


PROBE = """
import json, sys
from transformers import pipeline
options = dict(trust_remote_code=True, device="cpu")
results = {{}}
for folder in sys.argv[1:]:
    {statements}
print(json.dumps(dict(results=results, imported="hfgpt" in sys.modules)))
"""
LANGUAGE_MODEL = f"""
    generate = pipeline("text-generation", model=folder, **options)
    results[folder] = dict(
        module=type(generate.model).__module__,
        texts=[row[0]["generated_text"] for row in generate({TEXTS!r}, batch_size=3, max_new_tokens=8, do_sample=False)],
        reply=generate({CHAT!r}, max_new_tokens=8, do_sample=False)[0]["generated_text"][-1],
        features=pipeline("feature-extraction", model=folder, **options)({TEXTS!r}),
    )"""
HEADS = f"""
    results[folder] |= dict(
        labels=pipeline("text-classification", model=folder + "/classifier", **options)({TEXTS!r}),
        words=[[entity["word"] for entity in row]
               for row in pipeline("token-classification", model=folder + "/tagger", **options)({TEXTS!r})],
    )"""


@pytest.fixture(scope="module")
def through_the_other_door(with_heads, stranger, tmp_path_factory) -> dict[str, dict]:
    """The results for each folder in an environment without hfgpt."""
    place = tmp_path_factory.mktemp("other_door")
    script = place / "probe.py"
    script.write_text(PROBE.format(statements=(LANGUAGE_MODEL + HEADS).strip()))
    environment = {**stranger, "HF_HOME": str(place), "OMP_NUM_THREADS": "1"}
    done = run_python("-S", script, *with_heads.values(), cwd=place, env=environment)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    assert answer["imported"] is False
    return answer["results"]


@pytest.fixture(scope="module")
def with_heads(small_families, tmp_path_factory) -> dict[str, str]:
    """A copy of each family's folder, with a classifier and a tagger with random heads inside."""
    folders = {}
    for family, folder in small_families.items():
        folders[family] = str(tmp_path_factory.mktemp("heads") / family)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        for auto_class, place, labels in (
            (AutoModelForCausalLM, "", {}),
            (AutoModelForSequenceClassification, "/classifier", {0: "os", 1: "str", 2: "other"}),
            (AutoModelForTokenClassification, "/tagger", {0: "O", 1: "B-NAME", 2: "I-NAME"}),
        ):
            set_seed(0)
            model = auto_class.from_pretrained(folder, **(dict(id2label=labels, num_labels=3) if labels else {}))
            if labels:
                torch.nn.init.normal_(model.score.weight, std=0.5)
            model.save_pretrained(folders[family] + place)
            tokenizer.save_pretrained(folders[family] + place)
    return folders


def text_generation(folder):
    return pipeline("text-generation", model=str(folder), device="cpu")


@pytest.mark.slow
def test_a_stranger_generates_the_texts_and_features_that_we_do(through_the_other_door):
    for folder, theirs in through_the_other_door.items():
        assert theirs["module"].startswith("transformers_modules.")
        generate = text_generation(folder)
        assert generate.model.__module__ == "hfgpt.model.modeling_hfgpt"
        texts = [row[0]["generated_text"] for row in generate(TEXTS, batch_size=3, max_new_tokens=8, do_sample=False)]
        assert theirs["texts"] == texts
        assert theirs["reply"] == generate(CHAT, max_new_tokens=8, do_sample=False)[0]["generated_text"][-1]
        features = pipeline("feature-extraction", model=folder, device="cpu")(TEXTS)
        for got, expected in zip(theirs["features"], features, strict=True):
            torch.testing.assert_close(torch.tensor(got), torch.tensor(expected), atol=1e-5, rtol=0)


@pytest.mark.slow
def test_a_stranger_gets_the_labels_and_the_tags_that_we_get(through_the_other_door):
    for folder, theirs in through_the_other_door.items():
        labels = pipeline("text-classification", model=folder + "/classifier", device="cpu")(TEXTS)
        for got, expected in zip(theirs["labels"], labels, strict=True):
            assert got["label"] == expected["label"]
            assert got["score"] == pytest.approx(expected["score"], abs=1e-5)
        tagged = pipeline("token-classification", model=folder + "/tagger", device="cpu")(TEXTS)
        assert theirs["words"] == [[entity["word"] for entity in row] for row in tagged]
        assert any(theirs["words"])


def test_generated_texts_are_the_same_in_a_batch_and_alone(folder):
    generate = text_generation(folder)
    settings = dict(max_new_tokens=16, do_sample=False, return_full_text=False)
    together = [row[0]["generated_text"] for row in generate(TEXTS, batch_size=3, **settings)]
    assert together == [generate(text, **settings)[0]["generated_text"] for text in TEXTS]
    assert all(together)


def test_a_chat_is_answered_after_its_template(folder, tokenizer):
    # A small model may answer with special tokens, which the pipeline removes from its text.
    settings = dict(max_new_tokens=12, do_sample=False, suppress_tokens=tokenizer.all_special_ids)
    reply = text_generation(folder)(CHAT, **settings)[0]["generated_text"]
    assert [message["role"] for message in reply] == ["user", "assistant"]
    prompt = tokenizer.apply_chat_template(CHAT, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    model = AutoModelForCausalLM.from_pretrained(folder)
    ids = model.generate(**prompt, **settings)[0, prompt.input_ids.shape[1] :]
    assert reply[1]["content"] == tokenizer.decode(ids, skip_special_tokens=True)
    assert reply[1]["content"].strip()


def test_extracted_features_are_the_last_hidden_states(folder, tokenizer):
    features = pipeline("feature-extraction", model=str(folder), device="cpu")(TEXTS[1])
    with torch.no_grad():
        hidden = AutoModel.from_pretrained(folder)(**tokenizer(TEXTS[1], return_tensors="pt")).last_hidden_state
    assert hidden.std() > 0.1
    torch.testing.assert_close(torch.tensor(features), hidden, atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", ["book", "modern"])
def test_a_text_has_the_same_label_scores_in_a_batch_and_alone(with_heads, family):
    classify = pipeline("text-classification", model=with_heads[family] + "/classifier", device="cpu")
    assert classify.tokenizer.padding_side == "left"
    together, alone = (classify(TEXTS, batch_size=size, top_k=None) for size in (3, 1))
    for first, second in zip(together, alone, strict=True):
        assert [score["label"] for score in first] == [score["label"] for score in second]
        assert [score["score"] for score in first] == pytest.approx([score["score"] for score in second], abs=1e-4)


def test_tagged_words_lie_where_their_offsets_say(with_heads):
    for folder in with_heads.values():
        tag = pipeline("token-classification", model=folder + "/tagger", aggregation_strategy="simple", device="cpu")
        entities = tag(TEXTS[1])
        assert entities
        for entity in entities:
            assert entity["entity_group"] == "NAME"
            assert TEXTS[1][entity["start"] : entity["end"]].strip() == entity["word"].strip()


def test_a_question_is_answered_by_a_span_after_some_training(folder, tokenizer):
    """transformers 5.23 no longer has a question-answering pipeline, so this tests the model class itself."""
    set_seed(0)
    model = AutoModelForQuestionAnswering.from_pretrained(folder)
    contexts = [f"the name is {name} and the place is here" for name in ("string", "object", "method", "value")]
    batch = tokenizer(["What is the name?"] * 4, contexts, return_tensors="pt", padding=True, return_offsets_mapping=True)
    offsets, sides = batch.pop("offset_mapping"), [batch.sequence_ids(row) for row in range(4)]
    spans = []
    for row, context in enumerate(contexts):
        first = context.index(" is ") + 4
        last = context.index(" and ")
        inside = [
            token
            for token, (start, end) in enumerate(offsets[row].tolist())
            if sides[row][token] == 1 and end > first and start < last
        ]
        spans.append((inside[0], inside[-1]))
    starts, ends = torch.tensor(spans).T
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(40):
        output = model(**batch, start_positions=starts, end_positions=ends)
        output.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(output.loss.item())
    assert losses[-1] < 0.1 * losses[0]
    with torch.no_grad():
        output = model.eval()(**batch)
    assert torch.equal(output.start_logits.argmax(-1), starts)
    answer = tokenizer.decode(batch.input_ids[0, output.start_logits[0].argmax() : output.end_logits[0].argmax() + 1])
    assert answer.strip() == "string"


@torch.no_grad()
def label_log_likelihoods(model, tokenizer, prompt: str, labels: list[str]) -> torch.Tensor:
    """Nats (labels,) of each label as the continuation of `prompt`: the sum over its tokens, in one left-padded batch."""
    start = tokenizer(prompt).input_ids
    rows = [tokenizer(label, add_special_tokens=False).input_ids for label in labels]
    batch = tokenizer.pad({"input_ids": [start + row for row in rows]}, return_tensors="pt")
    positions = (batch.attention_mask.cumsum(-1) - 1).clamp(min=0)
    logits = model(**batch, position_ids=positions).logits[:, :-1].log_softmax(-1)
    nats = logits.gather(-1, batch.input_ids[:, 1:, None])[..., 0]  # (labels, T - 1)
    return torch.stack([row[-len(label) :].sum() for row, label in zip(nats, rows, strict=True)])


def test_labels_are_scored_by_their_likelihood_without_any_training(folder, tokenizer):
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    labels = [" class", " object of a class", "zq9x"]
    scores = label_log_likelihoods(model, tokenizer, "Return the", labels)
    for label, score in zip(labels, scores, strict=True):
        prompt, answer = tokenizer("Return the").input_ids, tokenizer(label, add_special_tokens=False).input_ids
        ids = torch.tensor([prompt + answer])
        targets = ids.masked_fill(torch.arange(ids.shape[1]) < len(prompt), -100)
        assert score.item() == pytest.approx(-model(ids, labels=targets).loss.item() * len(answer), abs=1e-3)
    assert scores[2] < scores[1] < scores[0]


def test_the_zero_shot_pipeline_reads_a_classifier_with_an_entailment_label(folder, tokenizer):
    """It scores `text` against "This example is <label>." with a classifier of such pairs, so a language model does not fit."""
    set_seed(0)
    labels = {0: "contradiction", 1: "neutral", 2: "entailment"}
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=3, id2label=labels).eval()
    torch.nn.init.normal_(model.score.weight, std=0.5)
    classify = pipeline("zero-shot-classification", model=model, tokenizer=tokenizer, device="cpu")
    result = classify(TEXTS[1], candidate_labels=["files", "text"])
    pairs = [tokenizer(TEXTS[1], f"This example is {label}.", return_tensors="pt") for label in result["labels"]]
    with torch.no_grad():
        entailment = torch.cat([model(**pair).logits[:, 2] for pair in pairs])
    assert result["scores"] == pytest.approx(entailment.softmax(0).tolist(), abs=1e-4)
    assert result["scores"][0] > result["scores"][1]
