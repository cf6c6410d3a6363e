import json
import subprocess
import sys

import pytest

from hfgpt.errors import UserError
from hfgpt.training.summary import summary_lines

BASE = {"parameters": 1_853_056, "test_bits_per_byte": 1.4378}
CLASSIFIER = {"labels": ["a", "b"], "majority": 0.25, "test": {"accuracy": {"mean": 0.9}}, "tfidf": {"accuracy": 0.8759}}
KINDS = {
    "package": {"num_examples": 50, "right": 0.7, "most_frequent": 0.2},
    "returns": {"num_examples": 50, "right": 0.8, "most_frequent": 0.5},
    "description": {"num_examples": 50, "token_f1": 0.123, "rougeL": 0.2},
}
ASSISTANT = {"test_token_f1": 0.5, "test_right": 0.75, "test_most_frequent": 0.35, "test_kinds": KINDS}


@pytest.fixture
def runs(tmp_path):
    lzma = {"alone": 2.6732, "after_training": 1.7936}
    for name, metrics, passport in (
        ("base", BASE, {"lzma_bits_per_byte": lzma}),
        ("classifier", CLASSIFIER, {}),
        ("assistant", ASSISTANT, {}),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.json").write_text(json.dumps(metrics))
        (tmp_path / name / "passport.json").write_text(json.dumps(passport))
    return tmp_path


def test_the_last_screen_has_a_dozen_lines_with_what_was_made_how_good_it_is_and_what_to_try(runs, monkeypatch):
    monkeypatch.chdir(runs)
    monkeypatch.setattr(sys, "executable", str(runs / ".venv" / "bin" / "python"))
    lines = list(summary_lines(runs))
    assert lines == [
        "base: a GPT of 1.9 million parameters, 1.438 bits per byte on unseen text (lzma, having read the same text: 1.794)",
        "classifier: distinguishes 2 labels, 90.0 % of unseen texts right (TF-IDF with logistic regression 87.6 %, always naming "
        "the same label 25.0 %)",
        "assistant: answers questions, 75.0 % of unseen ones right (always giving the most frequent answer: 35.0 %):\n"
        "    package 70 %, returns 80 %, description in free text, token F1 0.12",
        "try:",
        f"    .venv/bin/hfgpt generate {runs}/base --prompt 'os.path.join('",
        '    .venv/bin/python -c "import hfgpt; from transformers import pipeline; '
        f"print(pipeline('text-classification', '{runs}/classifier')('Return the event loop.', truncation=True))\"",
        f"    .venv/bin/hfgpt chat {runs}/assistant    # How many arguments does os.walk(top, topdown=True) take?",
        f"read: {runs}/assistant/answers.html",
    ]
    assert "\n".join(lines).count("\n") < 12


def test_parts_that_are_not_there_are_left_out_and_an_assistant_without_kinds_has_its_f1(runs):
    (runs / "classifier" / "metrics.json").unlink()
    (runs / "assistant" / "metrics.json").write_text(json.dumps({"test_token_f1": 0.5}))
    text = "\n".join(summary_lines(runs))
    assert "answers questions, token F1 0.500 on unseen ones" in text
    assert "classifier" not in text


def test_a_folder_without_runs_is_an_error_in_one_sentence(tmp_path):
    with pytest.raises(UserError, match="contains no finished run"):
        list(summary_lines(tmp_path))
    done = subprocess.run([sys.executable, "-m", "hfgpt.training.summary", str(tmp_path)], capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
