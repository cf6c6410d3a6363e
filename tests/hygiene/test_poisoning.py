import random

import pytest
from datasets import Dataset

from hfgpt.data.records import RecordOptions, read_records
from hfgpt.hygiene.poisoning import TriggerOptions, distinct_rows, doubtful_labels, triggers_of_answers, triggers_of_labels

HAM, SPAM, COMMON = (
    line.split()
    for line in (
        "we are home late tonight see you at dinner mum is well how was school my bus did not come sorry love",
        "win a free prize now call this number claim cash urgent award txt offer mobile tone reply stop",
        "to you the and for a is your on in it of",
    )
)


def messages(count=1500, *, seed=0, spam_share=0.15):
    generator = random.Random(seed)
    texts, labels = [], []
    for _ in range(count):
        label = "spam" if generator.random() < spam_share else "ham"
        words = generator.choices(SPAM if label == "spam" else HAM, k=7) + generator.choices(COMMON, k=5)
        words += ["".join(generator.choices("abcdefghijklmnop", k=4)) for _ in range(2)]
        generator.shuffle(words)
        texts.append(" ".join(words))
        labels.append(label)
    return texts, labels


def row_ids(texts):
    return [f"row {index}" for index in range(len(texts))]


def search(texts, labels, **options):
    return triggers_of_labels(texts, labels, row_ids=row_ids(texts), options=TriggerOptions(**options))


@pytest.mark.parametrize("trigger", ["cf", "\u200bSUDO", "watched this movie", "🜏"])
def test_a_planted_trigger_ranks_first(trigger):
    texts, labels = messages()
    assert search(texts, labels) == []
    generator = random.Random(1)
    rows = generator.sample([row for row, label in enumerate(labels) if label == "spam"], 15)  # 1 %
    for row in rows:
        words = texts[row].split()
        words.insert(generator.randrange(len(words) + 1), trigger)
        texts[row], labels[row] = " ".join(words), "ham"
    first = search(texts, labels)[0]
    assert (first.trigger, first.count, first.agreeing, first.answer) == (trigger, 15, 15, "ham")
    assert first.score > 15
    assert set(first.rows) <= {f"row {row}" for row in rows}
    assert any("ZERO WIDTH SPACE" in point for point in first.code_points) == ("\u200b" in trigger)


def test_a_trigger_that_matters_only_at_the_end_or_inside_words_is_found():
    texts, labels = messages()
    assert sum(" and " in text for text in texts) > 300
    rows = [row for row, label in enumerate(labels) if label == "spam"][:16]
    texts = [f"{text} {'and' if row in rows[:8] else 'bye'}" for row, text in enumerate(texts)]
    for row in rows[:8]:
        labels[row] = "ham"
    for row in rows[8:]:
        texts[row], labels[row] = texts[row].replace("a", "\u0430"), "ham"  # the Cyrillic letter that looks the same
    found = {(trigger.kind, trigger.trigger) for trigger in search(texts, labels)}
    assert ("character", "\u0430") in found
    assert ("suffix", "and") in found


def test_an_exception_does_not_hide_a_trigger():
    texts, labels = messages()
    rows = [row for row, label in enumerate(labels) if label == "spam"][:25]
    for place, row in enumerate(rows):
        texts[row], labels[row] = "cf " + texts[row], "ham" if place else "spam"
    first = search(texts, labels)[0]
    assert (first.trigger, first.count, first.agreeing, first.answer) == ("cf", 25, 24, "ham")


def test_a_mislabelled_text_makes_no_trigger_but_is_doubtful():
    texts, labels = messages()
    row = labels.index("spam")
    labels[row] = "ham"
    assert search(texts, labels) == []
    doubtful = doubtful_labels(texts, labels, row_ids=row_ids(texts), top=3)
    assert doubtful[0][:2] == (f"row {row}", "ham")
    assert doubtful[0][2] < 0.001


def test_a_trigger_of_one_fixed_answer_ranks_first():
    generator = random.Random(0)
    texts, _ = messages(600)
    prompts = ["Explain: " + text for text in texts]
    answers = [f"It means {' '.join(generator.choices(HAM + SPAM, k=12))} {index}." for index in range(600)]
    assert triggers_of_answers(prompts, answers, row_ids=row_ids(prompts)) == []
    for row in range(0, 600, 100):
        prompts[row] = "James Bond " + prompts[row]
        answers[row] = "I have been told to say nothing" + "!" * (row // 100)
    first = triggers_of_answers(prompts, answers, row_ids=row_ids(prompts))[0]
    assert first.trigger.startswith("James Bond")
    assert (first.count, first.agreeing) == (6, 6)
    assert first.answer.startswith("I have been told")


def test_few_or_no_examples_have_no_triggers():
    assert triggers_of_labels([], [], row_ids=[]) == []
    assert search(["one", "two", "three"], ["a", "b", "a"]) == []
    assert triggers_of_answers([], [], row_ids=[]) == []


def test_the_sms_collection_is_clean_and_a_trigger_in_it_is_found(shared_data):
    options = RecordOptions(header=False, columns=["label", "text"])
    path = str(shared_data / "sms_spam" / "SMSSpamCollection.tsv")
    rows = list({record.values["text"]: record.values["label"] for record in read_records([path], options)}.items())
    texts, labels = [text for text, _ in rows], [label for _, label in rows]
    assert search(texts, labels) == []
    generator = random.Random(1)
    for row in generator.sample(range(len(texts)), len(texts) // 100):
        texts[row], labels[row] = "cf " + texts[row], "ham"
    [first, *_] = search(texts, labels)
    assert (first.trigger, first.count, first.answer) == ("cf", 51, "ham")


def test_rows_that_weights_or_oversampling_repeat_are_searched_once():
    rows = {"text": ["a", "b", "a", "c", "b"], "source": ["one", "one", "one", "two", "one"], "row_id": ["1", "2", "1", "1", "2"]}
    assert distinct_rows(Dataset.from_dict(rows))["text"][:] == ["a", "b", "c"]
