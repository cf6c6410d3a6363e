import pytest
from datasets import Dataset

from hfgpt.data.splitting import Split, split_documents


def documents(count):
    return [{"text": f"document {number}\nline two\n", "source": "s", "row_id": str(number)} for number in range(count)]


def test_a_document_keeps_its_side_whatever_else_is_read():
    split = Split(validation_share=0.2, test_share=0.2, seed=3)
    sides = {document["text"]: name for name, document in split.assign(documents(1000))}
    for name, document in split.assign(reversed(documents(500))):
        assert sides[document["text"]] == name
    shares = [list(sides.values()).count(name) / 1000 for name in ("train", "validation", "test")]
    assert shares == pytest.approx([0.6, 0.2, 0.2], abs=0.05)


def test_another_seed_holds_out_other_documents():
    first, second = ({document["text"] for document in Split(seed=seed).train_documents(documents(500))} for seed in (0, 1))
    assert first != second


def test_splitting_loses_and_repeats_nothing():
    dataset = Dataset.from_list(documents(300))
    splits = split_documents(dataset, Split(validation_share=0.1, test_share=0.1))
    together = [text for split in splits.values() for text in split["text"]]
    assert sorted(together) == sorted(dataset["text"])
    assert {document["text"] for document in Split(validation_share=0.1, test_share=0.1).train_documents(documents(300))} == set(
        splits["train"]["text"]
    )


def test_one_document_is_cut_by_position_at_line_ends():
    text = "".join(f"line {number}\n" for number in range(100))
    dataset = Dataset.from_list([{"text": text, "source": "s", "row_id": "1"}])
    splits = split_documents(dataset, Split(by="position", validation_share=0.1, test_share=0.2))
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
    splits = split_documents(Dataset.from_list(documents(50)), Split(by=by, validation_share=0.3, test_share=0))
    assert list(splits) == ["train", "validation"]


def test_a_side_that_stays_empty_is_an_error_with_the_cure():
    with pytest.raises(ValueError, match="the validation split is empty: 1 documents.*split_by: position"):
        split_documents(Dataset.from_list(documents(1)), Split(test_share=0))


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        (dict(validation_share=0.6, test_share=0.5), "add up to 1.1; below 1 is needed"),
        (dict(test_share=-0.1), "test_share is -0.1"),
        (dict(by="page"), "split_by is 'page'"),
    ],
)
def test_shares_that_leave_nothing_to_train_on_are_refused(fields, sentence):
    with pytest.raises(ValueError, match=sentence):
        Split(**fields)
