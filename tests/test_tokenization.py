import json
import random

import pytest
from hard_texts import HARD_TEXTS
from tokenizers import Regex, pre_tokenizers
from transformers import AutoTokenizer

from hfgpt.errors import UserError
from hfgpt.tokenization import (
    BPE_PATTERN,
    LONGEST_PIECE,
    LONGEST_RUN,
    PIECE_CHARACTERS,
    SAFE_CUTS,
    SPECIAL_TOKENS,
    cut_at,
    encode_texts,
    gpt2_tokenizer,
    load_tokenizer,
    suitable_vocab_size,
    tokenizer_sha256,
    train_bpe,
    train_word_level,
    word_pattern,
)
from hfgpt.tokenization.patterns import word_regex

TRAINING_PATTERN = word_regex("qwen2", longest_run=LONGEST_RUN)


@pytest.fixture(scope="module")
def tokenizer(small_tokenizer):
    return load_tokenizer(small_tokenizer)


@pytest.mark.parametrize("text", HARD_TEXTS, ids=lambda text: ascii(text)[:30])
def test_every_text_comes_back_as_it_was(tokenizer, text):
    ids = encode_texts(tokenizer, [text])[0]
    assert tokenizer.decode(ids) == text


def test_text_never_becomes_a_special_token(tokenizer):
    special = set(tokenizer.all_special_ids)
    assert len(special) == len(SPECIAL_TOKENS) == 4
    assert not special & {id for ids in encode_texts(tokenizer, HARD_TEXTS) for id in ids}
    # the library's own default, which a chat template needs, stays as it is
    assert tokenizer("<|im_start|>", add_special_tokens=False).input_ids == [tokenizer.convert_tokens_to_ids("<|im_start|>")]


@pytest.mark.parametrize("pattern", SAFE_CUTS)
def test_a_text_cut_at_safe_places_has_the_ids_of_the_whole(pattern, tokenizer, shared_data):
    cut_tokenizer = tokenizer if pattern == "qwen2" else gpt2_tokenizer(shared_data / "gpt2_bpe")
    if pattern == "gpt4":
        cut_tokenizer = train_bpe(["12 345 6789 " * 9], vocab_size=300, pattern="gpt4")
    assert word_pattern(cut_tokenizer) == pattern
    generator = random.Random(0)
    parts = [" ", "\n", "\r", "\t", "\u00a0", "\u2028", "\x85", "\x1c", "'s", "x", "Ab", "1", "?!", "é", "字", "<|endoftext|>"]
    parts += [
        ",",
        "...",
        "。",
        "か",
        "カ",
        "_",
        "²",
        "\u0301",
        "\U00031350",
        "\U0001e4d0",
    ]  # the last two are letters added in Unicode 15
    texts = [*HARD_TEXTS, "\n".join(HARD_TEXTS)]
    texts += ["".join(generator.choices(parts, k=generator.randint(1, 40))) for _ in range(2000)]
    pieces = [list(cut_at(SAFE_CUTS[pattern], text, length=1)) for text in texts]
    assert ["".join(some) for some in pieces] == texts
    assert sum(map(len, pieces)) > 1.5 * len(texts)
    ids = iter(encode_texts(cut_tokenizer, [piece for some in pieces for piece in some]))
    assert [[id for _ in some for id in next(ids)] for some in pieces] == encode_texts(cut_tokenizer, texts)


def test_texts_are_encoded_as_the_tokenizer_does_whatever_their_length(tokenizer):
    texts = [*HARD_TEXTS, "a line of text, the next\n" * (3 * PIECE_CHARACTERS // 25), "ab" * PIECE_CHARACTERS, ""]
    texts += ["no line break, " * (3 * PIECE_CHARACTERS // 15), "字か。" * PIECE_CHARACTERS]
    whole = tokenizer(texts, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    assert encode_texts(tokenizer, texts) == whole
    assert [len(list(cut_at(SAFE_CUTS["qwen2"], text, length=PIECE_CHARACTERS))) for text in texts[-5:]] == [3, 1, 1, 3, 3]
    assert encode_texts(tokenizer, []) == []


def test_a_text_without_any_place_to_cut_it_is_refused_from_a_length_on(tokenizer):
    assert len(encode_texts(tokenizer, ["ab" * (LONGEST_PIECE // 32)])[0]) > 0
    with pytest.raises(UserError, match=r"the text that begins 'a b.*more than 2,097,152 characters without a line break, a space"):
        encode_texts(tokenizer, ["a b\n" + "a" * (LONGEST_PIECE + PIECE_CHARACTERS)])


def test_an_added_word_is_found_wherever_a_text_could_be_cut(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    extended = load_tokenizer(tmp_path)
    extended.add_tokens(["line\nthe"])
    ids = encode_texts(extended, ["a line\nthe next " * PIECE_CHARACTERS])[0]
    assert ids.count(extended.convert_tokens_to_ids("line\nthe")) == PIECE_CHARACTERS


def test_a_reloaded_tokenizer_gives_identical_ids(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert encode_texts(again, HARD_TEXTS) == encode_texts(tokenizer, HARD_TEXTS)
    assert again(HARD_TEXTS).input_ids == tokenizer(HARD_TEXTS).input_ids
    assert tokenizer_sha256(again) == tokenizer_sha256(tokenizer)


def test_the_separator_opens_a_text_and_padding_is_a_token_of_its_own(tokenizer):
    assert tokenizer.bos_token == tokenizer.eos_token == "<|endoftext|>"
    assert tokenizer("a").input_ids[0] == tokenizer.eos_token_id
    assert tokenizer.pad_token == "<|pad|>"
    assert tokenizer.pad_token_id != tokenizer.eos_token_id


def test_training_is_deterministic_and_learns_merges():
    texts = ["the cat sat on the mat, the rat sat on the hat"] * 3
    first, second = (train_bpe(texts, vocab_size=270) for _ in range(2))
    assert tokenizer_sha256(first) == tokenizer_sha256(second)
    assert len(first) == 270
    assert len(encode_texts(first, [" the"])[0]) == 1


@pytest.mark.parametrize("run", ["ACGT" * 500, "天地玄黃" * 500, " " * 2000, "=" * 2000, "\n" * 2000, " \n" * 1000])
def test_no_word_is_long_while_merges_are_learned(run):
    words = pre_tokenizers.Split(Regex(TRAINING_PATTERN), behavior="isolated").pre_tokenize_str(f"a word {run} and another")
    assert max(end - start for _, (start, end) in words) <= 2 * LONGEST_RUN + 1
    assert "".join(word for word, _ in words) == f"a word {run} and another"


def test_the_bound_on_words_changes_nothing_for_ordinary_text_and_is_not_saved(shared_data):
    text = (shared_data / "tinyshakespeare" / "input.txt").read_text(encoding="utf-8")
    cut = [pre_tokenizers.Split(Regex(pattern), behavior="isolated").pre_tokenize_str(text)
           for pattern in (TRAINING_PATTERN, BPE_PATTERN)]  # fmt: skip
    assert cut[0] == cut[1]
    assert len(cut[0]) > 200_000
    saved = json.loads(train_bpe(["ACGT" * 500], vocab_size=262).backend_tokenizer.to_str())["pre_tokenizer"]
    assert saved["pretokenizers"][0]["pattern"] == {"Regex": BPE_PATTERN}


def test_a_vocabulary_below_bytes_and_specials_is_refused():
    with pytest.raises(ValueError, match="vocab_size is 259, but must be at least 260"):
        train_bpe(["text"], vocab_size=259)


def test_text_that_cannot_fill_the_vocabulary_gives_a_smaller_one_and_says_so(caplog):
    caplog.set_level("INFO")
    tokenizer = train_bpe(["abcabc"], vocab_size=5000)
    assert len(tokenizer) == 263  # 256 bytes, 4 special tokens, "ab", "abc" and "abcabc"
    assert "the text only yields 263 distinct tokens, fewer than vocab_size 5,000" in caplog.text


@pytest.mark.parametrize(
    ("num_bytes", "vocab_size"),
    [(0, 512), (5_000, 512), (20_000, 768), (100_000, 1536), (1_000_000, 4096), (2_000_000, 6144), (20_000_000, 24_576),
     (10**8, 32_768), (10**12, 32_768)],
)  # fmt: skip
def test_a_vocabulary_grows_with_the_root_of_the_text(num_bytes, vocab_size):
    assert suitable_vocab_size(num_bytes) == vocab_size


def test_the_books_simple_tokenizer_gives_four_ids_and_unk():
    tokenizer = train_word_level(["Hello, world! The world says: Hello."])
    ids = encode_texts(tokenizer, ["Hello, world!"])[0]
    assert len(ids) == 4
    assert tokenizer.convert_ids_to_tokens(ids) == ["Hello", ",", "world", "!"]
    unseen = encode_texts(tokenizer, ["Hello, moon!"])[0]
    assert tokenizer.convert_ids_to_tokens(unseen) == ["Hello", ",", "[UNK]", "!"]
    assert tokenizer.decode(ids) == "Hello, world!"
    assert tokenizer.all_special_tokens == ["[BOS]", "[EOS]", "[UNK]", "[PAD]"]


def test_the_books_tokenizer_reloads_with_identical_ids(tmp_path):
    tokenizer = train_word_level(['"It--was," she said; (who?) it\'s: no_one.'])
    tokenizer.save_pretrained(tmp_path)
    texts = ['"It--was," she said', "who? (unseen) no_one"]
    assert encode_texts(AutoTokenizer.from_pretrained(tmp_path), texts) == encode_texts(tokenizer, texts)
    assert tokenizer.convert_ids_to_tokens(encode_texts(tokenizer, texts)[0]) == ['"', "It", "--", "was", ",", '"', "she", "said"]


def test_a_tokenizer_whose_padding_is_its_eos_is_refused(tmp_path, tokenizer):
    broken = AutoTokenizer.from_pretrained(tokenizer.name_or_path)
    broken.pad_token = broken.eos_token
    broken.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="they must differ"):
        load_tokenizer(tmp_path)


def test_a_folder_without_a_tokenizer_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="has no tokenizer that can be loaded"):
        load_tokenizer(tmp_path)


def test_the_verdict_has_the_books_number_of_words(shared_data):
    """Source: Raschka (2024), section 2.2 and 2.3: 4,690 tokens, 1,130 of them distinct."""
    text = (shared_data / "the_verdict" / "the-verdict.txt").read_text(encoding="utf-8")
    tokenizer = train_word_level([text])
    assert len(encode_texts(tokenizer, [text])[0]) == 4690
    assert len(tokenizer) == 1130 + 4  # and four special tokens


def test_real_prose_comes_back_as_it_was(shared_data):
    text = (shared_data / "tinyshakespeare" / "input.txt").read_text(encoding="utf-8")
    tokenizer = train_bpe([text[:300_000]], vocab_size=1024)
    assert tokenizer.decode(encode_texts(tokenizer, [text])[0]) == text
