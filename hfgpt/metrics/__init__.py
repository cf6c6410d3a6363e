"""Metrics as modules of the library `evaluate`, one a folder, that load from here without a network.

`evaluate.load("accuracy")` downloads a script; `evaluate.load(folder)` of a folder beside this file does not. It copies the script
into HF_MODULES_CACHE under the hash of its code and imports the copy, behind a file lock, so several processes may load at once.
"""

from pathlib import Path

from hfgpt.errors import UserError

FOLDER = Path(__file__).parent
METRICS = ("answer_metrics", "label_metrics", "multilabel_metrics")


def load_metric(name: str):
    """The `evaluate.Metric` of this name; its `compute(predictions=..., references=...)` returns what JSON can hold.

    Load it again for another `compute` after one that raised: `evaluate` keeps what was added before the error.

    Raises: ValueError for an unknown name, and where `evaluate`, scikit-learn or rouge_score is not installed.
    """
    if name not in METRICS:
        raise UserError(f"there is no metric {name!r}; allowed are {', '.join(METRICS)}.")
    try:
        import evaluate

        # In memory: the files that evaluate would write instead have one name for all processes and a lock that they wait for.
        return evaluate.load(str(FOLDER / name), keep_in_memory=True)
    except ImportError as error:  # evaluate names the package that a metric lacks
        raise UserError(
            f"the metric {name} needs a package that is not installed ({error}); pip install evaluate scikit-learn rouge_score."
        ) from None
