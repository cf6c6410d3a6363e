"""A tokenizer is saved only if others will load exactly the same one."""

import json

import pytest

from hfgpt.tokenization import load_tokenizer, train_word_level
from hfgpt.tokenization.hard_texts import HARD_TEXTS
from hfgpt.tokenization.reloading import check_reloaded

pytestmark = pytest.mark.slow


def test_a_tokenizer_that_is_what_was_saved_passes(small_tokenizer, tmp_path):
    check_reloaded(small_tokenizer, load_tokenizer(small_tokenizer), HARD_TEXTS, lossless=True)
    words = train_word_level(["one two, three"])
    words.save_pretrained(tmp_path)
    check_reloaded(tmp_path, words, HARD_TEXTS, lossless=False)
    with pytest.raises(ValueError, match="is decoded from its ids"):
        check_reloaded(tmp_path, words, HARD_TEXTS, lossless=True)


def test_other_ids_are_named_with_their_text(small_tokenizer, tmp_path):
    tokenizer = load_tokenizer(small_tokenizer)
    tokenizer.save_pretrained(tmp_path)
    path = tmp_path / "tokenizer.json"
    definition = json.loads(path.read_text(encoding="utf-8"))
    definition["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = r"\s+|\S+"  # as if it loaded with another pattern
    path.write_text(json.dumps(definition), encoding="utf-8")
    with pytest.raises(
        ValueError, match=r"gives different ids .* 'emoji: .*special tokens in it are text\) was \[.*\], is now \[.*\]; nothing"
    ):
        check_reloaded(tmp_path, tokenizer, ["emoji: 1234 the  the, the", *HARD_TEXTS], lossless=True)


def test_a_folder_that_does_not_load_is_an_error_in_one_sentence(small_tokenizer, tmp_path):
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ValueError, match="cannot be loaded with AutoTokenizer in another process"):
        check_reloaded(tmp_path, load_tokenizer(small_tokenizer), HARD_TEXTS, lossless=True)
