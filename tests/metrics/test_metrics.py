"""Comparison with figures worked out by hand, and with scikit-learn called directly."""

import json
import math
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from hfgpt.errors import UserError
from hfgpt.metrics import FOLDER, METRICS, MetricModule, load_metric, measure
from hfgpt.metrics.label_metrics.label_metrics import calibration_error


def compute(name: str, predictions, references, **settings) -> dict:
    result = measure(name, predictions=predictions, references=references, **settings)
    return json.loads(json.dumps(result, allow_nan=False))  # the result is valid JSON, without NaN


@pytest.fixture(scope="module")
def drawn():
    """300 examples with five labels, and probabilities that are better than chance."""
    draw = np.random.default_rng(0)
    labels = draw.integers(0, 5, 300)
    logits = draw.normal(size=(300, 5)) + 1.5 * np.eye(5)[labels]
    exponentials = np.exp(logits)
    return exponentials / exponentials.sum(axis=1, keepdims=True), labels


def test_figures_of_two_labels_are_those_worked_out_by_hand():
    result = compute("label_metrics", [[0.9, 0.1], [0.2, 0.8], [0.7, 0.3], [0.4, 0.6]], [0, 1, 1, 0], names=["ham", "spam"])
    assert result["accuracy"] == 0.5
    assert result["confusion_matrix"] == [[1, 1], [1, 1]]
    assert result["per_class"]["spam"] == {"precision": 0.5, "recall": 0.5, "f1": 0.5, "support": 2}
    assert result["roc_auc"] == 0.75  # of the pairs (spam 0.8, 0.3) x (ham 0.1, 0.6), one is in the wrong order
    assert result["log_loss"] == pytest.approx(-(math.log(0.9) + math.log(0.8) + math.log(0.3) + math.log(0.4)) / 4)
    # Confidences 0.9, 0.8, 0.7, 0.6 are in four bins; the first two are right.
    assert result["calibration_error"] == pytest.approx((0.1 + 0.2 + 0.7 + 0.6) / 4)
    assert result["num_examples"] == 4


def test_figures_of_many_labels_are_scikit_learns(drawn):
    probabilities, labels = drawn
    result = compute("label_metrics", probabilities, labels)
    predicted = probabilities.argmax(axis=1)
    assert 0.3 < result["accuracy"] < 0.95
    assert result["accuracy"] == sklearn_metrics.accuracy_score(labels, predicted)
    for name, function in (("f1", sklearn_metrics.f1_score), ("precision", sklearn_metrics.precision_score),
                           ("recall", sklearn_metrics.recall_score)):  # fmt: skip
        assert result[f"macro_{name}"] == pytest.approx(function(labels, predicted, average="macro"))
        assert [row[name] for row in result["per_class"].values()] == pytest.approx(function(labels, predicted, average=None))
    assert result["roc_auc"] == pytest.approx(sklearn_metrics.roc_auc_score(labels, probabilities, multi_class="ovr"))
    assert result["log_loss"] == pytest.approx(sklearn_metrics.log_loss(labels, probabilities))
    assert result["confusion_matrix"] == sklearn_metrics.confusion_matrix(labels, predicted).tolist()
    assert list(result["per_class"]) == ["0", "1", "2", "3", "4"]


def test_the_calibration_error_follows_its_definition_bin_by_bin(drawn):
    probabilities, labels = drawn
    confidences, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    expected = 0.0
    for bin in range(15):
        inside = (confidences > bin / 15) & (confidences <= (bin + 1) / 15)
        if inside.any():
            expected += inside.mean() * abs(right[inside].mean() - confidences[inside].mean())
    assert expected > 0.01
    assert compute("label_metrics", probabilities, labels)["calibration_error"] == pytest.approx(expected)


def test_sure_and_right_is_perfectly_calibrated_and_sure_and_wrong_not_at_all():
    assert calibration_error(np.array([1.0, 1.0, 0.0]), np.array([1, 1, 0])) == 0
    assert calibration_error(np.array([1.0, 1.0]), np.array([0, 0])) == 1
    assert calibration_error(np.full(10, 0.7), np.array([1] * 7 + [0] * 3)) == pytest.approx(0)


@pytest.mark.parametrize("right", [True, False])
def test_probabilities_of_zero_and_one_give_finite_figures(right):
    labels = np.array([0, 1, 2, 0])
    result = compute("label_metrics", np.eye(3)[labels if right else (labels + 1) % 3], labels)
    for name in ("accuracy", "macro_f1", "macro_precision", "macro_recall"):
        assert result[name] == (1 if right else 0)
    assert result["calibration_error"] == (0 if right else 1)
    assert result["log_loss"] == pytest.approx(0 if right else -math.log(np.finfo(float).eps), abs=1e-6)
    assert result["roc_auc"] == pytest.approx(1) if right else result["roc_auc"] < 0.5


def test_an_absent_label_leaves_no_roc_auc_and_counts_for_no_macro_mean(drawn):
    probabilities, labels = drawn
    few = np.where(labels == 4, 0, labels)
    squeezed = probabilities.copy()
    squeezed[:, 0] += squeezed[:, 4]
    squeezed[:, 4] = 0
    result = compute("label_metrics", squeezed, few, names=list("abcde"))
    assert result["roc_auc"] is None
    assert "'e' (no example has it)" in result["roc_auc_missing"]
    assert result["per_class"]["e"] == {"precision": 0, "recall": 0, "f1": 0, "support": 0}
    without = compute("label_metrics", squeezed[:, :4], few, names=list("abcd"))
    assert without["roc_auc"] > 0.5
    assert "roc_auc_missing" not in without
    assert result["macro_f1"] == without["macro_f1"]
    # A label that is predicted but never right does count, as in scikit-learn.
    predicted = compute("label_metrics", probabilities, few)
    assert predicted["macro_f1"] == pytest.approx(sklearn_metrics.f1_score(few, probabilities.argmax(axis=1), average="macro"))


def test_figures_of_several_labels_a_text_are_those_worked_out_by_hand():
    result = compute(
        "multilabel_metrics",
        [[0.9, 0.1, 0.6], [0.2, 0.8, 0.4], [0.7, 0.3, 0.5]],
        [[1, 0, 1], [0, 1, 1], [1, 1, 0]],
        names=list("abc"),
    )
    assert result["accuracy"] == pytest.approx(1 / 3)  # the second lacks c, the third has c and lacks b
    assert result["micro_f1"] == pytest.approx(2 * 4 / (2 * 4 + 1 + 2))
    assert result["macro_f1"] == pytest.approx((1 + 2 / 3 + 1 / 2) / 3)
    assert result["confusion_matrix"][1] == [[1, 0], [1, 1]]
    assert result["roc_auc"] == pytest.approx((1 + 1 + 0.5) / 3)
    assert result["per_class"]["b"] == pytest.approx(
        {"precision": 1, "recall": 0.5, "f1": 2 / 3, "support": 2, "calibration_error": (0.1 + 0.2 + 0.7) / 3}
    )


def test_figures_of_several_labels_a_text_are_scikit_learns():
    draw = np.random.default_rng(1)
    truth = draw.integers(0, 2, (200, 4))
    probabilities = np.clip(0.3 * draw.random((200, 4)) + 0.5 * truth * draw.random((200, 4)) + 0.15, 0, 1)
    predicted = (probabilities >= 0.5).astype(int)
    result = compute("multilabel_metrics", probabilities, truth.astype(float))
    assert 0.02 < result["accuracy"] < 0.9
    assert result["accuracy"] == sklearn_metrics.accuracy_score(truth, predicted)
    assert result["micro_f1"] == pytest.approx(sklearn_metrics.f1_score(truth, predicted, average="micro"))
    assert result["macro_f1"] == pytest.approx(sklearn_metrics.f1_score(truth, predicted, average="macro"))
    assert result["roc_auc"] == pytest.approx(sklearn_metrics.roc_auc_score(truth, probabilities))
    assert result["log_loss"] == pytest.approx(-np.log(np.where(truth == 1, probabilities, 1 - probabilities)).mean())
    lenient = compute("multilabel_metrics", probabilities, truth.astype(float), threshold=0.3)
    assert lenient["macro_recall"] > result["macro_recall"]


def test_a_single_column_of_labels_is_one_yes_or_no_and_not_two_labels():
    result = compute("multilabel_metrics", [[0.9], [0.2], [0.7]], [[1], [0], [0]], names=["urgent"])
    assert result["accuracy"] == pytest.approx(2 / 3)
    assert result["confusion_matrix"] == [[[1, 1], [0, 1]]]
    assert result["per_class"]["urgent"]["precision"] == result["macro_precision"] == 0.5


def test_a_label_on_no_text_or_on_every_one_has_no_roc_auc():
    result = compute("multilabel_metrics", [[0.9, 0.1], [0.8, 0.0]], [[1, 0], [1, 0]], names=["all", "none"])
    assert result["roc_auc"] is None
    assert "'all' (every example has it), 'none' (no example has it)" in result["roc_auc_missing"]
    assert result["accuracy"] == 1


def test_answers_are_compared_as_squad_compares_them():
    result = compute(
        "answer_metrics",
        ["The  Cat!", "a cat sat", "dog", "", "   "],
        ["cat", "the cat sat down", "cat", "cat", ""],
        per_answer=True,
    )
    assert [row["exact_match"] for row in result["per_answer"]] == [1, 0, 0, 0, 0]
    assert [row["token_f1"] for row in result["per_answer"]] == pytest.approx([1, 2 * 2 / 5, 0, 0, 0])
    assert result["exact_match"] == 0.2
    assert result["num_examples"] == 5


def test_answers_of_punctuation_alone_are_compared_as_they_are():
    result = compute("answer_metrics", ["%", "!", "the"], ["%", "%", "a"], per_answer=True)
    assert [row["exact_match"] for row in result["per_answer"]] == [1, 0, 0]


def test_rouge_is_that_of_rouge_score_and_of_the_hand():
    from rouge_score.rouge_scorer import RougeScorer

    said, expected = "police killed the gunman", "police kill the gunman"  # Lin (2004), section 3.1
    result = compute("answer_metrics", [said], [expected])
    assert result["rouge1"] == result["rougeL"] == 0.75
    assert result["rouge2"] == pytest.approx(1 / 3)
    scores = RougeScorer(["rouge1", "rouge2", "rougeL"]).score(expected, said)
    assert {name: result[name] for name in scores} == {name: score.fmeasure for name, score in scores.items()}


@pytest.mark.parametrize(
    ("name", "predictions", "references", "said"),
    [
        ("label_metrics", [[0.5, 0.5], [0.1, 0.9]], [0], "predictions (2) and references (1)"),
        ("label_metrics", [], [], "no predictions"),
        ("label_metrics", [[0.5, 0.5], [2.0, -1.0]], [0, 1], "prediction 1 is [2.0, -1.0]"),
        ("label_metrics", [[math.nan, 0.5]], [0], "or NaN"),
        ("label_metrics", [[0.9, 0.8]], [0], "sums from 1.7 to 1.7"),
        ("label_metrics", [[1.0]], [0], "at least two"),
        ("label_metrics", [[0.5, 0.5]], [2], "allowed: 0 to 1"),
        ("label_metrics", [[0.5, 0.5], [0.2, 0.3, 0.5]], [0, 1], "[2, 3] probabilities per row"),
        ("multilabel_metrics", [[0.5, 0.5]], [[0.5, 1]], "reference 0 is [0.5, 1.0]"),
        ("multilabel_metrics", [[0.5, 0.5]], [[1]], "2 zeros and ones"),
        ("answer_metrics", ["a", "b"], ["a"], "predictions (2) and references (1)"),
        ("answer_metrics", [], [], "no answers"),
    ],
)  # fmt: skip
def test_what_cannot_be_measured_is_refused(name, predictions, references, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        compute(name, predictions, references)


def test_wrong_names_are_refused():
    for names in (["a"], ["a", "a"]):
        with pytest.raises(UserError, match="each needs a distinct name"):
            compute("label_metrics", [[0.5, 0.5]], [0], names=names)
    with pytest.raises(UserError, match="metric is 'accuracy'; allowed: answer_metrics, label_metrics, multilabel_metrics"):
        load_metric("accuracy")


def test_only_what_a_metric_refuses_itself_is_shown_without_a_traceback():
    with pytest.raises(UserError, match="not logits"):
        measure("label_metrics", predictions=[[2.0, -1.0]], references=[0])
    with pytest.raises(ValueError, match="expected a list") as caught:  # an error from evaluate is our bug
        measure("label_metrics", predictions=["0.5 0.5"], references=[0])
    assert not isinstance(caught.value, UserError)


TOY = """
import datasets
import evaluate

class Longest(evaluate.Metric):
    def _info(self):
        features = {name: datasets.Value("string") for name in ("predictions", "references")}
        return evaluate.MetricInfo(description="", citation="", features=datasets.Features(features))

    def _compute(self, predictions, references):
        return {"longest": max(map(len, predictions))}
"""


def test_another_package_adds_a_metric_of_its_own(tmp_path, monkeypatch):
    (tmp_path / "longest").mkdir()
    (tmp_path / "longest" / "longest.py").write_text(TOY)
    monkeypatch.setitem(METRICS, "longest", MetricModule(tmp_path / "longest"))
    assert measure("longest", predictions=["a", "bcd"], references=["", ""]) == {"longest": 3}


LOAD = """
import sys, evaluate
one, several = (evaluate.load(sys.argv[1], config_name=name) for name in (None, "multilabel"))
print(one.compute(predictions=[[0.9, 0.1], [0.2, 0.8]], references=[0, 1])["accuracy"], one.name)
print(several.compute(predictions=[[0.9, 0.6], [0.2, 0.8]], references=[[1, 0], [0, 1]])["accuracy"])
answers = evaluate.load(sys.argv[2])
print(answers.compute(predictions=["a cat"], references=["The cat!"])["exact_match"], answers.name)
"""


@pytest.mark.slow
def test_copies_load_at_once_and_offline_in_fresh_processes_with_empty_caches_and_without_hfgpt(tmp_path, stranger):
    """From a copied folder, as it would be shared on the Hub."""
    environment = {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1", "HF_ENDPOINT": "http://127.0.0.1:9", **stranger}
    copies = [shutil.copytree(FOLDER / name, tmp_path / name) for name in ("label_metrics", "answer_metrics")]
    processes = [
        subprocess.Popen(
            [sys.executable, "-S", "-c", LOAD, *copies], cwd=tmp_path, env={**os.environ, **environment},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for _ in range(2)
    ]  # fmt: skip
    for process in processes:
        output, errors = process.communicate(timeout=240)
        assert process.returncode == 0, errors
        assert output.split() == ["1.0", "label_metrics", "0.5", "1.0", "answer_metrics"]
    assert list((tmp_path / "home").rglob("label_metrics.py")), "the empty cache was used"


def test_numbers_that_differ_are_different_and_each_character_of_a_script_without_spaces_counts():
    result = compute(
        "answer_metrics", ["1", "10", "-1", "1,000", "返回名称"], ["-1", "1.0", "-1.", "1000", "返回它的名称"], per_answer=True
    )
    assert [row["exact_match"] for row in result["per_answer"]] == [0, 0, 1, 1, 0]
    assert [row["token_f1"] for row in result["per_answer"]] == pytest.approx([0, 0, 1, 1, 2 * 4 / 10])
