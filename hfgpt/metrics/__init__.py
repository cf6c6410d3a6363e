"""Metrics as modules of the library `evaluate`, one folder each, that load from here without a network.

`evaluate.load("accuracy")` downloads a script; `evaluate.load(folder)` of a folder beside this file does not. It copies the script
into HF_MODULES_CACHE under the hash of its code and imports the copy, behind a file lock, so several processes may load at once.
A folder imports nothing of hfgpt: a copy of it, on the Hub or elsewhere, works for people who have never installed hfgpt.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hfgpt.errors import UserError
from hfgpt.tables import Table

FOLDER = Path(__file__).parent


class MetricModule(NamedTuple):
    """A metric's folder, which holds a script of the same name, and the configuration of it (None for the only one)."""

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
    """The `evaluate.Metric` of this name; its `compute(predictions=..., references=...)` returns what JSON can hold.

    Load it again for another `compute` after one that raised: `evaluate` keeps what was added before the error.

    Raises: UserError for an unknown name, and where `evaluate`, scikit-learn or rouge_score is not installed.
    """
    module = METRICS.find(name)
    try:
        import evaluate

        # In memory: the files that evaluate would write instead have one name for all processes and a lock that they wait for.
        return evaluate.load(str(module.folder), config_name=module.config_name, keep_in_memory=True)
    except ImportError as error:  # evaluate names the package that a metric lacks
        raise UserError(
            f"the metric {name} needs a package that is not installed ({error}); pip install evaluate scikit-learn rouge_score."
        ) from None


def measure(name: str, *, predictions: Sequence | np.ndarray, references: Sequence | np.ndarray, **settings) -> dict[str, Any]:
    """The figures of the metric of this name.

    Raises: UserError as `load_metric`, and with the metric's own sentence for what it cannot measure.
    """
    metric = load_metric(name)
    try:
        return metric.compute(predictions=predictions, references=references, **settings) or {}
    except ValueError as error:
        # The metric's own error class, out of the copy that evaluate has imported: one that scikit-learn raises is a bug of ours.
        if type(error).__name__ != "UnmeasurableInput":
            raise
        raise UserError(str(error)) from None
