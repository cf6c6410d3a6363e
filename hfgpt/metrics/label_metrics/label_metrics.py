"""One label for each text: accuracy, F1, precision, recall, ROC-AUC, calibration error, log loss, confusion matrix."""

import datasets
import evaluate
import numpy as np
from sklearn.metrics import accuracy_score, confusion_matrix, log_loss, precision_recall_fscore_support

from hfgpt.errors import UserError
from hfgpt.metrics.scores import calibration_error, checked_probabilities, roc_auc

DESCRIPTION = """Metrics of a classifier that gives each text one of C labels, computed by scikit-learn from its probabilities.
Macro means average over the labels that occur in the references or the predictions, as scikit-learn's do; a precision or recall
without examples is 0. ROC-AUC is that of the second label for C = 2, else the mean of one against the rest; None with a reason
where a label is absent. The calibration error is that of the highest probability, over 15 bins of equal width.
"""
INPUTS = """
Args:
    predictions: N rows of C probabilities.
    references: N label ids, 0 to C - 1.
    names: the C names of the labels (optional); they are the keys of `per_class`.
Returns: accuracy, macro_f1, macro_precision, macro_recall, roc_auc (and roc_auc_missing), calibration_error, log_loss in nats,
    confusion_matrix (rows are references), per_class (precision, recall, f1, support), num_examples.
"""
CITATION = """@inproceedings{guo2017calibration,
  title={On Calibration of Modern Neural Networks}, author={Guo, Chuan and Pleiss, Geoff and Sun, Yu and Weinberger, Kilian Q.},
  booktitle={ICML}, year={2017}}"""
SUM_TOLERANCE = 1e-2  # of a row's probabilities; bfloat16's rounding stays below


class LabelMetrics(evaluate.Metric):
    """See `DESCRIPTION` and `INPUTS`."""

    def _info(self):
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation=CITATION,
            inputs_description=INPUTS,
            features=datasets.Features(
                {"predictions": datasets.List(datasets.Value("float64")), "references": datasets.Value("int64")}
            ),
        )

    def _compute(self, predictions, references, names=None):
        probabilities, names = checked_probabilities(predictions, references, names=names)
        labels = np.asarray(references)
        ids = range(len(names))
        sums = probabilities.sum(axis=1)
        if len(names) < 2 or (np.abs(sums - 1) > SUM_TOLERANCE).any():
            raise UserError(
                f"got {len(names)} probabilities a row with sums from {sums.min():.4g} to {sums.max():.4g}; two or more that add "
                "up to 1 are needed where a text has one label; several labels a text are measured by multilabel_metrics."
            )
        if labels.min() < 0 or labels.max() >= len(names):
            raise UserError(f"the references hold the labels {labels.min()} to {labels.max()}; allowed are 0 to {len(names) - 1}.")
        probabilities = probabilities / sums[:, None]
        predicted = probabilities.argmax(axis=1)
        precision, recall, f1, support = precision_recall_fscore_support(labels, predicted, labels=list(ids), zero_division=0)
        occurring = np.union1d(labels, predicted)
        truth = labels[:, None] == np.arange(len(names))
        ranked = slice(1, None) if len(names) == 2 else slice(None)  # of two labels, one curve says all
        return {
            "accuracy": float(accuracy_score(labels, predicted)),
            "macro_f1": float(f1[occurring].mean()),
            "macro_precision": float(precision[occurring].mean()),
            "macro_recall": float(recall[occurring].mean()),
            **roc_auc(truth[:, ranked], probabilities[:, ranked], names=names[ranked]),
            "calibration_error": calibration_error(probabilities.max(axis=1), predicted == labels),
            "log_loss": float(log_loss(labels, probabilities, labels=list(ids))),
            "confusion_matrix": confusion_matrix(labels, predicted, labels=list(ids)).tolist(),
            "per_class": {
                name: {
                    "precision": float(precision[index]),
                    "recall": float(recall[index]),
                    "f1": float(f1[index]),
                    "support": int(support[index]),
                }
                for index, name in enumerate(names)
            },
            "num_examples": len(labels),
        }
