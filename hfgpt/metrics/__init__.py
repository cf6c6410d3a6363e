"""Metrics as modules of the library `evaluate`, one folder each, which load from here without a network.

`evaluate.load("accuracy")` downloads a script; `evaluate.load(folder)` with a folder beside this file does not. It copies the
script into HF_MODULES_CACHE under the hash of its code and imports the copy, behind a file lock, so several processes may load at
once.
A folder imports nothing from hfgpt: a copy of it, on the Hub or elsewhere, works without hfgpt.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hfgpt.errors import UserError
from hfgpt.tables import Table

FOLDER = Path(__file__).parent


class MetricModule(NamedTuple):
    """A metric's folder, which contains a script of the same name, and its configuration (None for the only one)."""

    folder: Path
    config_name: str | None = None


METRICS = Table(
    "metric",
    {
        "answer_metrics": MetricModule(FOLDER / "answer_metrics"),
        "label_metrics": MetricModule(FOLDER / "label_metrics"),
        "multilabel_metrics": MetricModule(FOLDER / "label_metrics", "multilabel"),
    },
)


def load_metric(name: str):
    """The `evaluate.Metric` of this name; its `compute(predictions=..., references=...)` returns JSON-compatible values.

    After a `compute` that raised, load it again: `evaluate` keeps what was added before the error.

    Raises: UserError for an unknown name, and if `evaluate`, scikit-learn or rouge_score is not installed.
    """
    module = METRICS.find(name)
    try:
        import evaluate

        # In memory: evaluate would otherwise write files with one name for all processes and a lock that they wait for.
        return evaluate.load(str(module.folder), config_name=module.config_name, keep_in_memory=True)
    except ImportError as error:  # evaluate names the missing package
        raise UserError(
            f"the metric {name} needs a package that is not installed ({error}); pip install evaluate scikit-learn rouge_score"
        ) from None


def measure(name: str, *, predictions: Sequence | np.ndarray, references: Sequence | np.ndarray, **settings) -> dict[str, Any]:
    """Compute the metric with this name.

    Raises: UserError, see `load_metric`, and with the metric's own message for input it cannot measure.
    """
    metric = load_metric(name)
    try:
        return metric.compute(predictions=predictions, references=references, **settings) or {}
    except ValueError as error:
        # The metric's own error class, from the copy imported by evaluate: an error from scikit-learn would be our bug.
        if type(error).__name__ != "UnmeasurableInput":
            raise
        raise UserError(str(error)) from None
