"""How text is cut into words before they are cut into tokens, and where a text may be cut without changing its ids."""

import functools
import json
import re

from tokenizers import Regex, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from hfgpt.arguments.tokenizers import AS_PATTERN, DIGITS, PATTERNS

SAFE_CUTS = {name: pattern.safe_cut for name, pattern in PATTERNS.items()}

# While the pieces are learned, no word is longer than this: text without spaces (DNA, Chinese) would be one word of its whole
# length, and training quadratic in it. The saved tokenizer keeps the pattern that engines know; encoding is fast without a bound.
LONGEST_RUN = 256
# WordPiece looks for the longest piece at every place of a word, which is quadratic in the word when encoding too. No engine knows
# it with a pattern of these, so it keeps the bound.
LONGEST_WORDPIECE_RUN = 32


@functools.cache
def word_regex(pattern: str, digits: str = AS_PATTERN, *, longest_run: int | None = None) -> str:
    """The regular expression of a pattern, with numbers cut as `digits` says.

    Args: `longest_run` bounds every repetition in it.
    """
    found = PATTERNS.find(pattern)
    numbers = DIGITS.find(digits)
    regex = found.regex if numbers is None else found.regex.replace(f"|{found.numbers}|", f"|{numbers}|")
    if longest_run is not None:
        regex = regex.replace("+", f"{{1,{longest_run}}}").replace("*", f"{{0,{longest_run}}}")
    return regex


TRAINING_PATTERN = word_regex("qwen2", longest_run=LONGEST_RUN)


def words_as_bytes(regex: str) -> pre_tokenizers.PreTokenizer:
    """Cuts text into words by a pattern and writes each byte of a word as one character."""
    return pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(regex), behavior="isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )


def saved_pre_tokenizer(pattern: str, digits: str = AS_PATTERN) -> pre_tokenizers.PreTokenizer:
    """What cuts text into words in a saved tokenizer, in the form in which others recognise the pattern."""
    if pattern == "gpt2" and word_regex(pattern, digits) == word_regex(pattern):
        return pre_tokenizers.ByteLevel(add_prefix_space=False)  # as GPT-2 is published
    return words_as_bytes(word_regex(pattern, digits))


def word_pattern(tokenizer: PreTrainedTokenizerFast) -> str | None:
    """The name in `PATTERNS` of how a byte-level BPE cuts text into words before merging; None for any other tokenizer."""
    cut = _word_cut(tokenizer) if isinstance(tokenizer.backend_tokenizer.model, models.BPE) else None
    return next((name for name in PATTERNS if cut is not None and cut == word_regex(name)), None)


def safe_cut(tokenizer: PreTrainedTokenizerFast) -> re.Pattern | None:
    """Where a text may be cut and each piece encoded by itself, with the same ids; None where no such place is known.

    Whatever makes tokens of words, it sees one word at a time: the pattern alone decides.
    """
    if (cut := _word_cut(tokenizer)) is None:
        return None
    for name, pattern in PATTERNS.items():
        bounds = (None, LONGEST_WORDPIECE_RUN)
        if any(cut == word_regex(name, digits, longest_run=bound) for digits in DIGITS for bound in bounds):
            return pattern.safe_cut
    return None


def is_on_bytes(tokenizer: PreTrainedTokenizerFast) -> bool:
    """Whether its tokens are made of bytes, each written as one character."""
    pre_tokenizer = tokenizer.backend_tokenizer.pre_tokenizer
    return pre_tokenizer is not None and b'"ByteLevel"' in pre_tokenizer.__getstate__()


def _word_cut(tokenizer: PreTrainedTokenizerFast) -> str | None:
    """The regular expression by which a tokenizer on bytes cuts text into words; None for one that does anything else to it."""
    backend = tokenizer.backend_tokenizer
    if backend.normalizer is not None or backend.pre_tokenizer is None:
        return None
    steps = json.loads(backend.pre_tokenizer.__getstate__())
    *splits, last = steps["pretokenizers"] if steps["type"] == "Sequence" else [steps]
    if last["type"] != "ByteLevel" or last["add_prefix_space"]:
        return None
    if last["use_regex"]:
        return None if splits else word_regex("gpt2")
    if len(splits) != 1 or splits[0]["type"] != "Split" or "Regex" not in splits[0]["pattern"]:
        return None
    regex = splits[0]["pattern"]["Regex"]
    whole = {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}
    return regex if splits[0] == whole else None
