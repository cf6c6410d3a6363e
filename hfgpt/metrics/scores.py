"""What the metrics of labels share: checks of their input, calibration error, area under the ROC curve."""

import numpy as np

from hfgpt.errors import UserError

CALIBRATION_BINS = 15  # as in Guo et al. (2017), so that figures compare


def checked_probabilities(predictions, references, *, names: list[str] | None) -> tuple[np.ndarray, list[str]]:
    """Probabilities (N, C) in float64, and the names of the C labels ("0", "1", ... where none are given).

    Raises: ValueError for no rows, another number of references, rows of unequal length, values outside 0..1 or that are no
        numbers, and a number of names that is not C.
    """
    if not len(predictions):
        raise UserError("there are no predictions to measure; is the split empty?")
    if len(predictions) != len(references):
        raise UserError(
            f"got {len(predictions):,} predictions and {len(references):,} references; one of each per example is needed."
        )
    widths = {len(row) for row in predictions}
    if len(widths) > 1:
        raise UserError(f"the predictions have {sorted(widths)} probabilities a row; every row needs one per label.")
    probabilities = np.asarray(predictions, dtype=np.float64)
    if not ((probabilities >= 0) & (probabilities <= 1)).all():  # False for NaN, too
        wrong = int(np.flatnonzero(~((probabilities >= 0) & (probabilities <= 1)).all(axis=1))[0])
        raise UserError(
            f"prediction {wrong} is {probabilities[wrong].tolist()}; probabilities from 0 to 1 are needed, not logits, and no NaN."
        )
    names = [str(index) for index in range(probabilities.shape[1])] if names is None else list(names)
    if len(names) != probabilities.shape[1] or len(set(names)) != len(names):
        raise UserError(
            f"got the label names {names} for {probabilities.shape[1]} probabilities a row; one different name each is needed."
        )
    return probabilities, names


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
    from sklearn.metrics import roc_auc_score

    counts = truth.sum(axis=0)
    without = [f"{name!r} ({'no' if not count else 'every'} example has it)"
               for name, count in zip(names, counts, strict=True) if count in (0, len(truth))]  # fmt: skip
    if without:
        return {"roc_auc": None, "roc_auc_missing": f"not defined for {', '.join(without)}"}
    return {"roc_auc": float(np.mean([roc_auc_score(truth[:, index], scores[:, index]) for index in range(truth.shape[1])]))}
