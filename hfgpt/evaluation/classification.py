"""How well a classifier does: its metrics, the picture of its confusions, its errors to read, and the spread over seeds."""

import csv
import io
import re
import statistics
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hfgpt.errors import UserError
from hfgpt.files import write_picture, write_whole

MULTI_LABEL_THRESHOLD = 0.5  # the least probability with which one of several labels is predicted
# What a spreadsheet would run: OWASP's list, with the full-width forms of = + - @.
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
NAME_LENGTH = 24  # characters of a label's name in the picture
TEXT_LENGTH = 300  # characters of a text in the Markdown table
TABLE_ROWS = 1000  # of the Markdown table; the CSV holds all
COLUMNS = ("row_id", "label", "predicted", "probability", "probability_of_right", "text")


def probabilities_of(logits, multi_label: bool) -> np.ndarray:
    """Probabilities (N, C) in float64 of logits (N, C): each row adds up to 1, or with `multi_label` each value stands alone.

    Raises: ValueError for logits that are not finite.
    """
    from scipy.special import expit, softmax

    logits = np.asarray(logits, dtype=np.float64)
    if not np.isfinite(logits).all():
        row = int(np.flatnonzero(~np.isfinite(logits).all(axis=1))[0])
        raise UserError(f"row {row} of the logits is {logits[row].tolist()}, finite numbers are needed; did the training diverge?")
    return expit(logits) if multi_label else softmax(logits, axis=1)


def classification_metrics(probabilities: np.ndarray, labels, *, names: list[str], multi_label: bool) -> dict[str, float | dict]:
    """The figures of `hfgpt.metrics`: `label_metrics`, or `multilabel_metrics` for several labels a text.

    Args:
        probabilities: (N, C).
        labels: (N,) ids, or (N, C) zeros and ones with `multi_label`.
        names: of the C labels; the keys of `per_class`.
    Returns: `accuracy`, `macro_f1`, ... as numbers, `per_class` as a dict and `confusion_matrix` as lists, all of which JSON can
        hold. `roc_auc` is None where a label is absent, and `roc_auc_missing` says so.
    """
    from hfgpt.metrics import load_metric

    settings = {"threshold": MULTI_LABEL_THRESHOLD} if multi_label else {}
    metric = load_metric("multilabel_metrics" if multi_label else "label_metrics")
    return metric.compute(predictions=np.asarray(probabilities), references=np.asarray(labels), names=names, **settings)


def draw_confusion(labels, predictions, *, names: list[str], path: Path) -> None:
    """Draw which label (a row) was taken for which (a column): counts in the cells, shares of the row as their colour.

    Args: `labels` and `predictions` (N,) ids of the C `names`; `path` of the PNG, written under another name first.
    """
    from matplotlib.figure import Figure  # without pyplot: no global state, no display
    from sklearn.metrics import confusion_matrix

    counts = confusion_matrix(labels, predictions, labels=range(len(names)))
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    shown = [_shortened(_printable(name), NAME_LENGTH) for name in names]
    size = 2.2 + 0.42 * max(len(names), 6)  # inches
    figure = Figure(figsize=(size + 1.0, size), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    ticks = range(len(names))
    small = 9 if len(names) <= 12 else 7.5
    crowded = len(names) > 6 or max(map(len, shown)) > 10
    # A "$" in a label's name is a "$", not the start of a formula.
    axes.set_xticks(
        ticks, shown, rotation=60 if crowded else 0, ha="right" if crowded else "center", rotation_mode="anchor",
        fontsize=small, parse_math=False,
    )  # fmt: skip
    if not crowded:
        axes.tick_params(axis="x", pad=12)  # rotation_mode "anchor" hangs the names by their baseline
    axes.set_yticks(ticks, shown, fontsize=small, parse_math=False)
    for row, column in np.ndindex(*counts.shape):
        if counts[row, column]:  # noughts would hide the errors
            count = f"{counts[row, column]:,}"
            axes.text(
                column, row, count, ha="center", va="center", fontsize=13 if len(names) <= 4 else min(small, 45 / len(count)),
                color="white" if shares[row, column] > 0.55 else "#1b2a3a",
            )  # fmt: skip
    axes.set_xlabel("predicted")
    axes.set_ylabel("label")
    axes.set_title(f"{int(np.trace(counts)):,} of {int(counts.sum()):,} right", fontsize=11)
    figure.colorbar(image, ax=axes, label="share of the label's texts", fraction=0.046, pad=0.03)
    write_picture(Path(path), figure)


def errors_table(
    texts: Sequence[str], labels, probabilities: np.ndarray, names: list[str], ids: Sequence[str]
) -> list[dict[str, str | float]]:
    """The wrongly classified texts, the surest mistake first.

    Args:
        labels: (N,) ids, or (N, C) zeros and ones where a text has several labels.
        probabilities: (N, C).
        ids: N names of the rows, by which the data's owner finds them again.
    Returns: rows with the keys of `COLUMNS`. `probability` is what the model gave its wrong label, `probability_of_right` what it
        gave the right one. With several labels a text, both speak of the label that it was most wrong about; `label` and
        `predicted` name whole sets.
    """
    labels, probabilities = np.asarray(labels), np.asarray(probabilities, dtype=np.float64)
    if labels.ndim == 2:
        truth, predicted = labels > 0, probabilities >= MULTI_LABEL_THRESHOLD
        # Of each decision, what was given to the side that is wrong; a right decision is no error.
        wrong = np.where(truth == predicted, 0.0, np.where(predicted, probabilities, 1 - probabilities)).max(axis=1)
        right = 1 - wrong
        is_error = (truth != predicted).any(axis=1)
        said, expected = ([_joined(names, row) for row in rows] for rows in (predicted, truth))
    else:
        predicted = probabilities.argmax(axis=1)
        wrong, right = probabilities.max(axis=1), probabilities[np.arange(len(labels)), labels.astype(int)]
        is_error = predicted != labels
        said, expected = ([names[int(index)] for index in rows] for rows in (predicted, labels))
    order = sorted(np.flatnonzero(is_error), key=lambda index: (-wrong[index], index))
    return [
        dict(
            zip(
                COLUMNS,
                (str(ids[row]), expected[row], said[row], float(wrong[row]), float(right[row]), texts[row]),
                strict=True,
            )
        )
        for row in order
    ]


def write_errors(rows: list[dict[str, str | float]], path: Path) -> None:
    """Write `errors_table`'s rows as a CSV at `path` and as a Markdown table beside it (the same name, `.md`).

    In the CSV a text that a spreadsheet would take for a formula gets an apostrophe in front, as OWASP advises. In the Markdown
    every text is code (no link or picture of it comes alive), control characters are spelled out, and long texts are shortened.
    """
    path = Path(path)
    content = io.StringIO()
    writer = csv.writer(content)
    writer.writerow(COLUMNS)
    writer.writerows([_safe_cell(row[name]) for name in COLUMNS] for row in rows)
    # Half of a surrogate pair, which JSON can spell, has no UTF-8.
    write_whole(path, content.getvalue().encode("utf-8", errors="backslashreplace"))

    lines = [f"# {len(rows):,} wrongly classified texts, the surest mistake first", ""]
    if len(rows) > TABLE_ROWS:
        lines += [f"The first {TABLE_ROWS:,}; `{path.name}` holds all.", ""]
    if rows:
        lines += ["| row | label | predicted | given to the wrong one | to the right one | text |", "|---|---|---|---:|---:|---|"]
    for row in rows[:TABLE_ROWS]:
        cells = [_code(str(row[name]), length=80) for name in ("row_id", "label", "predicted")]
        cells += [f"{100 * row[name]:.1f} %" for name in ("probability", "probability_of_right")]
        lines.append(f"| {' | '.join([*cells, _code(row['text'], length=TEXT_LENGTH)])} |")
    write_whole(path.with_suffix(".md"), "\n".join(lines) + "\n")


def mean_and_spread(runs: list[dict]) -> dict[str, dict]:
    """Mean, sample standard deviation, minimum and maximum of every number in the metrics of several seeds.

    Nested dicts stay nested; what is no number is left out. `runs` says of how many seeds the number is: a figure may be None in
    some. The standard deviation of a single run is None, not 0: nothing is known about it.
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


def _joined(names: list[str], chosen: np.ndarray) -> str:
    return ", ".join(name for name, is_chosen in zip(names, chosen, strict=True) if is_chosen) or "(none)"


def _safe_cell(value: str | float) -> str | float:
    if isinstance(value, str) and value.lstrip(" \0").startswith(FORMULA_STARTS):
        return f"'{value}"
    return value


def _printable(text: str) -> str:
    """The text with what cannot be seen spelled out: control characters, changes of direction, halves of surrogate pairs."""
    return "".join(
        character if unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp") else ascii(character)[1:-1]
        for character in text
    )


def _shortened(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"


def _code(text: str, *, length: int) -> str:
    """One table cell of inline code. Source: CommonMark 0.31, section 6.1; GFM, section 4.10."""
    text = _shortened(_printable(re.sub(r"\r\n|\r|\n", "⏎", text)), length)
    if not text:
        return "(empty)"
    # A table ends its cell at a pipe even within code, unless a backslash precedes it; backslashes before it are paired off.
    text = re.sub(r"(\\*)\|", r"\1\1\\|", text)
    fence = "`" * (max((len(run) for run in re.findall("`+", text)), default=0) + 1)
    space = " " if text[0] in "` " or text[-1] in "` " else ""
    return f"{fence}{space}{text}{space}{fence}"
