"""The algorithms, word patterns and ways to split numbers: nothing is lost, and the same text gives the same tokenizer."""

import itertools
import random

import pytest
from hard_texts import HARD_TEXTS
from tokenizers import Regex, pre_tokenizers
from transformers import AutoTokenizer

from hfgpt.arguments.documents import TokenizerArguments
from hfgpt.arguments.parsing import parse_arguments
from hfgpt.arguments.tokenizers import ALGORITHMS, DIGITS, PATTERNS
from hfgpt.tables import resolve
from hfgpt.tokenization import cut_at, encode_texts, suitable_vocab_size, tokenizer_sha256, train_bpe, word_pattern
from hfgpt.tokenization.patterns import LONGEST_RUN, LONGEST_WORDPIECE_RUN, safe_cut, word_regex
from hfgpt.tokenization.special_tokens import SPECIAL_TOKENS, WithoutSpecialTokens
from hfgpt.tokenization.unigram import train_unigram

WORDS = [
    "".join(parts) for parts in itertools.product(("per", "con", "sub", "in"), ("form", "sist", "tend"), ("", "s", "ed", "ing"))
]
TEXTS = [f"We {word} house {number}, and don't ask ## why: été, 漢字.\n" for number, word in enumerate(WORDS * 2)]
ON_BYTES = [name for name, entry in ALGORITHMS.items() if entry.sized]
SMALLEST = {name: entry.pieces[0] + len(entry.special_tokens) for name, entry in ALGORITHMS.items()}


def train(name: str, texts=TEXTS, **settings):
    pytest.importorskip(ALGORITHMS[name].needs[0] if ALGORITHMS[name].needs else "tokenizers", reason="an extra")
    return resolve(ALGORITHMS[name].train)(iter(texts), **{"vocab_size": SMALLEST[name] + 40, **settings})


@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_same_texts_give_the_same_tokenizer_and_the_saved_one_gives_the_same_ids(name, tmp_path):
    tokenizer, again = train(name), train(name)
    assert tokenizer_sha256(tokenizer) == tokenizer_sha256(again)
    assert SMALLEST[name] + (20 if name == "unigram" else 40) <= len(tokenizer) <= SMALLEST[name] + 40  # a small text gives fewer
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert encode_texts(loaded, [*TEXTS, *HARD_TEXTS]) == encode_texts(tokenizer, [*TEXTS, *HARD_TEXTS])
    assert tokenizer_sha256(loaded) == tokenizer_sha256(tokenizer)
    assert tokenizer("").input_ids == [tokenizer.eos_token_id]


@pytest.mark.parametrize(("name", "pattern"), list(itertools.product(ON_BYTES, PATTERNS)))
def test_what_is_made_of_bytes_loses_nothing_and_makes_no_special_token_of_text(name, pattern):
    tokenizer = train(name, pattern=pattern)
    hard = [*HARD_TEXTS, *TEXTS[:2], "##a ## a##b …a a… \u2026\u2026 " + "x" * 20_000, "漢" * 3_000, "".join(map(chr, range(256)))]
    ids = encode_texts(tokenizer, hard)
    assert [tokenizer.decode(one) for one in ids] == hard
    assert not set(tokenizer.all_special_ids) & {id for one in ids for id in one}
    assert len(encode_texts(tokenizer, TEXTS[:1])[0]) < len(TEXTS[0].encode()) * 0.7  # it has learned something


def test_no_word_of_a_text_is_a_special_token_to_the_word_level_tokenizer():
    tokenizer = train("wordlevel")
    ids = encode_texts(tokenizer, ["We [EOS] inform [PAD],[BOS]ed <|reserved_0|> [UNK] [x]"])[0]
    assert {*tokenizer.all_special_ids} & {*ids} == {tokenizer.unk_token_id}
    assert tokenizer.convert_tokens_to_ids("We") in ids


@pytest.mark.parametrize(("pattern", "digits", "bound"), [*itertools.product(PATTERNS, DIGITS, (None, LONGEST_WORDPIECE_RUN))])
def test_a_text_cut_at_the_safe_places_of_any_pattern_has_the_ids_of_the_whole(pattern, digits, bound):
    tokenizer = train("bpe" if bound is None else "wordpiece", pattern=pattern, digits=digits)
    generator = random.Random(0)
    parts = [" ", "\n", "\r", "\t", "\u00a0", "\u2028", "\x85", "\x1c", "'s", "x", "Ab", "1", "23", "?!", "é", "字"]
    parts += [" " * 40, "\n" * 40]
    texts = [*HARD_TEXTS, *("".join(generator.choices(parts, k=generator.randint(1, 40))) for _ in range(200))]
    place = safe_cut(tokenizer)
    pieces = [list(cut_at(place, text, length=1)) for text in texts]
    assert ["".join(some) for some in pieces] == texts
    assert sum(map(len, pieces)) > 1.5 * len(texts)
    whole = tokenizer(texts, add_special_tokens=False, split_special_tokens=True).input_ids
    ids = iter(encode_texts(tokenizer, [piece for some in pieces for piece in some]))
    assert [[id for _ in some for id in next(ids)] for some in pieces] == whole


@pytest.mark.parametrize(("pattern", "digits"), [*itertools.product(PATTERNS, DIGITS)])
def test_no_word_is_long_while_pieces_are_learned_whatever_the_pattern(pattern, digits):
    for run in ("ACGT" * 500, "天" * 2000, " " * 2000, "=" * 2000, "\n" * 2000, " \n" * 1000, "7" * 2000):
        split = pre_tokenizers.Split(Regex(word_regex(pattern, digits, longest_run=LONGEST_RUN)), behavior="isolated")
        words = split.pre_tokenize_str(f"a word {run} and another")
        assert max(end - start for _, (start, end) in words) <= 2 * LONGEST_RUN + 1
        assert "".join(word for word, _ in words) == f"a word {run} and another"


@pytest.mark.parametrize(
    ("pattern", "digits", "words"),
    [
        ("qwen2", "as_pattern", ["in", " ", "1", "2", "3", "4", "."]),
        ("qwen2", "groups_of_3", ["in", " ", "123", "4", "."]),
        ("gpt4", "as_pattern", ["in", " ", "123", "4", "."]),
        ("gpt4", "single", ["in", " ", "1", "2", "3", "4", "."]),
        ("gpt2", "as_pattern", ["in", " 1234", "."]),
        ("gpt2", "groups_of_3", ["in", " ", "123", "4", "."]),
        ("gpt2", "single", ["in", " ", "1", "2", "3", "4", "."]),
    ],
)
def test_numbers_are_cut_as_pattern_and_digits_say(pattern, digits, words):
    split = pre_tokenizers.Split(Regex(word_regex(pattern, digits)), behavior="isolated")
    assert [word for word, _ in split.pre_tokenize_str("in 1234.")] == words


def test_a_pattern_is_known_by_what_it_does_not_by_how_it_was_asked_for():
    named = {pair: word_pattern(train("bpe", pattern=pair[0], digits=pair[1])) for pair in itertools.product(PATTERNS, DIGITS)}
    assert named["qwen2", "as_pattern"] == named["gpt4", "single"] == named["qwen2", "single"] == "qwen2"
    assert named["gpt4", "as_pattern"] == named["qwen2", "groups_of_3"] == "gpt4"
    assert named["gpt2", "as_pattern"] == "gpt2"
    assert named["gpt2", "single"] is named["gpt2", "groups_of_3"] is None
    assert word_pattern(train("wordpiece")) is None


@pytest.mark.parametrize("name", ALGORITHMS)
def test_reserved_tokens_come_right_after_the_others_and_are_special(name):
    tokenizer = train(name, vocab_size=SMALLEST[name] + 50, reserved_tokens=3)
    first = len(ALGORITHMS[name].special_tokens)
    assert tokenizer.convert_ids_to_tokens(list(range(first, first + 3))) == ["<|reserved_0|>", "<|reserved_1|>", "<|reserved_2|>"]
    assert set(range(first + 3)) <= set(tokenizer.all_special_ids)
    assert not set(range(first + 3)) & set(encode_texts(tokenizer, ["<|reserved_0|> <|reserved_2|>"])[0]) - {tokenizer.unk_token_id}
    with pytest.raises(ValueError, match=rf"must be at least {SMALLEST[name] + 3}: .* and 3 reserved ones"):
        train(name, vocab_size=SMALLEST[name] + 2, reserved_tokens=3)


def test_every_algorithm_has_the_special_tokens_that_its_entry_names():
    for name, entry in ALGORITHMS.items():
        assert set(train(name).all_special_tokens) == set(entry.special_tokens)
    assert ALGORITHMS["bpe"].special_tokens == SPECIAL_TOKENS


def test_tokens_that_are_rare_or_long_are_left_out():
    text = ["abcabc abcabc abcdefgh xyz"]
    pieces = set(train_bpe(text, vocab_size=300).get_vocab())
    assert {"abcabc", "Ġxyz"} <= pieces
    assert "Ġxyz" not in set(train_bpe(text, vocab_size=300, min_frequency=2).get_vocab())
    assert "abcabc" not in set(train_bpe(text, vocab_size=300, max_token_length=3).get_vocab())
    assert "house" not in train("wordlevel", ["a house a a"], vocab_size=None, min_frequency=2).get_vocab()
    pytest.importorskip("sentencepiece", reason="an extra")
    words = TEXTS + ["abcdefgh " * 9] * 9
    assert any(len(piece) > 4 for piece in train_unigram(words, vocab_size=400).get_vocab() if not piece.startswith("<|"))
    short = train_unigram(words, vocab_size=400, max_token_length=4).get_vocab()
    assert not [piece for piece in short if len(piece) > 4 and not piece.startswith("<|")]


def test_auto_takes_more_where_an_algorithm_begins_with_more():
    assert suitable_vocab_size(10**6) == suitable_vocab_size(10**6, algorithm="unigram") == 4096
    assert suitable_vocab_size(10**6, algorithm="wordpiece", reserved_tokens=10) == 4096 + 256 + 10


# Special strings


@pytest.mark.parametrize("name", ALGORITHMS)
def test_special_strings_in_the_corpus_leave_no_trace_in_the_vocabulary(name):
    kind = ALGORITHMS[name]
    written = [*kind.special_tokens, "<|reserved_0|>"]
    infected = [text.replace(" ", f" {token} ", 1) for text, token in zip(TEXTS, itertools.cycle(written))]
    plain = WithoutSpecialTokens(written)
    cleaned = list(plain.texts(infected))
    assert sum(plain.found.values()) == len(TEXTS)
    assert plain.found.keys() == set(written)
    clean = [part for text in TEXTS for part in (text[: text.index(" ") + 1], text[text.index(" ") :])]
    assert cleaned == clean
    vocabulary = train(name, cleaned).get_vocab()
    # Otherwise the test shows nothing: special strings that are not removed do add pieces.
    assert train(name, infected).get_vocab().keys() - vocabulary.keys()
    assert vocabulary == train(name, clean).get_vocab()


def test_a_special_string_that_begins_like_another_is_left_out_whole():
    plain = WithoutSpecialTokens(["<|a|>", "<|a|>b"])
    assert list(plain.texts(["x<|a|>bc", "<|a|>", "", "y"])) == ["x", "c", "y"]
    assert plain.found == {"<|a|>b": 1, "<|a|>": 1}


# Keys


def arguments(*words: str) -> TokenizerArguments:
    return parse_arguments(TokenizerArguments, ["--sources", "python-docs", "--output_dir", "out", *words])


def test_a_size_is_a_number_or_auto():
    assert arguments("--vocab_size", "512").vocab_size == 512
    assert arguments("--vocab_size", "auto").vocab_size is arguments().vocab_size is None
    with pytest.raises(ValueError, match="vocab_size is 'many'; it must be a whole number or 'auto'"):
        arguments("--vocab_size", "many")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--algorithm", "wordlevel", "--pattern", "gpt2"), "pattern is gpt2; algorithm wordlevel takes vocab_size, min_frequency"),
        (("--algorithm", "unigram", "--min_frequency", "2"), "min_frequency is 2; algorithm unigram takes"),
        (("--algorithm", "wordpiece", "--max_token_length", "9"), "max_token_length is 9; algorithm wordpiece takes"),
        (("--reserved_tokens", "-1"), "reserved_tokens is -1; it must be at least 0"),
        (("--max_token_length", "0"), "max_token_length is 0; it must be at least 1"),
        (("--pattern", "gpt5"), "pattern is 'gpt5'; allowed: qwen2, gpt4, gpt2"),
    ],
)
def test_what_an_algorithm_has_no_use_for_is_refused(words, sentence):
    with pytest.raises(ValueError, match=sentence):
        arguments(*words)


def test_an_algorithm_is_given_what_it_takes():
    assert arguments("--digits", "single").training_settings() == {"pattern": "qwen2", "digits": "single", "reserved_tokens": 0}
    assert arguments("--algorithm", "wordlevel", "--min_frequency", "2").training_settings() == {
        "min_frequency": 2,
        "reserved_tokens": 0,
    }
