import csv
import json
import re

import numpy as np
import pytest

from hfgpt.evaluation.classification import classification_metrics, mean_and_spread, probabilities_of
from hfgpt.evaluation.classification_errors import draw_confusion, errors_table, write_errors


def test_probabilities_are_exact_for_large_and_small_logits():
    probabilities = probabilities_of(np.array([[1000.0, 999.0], [-1000.0, 0.0]], dtype=np.float32), False)
    assert probabilities.dtype == np.float64
    np.testing.assert_allclose(probabilities, [[1 / (1 + np.exp(-1)), 1 / (1 + np.e)], [0, 1]], atol=1e-15)
    several = probabilities_of([[0.0, -1000.0, 1000.0]], multi_label=True)
    assert several.tolist() == [[0.5, 0.0, 1.0]]


@pytest.mark.parametrize("multi_label", [False, True])
def test_logits_that_are_not_finite_are_refused_by_row(multi_label):
    with pytest.raises(ValueError, match="row 1 of the logits"):
        probabilities_of([[0.0, 1.0], [np.nan, 1.0]], multi_label)


def test_metrics_are_keyed_by_the_names_of_the_labels_and_json_holds_them():
    one = classification_metrics(
        np.array([[0.9, 0.1], [0.3, 0.7]], dtype=np.float32), np.array([0, 0]), names=["ham", "spam"], multi_label=False
    )
    assert one["accuracy"] == 0.5
    assert one["per_class"]["ham"]["recall"] == 0.5
    assert one["roc_auc"] is None
    several = classification_metrics(
        np.array([[0.9, 0.8], [0.3, 0.7]]), [[1.0, 0.0], [0.0, 1.0]], names=["x", "y"], multi_label=True
    )
    assert several["accuracy"] == 0.5
    assert several["per_class"]["y"]["precision"] == 0.5
    json.dumps([one, several], allow_nan=False)


@pytest.mark.parametrize("num_classes", [2, 30])
def test_the_picture_of_confusions_is_whole_and_legible_in_size(tmp_path, num_classes):
    from matplotlib.image import imread

    draw = np.random.default_rng(0)
    labels = draw.integers(0, num_classes, 600)
    predictions = np.where(draw.random(600) < 0.8, labels, draw.integers(0, num_classes, 600))
    names = ["$x$ costs $", "a label of a great many words that goes on", *(f"label {index}" for index in range(28))][:num_classes]
    path = tmp_path / "confusion.png"
    draw_confusion(labels, predictions, names=names, path=path)
    picture = imread(path)
    assert picture.shape[0] > 400 + 40 * num_classes
    # The diagonal is drawn: some pixels are dark blue (red below a half, blue above).
    assert ((picture[..., 0] < 0.5) & (picture[..., 2] > 0.5)).mean() > 0.005
    assert [file.name for file in tmp_path.iterdir()] == ["confusion.png"]


def test_the_surest_mistake_stands_first():
    rows = errors_table(
        ["right", "sure", "unsure", "right too"],
        [0, 0, 1, 1],
        np.array([[0.9, 0.1], [0.01, 0.99], [0.6, 0.4], [0.2, 0.8]]),
        ["ham", "spam"],
        ["r0", "r1", "r2", "r3"],
    )
    assert [row["text"] for row in rows] == ["sure", "unsure"]
    assert rows[0] == {
        "row_id": "r1", "label": "ham", "predicted": "spam", "probability": 0.99, "probability_of_right": 0.01, "text": "sure",
    }  # fmt: skip


def test_an_error_among_several_labels_is_as_bad_as_its_worst_label():
    rows = errors_table(
        ["all right", "one missed", "one too many"],
        np.array([[1.0, 0.0], [1.0, 1.0], [0.0, 0.0]]),
        np.array([[0.9, 0.1], [0.8, 0.3], [0.1, 0.95]]),
        ["a", "b"],
        [10, 11, 12],
    )
    assert [(row["text"], row["label"], row["predicted"]) for row in rows] == [
        ("one too many", "(none)", "b"),
        ("one missed", "a, b", "a"),
    ]
    assert [row["probability"] for row in rows] == pytest.approx([0.95, 0.7])
    assert [row["probability_of_right"] for row in rows] == pytest.approx([0.05, 0.3])


HOSTILE = [
    "=HYPERLINK(\"http://evil\",\"click\")",
    "+44 free call",
    "-1+1|cmd",
    "@SUM(A1)",
    "  =1+1",
    "\t=1",
    "a|b \\| c \\\\| d",
    "line\nbreak\r\nand\rmore",
    "`code` ``more``",
    "![x](http://tracker/x.png) <script>alert(1)</script>",
    "bell\x07 nul\x00 right-to-left\u202e zero\u200b half\ud83d",
    "",
    "long " * 200,
]  # fmt: skip


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("errors")
    rows = errors_table(
        HOSTILE,
        [0] * len(HOSTILE),
        np.tile([0.1, 0.9], (len(HOSTILE), 1)),
        ["ham", "spam|=x"],
        [f"r{i}" for i in range(len(HOSTILE))],
    )
    assert [row["text"] for row in rows] == HOSTILE  # equally sure mistakes keep the order of the data
    write_errors(rows, folder / "errors.csv")
    assert sorted(file.name for file in folder.iterdir()) == ["errors.csv", "errors.md"]
    return folder


def test_no_cell_of_the_csv_is_a_formula_and_the_texts_come_back(written):
    with (written / "errors.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(line.replace("\0", "<NUL>") for line in file))  # Python 3.10's reader refuses NUL
    assert len(rows) == len(HOSTILE)
    for row, text in zip(rows, HOSTILE, strict=True):
        assert not any(cell.lstrip(" ").startswith(("=", "+", "-", "@", "\t", "\r")) for cell in row.values())
        text = text.replace("\0", "<NUL>").replace("\ud83d", "\\ud83d")
        assert row["text"] in (text, f"'{text}")
        assert float(row["probability"]) == 0.9
    assert [row["text"][0] for row in rows[:6]] == ["'"] * 6


def test_the_markdown_table_has_one_line_a_text_and_nothing_in_it_comes_alive(written):
    lines = (written / "errors.md").read_text(encoding="utf-8").splitlines()
    rows = [line for line in lines if line.startswith("| `r")]
    assert len(rows) == len(HOSTILE)
    for row in rows:
        # A pipe ends a cell unless an odd number of backslashes precedes it.
        delimiters = [match for match in re.finditer(r"(\\*)\|", row) if len(match.group(1)) % 2 == 0]
        assert len(delimiters) == 7, row
        assert row.isprintable()
    assert len(rows[-1]) < 500
    assert rows[-1].endswith("…` |")
    assert "(empty)" in rows[-2]
    assert "\\x07" in rows[10]
    assert "\\u202e" in rows[10]
    outside = [re.sub(r"(`+).*?(?<!`)\1(?!`)", "", row) for row in rows]  # what is not inline code
    assert all("<" not in row and "http" not in row and "[" not in row for row in outside)


def test_no_errors_still_make_both_files(tmp_path):
    write_errors([], tmp_path / "errors.csv")
    assert (tmp_path / "errors.csv").read_text(encoding="utf-8").startswith("row_id,label,predicted")
    assert (tmp_path / "errors.md").read_text(encoding="utf-8").startswith("# 0 wrongly classified texts")


def test_mean_and_spread_over_seeds_are_worked_out_by_hand():
    runs = [
        {"accuracy": 0.9, "roc_auc": None, "per_class": {"ham": {"f1": 0.5, "support": 3}}, "reason": "text", "sure": True},
        {"accuracy": 0.96, "roc_auc": 0.7, "per_class": {"ham": {"f1": 0.7, "support": 3}}, "confusion_matrix": [[1]]},
        {"accuracy": np.float64(0.93), "roc_auc": 0.9, "per_class": {"ham": {"f1": 0.6, "support": 3}}},
    ]
    spread = mean_and_spread(runs)
    assert spread["accuracy"] == pytest.approx(
        {"mean": 0.93, "standard_deviation": 0.03, "minimum": 0.9, "maximum": 0.96, "runs": 3}
    )
    assert spread["roc_auc"]["runs"] == 2
    assert spread["per_class"]["ham"]["f1"]["mean"] == pytest.approx(0.6)
    assert set(spread) == {"accuracy", "roc_auc", "per_class"}
    assert json.loads(json.dumps(spread)) == spread


def test_a_single_seed_has_no_standard_deviation():
    assert mean_and_spread([{"accuracy": 0.5}])["accuracy"]["standard_deviation"] is None


def test_of_many_labels_the_picture_shows_those_with_the_most_errors(tmp_path):
    labels = np.arange(600) % 300
    draw_confusion(
        labels, np.where(labels < 290, labels, 0), names=[f"label {index}" for index in range(300)], path=tmp_path / "many.png"
    )
    draw_confusion(labels, labels, names=[f"label {index}" for index in range(300)], path=tmp_path / "none wrong.png")
    sizes = [path.stat().st_size for path in tmp_path.iterdir()]
    assert len(sizes) == 2
    assert max(sizes) < 300_000
