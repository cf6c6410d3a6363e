"""What a classifier gets wrong: a confusion plot, and a table of its errors."""

import csv
import io
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

import numpy as np

from hfgpt.evaluation.classification import MULTI_LABEL_THRESHOLD
from hfgpt.files import write_picture, write_whole

# Characters that make a spreadsheet run a cell: OWASP's list, with the full-width forms of = + - @.
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
NAME_LENGTH = 24  # characters of a label's name in the plot
MOST_LABELS = 40  # in the plot; its time and memory grow with the square of their number
TEXT_LENGTH = 300  # characters of a text in the Markdown table
TABLE_ROWS = 1000  # in the Markdown table; the CSV has all


class ErrorRow(TypedDict):
    """A wrongly classified text. With several labels per text, `label` and `predicted` are whole sets.

    `probability` is the model's probability for its wrong label, `probability_of_right` that for the right one; with several
    labels, both refer to the label it was most wrong about.
    """

    row_id: str
    label: str
    predicted: str
    probability: float
    probability_of_right: float
    text: str


def draw_confusion(labels, predictions, *, names: list[str], path: Path) -> None:
    """Plot which label (row) was predicted as which (column): counts in the cells, shares of the row as colours; of many labels,
    only those with the most errors.

    Args: `labels` and `predictions` (N,) ids of the C `names`; `path` of the PNG, written atomically.
    """
    from matplotlib.figure import Figure  # not pyplot: no global state, no display
    from sklearn.metrics import confusion_matrix

    counts = confusion_matrix(labels, predictions, labels=range(len(names)))
    right = f"{int(np.trace(counts)):,} of {int(counts.sum()):,} right"
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    if len(names) > MOST_LABELS:
        wrong = counts.sum(axis=0) + counts.sum(axis=1) - 2 * counts.diagonal()
        worst = np.sort(np.argsort(-wrong, kind="stable")[:MOST_LABELS])
        counts, shares = counts[np.ix_(worst, worst)], shares[np.ix_(worst, worst)]
        right += f"; the {MOST_LABELS} of {len(names):,} labels with the most errors"
        names = [names[label] for label in worst]
    shown = [_shortened(_printable(name), NAME_LENGTH) for name in names]
    size = 2.2 + 0.42 * max(len(names), 6)  # inches
    figure = Figure(figsize=(size + 1.0, size), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    ticks = range(len(names))
    small = 9 if len(names) <= 12 else 7.5
    crowded = len(names) > 6 or max(map(len, shown)) > 10
    # A "$" in a label's name is not the start of a formula.
    axes.set_xticks(
        ticks, shown, rotation=60 if crowded else 0, ha="right" if crowded else "center", rotation_mode="anchor",
        fontsize=small, parse_math=False,
    )  # fmt: skip
    if not crowded:
        axes.tick_params(axis="x", pad=12)  # rotation_mode "anchor" aligns the names at their baseline
    axes.set_yticks(ticks, shown, fontsize=small, parse_math=False)
    for row, column in np.ndindex(*counts.shape):
        if counts[row, column]:  # zeros would hide the errors
            count = f"{counts[row, column]:,}"
            axes.text(
                column, row, count, ha="center", va="center", fontsize=13 if len(names) <= 4 else min(small, 45 / len(count)),
                color="white" if shares[row, column] > 0.55 else "#1b2a3a",
            )  # fmt: skip
    axes.set_xlabel("predicted")
    axes.set_ylabel("label")
    axes.set_title(right, fontsize=11)
    figure.colorbar(image, ax=axes, label="share of the label's texts", fraction=0.046, pad=0.03)
    write_picture(path, figure)


def errors_table(texts: Sequence[str], labels, probabilities: np.ndarray, names: list[str], ids: Sequence[str]) -> list[ErrorRow]:
    """The wrongly classified texts, the most confident mistake first.

    Args:
        labels: (N,) ids, or (N, C) zeros and ones where a text has several labels.
        probabilities: (N, C).
        ids: N row names by which the data's owner can find them again.
    """
    labels, probabilities = np.asarray(labels), np.asarray(probabilities, dtype=np.float64)
    if labels.ndim == 2:
        truth, predicted = labels > 0, probabilities >= MULTI_LABEL_THRESHOLD
        # The probability given to the wrong side of each decision; 0 if the decision is right.
        wrong = np.where(truth == predicted, 0.0, np.where(predicted, probabilities, 1 - probabilities)).max(axis=1)
        right = 1 - wrong
        is_error = (truth != predicted).any(axis=1)
        said, expected = ([_joined(names, row) for row in rows] for rows in (predicted, truth))
    else:
        predicted = probabilities.argmax(axis=1)
        wrong, right = probabilities.max(axis=1), probabilities[np.arange(len(labels)), labels.astype(int)]
        is_error = predicted != labels
        said, expected = ([names[int(index)] for index in rows] for rows in (predicted, labels))
    order: list[int] = sorted(np.flatnonzero(is_error).tolist(), key=lambda index: (-wrong[index], index))
    return [
        ErrorRow(
            row_id=str(ids[row]),
            label=expected[row],
            predicted=said[row],
            probability=float(wrong[row]),
            probability_of_right=float(right[row]),
            text=texts[row],
        )
        for row in order
    ]


def write_errors(rows: list[ErrorRow], path: Path) -> None:
    """Write `errors_table`'s rows as a CSV at `path` and as a Markdown table beside it (the same name, `.md`).

    In the CSV, text that a spreadsheet would treat as a formula gets a leading apostrophe, as OWASP advises. In the Markdown, every
    text is code (so links and images stay inactive), control characters are spelled out, and long texts are shortened.
    """
    table = io.StringIO(newline="")
    writer = csv.writer(table)
    writer.writerow(ErrorRow.__annotations__)
    writer.writerows(map(_safe_cell, row.values()) for row in rows)
    # Half of a surrogate pair, which JSON can express, cannot be encoded in UTF-8.
    write_whole(path, table.getvalue().encode("utf-8", errors="backslashreplace"))

    lines = [f"# {len(rows):,} wrongly classified texts, the most confident mistake first", ""]
    if len(rows) > TABLE_ROWS:
        lines += [f"The first {TABLE_ROWS:,}; `{path.name}` has all of them.", ""]
    if rows:
        lines += ["| row | label | predicted | p(predicted) | p(label) | text |", "|---|---|---|---:|---:|---|"]
    for row in rows[:TABLE_ROWS]:
        cells = [_code(cell, length=80) for cell in (row["row_id"], row["label"], row["predicted"])]
        cells += [f"{100 * share:.1f} %" for share in (row["probability"], row["probability_of_right"])]
        lines.append(f"| {' | '.join([*cells, _code(row['text'], length=TEXT_LENGTH)])} |")
    write_whole(path.with_suffix(".md"), "\n".join(lines) + "\n")


def _joined(names: list[str], chosen: np.ndarray) -> str:
    return ", ".join(name for name, is_chosen in zip(names, chosen, strict=True) if is_chosen) or "(none)"


def _safe_cell(value: object) -> object:
    if isinstance(value, str) and value.lstrip(" \0").startswith(FORMULA_STARTS):
        return f"'{value}"
    return value


def _printable(text: str) -> str:
    """The text with invisible characters spelled out: control characters, direction marks, halves of surrogate pairs."""
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
    # A pipe ends a table cell even within code, unless a backslash precedes it; backslashes before it pair up.
    text = re.sub(r"(\\*)\|", r"\1\1\\|", text)
    fence = "`" * (max((len(run) for run in re.findall("`+", text)), default=0) + 1)
    space = " " if text[0] in "` " or text[-1] in "` " else ""
    return f"{fence}{space}{text}{space}{fence}"
