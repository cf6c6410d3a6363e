import json
import random

import numpy as np
import pytest

from hfgpt.data.dropped import DroppedDocuments
from hfgpt.data.on_disk import write_documents
from hfgpt.data.passport import Passport
from hfgpt.evaluation.loading import load
from hfgpt.evaluation.strided import score_text
from hfgpt.hygiene.perplexity import REASON, drop_unlikely, log_perplexities


@pytest.fixture
def documents(small_corpus, tmp_path):
    """The small corpus with three documents of random letters, unlike anything its model has seen."""
    generator = random.Random(0)
    texts = [json.loads(line)["text"] for line in small_corpus.read_text(encoding="utf-8").splitlines()]
    for place in GIBBERISH:
        texts.insert(place, "".join(generator.choices("qxzjkvwpy#%@0123456789", k=400)))
    rows = [{"text": text, "source": "s", "row_id": str(index), "draw": 0.5} for index, text in enumerate(texts)]
    return write_documents(rows, tmp_path / "documents.arrow")


GIBBERISH = [3, 40, 80]


def test_gibberish_is_dropped_and_counted_and_nothing_else(documents, small_families, tmp_path):
    passport, dropped = Passport(), DroppedDocuments(tmp_path)
    kept = drop_unlikely(documents, passport, model=str(small_families["modern"]), dropped=dropped)
    gone = {*documents["row_id"]} - {*kept["row_id"]}
    assert {int(one) for one in gone} == {*GIBBERISH}
    (entry,) = passport.steps
    assert (entry["documents_in"], entry["documents_out"]) == (103, 100)
    assert entry["reasons"] == {REASON: 3}
    assert len(entry["settings"]["weights_sha256"]) == 64
    assert "/" not in entry["settings"]["perplexity_model"]  # no path of this machine
    dropped.move_into(tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "dropped.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [(int(line["row_id"]), line["reason"]) for line in lines] == [(place, REASON) for place in GIBBERISH]


def test_scores_are_those_of_the_evaluation_whatever_the_batches(documents, small_families, monkeypatch):
    loaded = load(str(small_families["book"]))
    scores = log_perplexities(loaded, documents)
    for index in (0, 3, 57):
        alone = score_text(loaded.model, loaded.tokenizer, [documents[index]], context_length=256, stride=256)
        assert scores[index] == pytest.approx(alone.nats / alone.tokens, rel=1e-5)
    assert np.array_equal(scores, log_perplexities(loaded, documents))
    monkeypatch.setattr("hfgpt.hygiene.perplexity.BATCH_SIZE", 3)
    assert np.allclose(scores, log_perplexities(loaded, documents), rtol=1e-5)
    assert scores.std() > 0.1


def test_a_document_without_a_token_stays(small_gpt2, tmp_path):
    rows = [{"text": text, "source": "s", "row_id": "0", "draw": 0.5} for text in ("", "a", "os.path is a module")]
    documents = write_documents(rows, tmp_path / "documents.arrow")
    passport = Passport()
    assert len(drop_unlikely(documents, passport, model=str(small_gpt2))) == 3
    assert passport.steps[0]["nats_per_token"]["documents"] == 2
