"""Repair and filters in the recipes: tokenizer and rows see the same documents, and what is dropped can be read."""

import json

import pytest
from hard_texts import HARD_TEXTS
from recipes_in_process import recipe

from hfgpt.data.passport import Passport
from hfgpt.data.sources import ReadingOptions, find_sources
from hfgpt.data.splitting import Split
from hfgpt.hygiene.documents import clean_documents

JUNK = ["buy now " * 200, "x", "schÃ¶n \x00und gut ist es hier, wo niemand wohnt"]


@pytest.fixture
def corpus(small_corpus, tmp_path):
    path = tmp_path / "texts.jsonl"
    path.write_text(small_corpus.read_text() + "".join(json.dumps({"text": text}) + "\n" for text in JUNK))
    return path


def test_rows_are_cleaned_as_their_tokenizer_was_and_dropped_documents_can_be_read(corpus, tmp_path):
    tokenizer, rows = tmp_path / "tokenizer", tmp_path / "rows"
    recipe("train_tokenizer", sources=[str(corpus)], vocab_size=400, split_by="document", output_dir=str(tokenizer),
           filters="light", filter_settings={"max_compression": 20})  # fmt: skip
    recipe("prepare_data", tokenizer=str(tokenizer), context_length=64, keep_dropped=True, output_dir=str(rows))
    settings = {"min_characters": 2, "max_characters": 100_000_000, "max_compression": 20}
    for folder in (tokenizer, rows):
        steps = {entry["step"]: entry for entry in json.loads((folder / "passport.json").read_text())["steps"]}
        assert list(steps)[:4] == ["load", "repair text", "filter: length", "drop blank"]
        assert steps["repair text"]["reasons"]["repaired"] >= 1
        assert (steps["filter: length"]["documents_in"], steps["filter: length"]["documents_out"]) == (103, 101)
        assert steps["filter: length"]["reasons"] == {"length: repeats itself": 1, "length: too few characters": 1}
        assert steps["filter: length"]["settings"] == settings
    lines = [json.loads(line) for line in (rows / "dropped.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [(line["reason"], line["row_id"], line["text"].strip()) for line in lines] == [
        ("length: repeats itself", "101", JUNK[0].strip()), ("length: too few characters", "102", "x"),
    ]  # fmt: skip
    assert {line["source"] for line in lines} == {str(corpus)}


def test_a_corpus_that_filters_drop_whole_is_an_error_with_reason_and_key_and_leaves_nothing(tmp_path, small_tokenizer):
    (tmp_path / "texts.jsonl").write_text(json.dumps({"text": "Too short for the web, this is."}) + "\n")
    said = (r"no document is left: filters dropped 1 of 1 document, 1 of them for 'gopher: too few words'; "
            r"change min_words \(50\) in filter_settings or filters\.")  # fmt: skip
    with pytest.raises(ValueError, match=said):
        recipe("prepare_data", sources=[str(tmp_path / "texts.jsonl")], tokenizer=str(small_tokenizer), filters="web",
               keep_dropped=True, output_dir=str(tmp_path / "rows"))  # fmt: skip
    assert [path.name for path in tmp_path.iterdir()] == ["texts.jsonl"]


def test_documents_that_a_model_finds_unlikely_are_dropped(corpus, small_families, tmp_path):
    rows = tmp_path / "rows"
    with corpus.open("a") as file:
        file.write(json.dumps({"text": "qx#zj@kvw%" * 4 + "@@kqz##vjx%%" * 3}) + "\n")
    model = str(small_families["modern"])
    recipe("prepare_data", sources=[str(corpus)], tokenizer=model, context_length=64, perplexity_model=model, keep_dropped=True,
           filters="light", output_dir=str(rows))  # fmt: skip
    lines = [json.loads(line) for line in (rows / "dropped.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {"perplexity: unlikely text"} <= {line["reason"] for line in lines}
    assert "104" in {line["row_id"] for line in lines if line["step"] == "filter: perplexity"}


def test_without_filters_hard_texts_stay_as_they_are(tmp_path):
    texts = [text for text in HARD_TEXTS if text.strip()]
    path = tmp_path / "hard.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    documents = clean_documents(
        find_sources([str(path)]), ReadingOptions(), Passport(), deduplicate="none", split=Split("document", 0.0, 0.0),
        cache_dir=str(tmp_path),
    )  # fmt: skip
    assert documents["text"][:] == texts
    assert len(texts) > 60


def test_what_is_taken_from_the_tokenizer_is_said_also_with_other_sources(small_corpus, corpus, tmp_path, caplog):
    caplog.set_level("INFO", logger="hfgpt")
    tokenizer = tmp_path / "tokenizer"
    recipe("train_tokenizer", sources=[str(corpus)], vocab_size=400, split_by="document", output_dir=str(tokenizer),
           filters="light", deduplicate="exact")  # fmt: skip
    given = dict(sources=[str(small_corpus)], tokenizer=str(tokenizer), context_length=64)
    recipe("prepare_data", **given, output_dir=str(tmp_path / "rows"))
    assert f"data: same as for the tokenizer {tokenizer}: filters light, deduplicate exact\n" in caplog.text
    caplog.clear()
    recipe("prepare_data", **given, filters="none", deduplicate="near", output_dir=str(tmp_path / "other"))
    assert "as for the tokenizer" not in caplog.text
