"""Answers as a file and as a page: the prompts, the references, and the answers of each model or step, side by side.

The page is one self-contained HTML file that sends nothing. It is used for instructions (before, after), preferences and trigger
prompts: a row without a reference is compared with its first answer.
"""

import difflib
import re
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from hfgpt.evaluation.answer_rows import AnswerRow, all_kinds, free_kinds, is_right, scores_by_kind
from hfgpt.evaluation.pages import page_environment
from hfgpt.files import write_whole

Segment = tuple[str, str]  # ("same" | "added" | "missing", text)

# Above this many words on one side, the comparison would take seconds and would not help a reader.
MOST_WORDS_COMPARED = 2000
# Texts with fewer words in common are shown unmarked: marks everywhere say no more than "wrong".
LEAST_WORDS_IN_COMMON = 0.3


def write_page(
    path: str | Path,
    rows: Sequence[AnswerRow],
    *,
    title: str,
    facts: Mapping[str, object] | None = None,
    summary: Mapping[str, Mapping[str, float]] | None = None,
    alarms: Sequence[str] = (),
) -> None:
    """Write one HTML file for reading, searching, filtering and printing the rows; nothing in them can be executed.

    `#q=word`, `show=wrong`, `sort=score` (or `descending`) and `marks=off`, joined by `&`, in the page's address select what it
    shows.

    Args:
        facts: a few names and values under the title, such as the model, the data and the date.
        summary: scores over all rows by column; None averages the scores of the rows if they have no kinds.
        alarms: general warnings, shown above the rows with a warning sign.
    Cost: about 2 KB per row besides the texts.
    """
    columns = list(dict.fromkeys(name for row in rows for name in row.answers))
    kinds = _kind_table(rows, columns)
    if summary is None:
        summary = {} if kinds else _mean_scores(rows, columns)  # a mean over right answers and free text together says little
    judged = columns[-1] if columns else None
    free = free_kinds(rows)
    shown = [_shown(row, judged, is_free=row.kind in free) for row in rows]
    scored = next((name for row in shown for name in row["sorted_by"]), None)
    environment = page_environment(Path(__file__).parent)
    environment.filters |= {
        "number": _number,
        "percent": lambda share: f"{100 * share:.1f} %",
        "after_space": lambda text: (text[: len(text) - len(text.lstrip())], text.lstrip()),  # whitespace is not worth a mark
    }
    has_references = any(row.reference is not None for row in rows)
    page = environment.get_template("answers_page.html.j2").render(
        title=title,
        facts=dict(facts or {}),
        summary=dict(summary),
        summary_names=list(dict.fromkeys(name for scores in summary.values() for name in scores)),
        alarms=list(alarms),
        rows=shown,
        filters=_filters(shown),
        kinds=kinds,
        kind_names=sorted({row.kind for row in rows if row.kind is not None}),
        columns=columns,
        sortable=scored,
        judged=judged if has_references else None,
        against="the reference" if has_references else "the first answer",
    )
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    write_whole(Path(path), page.encode("utf-8", errors="replace"))


def word_differences(reference: str, answer: str) -> list[Segment]:
    """The answer in segments that are also in the reference (`same`) or not (`added`), and segments only in the reference
    (`missing`).

    Without the missing segments, the joined texts are the answer. Whitespace is never a difference.
    Cost: quadratic in the number of words if the texts are dissimilar; above 2,000 words nothing is marked.
    """
    before, after = _words(reference), _words(answer)
    if not after or not before or max(len(before), len(after)) > MOST_WORDS_COMPARED:
        return [("same", answer)] if answer else []
    matcher = difflib.SequenceMatcher(None, [w.strip() for w in before], [w.strip() for w in after], autojunk=False)
    if matcher.ratio() < LEAST_WORDS_IN_COMMON:
        return [("same", answer)]
    segments: list[Segment] = []
    for kind, i, i_end, j, j_end in matcher.get_opcodes():
        if kind == "equal":
            segments.append(("same", "".join(after[j:j_end])))
        else:
            segments += [("missing", "".join(before[i:i_end]))] if i < i_end else []
            segments += [("added", "".join(after[j:j_end]))] if j < j_end else []
    return segments


def _words(text: str) -> list[str]:
    """Words and punctuation, each with the space before it; joined, they are the text."""
    return re.findall(r"\s*(?:\w+|[^\w\s])(?:\s+$)?|\s+$", text)


def _mean_scores(rows: Sequence[AnswerRow], columns: list[str]) -> dict[str, dict[str, float]]:
    means = {}
    for column in columns:
        scores = [row.scores.get(column, {}) for row in rows]
        names = dict.fromkeys(name for row in scores for name in row)
        means[column] = {name: statistics.fmean(row[name] for row in scores if row.get(name) is not None) for name in names}
    return {column: scores for column, scores in means.items() if scores}


def _kind_table(rows: Sequence[AnswerRow], columns: list[str]) -> list[dict]:
    """A line per kind and one for all kinds with right and wrong answers together, each with its scores by column."""
    by_column = {column: scores for column in columns if (scores := scores_by_kind(rows, column))}
    lines = {kind: {} for scores in by_column.values() for kind in scores}
    for column, scores in by_column.items():
        for kind, of_kind in scores.items():
            lines[kind][column] = of_kind
    table = [dict(kind=kind, of=next(iter(scores.values())), scores=scores) for kind, scores in sorted(lines.items())]
    table.sort(key=lambda line: "right" not in line["of"])  # free text comes last
    together = {column: total for column, scores in by_column.items() if (total := all_kinds(scores))}
    if sum("right" in line["of"] for line in table) > 1:
        table.append(dict(kind="all with one right answer", of=next(iter(together.values())), scores=together))
    return table


def _shown(row: AnswerRow, judged: str | None, *, is_free: bool) -> dict:
    """The values of a row for the template; the filters use its state. Free text has no right or wrong answers."""
    answers = list(row.answers.items())
    baseline = row.reference if row.reference is not None else (answers[0][1] if answers else "")
    cells, state = [], []
    for number, (name, answer) in enumerate(answers):
        scores = row.scores.get(name, {})
        verdict = None
        if row.reference is not None and not is_free:
            verdict = "right" if is_right(row, name) else "wrong"
            state += [verdict] if name == judged else []
        scores = {metric: value for metric, value in scores.items() if metric != "exact_match" or verdict is None}
        compared = row.reference is not None or number > 0
        differences = word_differences(baseline, answer) if compared else [("same", answer)]
        cells.append(dict(name=name, answer=answer, verdict=verdict, scores=scores, differences=differences))
    if len(answers) > 1 and answers[0][1] != answers[-1][1]:
        state.append("changed")
    if row.notes:
        state.append("noted")
    of_judged = row.scores.get(judged, {}) if judged else {}
    sorted_by = {name: value for name, value in of_judged.items() if name != "exact_match" and value is not None}
    return dict(
        messages=row.messages,
        kind=row.kind,
        reference=row.reference,
        notes=row.notes,
        cells=cells,
        state=" ".join(state),
        sorted_by=sorted_by,
        score=next(iter(sorted_by.values()), None),
    )


def _filters(shown: list[dict]) -> list[tuple[str, str, int]]:
    """The filters that would keep some rows and hide others."""
    counts = {state: sum(state in row["state"].split() for row in shown) for state in ("wrong", "right", "changed", "noted")}
    return [("all", "All", len(shown)), *((state, state.capitalize(), count) for state, count in counts.items() if count)]


def _number(value: float | None) -> str:
    if value is None:
        return "\N{EN DASH}"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.3f}" if abs(value) < 10 else f"{value:,.1f}"
