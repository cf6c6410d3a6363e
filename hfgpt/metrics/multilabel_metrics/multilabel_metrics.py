"""Any number of labels for each text: subset accuracy, micro and macro F1, and each label's own figures."""

import datasets
import evaluate
import numpy as np
from sklearn.metrics import accuracy_score, log_loss, multilabel_confusion_matrix, precision_recall_fscore_support

from hfgpt.errors import UserError
from hfgpt.metrics.scores import calibration_error, checked_probabilities, roc_auc

DESCRIPTION = """Metrics of a classifier that gives each text any of C labels, computed by scikit-learn from one probability per
label. A label is predicted from the threshold on. The accuracy is that of the whole set of labels: one wrong label, and the text
counts as wrong. Macro means average over all C labels, a precision or recall without examples is 0. ROC-AUC is the mean over the
labels, None with a reason where a label is on no text or on every one. Calibration error (15 bins of equal width) and log loss are
means over the labels.
"""
INPUTS = """
Args:
    predictions: N rows of C probabilities, each from 0 to 1, in any sum.
    references: N rows of C zeros and ones.
    names: the C names of the labels (optional); they are the keys of `per_class`.
    threshold: the least probability with which a label is predicted.
Returns: accuracy (of the whole set), micro_f1, macro_f1, macro_precision, macro_recall, roc_auc (and roc_auc_missing),
    calibration_error, log_loss in nats per label, confusion_matrix (C times [[true negatives, false positives], [false negatives,
    true positives]]), per_class (precision, recall, f1, support, calibration_error), num_examples.
"""


class MultilabelMetrics(evaluate.Metric):
    """See `DESCRIPTION` and `INPUTS`."""

    def _info(self):
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation="",
            inputs_description=INPUTS,
            features=datasets.Features({name: datasets.List(datasets.Value("float64")) for name in ("predictions", "references")}),
        )

    def _compute(self, predictions, references, names=None, threshold=0.5):
        probabilities, names = checked_probabilities(predictions, references, names=names)
        if any(len(row) != len(names) or not set(row) <= {0, 1} for row in references):
            wrong = next(index for index, row in enumerate(references) if len(row) != len(names) or not set(row) <= {0, 1})
            raise UserError(f"reference {wrong} is {references[wrong]}; {len(names)} zeros and ones are needed.")
        truth = np.asarray(references, dtype=np.int64)
        predicted = (probabilities >= threshold).astype(np.int64)
        # Of a single column scikit-learn would take the values 0 and 1 for two labels.
        both = np.hstack((truth, np.zeros_like(truth))), np.hstack((predicted, np.zeros_like(predicted)))
        columns = range(len(names))
        precision, recall, f1, support = precision_recall_fscore_support(*both, labels=list(columns), zero_division=0)
        micro_f1 = precision_recall_fscore_support(*both, labels=list(columns), average="micro", zero_division=0)[2]
        errors = [calibration_error(probabilities[:, column], truth[:, column]) for column in columns]
        # Each label is a choice between two, so its log loss is that of the pair (1 - p, p).
        losses = [log_loss(truth[:, column], probabilities[:, column], labels=[0, 1]) for column in columns]
        return {
            "accuracy": float(accuracy_score(*both)),
            "micro_f1": float(micro_f1),
            "macro_f1": float(f1.mean()),
            "macro_precision": float(precision.mean()),
            "macro_recall": float(recall.mean()),
            **roc_auc(truth, probabilities, names=names),
            "calibration_error": float(np.mean(errors)),
            "log_loss": float(np.mean(losses)),
            "confusion_matrix": multilabel_confusion_matrix(*both, labels=list(columns)).tolist(),
            "per_class": {
                name: {
                    "precision": float(precision[column]),
                    "recall": float(recall[column]),
                    "f1": float(f1[column]),
                    "support": int(support[column]),
                    "calibration_error": errors[column],
                }
                for column, name in enumerate(names)
            },
            "num_examples": len(truth),
        }
