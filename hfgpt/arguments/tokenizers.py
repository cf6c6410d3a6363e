"""The algorithms, word patterns and keys of a tokenizer's training. Nothing here imports torch."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

from hfgpt.arguments.keys import RecipeArguments, data_key, evaluation_key, model_key
from hfgpt.errors import UserError
from hfgpt.files import with_home
from hfgpt.tables import Table

NUM_BYTES = 256


@dataclass(frozen=True)
class Memory:
    """Roughly how many bytes of memory training takes.

    Args:
        per_word, per_word_byte: for each distinct word of the text, and for each byte of those words.
        per_byte, up_to: for each byte of the text, up to this many bytes.
    """

    per_word: float
    per_word_byte: float
    per_byte: float = 0
    up_to: int = 0


@dataclass(frozen=True)
class Algorithm:
    """One entry of `ALGORITHMS`.

    Args:
        train: takes the texts (an iterable of str, read once), `vocab_size`, and, by name, the keys of `takes` that were given;
            returns a `PreTrainedTokenizerFast`. It is the function, or its name "module:function".
        takes: the keys of `TokenizerKeys` that it uses; the others are refused.
        pieces: how many tokens every tokenizer of this kind has besides the special ones, and what they are: (256, "bytes").
        special_tokens: the special tokens that it always has.
        sized: without `vocab_size`, choose a number that suits the size of the text; False leaves the choice to `train`, which gets
            None.
        memory: what training takes; None if it has not been measured.
        needs: a package that it requires, and the extra of hfgpt that installs it.
    """

    train: Callable[..., Any] | str
    takes: tuple[str, ...]
    pieces: tuple[int, str]
    special_tokens: tuple[str, ...] = ("<|endoftext|>", "<|pad|>", "<|im_start|>", "<|im_end|>")
    sized: bool = True
    memory: Memory | None = None
    needs: tuple[str, str] | None = None


# Measured on one thread: peak memory above the initial level, for 5 and 20 MB of novels (32,325 and 62,481 distinct words of 8
# bytes) and for made-up words. BPE and WordPiece: 42 and 76 MB; 621 MB for 559,999 words of 9 bytes, 542 MB for 205,000 of 25.
# Word-level: 43 MB for the 20 MB, 32 MB for 225,000 words of 9. Unigram: 111 and 352 MB, of which 20 bytes for each of the text.
# 2026-11-26.
_OF_MERGES = Memory(per_word=250, per_word_byte=100)
_OF_BYTES = ("pattern", "digits", "reserved_tokens")
ALGORITHMS: Table[Algorithm] = Table(
    "algorithm",
    {
        "bpe": Algorithm(
            "hfgpt.tokenization.training:train_bpe",
            takes=("min_frequency", "max_token_length", *_OF_BYTES),
            pieces=(NUM_BYTES, "bytes"),
            memory=_OF_MERGES,
        ),
        "unigram": Algorithm(
            "hfgpt.tokenization.unigram:train_unigram",
            takes=("max_token_length", *_OF_BYTES),
            pieces=(NUM_BYTES, "bytes"),
            memory=Memory(0, 60, per_byte=20, up_to=16 << 20),
            needs=("sentencepiece", "unigram"),
        ),
        "wordpiece": Algorithm(
            "hfgpt.tokenization.training:train_wordpiece",
            takes=("min_frequency", *_OF_BYTES),
            pieces=(2 * NUM_BYTES, "bytes, each at the beginning of a word and within it"),
            memory=_OF_MERGES,
        ),
        "wordlevel": Algorithm(
            "hfgpt.tokenization.training:train_word_level",
            takes=("min_frequency", "reserved_tokens"),
            pieces=(1, "word"),
            special_tokens=("[BOS]", "[EOS]", "[PAD]", "[UNK]"),
            sized=False,
            memory=Memory(120, 4),
        ),
    },
)

# What an algorithm may take besides vocab_size.
TRAINING_KEYS = ("min_frequency", "max_token_length", "pattern", "digits", "reserved_tokens")
AS_PATTERN = "as_pattern"
# How numbers are split, as a regular expression; None leaves it to the pattern.
DIGITS: Table[str | None] = Table("digits", {AS_PATTERN: None, "single": r"\p{N}", "groups_of_3": r"\p{N}{1,3}"})


@dataclass(frozen=True)
class Pattern:
    """One entry of `PATTERNS`.

    Args:
        regex: matches one word after another; the text between two matches is also a word.
        numbers: the part of it that matches numbers.
        safe_cut: where a text may be cut so that each piece can be encoded separately with the same ids: no word spans such a
            place.
        llama_cpp: the name of this pattern in llama.cpp, which knows patterns only by name.
    """

    regex: str
    numbers: str
    safe_cut: re.Pattern
    llama_cpp: str


# Words with their leading space, single digits, runs of punctuation, line breaks, runs of spaces. It is exactly Qwen2's pattern,
# because engines outside Python (llama.cpp) know it by name and would refuse an unknown one.
# Source: transformers models/qwen2/tokenization_qwen2.py, PRETOKENIZE_REGEX.
BPE_PATTERN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
# Several line breaks in a row are one word in Qwen2's pattern; GPT-2's leaves the last one separate. In all of them, a space or
# punctuation after a letter or digit starts the next word; "letter" means those that every version of Unicode knows: ASCII, kana
# and Chinese characters.
_LETTERS = r"0-9A-Za-z\u3041-\u3096\u30a1-\u30fa\u4e00-\u9fa5"
_PUNCTUATION = r",.;:!?\u3001\u3002\uff01\uff0c\uff1a\uff1b\uff1f"
_OPENS_A_WORD = rf"(?<=\w)(?= )|(?<=[{_LETTERS}])(?=[{_PUNCTUATION}])"
_AFTER_LINE_BREAKS = re.compile(rf"(?<=\n)(?=\S)|{_OPENS_A_WORD}")
_BEFORE_LAST_LINE_BREAK = re.compile(rf"(?=\n\S)|{_OPENS_A_WORD}")
PATTERNS: Table[Pattern] = Table(
    "pattern",
    {
        "qwen2": Pattern(BPE_PATTERN, r"\p{N}", _AFTER_LINE_BREAKS, llama_cpp="qwen2"),
        # GPT-4's differs only in how it splits numbers. Source: openai/tiktoken, tiktoken_ext/openai_public.py, cl100k_base.
        # llama.cpp calls it DBRX, after a model with GPT-4's tokenizer.
        "gpt4": Pattern(BPE_PATTERN.replace(r"|\p{N}|", r"|\p{N}{1,3}|"), r"\p{N}{1,3}", _AFTER_LINE_BREAKS, llama_cpp="dbrx"),
        # Source: openai/gpt-2, src/encoder.py.
        "gpt2": Pattern(
            r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
            r" ?\p{N}+",
            _BEFORE_LAST_LINE_BREAK,
            llama_cpp="gpt-2",
        ),
    },
)


@dataclass
class TokenizerKeys(RecipeArguments):
    """How a tokenizer is trained, checked and described."""

    algorithm: str = model_key(
        "bpe",
        "'bpe', 'unigram' and 'wordpiece' work on bytes and are lossless; 'wordlevel' is the book's first tokenizer.",
        choices=ALGORITHMS,
    )
    vocab_size: int | str | None = model_key(  # a command line gives text: HfArgumentParser uses the second type
        None,
        "Rows of the embedding, including special tokens; 'auto' (default) chooses a number that suits the size of the text "
        "(wordlevel: every word). A text with fewer distinct tokens gives a smaller vocabulary.",
    )
    min_frequency: int | None = model_key(None, "Leave out tokens that occur less often than this.")
    max_token_length: int | None = model_key(
        None, "Maximum bytes in one token (in bpe, a space counts as two); unigram's default is 16."
    )
    pattern: str = model_key(
        "qwen2", "How text is split into words, which tokens never cross: as in Qwen2, GPT-4 or GPT-2.", choices=PATTERNS
    )
    digits: str = model_key(
        AS_PATTERN,
        "How numbers are split: as the pattern does (qwen2 digit by digit, gpt4 up to three, gpt2 not at all), digit by digit, or "
        "in groups of up to three from the left.",
        choices=DIGITS,
    )
    reserved_tokens: int = model_key(0, "Special tokens reserved for later use: <|reserved_0|>, <|reserved_1|>, ...")
    max_bytes: int = data_key(
        1_000_000_000,
        "Train on at most this many bytes, drawn evenly from all sources; the counts of distinct words stay in memory.",
    )
    compare_with: list[str] = evaluation_key(
        [], "Tokenizers (folders or Hub ids) to compare in tokenizer_report.md on the same held-out text."
    )
    report_languages: bool = evaluation_key(False, "Detect the language of every held-out document for the report (py3langid).")
    check_reload: bool = evaluation_key(
        True, "Load the saved tokenizer in a separate process and compare the ids of difficult texts."
    )

    def check_tokenizer(self) -> None:
        """Convert `vocab_size` to a number, or 'auto' to None. Raises: UserError for keys that the algorithm does not use."""
        algorithm = ALGORITHMS.find(self.algorithm)
        PATTERNS.find(self.pattern)
        DIGITS.find(self.digits)
        self.vocab_size = _whole_number(self.vocab_size)
        self.check_least(min_frequency=1, max_token_length=1, reserved_tokens=0, max_bytes=1)
        self.compare_with = [with_home(one) for one in self.compare_with]
        given = self.given()
        for name, value in ((name, given[name]) for name in TRAINING_KEYS if name in given):
            if name not in algorithm.takes:
                takes = ", ".join(("vocab_size", *algorithm.takes))
                raise UserError(f"{name} is {value}; algorithm {self.algorithm} takes {takes}. Leave it out.")

    def training_settings(self) -> dict[str, Any]:
        """What `Algorithm.train` gets by name, besides `vocab_size`."""
        values = self.values_of(*ALGORITHMS.find(self.algorithm).takes)
        return {name: value for name, value in values.items() if value is not None}

    def tokenizer_in_words(self) -> str:
        """What kind of tokenizer this trains, such as "bpe, pattern gpt4"."""
        settings = {name: value for name, value in self.training_settings().items() if value != 0 and value != AS_PATTERN}
        return ", ".join([self.algorithm, *(f"{name} {value}" for name, value in settings.items())])


def _whole_number(value: object) -> int | None:
    if value in (None, "auto"):
        return None
    try:
        return int(cast(Any, value))
    except (TypeError, ValueError):
        raise UserError(f"vocab_size is {value!r}; it must be a whole number or 'auto'.") from None


def smallest_vocab_size(algorithm: str, *, reserved_tokens: int = 0) -> tuple[int, str]:
    """The tokens that every tokenizer of an algorithm has: how many, and which, in words."""
    entry = ALGORITHMS.find(algorithm)
    pieces, what = entry.pieces
    special = len(entry.special_tokens) + reserved_tokens
    beside = f" and {reserved_tokens} reserved ones" if reserved_tokens else ""
    number = "a" if pieces == 1 else str(pieces)
    return pieces + special, (
        f"{number} {what} and {len(entry.special_tokens)} special tokens ({', '.join(entry.special_tokens)}){beside}"
    )
