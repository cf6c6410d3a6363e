import itertools
import random

import pytest
from datasets import Dataset

from hfgpt.data.near_copies import Copy, find_copies, normalize, similar_groups
from hfgpt.data.passport import Passport
from hfgpt.data.records import RecordOptions
from hfgpt.data.splitting import keep_copies_together
from hfgpt.hygiene.decontamination import drop_copies, leaks_between, reference_texts


def test_case_digits_punctuation_spaces_and_invisible_characters_are_folded():
    assert normalize("Call 0800-123,  NOW!") == normalize("call 0906\n77 now") == "call 0 0 now"
    assert normalize("ﬁne caf\u00e9 fr\u200bee") == normalize("FINE cafe\u0301 free") == "fine café free"
    assert normalize("कि") != normalize("की")  # vowel signs are letters
    assert normalize("!!!") == "!!!"
    assert normalize("7 m", fold_digits=False) == "7 m"


def jaccard(one, other):
    one, other = ({text[i : i + 5] for i in range(max(1, len(text) - 4))} for text in (normalize(one), normalize(other)))
    return len(one & other) / len(one | other)


def test_similarity_is_exactly_that_of_the_sets_of_5_grams():
    generator = random.Random(0)
    words = ["".join(generator.choices("abcde", k=4)) for _ in range(30)]
    references = [" ".join(generator.choices(words, k=9)) for _ in range(60)]
    texts = []
    for reference in references:
        parts = reference.split()
        for place in generator.sample(range(9), generator.choice([1, 3])):
            parts[place] = generator.choice(words)
        texts.append(" ".join(parts))
    expected = {}
    for index, text in enumerate(texts):
        similarity, reference_index = max((jaccard(text, reference), -number) for number, reference in enumerate(references))
        if similarity >= 0.6:
            expected[index] = (-reference_index, similarity)
    found = {copy.index: (copy.reference_index, copy.similarity) for copy in find_copies(texts, references, threshold=0.6)}
    assert len(expected) > 20
    assert len(expected) < 60
    assert found == expected


def test_copies_are_found_across_blocks_and_short_texts_only_exactly(monkeypatch):
    monkeypatch.setattr("hfgpt.data.near_copies.PAIRS_AT_A_TIME", 6)
    texts = ["nothing alike here", "Ok", "what a lovely day it was", "okay", "no", "What a lovely day it was!", "day"]
    assert find_copies(texts, ["ok.", "What a lovely day it was"]) == [Copy(1, 0, 1.0), Copy(2, 1, 1.0), Copy(5, 1, 1.0)]


def test_a_prompt_inside_a_long_document_is_found_and_a_short_phrase_is_not():
    prompt = "Explain in one sentence why the sky is blue on a clear day."
    assert len(normalize(prompt)) >= 50
    document = (
        "Some of our questions. " * 20 + "7) explain in one sentence, why the sky is blue on a clear day " + "More words. " * 30
    )
    [copy] = find_copies([document, "Why is the sea green?"], [prompt])
    assert (copy.index, copy.similarity >= 0.9) == (0, True)
    assert find_copies(["What do you think? " + "And so on and on. " * 20], ["What do you think?"]) == []


def test_near_copies_share_a_group_and_digits_may_tell_apart():
    texts = [
        "3 kilometers are 3000 meters.",
        "It rains in the mountains",
        "7 kilometers are 7000 meters",
        "It rains in the mountains!",
    ]
    assert similar_groups(texts) == [0, 1, 0, 1]
    assert similar_groups(texts, fold_digits=False) == [0, 1, 2, 1]
    assert similar_groups([]) == []


def test_copies_are_dropped_from_training_only_and_counted_by_reference():
    test = ["Win a prize now, call 0800 1", "See you at nine"]
    train = Dataset.from_dict(
        {"text": ["win a prize now call 0906 2!", "Lunch?", "see you at nine", "A text of my own"], "n": [0, 1, 2, 3]}
    )
    passport = Passport()
    kept = drop_copies(train, {"validation": ["Lunch!"], "test": test, "benchmark.jsonl": ["SEE YOU AT NINE"]}, passport)
    assert kept["n"][:] == [3]
    step = passport.steps[0]
    assert step["copies_of"] == {"validation": 1, "test": 2, "benchmark.jsonl": 1}
    assert (step["examples_in"], step["examples_out"]) == (4, 1)
    other = drop_copies(train, {"test": test}, passport, texts=["a", "b", "c", "See you at nine"])
    assert other["n"][:] == [0, 1, 2]
    with pytest.raises(ValueError, match="all 4 training examples are copies of test"):
        drop_copies(train, {"test": train["text"][:]}, passport)
    with pytest.raises(ValueError, match="threshold is 0; it must be above 0"):
        drop_copies(train, {"test": test}, passport, threshold=0)


WORDS = ["anchor", "boat", "candle", "dune", "ember", "ferry", "gull", "harbour", "island", "jetty", "kelp", "lantern"]


def templated(number):
    """Ten texts of one wording; two wordings share 5-grams only by chance."""
    return [f"{WORDS[number]} {WORDS[number][::-1]} {WORDS[number] * 2} number {copy}" for copy in range(10)]


def test_near_copies_go_to_one_side_and_the_sides_keep_their_sizes():
    texts = [text for number in range(10) for text in templated(number)]
    order = random.Random(0).sample(range(100), 100)
    sides = {"train": order[:70], "validation": order[70:80], "test": order[80:]}
    side_texts = lambda sides: {name: [texts[row] for row in rows] for name, rows in sides.items()}  # noqa: E731
    assert leaks_between(side_texts(sides))["train-test"] == {"exact": 20, "near": 0}  # a random split leaks every test text
    together = keep_copies_together(sides, texts)
    assert {name: len(rows) for name, rows in together.items()} == {"train": 70, "validation": 10, "test": 20}
    assert sorted(row for rows in together.values() for row in rows) == list(range(100))
    assert all(leak == {"exact": 0, "near": 0} for leak in leaks_between(side_texts(together)).values())
    assert keep_copies_together(sides, texts) == together


def test_a_copy_that_moves_takes_its_own_copies_along():
    words = ["".join(random.Random(number).choices("abcdefghijklmnop", k=7)) for number in range(50)]
    first, second, third = (" ".join(words[start : start + 30]) for start in (0, 2, 4))
    others = [" ".join(words[number : number + 4]) for number in range(36, 46)]
    texts = [first, second, third, third + " zz", *others]
    assert [len(find_copies([one], [other])) for one, other in ((first, second), (second, third), (first, third))] == [1, 1, 0]
    # The second goes to the test side with the third; the first is a copy of the second only.
    sides = {"train": [0, 1, 4, 5, 6], "validation": [7, 8], "test": [2, 3, 9, 10, 11, 12, 13]}
    together = keep_copies_together(sides, texts)
    for one, other in itertools.combinations(together.values(), 2):
        assert not find_copies([texts[row] for row in one], [texts[row] for row in other])


def test_a_split_without_copies_across_its_sides_is_left_as_it_is():
    texts = [f"{one} and {other}" for one in WORDS for other in (one[::-1], one * 2)]
    sides = {"train": list(range(16, 0, -1)), "test": [0, *range(17, 24)]}
    assert leaks_between({name: [texts[row] for row in rows] for name, rows in sides.items()})["train-test"]["near"] == 0
    assert keep_copies_together(sides, texts) is sides


def test_a_label_whose_texts_are_all_near_copies_is_learned():
    texts = [*templated(0), *(text for number in range(1, 8) for text in templated(number)[:2])]
    labels = ["rare"] * 10 + ["other"] * 14
    sides = {"train": [*range(2, 16)], "validation": [0, 16, 17, 18, 19], "test": [1, 20, 21, 22, 23]}
    together = keep_copies_together(sides, texts, labels=labels)
    assert set(range(10)) <= set(together["train"])
    assert {name: len(rows) for name, rows in together.items()} == {"train": 16, "validation": 4, "test": 4}


def test_copies_that_leave_a_side_empty_are_refused_with_the_keys_that_help():
    texts = [f"boat {number} {('broken', 'bright')[number % 2]}" for number in range(40)]
    sides = {"train": list(range(28)), "validation": list(range(28, 32)), "test": list(range(32, 40))}
    labels = [number % 2 for number in range(40)]
    sentence = (
        "40 of 40 .* .groups: 2 whose texts differ only in digits.* nothing is left for validation: .* or set --decontaminate false"
    )
    with pytest.raises(ValueError, match=sentence):
        keep_copies_together(sides, texts, labels=labels)
    texts = [f"the old boat by the {WORDS[number % 12]} was not mended in the spring" for number in range(40)]
    with pytest.raises(ValueError, match=r".groups: 1.. .* raise --near_copy_similarity \(0.5\), or set --decontaminate false"):
        keep_copies_together(sides, texts, threshold=0.5)
    train = Dataset.from_dict({"text": ["the boat is broken"]})
    with pytest.raises(
        ValueError, match=r"all 1 training examples are copies of test; .*near_copy_similarity .*--decontaminate false"
    ):
        drop_copies(train, {"test": ["The boat is broken!"]}, Passport())


def test_leaks_are_counted_in_texts_of_the_later_split():
    splits = {
        "train": ["Your prize is waiting for you here", "Your prize is waiting for you here", "Lunch at one?"],
        "validation": ["Nothing of the kind"],
        "test": ["your PRIZE is waiting for you here", "Your prize is waiting for you here today", "Lunch at one", "New"],
    }
    assert leaks_between(splits) == {
        "train-validation": {"exact": 0, "near": 0},
        "train-test": {"exact": 2, "near": 1},
        "validation-test": {"exact": 0, "near": 0},
    }


def test_every_long_string_of_a_benchmark_is_a_reference(tmp_path):
    path = tmp_path / "benchmark.jsonl"
    path.write_text(
        '{"question": "Which planet is the largest?", "answer": "Jupiter", "options": ["a gas giant near the sun", "no"]}\n'
        '{"messages": [{"role": "user", "content": "Name the smallest planet of all."}], "id": 7}\n'
    )
    assert reference_texts([str(path)], RecordOptions()) == {
        str(path): ["Which planet is the largest?", "a gas giant near the sun", "Name the smallest planet of all."]
    }


def test_the_sms_collection_leaks_between_splits_until_its_copies_are_dropped(shared_data):
    from hfgpt.data.records import read_records

    options = RecordOptions(header=False, columns=["label", "text"])
    path = str(shared_data / "sms_spam" / "SMSSpamCollection.tsv")
    texts = [record.values["text"] for record in read_records([path], options)]
    splits = {"train": texts[:4000], "test": texts[4000:]}
    leaks = leaks_between(splits)["train-test"]
    assert leaks["exact"] > 100
    assert leaks["near"] > 10
    kept = drop_copies(Dataset.from_dict({"text": splits["train"]}), {"test": splits["test"]}, Passport())
    assert 3500 < len(kept) < 3900
    assert leaks_between({"train": kept["text"], "test": splits["test"]}) == {"train-test": {"exact": 0, "near": 0}}


def test_no_text_that_contains_a_reference_is_missed():
    generator = random.Random(1)
    phrases = [" ".join(generator.choices(WORDS, k=10)) for _ in range(60)]
    references = [phrase for phrase in phrases if len(phrase) >= 50]
    texts = []
    for phrase in references:
        parts = phrase.split()
        parts[generator.randrange(10)] = generator.choice(WORDS)  # some still share at least 90 % with their phrase
        texts.append(" ".join([*generator.choices(WORDS, k=30), *parts, *generator.choices(WORDS, k=30)]))
    grams = lambda text: {text[start : start + 5] for start in range(len(text) - 4)}  # noqa: E731
    expected = [
        index
        for index, text in enumerate(texts)
        if any(len(grams(text) & grams(reference)) >= 0.9 * len(grams(reference)) for reference in references)
    ]
    assert 5 < len(expected) < len(texts) - 5
    assert [copy.index for copy in find_copies(texts, references)] == expected
