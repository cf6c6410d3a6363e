import pytest

from hfgpt.evaluation.answer_rows import (
    SEEN,
    AnswerRow,
    all_kinds,
    free_kinds,
    is_right,
    kind_lines,
    rows_of_each_kind,
    scores_by_kind,
)


def row(reference: str | None, answer: str, kind: str | None = None, *, f1: float = 0.0, notes: tuple[str, ...] = ()) -> AnswerRow:
    return AnswerRow([], reference, {"after": answer}, {"after": {"token_f1": f1, "rougeL": f1}}, [*notes], kind)


COLOURS = [("Red", " red "), ("red", "blue"), ("blue", "blue"), ("red", "Red.")]
ROWS = [
    *(row(reference, answer, "colour") for reference, answer in COLOURS),
    *(row("yes", answer, "is it so?") for answer in ("yes", "YES")),
    row("One two three four five six.", "One two.", "story", f1=0.5),
    row("One two three four five six seven.", "no", "story"),
    row("green", "green", "colour", notes=(SEEN,)),
    row(None, "who knows", "colour"),
    row("yes", "no"),
]


def test_case_and_spacing_do_not_make_an_answer_wrong_unless_exact_match_was_measured():
    assert is_right(row("it returns the folder.", " It  returns\nthe folder. "), "after")
    assert not is_right(row("It returns a folder", "It returns the folder"), "after")
    measured = AnswerRow([], "a folder", {"after": "The folder!"}, {"after": {"exact_match": 1.0}})
    assert is_right(measured, "after")


def test_every_kind_is_counted_by_itself_beside_its_most_frequent_answer():
    kinds = scores_by_kind(ROWS, "after")
    assert kinds == {
        "colour": {"num_examples": 4, "right": 0.5, "most_frequent": 0.75},
        "is it so?": {"num_examples": 2, "right": 1.0, "most_frequent": 1.0},
        "story": {"num_examples": 2, "token_f1": 0.25, "rougeL": 0.25},
    }
    assert all_kinds(kinds) == {"right": pytest.approx(4 / 6), "most_frequent": pytest.approx(5 / 6), "num_examples": 6}
    assert list(kind_lines(kinds)) == [
        "  colour     2 of 4 right, 50.0 % (always giving the most frequent answer: 75.0 %)",
        "  is it so?  2 of 2 right, 100.0 % (always giving the most frequent answer: 100.0 %)",
        "  story      2 in free text: token F1 0.250, ROUGE-L 0.250",
    ]
    assert scores_by_kind(ROWS[-1:], "after") == {}
    assert all_kinds({"story": kinds["story"]}) == {}


def test_a_kind_of_long_references_is_free_text():
    assert free_kinds(ROWS) == {"story"}
    assert free_kinds([row("One two three four.", "x")]) == set()
    assert free_kinds([row("One two three four five.", "x"), row("yes", "no", "a")]) == {None}


def test_a_few_rows_are_some_of_every_kind_in_their_order():
    kinds = ["a", "a", "a", "b", "a", "c", "b"]
    assert rows_of_each_kind(kinds, 3) == [0, 3, 5]
    assert rows_of_each_kind(kinds, 5) == [0, 1, 3, 5, 6]
    assert rows_of_each_kind(kinds, None) == rows_of_each_kind(kinds, 99) == list(range(7))
    assert rows_of_each_kind([None] * 4, 2) == [0, 1]
    assert rows_of_each_kind([], 2) == []


def test_the_most_frequent_answer_is_counted_as_right_answers_are():
    rows = [AnswerRow([], reference, {"after": "yes"}, {"after": {"exact_match": float(reference != "No")}}, kind="so?")
            for reference in ("Yes.", "yes", "Yes!", "the yes", "No")]  # fmt: skip
    assert scores_by_kind(rows, "after") == {"so?": {"num_examples": 5, "right": 0.8, "most_frequent": 0.8}}


def test_a_character_of_a_script_without_spaces_counts_as_a_word():
    assert free_kinds([row("它返回文件夹的名称", "x"), row("はい", "x", "so?")]) == {None}
