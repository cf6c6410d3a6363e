import json
from collections import Counter

import pandas
import pytest
from datasets import Dataset, DatasetDict

from hfgpt.data.classification import (
    LabelledOptions,
    check_labels,
    check_labels_recur,
    class_weights,
    deduplicate,
    encode_labels,
    keep_frequent_labels,
    load_examples,
    oversample,
    positive_weights,
    undersample,
)
from hfgpt.data.passport import Passport
from hfgpt.data.records import RecordOptions, read_records
from hfgpt.data.splitting import split_examples

SMS = RecordOptions(header=False, columns=["label", "text"])


def load(tmp_path, rows, passport=None, **options):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return load_examples(read_records([str(path)], RecordOptions()), LabelledOptions(**options), passport or Passport())


def examples(labels, texts=None):
    texts = texts or [f"text {index}" for index in range(len(labels))]
    row_ids = [str(index) for index in range(len(labels))]
    return Dataset.from_dict({"text": texts, "label": labels, "source": ["a.csv"] * len(labels), "row_id": row_ids})


def test_examples_keep_their_place_and_labels_may_be_words_ids_or_several(tmp_path):
    rows = [{"text": "A", "label": "x"}, {"text": "B", "label": 7}, {"text": "C", "label": True}, {"text": "D", "label": 2.0}]
    loaded = load(tmp_path, rows)
    assert loaded["label"][:] == ["x", "7", "true", "2"]
    assert loaded[1] == {"text": "B", "label": "7", "source": str(tmp_path / "rows.jsonl"), "row_id": "2"}
    named = load(tmp_path, [{"body": "A", "y": 1}, {"body": "B", "y": "ham"}, {"body": "C", "y": "0"}],
                 text_column="body", label_column="y", labels=["ham", "spam"])  # fmt: skip
    assert named["label"][:] == ["spam", "ham", "ham"]
    several = load(tmp_path, [{"text": "A", "label": "x; y;x"}, {"text": "B", "label": ""}], label_delimiter=";")
    assert several["label"][:] == [["x", "y"], []]
    assert load(tmp_path, [{"text": "A", "label": ["x", 3]}])["label"][:] == [["x", "3"]]


@pytest.mark.parametrize(
    ("rows", "options", "sentence"),
    [
        ([{"body": "A", "label": "x"}], {}, r"rows.jsonl, line 1: no column 'text', found 'body', 'label'; give the right one"),
        ([{"text": "A"}], {"label_column": "y"}, r"line 1: no column 'y', found 'text'; .* with --label_column"),
        ([{"text": "A", "label": "x"}, {"text": " \n", "label": "x"}], {}, r"rows.jsonl, line 2: the text is blank"),
        ([{"text": None, "label": "x"}], {}, r"line 1: the text is blank"),
        ([{"text": 3, "label": "x"}], {}, r"line 1: the column 'text' is a int, but must be text"),
        ([{"text": "A", "label": None}], {}, r"line 1: the label in column 'label' is missing"),
        ([{"text": "A", "label": " "}], {}, r"line 1: the label in column 'label' is missing"),
        ([{"text": "A", "label": 0.5}], {}, r"line 1: the label 0.5 is a float"),
        ([{"text": "A", "label": "eggs"}], {"labels": ["ham", "spam"]}, r"line 1: the label 'eggs' is not one of ham, spam"),
        ([{"text": "A", "label": 2}], {"labels": ["ham", "spam"]}, r"line 1: the label '2' is not one of ham, spam .*0 to 1"),
        ([{"text": "A", "label": 0}], {"labels": ["1", "2"]}, r"line 1: the label '0' is not one of 1, 2; correct it"),
        ([{"text": "A", "label": "x"}, {"text": "B", "label": ["y"]}], {}, r"line 2: a list of labels \['y'\], and one label 'x'"),
        ([], {}, r"no labelled examples: 0 rows were read"),
    ],
)
def test_rows_that_are_no_examples_are_named_by_file_and_line(tmp_path, rows, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        load(tmp_path, rows, **options)


def test_a_column_of_ids_is_not_taken_for_labels():
    with pytest.raises(
        ValueError, match="there are 9 labels for 9 examples, 9 of them with a single example; is 'id' the column of"
    ):
        check_labels_recur(examples([str(number) for number in range(9)]), LabelledOptions(label_column="id"))
    check_labels_recur(examples(["a", "a", "b", "c"]), LabelledOptions())
    check_labels_recur(examples([["a"], ["b"], []]), LabelledOptions())


def test_blank_texts_can_be_dropped_and_are_counted(tmp_path):
    passport = Passport()
    rows = [{"text": "A", "label": "x"}, {"text": "", "label": "x"}, {"text": None, "label": "y"}]
    assert load(tmp_path, rows, passport, blank_texts="drop")["text"][:] == ["A"]
    step = passport.steps[0]
    assert (step["step"], step["examples_in"], step["examples_out"], step["blank"]) == ("load", 3, 1, 2)


def test_duplicates_are_dropped_and_contradicting_ones_all_of_them():
    passport = Passport()
    texts = ["win now", "hello", "win now", "maybe", "maybe", "hello", "Maybe"]
    data = examples(["spam", "ham", "spam", "spam", "ham", "ham", "ham"], texts)
    assert deduplicate(data, passport)["row_id"][:] == ["0", "1", "6"]
    step = passport.steps[0]
    assert (step["examples_in"], step["examples_out"], step["duplicates"], step["conflicting"]) == (7, 3, 2, 2)
    assert deduplicate(data, passport, mode="near")["row_id"][:] == ["0", "1"]
    assert deduplicate(data, passport, mode="none") is data
    with pytest.raises(ValueError, match="allowed: exact, near, none"):
        deduplicate(data, passport, mode="fuzzy")


@pytest.mark.parametrize("mode", ["exact", "near"])
def test_columns_that_were_swapped_leave_nothing_and_are_named_with_the_cure(mode):
    data = examples(["win now", "hello", "see you", "cash"], ["spam", "ham", "ham", "spam"])
    with pytest.raises(
        ValueError, match=r"each of the 4 texts, of which 2 differ, .* no example is left; .*--text_column and --label_column"
    ):
        deduplicate(data, Passport(), mode=mode)


def test_near_duplicates_are_dropped_within_a_label_only():
    texts = [
        "Your free prize is waiting, call 0800 123 now or lose it for ever",
        "your FREE prize is waiting: call 0906 77 now or lose it forever!",
        "Your free prize is waiting, call 0800 123 now or lose it for ever, mum",
        "We meet at nine",
    ]
    data = examples(["spam", "spam", "ham", "ham"], texts)
    assert deduplicate(data, Passport(), mode="exact")["row_id"][:] == ["0", "1", "2", "3"]
    assert deduplicate(data, Passport(), mode="near")["row_id"][:] == ["0", "2", "3"]


def test_rare_labels_are_left_out_with_their_examples_and_counted():
    passport = Passport()
    data = examples(["a", "a", "a", "b", "b", "c"])
    assert keep_frequent_labels(data, LabelledOptions(min_label_count=2), passport)["label"][:] == ["a", "a", "a", "b", "b"]
    assert passport.steps[0]["labels_dropped"] == {"c": 1}
    assert keep_frequent_labels(data, LabelledOptions(max_labels=2), passport)["label"][:] == ["a", "a", "a", "b", "b"]
    assert keep_frequent_labels(data, LabelledOptions(), passport) is data
    several = examples([["a", "c"], ["c"], [], ["b", "a"], ["b"], ["a"], ["b"]])
    kept = keep_frequent_labels(several, LabelledOptions(max_labels=2), passport)
    assert kept["label"][:] == [["a"], [], ["b", "a"], ["b"], ["a"], ["b"]]
    with pytest.raises(ValueError, match=r"1 labels have 3 examples .* the most frequent are a \(3\), b \(2\), c \(1\)"):
        keep_frequent_labels(data, LabelledOptions(min_label_count=3), passport)


def books_frames(frame):
    """Raschka, chapter 6: create_balanced_dataset and random_split, but with our column names."""
    num_spam = frame[frame["label"] == "spam"].shape[0]
    ham_subset = frame[frame["label"] == "ham"].sample(num_spam, random_state=123)
    balanced = pandas.concat([ham_subset, frame[frame["label"] == "spam"]])
    shuffled = balanced.sample(frac=1, random_state=123).reset_index(drop=True)
    train_end = int(len(shuffled) * 0.7)
    validation_end = train_end + int(len(shuffled) * 0.1)
    return balanced, shuffled[:train_end], shuffled[train_end:validation_end], shuffled[validation_end:]


def assert_books_protocol(data, sizes):
    balanced, *frames = books_frames(pandas.DataFrame({"text": data["text"][:], "label": data["label"][:]}))
    ours = undersample(data, Passport(), seed=123)
    assert ours["text"][:] == balanced["text"].tolist()
    assert ours["label"][:] == balanced["label"].tolist()
    passport = Passport()
    splits = split_examples(ours, passport, seed=123)
    assert [len(split) for split in splits.values()] == sizes
    for (name, split), frame in zip(splits.items(), frames, strict=True):
        assert split["text"][:] == frame["text"].tolist(), name
    assert {name: passport.steps[0][name] for name in splits} == dict(zip(splits, sizes))


def test_balance_and_splits_are_the_books_row_by_row():
    labels = ["spam" if index % 7 == 3 else "ham" for index in range(200)]
    assert labels.count("spam") == 29
    assert_books_protocol(examples(labels), [40, 5, 13])


def test_the_sms_collection_is_balanced_and_split_as_in_the_book(shared_data):
    path = str(shared_data / "sms_spam" / "SMSSpamCollection.tsv")
    data = load_examples(read_records([path], SMS), LabelledOptions(), Passport())
    assert Counter(data["label"]) == {"ham": 4827, "spam": 747}
    assert_books_protocol(data, [1045, 149, 300])
    passport = Passport()
    assert len(deduplicate(data, passport)) == 5574 - 403 - passport.steps[0]["conflicting"]
    assert passport.steps[0]["duplicates"] == 403


def test_undersampling_takes_every_label_down_to_the_rarest():
    data = undersample(examples(["a"] * 2 + ["b"] * 9 + ["c"] * 5), Passport())
    assert data["label"][:] == ["b", "b", "c", "c", "a", "a"]
    assert len(set(data["text"])) == 6
    with pytest.raises(ValueError, match="undersampling needs one label per text"):
        undersample(examples([["a"], ["b"]]), Passport())


def test_oversampling_repeats_examples_evenly_and_loses_none():
    data = oversample(examples(["a"] * 7 + ["b"] * 3), Passport())
    assert data["text"][:10] == [f"text {index}" for index in range(10)]
    assert Counter(data["label"]) == {"a": 7, "b": 7}
    assert sorted(Counter(data["text"][7:10] + data["text"][10:]).values()) == [2, 2, 3]


def test_stratified_splits_keep_the_shares_of_the_labels_and_lose_no_row():
    data = examples(["a"] * 100 + ["b"] * 20 + ["c"] * 2 + ["d"])
    splits = split_examples(data, Passport(), method="stratified")
    counts = {name: Counter(split["label"]) for name, split in splits.items()}
    assert counts == {"train": {"a": 70, "b": 14, "c": 2, "d": 1}, "validation": {"a": 10, "b": 2}, "test": {"a": 20, "b": 4}}
    assert sorted(row for split in splits.values() for row in split["text"]) == sorted(data["text"])
    again = split_examples(data, Passport(), method="stratified", seed=124)
    assert again["test"]["text"][:] != splits["test"]["text"][:]


@pytest.mark.parametrize("method", ["random", "stratified"])
def test_near_copies_are_split_as_one(method):
    words = ["anchor", "boat", "candle", "dune", "ember", "ferry", "gull", "harbour", "island", "jetty"]
    texts = [f"{word} {word[::-1]} {word * 2} {copy}" for word in words for copy in range(4)]
    data = examples(["a" if number % 8 < 4 else "b" for number in range(40)], texts)
    splits = split_examples(data, Passport(), method=method, near_copy_similarity=0.8)
    assert {name: len(split) for name, split in splits.items()} == {"train": 28, "validation": 4, "test": 8}
    sides = [{text.split()[0] for text in split["text"]} for split in splits.values()]
    assert sum(map(len, sides)) == len(words)
    assert set(splits["train"]["label"]) == {"a", "b"}
    plain = split_examples(data, Passport(), method=method)
    unlike = examples(data["label"][:], [f"{text} {word}" for text, word in zip(texts, words * 4)])
    assert split_examples(unlike, Passport(), method=method)["test"]["row_id"][:] == plain["test"]["row_id"][:]


@pytest.mark.parametrize("method", ["random", "stratified"])
def test_a_share_of_zero_leaves_its_side_out_and_loses_no_row(method):
    data = examples(["a", "b"] * 17)
    for shares, names in (((0.0, 0.3), ["train", "test"]), ((0.3, 0.0), ["train", "validation"]), ((0.0, 0.0), ["train"])):
        splits = split_examples(data, Passport(), validation_share=shares[0], test_share=shares[1], method=method)
        assert list(splits) == names
        assert sum(map(len, splits.values())) == 34
    with pytest.raises(ValueError, match="the validation split is empty: 2 examples"):
        split_examples(examples(["a", "b"]), Passport(), method=method)
    with pytest.raises(ValueError, match="must be below 1"):
        split_examples(data, Passport(), validation_share=0.5, test_share=0.5, method=method)


def test_labels_become_ids_with_names_and_counts_in_the_passport():
    splits = DatasetDict({"train": examples(["10", "9", "x", "9"]), "test": examples(["x", "9"])})
    passport = Passport()
    encoded, names = encode_labels(splits, LabelledOptions(), passport)
    assert names == ["9", "10", "x"]  # numbers in numeric order, then words
    assert encoded["train"]["label"][:] == [1, 0, 2, 0]
    assert encoded["test"]["label"][:] == [2, 0]
    assert encoded["train"].features["label"].names == names
    assert passport.splits["train"] == {"examples": 4, "labels": {"9": 2, "10": 1, "x": 1}}
    assert encode_labels(splits, LabelledOptions(labels=["x", "9", "10"]), Passport())[0]["test"]["label"][:] == [0, 1]


def test_labels_that_no_figure_covers_are_named(caplog):
    splits = DatasetDict({"train": examples(["a", "b", "c"]), "validation": examples(["a", "b", "c"]), "test": examples(["b"])})
    encode_labels(splits, LabelledOptions(), Passport())
    assert [line.partition("), so that split")[0] for line in caplog.messages] == [
        "labels: 2 of 3 labels have no test example ('a', 'c'"
    ]


def test_several_labels_become_zeros_and_ones():
    splits = DatasetDict({"train": examples([["b", "a"], [], ["b"]]), "test": examples([["a"]])})
    encoded, names = encode_labels(splits, LabelledOptions(), Passport())
    assert names == ["a", "b"]
    assert encoded["train"]["label"][:] == [[1.0, 1.0], [0.0, 0.0], [0.0, 1.0]]
    assert positive_weights(encoded["train"]["label"][:]) == [2.0, 0.5]


@pytest.mark.parametrize(
    ("train", "test", "labels", "sentence"),
    [
        (["a", "a"], ["a"], None, "the 2 training examples have only the label 'a'"),
        (["a", "b"], ["a", "c"], None, r"the label 'c' only occurs in the test split \(first in a.csv, row 1\)"),
        (["a", "b"], ["a"], ["a", "b", "c"], "no training example has the label 'c' of labels"),
        ([["a"], ["b"]], ["a"], None, "some splits have one label per text and some several"),
    ],
)
def test_labels_that_cannot_be_learned_are_refused(train, test, labels, sentence):
    with pytest.raises(ValueError, match=sentence):
        check_labels(DatasetDict({"train": examples(train), "test": examples(test)}), LabelledOptions(labels=labels))


def test_class_weights_are_inverse_to_the_frequency_and_one_in_the_mean():
    weights = class_weights([0, 0, 0, 1], num_labels=2)
    assert weights == pytest.approx([2 / 3, 2])
    assert sum(weights[label] for label in [0, 0, 0, 1]) / 4 == pytest.approx(1)


def test_options_that_contradict_themselves_are_refused():
    for options, sentence in (
        ({"blank_texts": "keep"}, "allowed: error, drop"),
        ({"max_labels": 1}, "a classifier needs at least 2"),
        ({"labels": ["a", "a"]}, "every label may occur only once"),
    ):
        with pytest.raises(ValueError, match=sentence):
            LabelledOptions(**options)
