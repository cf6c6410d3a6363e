"""The figures of the report are right, and the page says what they refer to."""

import pytest

from hfgpt.tokenization import encode_texts, load_tokenizer, train_word_level
from hfgpt.tokenization.measuring import count_tokens, measure, script_of
from hfgpt.tokenization.memory import expected_memory, say_memory
from hfgpt.tokenization.report import PICTURE_NAME, REPORT_NAME, Report, without_names

TEXTS = [("a.txt", "the cat, the hat"), ("a.txt", "été"), ("b|`c\n.txt", "кот в шляпе, и опять кот")]


@pytest.fixture(scope="module")
def tokenizer(small_tokenizer):
    return load_tokenizer(small_tokenizer)


def test_bytes_words_and_tokens_are_counted_by_source_and_script(tokenizer):
    words = train_word_level(["the cat, the hat"])
    found = measure({"bytes": tokenizer, "words": words}, TEXTS)
    ids = encode_texts(tokenizer, [text for _, text in TEXTS])
    assert found.all.documents == 3
    assert found.all.bytes == sum(len(text.encode()) for _, text in TEXTS)
    assert found.all.words == 4 + 1 + 6
    assert found.all.tokens["bytes"] == sum(map(len, ids))
    assert found.all.bytes_per_token("bytes") == found.all.bytes / sum(map(len, ids))
    assert found.all.tokens_per_word("bytes") == sum(map(len, ids)) / 11
    assert found.all.unknown == {"bytes": 0, "words": 1 + 6}  # "été", and six Russian words
    assert list(found.sources) == ["b|`c\n.txt", "a.txt"]  # largest first
    assert found.sources["a.txt"].tokens["bytes"] == len(ids[0]) + len(ids[1])
    assert {script: group.documents for script, group in found.scripts.items()} == {"Cyrillic": 1, "Latin": 2}
    assert found.languages == {}


@pytest.mark.parametrize(
    ("text", "script"),
    [("Hello", "Latin"), ("été", "Latin"), ("漢字 a", "Han"), ("かな漢", "Japanese"), ("123 !?", "no letters"), ("", "no letters"),
     ("안녕", "Korean"), ("γειά", "Greek")],
)  # fmt: skip
def test_the_script_of_a_text_is_that_of_most_of_its_letters(text, script):
    assert script_of(text) == script


def test_languages_are_told_where_that_is_asked_for(tokenizer):
    pytest.importorskip("py3langid", reason="an extra")
    texts = [("x", "This is an English sentence about nothing at all."), ("x", "Dies ist ein deutscher Satz über gar nichts.")]
    assert set(measure({"it": tokenizer}, texts, languages=True).languages) == {"en", "de"}


def test_tokens_are_counted_with_their_bytes(tokenizer):
    vocabulary = count_tokens(tokenizer, ["the the", "étée"])
    assert len(vocabulary.texts) == len(tokenizer) - 4
    assert vocabulary.counts.sum() == sum(map(len, encode_texts(tokenizer, ["the the", "étée"])))
    assert (vocabulary.sizes == 1).sum() == 256
    assert vocabulary.sizes[vocabulary.texts.index(" the")] == 4
    assert vocabulary.num_unused > 400
    assert 240 < vocabulary.num_unused_bytes < 256
    sizes = [size for _, size in vocabulary.longest(5)]
    assert sizes == sorted(vocabulary.sizes.tolist(), reverse=True)[:5]


def report(tokenizer, texts=TEXTS, compared=()):
    tokenizers = {"this tokenizer": tokenizer, **dict(compared)}
    return Report(
        "bpe, 512 tokens", "3 documents", {name: len(one) for name, one in tokenizers.items()}, measure(tokenizers, texts), 10**6,
        count_tokens(tokenizer, [text for _, text in texts]), 60, ["A note."],
    )  # fmt: skip


def test_two_reports_are_the_same_bytes_and_stand_beside_another_tokenizer(tokenizer, tmp_path):
    other = {"words$x$": train_word_level(["the cat"])}
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        report(tokenizer, compared=other).write(tmp_path / name)
    one, two = ([(tmp_path / name / file).read_bytes() for file in (REPORT_NAME, PICTURE_NAME)] for name in ("one", "two"))
    assert one == two
    assert one[1].startswith(b"\x89PNG")
    page = one[0].decode()
    assert "| `words$x$` | 7 |" not in page
    assert f"| `words$x$` | {len(other['words$x$'])} |" in page
    assert "| 1 | 1 | 42 |" in page  # by source: the largest is the first in the list at the end
    assert "| Cyrillic | 1 | 42 |" in page
    assert "A note." in page
    assert "(a sample of 1,000,000)" in page


def test_a_published_report_names_no_source_and_a_name_breaks_no_line(tokenizer):
    page = report(tokenizer).page()
    assert page.endswith("## Sources\n\n1. `` 'b\\|`c\\n.txt' ``\n2. `a.txt`\n")
    assert "a.txt" not in without_names(page)
    assert without_names(page).count("\n") > 20


def test_without_held_out_text_the_report_says_so(tokenizer, tmp_path):
    nothing = Report("bpe", "1 document", {"this tokenizer": 512}, measure({}, []), 0, count_tokens(tokenizer, ["the"]), 3)
    nothing.write(tmp_path)
    assert "There is no held-out text to measure it on" in (tmp_path / REPORT_NAME).read_text()


# Memory


def test_the_memory_grows_with_the_distinct_words_not_with_the_text():
    words = [f"word{number}" for number in range(20_000)]
    small, repeated = (expected_memory([" ".join(words)] * times, num_bytes=10**5 * times, algorithm="bpe") for times in (1, 20))
    assert small > 5 << 20
    assert repeated < 1.5 * small
    more = [" ".join(f"{word}x{part}" for word in words) for part in range(10)]
    assert expected_memory(more, num_bytes=sum(map(len, more)), algorithm="bpe") > 7 * small
    assert expected_memory([], num_bytes=0, algorithm="bpe") == 0


def test_of_a_long_text_a_part_is_counted_and_the_rest_expected(monkeypatch):
    monkeypatch.setattr("hfgpt.tokenization.memory.COUNTED_BYTES", 100_000)
    texts = [" ".join(f"word{number}" for number in range(start, start + 1_000)) for start in range(0, 100_000, 1_000)]
    size = sum(map(len, texts))
    part = expected_memory(texts, num_bytes=size, algorithm="bpe")
    monkeypatch.setattr("hfgpt.tokenization.memory.COUNTED_BYTES", size)
    whole = expected_memory(texts, num_bytes=size, algorithm="bpe")
    assert part == pytest.approx(whole, rel=0.3)


def test_memory_that_is_not_there_is_warned_of_by_the_key_that_helps(caplog):
    caplog.set_level("INFO")
    say_memory(5 << 20, max_bytes=10**9, num_bytes=1000)
    assert "training on 1,000 bytes takes about 5 MiB of memory" in caplog.text
    assert caplog.records[-1].levelname == "INFO"
    say_memory(1 << 60, max_bytes=10**9, num_bytes=1000)
    assert caplog.records[-1].levelname == "WARNING"
    assert "a smaller --max_bytes (now 1,000,000,000) takes less" in caplog.text
