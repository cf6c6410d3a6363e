import pytest
from datasets import Dataset

from hfgpt.data.splitting import Split, split_documents


def documents(count):
    return [{"text": f"document {number}\nline two\n", "source": "s", "row_id": str(number)} for number in range(count)]


def drawn(texts, split):
    """A `Dataset` as load_documents returns it."""
    return Dataset.from_list([{"text": text, "source": "s", "row_id": text, "draw": split.draw(text)} for text in texts])


def trained_on(count, split):
    return set(split_documents(drawn([document["text"] for document in documents(count)], split), split)["train"]["text"])


def test_a_document_keeps_its_side_whatever_else_is_read():
    split = Split(validation_share=0.2, test_share=0.2, seed=3)
    sides = {document["text"]: name for name, document in split.assign(documents(1000))}
    for name, document in split.assign(reversed(documents(500))):
        assert sides[document["text"]] == name
    shares = [list(sides.values()).count(name) / 1000 for name in ("train", "validation", "test")]
    assert shares == pytest.approx([0.6, 0.2, 0.2], abs=0.05)


def test_another_seed_holds_out_other_documents():
    first, second = (trained_on(500, Split(seed=seed)) for seed in (0, 1))
    assert first != second


def test_splitting_loses_and_repeats_nothing():
    split = Split(validation_share=0.1, test_share=0.1)
    dataset = drawn([document["text"] for document in documents(300)], split)
    splits = split_documents(dataset, split)
    together = [text for split in splits.values() for text in split["text"]]
    assert sorted(together) == sorted(dataset["text"])
    assert {one["text"] for name, one in split.assign(documents(300)) if name == "train"} == set(splits["train"]["text"])


def test_one_document_is_cut_by_position_at_line_ends():
    text = "".join(f"line {number}\n" for number in range(100))
    split = Split(by="position", validation_share=0.1, test_share=0.2)
    splits = split_documents(drawn([text], split), split)
    parts = [splits[name]["text"][0] for name in ("train", "validation", "test")]
    assert "".join(parts) == text
    assert all(part.startswith("line") for part in parts)
    assert [len(part) / len(text) for part in parts] == pytest.approx([0.7, 0.1, 0.2], abs=0.02)


def test_a_last_line_without_a_line_break_stays_where_no_test_was_asked_for():
    text = "".join(f"line {number}\n" for number in range(50)) + "the end"
    split = Split(by="position", validation_share=0.1, test_share=0)
    parts = {name: part["text"] for name, part in split.assign([{"text": text, "source": "s", "row_id": "1"}])}
    assert list(parts) == ["train", "validation"]
    assert parts["train"] + parts["validation"] == text


@pytest.mark.parametrize("by", ["document", "position"])
def test_a_share_of_zero_leaves_its_side_out(by):
    split = Split(by=by, validation_share=0.3, test_share=0)
    splits = split_documents(drawn([document["text"] for document in documents(50)], split), split)
    assert list(splits) == ["train", "validation"]


def test_a_side_that_stays_empty_is_an_error_with_the_cure():
    with pytest.raises(ValueError, match="the validation split is empty: 1 document,.*--split_by position"):
        split_documents(drawn(["one"], Split(test_share=0)), Split(test_share=0))
    by_position = Split(by="position")
    with pytest.raises(ValueError, match=r"split is empty: .*split_by 'position'; give more text or different shares\.$"):
        split_documents(drawn(["a"], by_position), by_position)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        (dict(validation_share=0.6, test_share=0.5), "add up to 1.1; the sum must be below 1"),
        (dict(test_share=-0.1), "test_share is -0.1"),
        (dict(by="page"), "split_by is 'page'"),
    ],
)
def test_shares_that_leave_nothing_to_train_on_are_refused(fields, sentence):
    with pytest.raises(ValueError, match=sentence):
        Split(**fields)


def by(texts, **options):
    split = Split(by="auto", **options)
    return split.settled(drawn(texts, split)).by


def test_auto_holds_out_whole_documents_where_there_are_enough(caplog):
    caplog.set_level("INFO")
    assert by([f"document {number}" for number in range(500)]) == "document"
    assert by(["the only one"], validation_share=0, test_share=0) == "document"  # nothing is held out
    assert caplog.text == ""


def test_auto_cuts_one_few_or_unequal_documents_by_position_and_says_so(caplog):
    caplog.set_level("INFO")
    assert by(["one long text"]) == "position"
    assert (
        "split: there is 1 document, so it is cut by position: the first 90 % for training, 5 % for validation, 5 %" in caplog.text
    )
    assert by(f"document {number}" for number in range(5)) == "position"
    assert "split: 5 documents are too few or too unequal to hold out whole ones, so each is cut by position" in caplog.text
    texts = [f"document {number}" for number in range(500)]
    held_out = next(text for text in texts if Split().side(Split().draw(text)) == "test")
    assert by([*texts, *[held_out] * 200]) == "position"  # a third of everything would be in the test split
    assert Split(by="document").settled(drawn(["one"], Split())).by == "document"  # an explicit choice is kept, or refused


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("word " * 200, ["word" + " word" * 179, " word" * 10, " word" * 10 + " "]),  # one line: cut at a space
        ("x" * 1000, ["x" * 900, "x" * 50, "x" * 50]),  # one word
        ("line\r" * 200, ["line\r" * 180, "line\r" * 10, "line\r" * 10]),
        ("line\r\n" * 200, ["line\r\n" * 180, "line\r\n" * 10, "line\r\n" * 10]),
        # the nearest line start is too far away, so it is cut at a space instead
        ("a\n" + "word " * 199 + "word\n", ["a\n" + "word " * 179 + "word", " word" * 10, " word" * 10 + "\n"]),
    ],
)
def test_a_document_is_cut_at_a_line_start_a_space_or_anywhere(text, parts):
    found = {name: part["text"] for name, part in Split(by="position").assign([{"text": text, "source": "s", "row_id": "1"}])}
    assert "".join(found.values()) == text
    assert list(found.values()) == parts


def grouped(groups, split):
    """A `Dataset` as load_documents returns it for documents in groups, ten per group."""
    return Dataset.from_list(
        [
            {"text": f"{group} {n}", "source": "s", "row_id": f"{group}:{n}", "draw": split.draw(group)}
            for n in range(10)
            for group in groups
        ]
    )


def test_all_documents_of_a_group_are_on_one_side(caplog):
    caplog.set_level("INFO")
    split = Split(by="group", validation_share=0.1, test_share=0.1, seed=1)
    groups = [f"author {number}" for number in range(60)]
    splits = split_documents(grouped(groups, split), split)
    sides = {name: {row_id.split(":")[0] for row_id in part["row_id"]} for name, part in splits.items()}
    assert sum(map(len, sides.values())) == 60
    assert set.union(*sides.values()) == set(groups)
    assert min(map(len, sides.values())) > 1
    assert [len(splits[name]) for name in splits] == [10 * len(sides[name]) for name in splits]
    numbers = ", ".join(f"{name} {len(side)}" for name, side in sides.items())
    assert f"split: groups: {numbers}" in caplog.text
    # each group has the same side, whatever else is read
    assigned = {document["group"]: name for name, document in split.assign({"text": "t", "group": group} for group in groups)}
    assert {name: {group for group, side in assigned.items() if side == name} for name in sides} == sides
    other = Split(by="group", validation_share=0.1, test_share=0.1, seed=2)
    assert set(split_documents(grouped(groups, other), other)["test"]["row_id"]) != set(splits["test"]["row_id"])


def test_too_few_groups_for_a_side_are_refused_with_the_cure():
    split = Split(by="group")
    sentence = (
        "the validation split is empty: 20 documents in 2 groups, .*split_by 'group'; give more groups, different shares, another"
    )
    with pytest.raises(ValueError, match=sentence):
        split_documents(grouped(["anna", "ben"], split), split)
