"""Texts with labels: accuracy, F1, precision, recall, ROC-AUC, calibration error, log loss, confusion matrix."""

import datasets
import evaluate
import numpy as np
from sklearn.metrics import (
    accuracy_score,
    confusion_matrix,
    log_loss,
    multilabel_confusion_matrix,
    precision_recall_fscore_support,
    roc_auc_score,
)

DESCRIPTION = """Metrics of a classifier, computed by scikit-learn from its probabilities. Without a configuration each text has one
of C labels; with the configuration "multilabel", any of them.

One label: macro means average over the labels that occur in the references or the predictions, as scikit-learn's do. ROC-AUC is
that of the second label for C = 2, else the mean of one against the rest. The calibration error is that of the highest
probability, over 15 bins of equal width.

Several labels: a label is predicted from the threshold on. The accuracy is that of the whole set of labels: one wrong label, and
the text counts as wrong. Macro means average over all C labels. ROC-AUC, calibration error and log loss are means over the labels.

A precision or recall without examples is 0. ROC-AUC is None, with a reason, where a label is on no text or on every one.
"""
INPUTS = """
Args:
    predictions: N rows of C probabilities; with one label per text they add up to 1.
    references: N label ids, 0 to C - 1; or N rows of C zeros and ones.
    names: the C names of the labels (optional); they are the keys of `per_class`.
    threshold: the least probability with which one of several labels is predicted, 0.5 unless given.
Returns: accuracy, macro_f1, macro_precision, macro_recall, roc_auc (and roc_auc_missing), calibration_error, log_loss in nats,
    confusion_matrix (rows are references), per_class (precision, recall, f1, support), num_examples. With several labels also
    micro_f1 and each label's calibration_error; confusion_matrix is then C times [[true negatives, false positives], [false
    negatives, true positives]].
"""
CITATION = """@inproceedings{guo2017calibration,
  title={On Calibration of Modern Neural Networks}, author={Guo, Chuan and Pleiss, Geoff and Sun, Yu and Weinberger, Kilian Q.},
  booktitle={ICML}, year={2017}}"""
SUM_TOLERANCE = 1e-2  # for the sum of a row's probabilities; bfloat16's rounding stays below this
CALIBRATION_BINS = 15  # as in Guo et al. (2017), so that figures are comparable


class UnmeasurableInput(ValueError):
    """Predictions or references that cannot be measured; the message is for the user."""


class LabelMetrics(evaluate.Metric):
    """See `DESCRIPTION` and `INPUTS`."""

    def _info(self):
        rows = datasets.List(datasets.Value("float64"))
        references = rows if self.config_name == "multilabel" else datasets.Value("int64")
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation=CITATION,
            inputs_description=INPUTS,
            features=datasets.Features({"predictions": rows, "references": references}),
        )

    def _compute(self, predictions, references, names=None, **settings):
        probabilities, names = checked_probabilities(predictions, references, names=names)
        figures = of_several_labels if self.config_name == "multilabel" else of_one_label
        return figures(probabilities, references, names, **settings)


def checked_probabilities(predictions, references, *, names: list[str] | None) -> tuple[np.ndarray, list[str]]:
    """Probabilities (N, C) in float64, and the names of the C labels ("0", "1", ... where none are given).

    Raises: UnmeasurableInput for no rows, another number of references, rows of unequal length, values outside 0..1 or that are
        not numbers, and a number of names that is not C.
    """
    if not len(predictions):
        raise UnmeasurableInput("there are no predictions to measure; is the split empty?")
    if len(predictions) != len(references):
        raise UnmeasurableInput(
            f"got {len(predictions):,} predictions and {len(references):,} references; there must be one of each per example."
        )
    widths = {len(row) for row in predictions}
    if len(widths) > 1:
        raise UnmeasurableInput(f"the predictions have {sorted(widths)} probabilities per row; every row needs one per label.")
    probabilities = np.asarray(predictions, dtype=np.float64)
    in_range = ((probabilities >= 0) & (probabilities <= 1)).all(axis=1)  # False for NaN, too
    if not in_range.all():
        wrong = int(np.flatnonzero(~in_range)[0])
        raise UnmeasurableInput(
            f"prediction {wrong} is {probabilities[wrong].tolist()}; it must contain probabilities from 0 to 1, not logits or NaN."
        )
    names = [str(index) for index in range(probabilities.shape[1])] if names is None else list(names)
    if len(names) != probabilities.shape[1] or len(set(names)) != len(names):
        raise UnmeasurableInput(
            f"got the label names {names} for {probabilities.shape[1]} probabilities per row; each needs a distinct name."
        )
    return probabilities, names


def of_one_label(probabilities: np.ndarray, references, names: list[str]) -> dict:
    """The figures of N texts with one label each. Args: `probabilities` (N, C); `references` N ids."""
    labels = np.asarray(references)
    sums = probabilities.sum(axis=1)
    if len(names) < 2 or (np.abs(sums - 1) > SUM_TOLERANCE).any():
        raise UnmeasurableInput(
            f"got {len(names)} probabilities per row with sums from {sums.min():.4g} to {sums.max():.4g}; with one label per text, "
            f"there must be at least two that add up to 1. For several labels per text, use the configuration multilabel."
        )
    if labels.min() < 0 or labels.max() >= len(names):
        raise UnmeasurableInput(f"the references hold the labels {labels.min()} to {labels.max()}; allowed: 0 to {len(names) - 1}.")
    ids = list(range(len(names)))
    probabilities = probabilities / sums[:, None]
    predicted = probabilities.argmax(axis=1)
    figures = label_figures(labels, predicted, labels=ids)
    truth = labels[:, None] == np.arange(len(names))
    ranked = slice(1, None) if len(names) == 2 else slice(None)  # of two labels, one curve says all
    return {
        "accuracy": float(accuracy_score(labels, predicted)),
        **macro_means(figures, of=np.union1d(labels, predicted)),
        **roc_auc(truth[:, ranked], probabilities[:, ranked], names=names[ranked]),
        "calibration_error": calibration_error(probabilities.max(axis=1), predicted == labels),
        "log_loss": float(log_loss(labels, probabilities, labels=ids)),
        "confusion_matrix": confusion_matrix(labels, predicted, labels=ids).tolist(),
        "per_class": dict(zip(names, per_label(figures), strict=True)),
        "num_examples": len(labels),
    }


def of_several_labels(probabilities: np.ndarray, references, names: list[str], threshold: float = 0.5) -> dict:
    """The figures of N texts with any of C labels. Args: `probabilities` (N, C); `references` N rows of C zeros and ones."""
    for number, row in enumerate(references):
        if len(row) != len(names) or not set(row) <= {0, 1}:
            raise UnmeasurableInput(f"reference {number} is {row}; it must be {len(names)} zeros and ones.")
    truth = np.asarray(references, dtype=np.int64)
    predicted = (probabilities >= threshold).astype(np.int64)
    # Of a single column scikit-learn would take the values 0 and 1 for two labels.
    both = np.hstack((truth, np.zeros_like(truth))), np.hstack((predicted, np.zeros_like(predicted)))
    ids = list(range(len(names)))
    figures = label_figures(*both, labels=ids)
    errors = [calibration_error(probabilities[:, column], truth[:, column]) for column in ids]
    # Each label is a choice between two, so its log loss is that of the pair (1 - p, p).
    losses = [log_loss(truth[:, column], probabilities[:, column], labels=[0, 1]) for column in ids]
    rows = [{**row, "calibration_error": error} for row, error in zip(per_label(figures), errors, strict=True)]
    return {
        "accuracy": float(accuracy_score(*both)),
        "micro_f1": float(label_figures(*both, labels=ids, average="micro")["f1"]),
        **macro_means(figures, of=np.array(ids)),
        **roc_auc(truth, probabilities, names=names),
        "calibration_error": float(np.mean(errors)),
        "log_loss": float(np.mean(losses)),
        "confusion_matrix": multilabel_confusion_matrix(*both, labels=ids).tolist(),
        "per_class": dict(zip(names, rows, strict=True)),
        "num_examples": len(truth),
    }


def label_figures(
    truth: np.ndarray, predicted: np.ndarray, *, labels: list[int], average: str | None = None
) -> dict[str, np.ndarray]:
    """Precision, recall, F1 and support of each label, (C,); 0 without examples. With `average`, one number each."""
    figures = precision_recall_fscore_support(
        truth,
        predicted,
        labels=labels,
        average=average,  # pyright: ignore[reportArgumentType]  # scikit-learn's parameters have no annotations
        zero_division=0,  # pyright: ignore[reportArgumentType]
    )
    return {name: np.asarray(figure) for name, figure in zip(("precision", "recall", "f1", "support"), figures, strict=True)}


def macro_means(figures: dict[str, np.ndarray], *, of: np.ndarray) -> dict[str, float]:
    """The plain means over the labels `of` these ids."""
    return {f"macro_{name}": float(figures[name][of].mean()) for name in ("f1", "precision", "recall")}


def per_label(figures: dict[str, np.ndarray]) -> list[dict[str, float]]:
    """Each label's figures, in the order of the ids, as JSON can hold them."""
    return [dict(zip(figures, row, strict=True)) for row in zip(*(figure.tolist() for figure in figures.values()), strict=True)]


def calibration_error(confidences: np.ndarray, outcomes: np.ndarray) -> float:
    """Expected calibration error: how far confidence and frequency lie apart, weighted by the examples of each bin.

    Args: `confidences` (N,) from 0 to 1; `outcomes` (N,), 1 where what was said with that confidence is so.
    Source: Guo et al. (2017), On Calibration of Modern Neural Networks, eq. 3; bins (m-1)/M < confidence <= m/M.
    """
    edges = np.linspace(0, 1, CALIBRATION_BINS + 1)
    bins = np.digitize(confidences, edges[1:-1], right=True)
    # |bin| / N * |mean outcome - mean confidence| is |sum of their differences| / N: empty bins add nothing.
    gaps = np.bincount(bins, weights=np.asarray(outcomes, dtype=np.float64) - confidences, minlength=CALIBRATION_BINS)
    return float(np.abs(gaps).sum() / len(confidences))


def roc_auc(truth: np.ndarray, scores: np.ndarray, *, names: list[str]) -> dict[str, float | str | None]:
    """`roc_auc`, the mean over the columns of `truth` (N, C) of zeros and ones, ranked by `scores` (N, C).

    A column that holds one value only has no curve. There `roc_auc` is None and `roc_auc_missing` says which, rather than a
    mean over other labels that looks like a mean over all.
    """
    counts = truth.sum(axis=0)
    without = [f"{name!r} ({'no' if not count else 'every'} example has it)"
               for name, count in zip(names, counts, strict=True) if count in (0, len(truth))]  # fmt: skip
    if without:
        return {"roc_auc": None, "roc_auc_missing": f"not defined for {', '.join(without)}"}
    return {"roc_auc": float(np.mean([roc_auc_score(truth[:, index], scores[:, index]) for index in range(truth.shape[1])]))}
