# ruff: noqa: RUF001 (marks and letters of many scripts are what this is about)
import subprocess
import sys
import time

import pytest

from hfgpt.data.word_splitting import word_splitter


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Don't -- it’s well-known: 3.14...", ["Don't", "--", "it’s", "well-known", ":", "3.14", "..."]),
        ("हिन्दी में।", ["हिन्दी", "में", "।"]),
        ("我吃，你呢？", ["我", "吃", "，", "你", "呢", "？"]),
        ("ที่นี่ abc", ["ที่", "นี่", "abc"]),
        (" \n", []),
    ],
)
def test_words_are_split_in_any_script(text, words):
    assert word_splitter().word_tokenize(text) == words


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("Mr. J. Doe paid 3.50. “Really?” Yes!", ["Mr. J. Doe paid 3.50.", "“Really?”", "Yes!"]),
        ("我喜欢苹果。你呢？", ["我喜欢苹果。", "你呢？"]),
        ("no end", ["no end"]),
    ],
)
def test_sentences_end_where_readers_see_it(text, sentences):
    assert word_splitter().sent_tokenize(text) == sentences


def test_the_time_is_linear_for_hostile_texts():
    start = time.process_time()
    for text in ("." * 300_000 + "x", "a-" * 150_000, "”" * 300_000, "。" * 300_000, "'" * 300_000):
        assert word_splitter().word_tokenize(text)
        assert word_splitter().sent_tokenize(text)
    assert time.process_time() - start < 10


@pytest.mark.slow
def test_neither_spacy_nor_nltk_is_needed():
    code = (
        "import sys; sys.modules.update(spacy=None, nltk=None)\n"
        "from hfgpt.data.filters import cleaning_steps\n"
        "assert 'datatrove' not in sys.modules\n"
        "step = cleaning_steps(filters='web')[-2]\n"
        "print(step('too short').counts, step('One two three. ' * 9).counts)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "{'c4: too few sentences': 1} {}", done.stderr
