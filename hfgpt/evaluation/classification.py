"""Running and measuring a classifier: texts to ids (the same as everywhere else), ids to logits, logits to probabilities."""

import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.special import expit, softmax
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from hfgpt.errors import UserError
from hfgpt.evaluation.batches import batches_by_length, padded, padding_id, progress_bar
from hfgpt.inference import evaluating
from hfgpt.metrics import measure

MULTI_LABEL_THRESHOLD = 0.5  # the minimum probability at which one of several labels is predicted


def text_ids(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str], *, max_length: int) -> tuple[list[list[int]], int]:
    """The ids of the texts, and how many texts were cut.

    They are the same as in `pipeline("text-classification", folder)(texts, truncation=True)`: the tokenizer adds its usual tokens
    and truncates as usual. Text never becomes a special token; the saved tokenizers of our classifiers are configured that way,
    too.

    Args: `max_length` includes the tokens that the tokenizer adds.
    """
    encoded = tokenizer(
        list(texts),
        truncation=True,
        max_length=max_length,
        split_special_tokens=True,
        return_overflowing_tokens=True,
        return_attention_mask=False,
        verbose=False,
    )
    # Otherwise the tokenizer would be saved with truncation (which transformers ignores, but its hash would change).
    tokenizer.backend_tokenizer.no_truncation()
    rows: dict[int, list[int]] = {}
    for row, text in enumerate(encoded["overflow_to_sample_mapping"]):
        rows.setdefault(text, encoded["input_ids"][row])  # the first piece of each text
    pieces = np.bincount(encoded["overflow_to_sample_mapping"], minlength=len(rows))
    return [rows[text] for text in range(len(rows))], int((pieces > 1).sum())


def classify(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    rows: Sequence[list[int]],
    *,
    batch_size: int,
    show_progress: bool = False,
) -> np.ndarray:
    """Logits (N, C) of token ids, in batches of similar lengths; one by one if the tokenizer has no padding token."""
    batches = batches_by_length(rows, batch_size=batch_size if tokenizer.pad_token_id is not None else 1)
    logits: dict[int, np.ndarray] = {}
    with evaluating(model):
        for chosen in progress_bar(batches, desc="texts", show=show_progress):
            # Learned positions count from the beginning of the text, so padding follows the text.
            ids, mask = padded([rows[index] for index in chosen], value=padding_id(tokenizer), device=model.device)
            found = model(input_ids=ids, attention_mask=mask).logits
            logits.update(zip(chosen, found.float().cpu().numpy(), strict=True))
    return np.stack([logits[index] for index in range(len(rows))])


def probabilities_of(logits, multi_label: bool) -> np.ndarray:
    """Probabilities (N, C) in float64 of logits (N, C): each row sums to 1, or with `multi_label` each value is independent.

    Raises: ValueError for logits that are not finite.
    """
    logits = np.asarray(logits, dtype=np.float64)
    if not np.isfinite(logits).all():
        row = int(np.flatnonzero(~np.isfinite(logits).all(axis=1))[0])
        raise UserError(f"row {row} of the logits is {logits[row].tolist()}, which is not finite; did the training diverge?")
    return expit(logits) if multi_label else softmax(logits, axis=1)


def classification_metrics(probabilities: np.ndarray, labels, *, names: list[str], multi_label: bool) -> dict[str, Any]:
    """The figures of `hfgpt.metrics`: `label_metrics`, or `multilabel_metrics` for several labels per text.

    Args:
        probabilities: (N, C).
        labels: (N,) ids, or (N, C) zeros and ones with `multi_label`.
        names: the C label names; the keys of `per_class`.
    Returns: `accuracy`, `macro_f1`, ... as numbers, `per_class` as a dict and `confusion_matrix` as lists, all JSON-compatible.
        `roc_auc` is None if a label is absent, and `roc_auc_missing` says so.
    """
    metric, settings = ("multilabel_metrics", {"threshold": MULTI_LABEL_THRESHOLD}) if multi_label else ("label_metrics", {})
    return measure(metric, predictions=np.asarray(probabilities), references=np.asarray(labels), names=names, **settings)


def mean_and_spread(runs: list[dict]) -> dict[str, dict]:
    """Mean, sample standard deviation, minimum and maximum of every number in the metrics of several seeds.

    Nested dicts stay nested; values that are not numbers are left out. `runs` is the number of seeds with the figure, which may be
    None for some. The standard deviation of a single run is None, not 0: it is unknown.
    """
    keys = dict.fromkeys(key for run in runs for key in run)
    result = {}
    for key in keys:
        values = [run[key] for run in runs if key in run]
        if any(isinstance(value, dict) for value in values):
            result[key] = mean_and_spread([value for value in values if isinstance(value, dict)])
            continue
        numbers = [float(value) for value in values if isinstance(value, int | float | np.number) and not isinstance(value, bool)]
        if numbers:
            result[key] = {
                "mean": statistics.fmean(numbers),
                "standard_deviation": statistics.stdev(numbers) if len(numbers) > 1 else None,
                "minimum": min(numbers),
                "maximum": max(numbers),
                "runs": len(numbers),
            }
    return result
