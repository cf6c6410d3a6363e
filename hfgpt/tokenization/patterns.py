"""How text is split into words before tokens, and where a text may be cut without changing its ids."""

import functools
import json
import re

from tokenizers import Regex, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from hfgpt.arguments.tokenizers import AS_PATTERN, DIGITS, PATTERNS

SAFE_CUTS = {name: pattern.safe_cut for name, pattern in PATTERNS.items()}

# During training, no word is longer than this: text without spaces (DNA, Chinese) would be a single word, and training quadratic in
# its length. The saved tokenizer has the pattern that engines know; encoding is fast without a limit.
LONGEST_RUN = 256
# WordPiece searches for the longest piece at every position of a word, which is also quadratic in encoding. No engine knows it with
# one of these patterns, so it keeps the limit.
LONGEST_WORDPIECE_RUN = 32


@functools.cache
def word_regex(pattern: str, digits: str = AS_PATTERN, *, longest_run: int | None = None) -> str:
    """The regular expression of a pattern, with numbers split according to `digits`.

    Args: `longest_run` limits every repetition in it.
    """
    found = PATTERNS.find(pattern)
    numbers = DIGITS.find(digits)
    regex = found.regex if numbers is None else found.regex.replace(f"|{found.numbers}|", f"|{numbers}|")
    if longest_run is not None:
        regex = regex.replace("+", f"{{1,{longest_run}}}").replace("*", f"{{0,{longest_run}}}")
    return regex


def words_as_bytes(regex: str) -> pre_tokenizers.PreTokenizer:
    """Splits text into words by a pattern and represents each byte of a word as one character."""
    return pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(regex), behavior="isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )


def saved_pre_tokenizer(pattern: str, digits: str = AS_PATTERN) -> pre_tokenizers.PreTokenizer:
    """The pre-tokenizer of a saved tokenizer, in the form in which others recognise the pattern."""
    if pattern == "gpt2" and word_regex(pattern, digits) == word_regex(pattern):
        return pre_tokenizers.ByteLevel(add_prefix_space=False)  # as in the published GPT-2
    return words_as_bytes(word_regex(pattern, digits))


def word_pattern(tokenizer: PreTrainedTokenizerFast) -> str | None:
    """The name in `PATTERNS` of a byte-level BPE's pre-tokenization; None for any other tokenizer."""
    cut = _word_cut(tokenizer) if isinstance(tokenizer.backend_tokenizer.model, models.BPE) else None
    return next((name for name in PATTERNS if cut is not None and cut == word_regex(name)), None)


def safe_cut(tokenizer: PreTrainedTokenizerFast) -> re.Pattern | None:
    """Where a text may be cut so that encoding each piece separately gives the same ids; None if no such place is known.

    The algorithm only sees one word at a time, so only the pattern matters.
    """
    if (cut := _word_cut(tokenizer)) is None:
        return None
    for name, pattern in PATTERNS.items():
        bounds = (None, LONGEST_WORDPIECE_RUN)
        if any(cut == word_regex(name, digits, longest_run=bound) for digits in DIGITS for bound in bounds):
            return pattern.safe_cut
    return None


def is_on_bytes(tokenizer: PreTrainedTokenizerFast) -> bool:
    """Whether its tokens consist of bytes, each represented as one character."""
    pre_tokenizer = tokenizer.backend_tokenizer.pre_tokenizer
    return pre_tokenizer is not None and b'"ByteLevel"' in pre_tokenizer.__getstate__()


def _word_cut(tokenizer: PreTrainedTokenizerFast) -> str | None:
    """The regular expression with which a byte-based tokenizer splits text into words; None if it does anything else to text."""
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
