"""Prompts, references and answers as rows, in a file, and scored by kind of question.

A kind with short references has right and wrong answers. A kind with free-text references does not: two good descriptions of a
thing hardly ever use the same words, so similarity is measured and nothing is called wrong.
"""

import itertools
import json
import statistics
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from hfgpt.errors import UserError
from hfgpt.files import write_whole

LIKENESS = {"token_f1": "token F1", "rougeL": "ROUGE-L"}  # the measures for free text
# If more than half of the references of a kind have more words than this, the kind is free text.
MOST_WORDS_OF_SHORT_ANSWERS = 4
SEEN = "seen in training"  # the note on a row from the training set, which counts for no kind


@dataclass(frozen=True)
class AnswerRow:
    """One prompt and its answers.

    Attributes:
        messages: the prompt as chat messages, each with `role` and `content`.
        reference: the expected answer; None if there is none.
        answers: the answers by model or step, in the order of the columns.
        scores: scores for some or all of these answers; `exact_match` decides what the page calls right.
        notes: sentences shown with a warning sign, such as a trigger's alarms.
        kind: the kind of question, if the data specifies it.
    """

    messages: list[dict[str, str]]
    reference: str | None
    answers: dict[str, str]
    scores: dict[str, dict[str, float]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    kind: str | None = None


def write_answers(path: str | Path, rows: Sequence[AnswerRow]) -> None:
    """Write the rows as one JSON file: a list of objects with the fields of `AnswerRow`."""
    text = json.dumps([asdict(row) for row in rows], indent=2, ensure_ascii=False) + "\n"
    # UTF-8 cannot encode half a surrogate pair; written as \ud83d, it is the original JSON.
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    write_whole(Path(path), text.encode("utf-8", errors="backslashreplace"))


def read_answers(path: str | Path) -> list[AnswerRow]:
    """The rows that `write_answers` wrote. Raises: ValueError naming the file for any other content."""
    try:
        return [AnswerRow(**row) for row in json.loads(Path(path).read_text(encoding="utf-8"))]
    except (json.JSONDecodeError, UnicodeDecodeError, TypeError) as error:
        raise UserError(f"{path} does not contain answers in the format of write_answers ({error}); generate them again.") from None


def folded(text: str) -> str:
    """A text normalized for case and whitespace."""
    return " ".join(text.casefold().split())


def is_right(row: AnswerRow, name: str) -> bool:
    """Whether an answer matches its row's reference: by `exact_match` or, if not measured, ignoring case and whitespace."""
    scores = row.scores.get(name, {})
    if "exact_match" in scores:
        return scores["exact_match"] >= 1
    return folded(row.answers[name]) == folded(row.reference or "")


def rows_of_each_kind(kinds: Sequence[str | None], most: int | None) -> list[int]:
    """The indices of at most `most` rows (None: all), in order: the first of every kind, the second of every kind, and so on."""
    numbers: dict[str | None, list[int]] = {}
    for number, kind in enumerate(kinds):
        numbers.setdefault(kind, []).append(number)
    in_turn = (number for turn in itertools.zip_longest(*numbers.values()) for number in turn if number is not None)
    return sorted(itertools.islice(in_turn, most))


def free_kinds(rows: Iterable[AnswerRow]) -> set[str | None]:
    """The kinds whose references are free text; None in the result stands for rows without a kind."""
    from hfgpt.metrics.answer_metrics.answer_metrics import UNSPACED  # imports evaluate, which takes a second

    words: dict[str | None, list[int]] = {}
    for row in rows:
        if row.reference is not None:
            words.setdefault(row.kind, []).append(len(UNSPACED.sub(r" \1 ", row.reference).split()))
    return {kind for kind, counts in words.items() if statistics.median(counts) > MOST_WORDS_OF_SHORT_ANSWERS}


def scores_by_kind(rows: Sequence[AnswerRow], name: str) -> dict[str, dict[str, float]]:
    """The scores of the answers of a model or step, by kind of question; {} if no unseen row with a reference has a kind.

    Returns: for every kind `num_examples`; for kinds with right and wrong answers also `right`, and `most_frequent`, the score of
    always giving the most frequent reference (both shares from 0 to 1); for free text, mean `token_f1` and `rougeL`.
    """
    free = free_kinds(rows)
    groups: dict[str, list[AnswerRow]] = {}
    for row in rows:
        if row.kind is not None and row.reference is not None and name in row.answers and SEEN not in row.notes:
            groups.setdefault(row.kind, []).append(row)
    return {kind: {"num_examples": len(group), **_scores(group, name, kind in free)} for kind, group in groups.items()}


def _scores(rows: list[AnswerRow], name: str, free: bool) -> dict[str, float]:
    if free:
        measured = [metric for metric in LIKENESS if all(metric in row.scores.get(name, {}) for row in rows)]
        return {metric: statistics.fmean(row.scores[name][metric] for row in rows) for metric in measured}
    from hfgpt.metrics.answer_metrics.answer_metrics import normalised

    # Equal in the same sense as right answers are.
    references = Counter(" ".join(normalised(row.reference or "")) or folded(row.reference or "") for row in rows)
    return {
        "right": statistics.fmean(is_right(row, name) for row in rows),
        "most_frequent": references.most_common(1)[0][1] / len(rows),
    }


def all_kinds(kinds: dict[str, dict[str, float]]) -> dict[str, float]:
    """`right`, `most_frequent` and `num_examples` over the kinds with right and wrong answers; {} if there are none."""
    exact = [scores for scores in kinds.values() if "right" in scores]
    number = sum(scores["num_examples"] for scores in exact)
    totals = {name: sum(scores[name] * scores["num_examples"] for scores in exact) for name in ("right", "most_frequent")}
    return {name: total / number for name, total in totals.items()} | {"num_examples": number} if exact else {}


def kind_lines(kinds: dict[str, dict[str, float]]) -> Iterator[str]:
    """A table for a report, with one line per kind."""
    width = max(map(len, kinds), default=0)
    for kind, scores in kinds.items():
        number = scores["num_examples"]
        if "right" in scores:
            said = (
                f"{round(scores['right'] * number):,} of {number:,} right, {100 * scores['right']:.1f} % (always giving the most "
                f"frequent answer: {100 * scores['most_frequent']:.1f} %)"
            )
        else:
            measured = [f"{what} {scores[metric]:.3f}" for metric, what in LIKENESS.items() if metric in scores]
            said = f"{number:,} in free text{': ' * bool(measured)}{', '.join(measured)}"
        yield f"  {kind:<{width}}  {said}"
