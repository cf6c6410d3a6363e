"""Train a tokenizer with the library `tokenizers`: byte-level BPE, WordPiece on bytes, and the book's word-level one.

Each function is an entry of `hfgpt.arguments.tokenizers.ALGORITHMS`; the same texts in the same order give the same tokenizer.
"""

import logging
import math
from collections.abc import Iterable, Iterator
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from hfgpt.arguments.tokenizers import ALGORITHMS, AS_PATTERN, smallest_vocab_size
from hfgpt.errors import UserError
from hfgpt.tokenization.encoding import PIECE_CHARACTERS, cut_at
from hfgpt.tokenization.patterns import (
    LONGEST_RUN,
    LONGEST_WORDPIECE_RUN,
    SAFE_CUTS,
    saved_pre_tokenizer,
    word_regex,
    words_as_bytes,
)
from hfgpt.tokenization.special_tokens import CHAT_TOKENS, PAD, SEPARATOR, SPECIAL_TOKENS, WORD_SPECIAL_TOKENS, reserved, wrap

logger = logging.getLogger(__name__)

# Source: Raschka (2024), section 2.2: re.split(r'([,.:;?_!"()\']|--|\s)', text)
WORD_PATTERN = r"""[,.:;?_!"()']|--|\s"""
# Prefix of a piece within a word. BERT's "##" is also text, so a word "##a" would be decoded as "a"; this character represents no
# byte.
WITHIN_WORD = "\u2026"
MOST_WORD_CHARACTERS = 10_000  # WordPiece gives up on longer words; with the limit on words there are none


def check_vocab_size(vocab_size: int | None, *, algorithm: str, reserved_tokens: int = 0) -> None:
    """Raises: ValueError for a vocabulary too small for the tokens that every tokenizer of this algorithm has."""
    smallest, reason = smallest_vocab_size(algorithm, reserved_tokens=reserved_tokens)
    if vocab_size is not None and vocab_size < smallest:
        raise UserError(f"vocab_size is {vocab_size}, but must be at least {smallest}: {reason}.")


def suitable_vocab_size(num_bytes: int, *, algorithm: str = "bpe", reserved_tokens: int = 0) -> int:
    """A vocabulary size for a text of this many bytes: about 5 times their square root, rounded to a power of two or 1.5 times one.

    More tokens make the text shorter, which helps short runs; but a token that occurs only a few times is an embedding row that
    learns little, and the number of recurring words grows with the square root of the text (Heaps' law). Nine of ten learned tokens
    occur at least 20 times up to about 2.5 times that root, and bits per byte fell up to 7 to 9 times that root.
    Measured: BPE of 20 KB to 2 MB of novels, Shakespeare and documentation; depth 2 on 20 KB and on 200 KB, validation bits per
    byte 3.34, 2.86 and 2.84 at 512, 1,024 and 2,048 tokens, and 2.45, 2.42 and 2.31 at 768, 1,536 and 4,096; 2026-11-26.

    Returns: 512 (up to 12 KB) to 32,768 (from 38 MB on), plus reserved tokens and tokens that an algorithm has beyond BPE's.
    """
    wanted = min(max(5 * math.sqrt(num_bytes), 512), 32_768)
    power = 2 ** int(math.log2(wanted))
    size = min((power, power * 3 // 2, power * 2), key=lambda size: abs(size - wanted))
    more = ALGORITHMS.find(algorithm).pieces[0] - ALGORITHMS.find("bpe").pieces[0]
    return size + max(0, more) + reserved_tokens


def train_bpe(
    texts: Iterable[str],
    *,
    vocab_size: int,
    min_frequency: int = 0,
    max_token_length: int | None = None,
    pattern: str = "qwen2",
    digits: str = AS_PATTERN,
    reserved_tokens: int = 0,
) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE.

    Args:
        texts: read once, one at a time; the counts of their distinct words stay in memory, so bound their size.
        vocab_size: rows of the model's embedding: 256 bytes, the special tokens and the merges. Texts with fewer distinct tokens
            give a smaller vocabulary, which is logged.
        min_frequency: pairs that occur less often are not merged.
        max_token_length: maximum bytes in one token, where a space and a byte outside ASCII count as two; None means no limit.
        pattern, digits: how text is split into words, which tokens never cross (`PATTERNS`, `DIGITS`).
        reserved_tokens: special tokens reserved for later use.
    Raises: ValueError for a vocabulary too small for bytes and special tokens.
    Cost: linear in the bytes, even for text without spaces.
    """
    check_vocab_size(vocab_size, algorithm="bpe", reserved_tokens=reserved_tokens)
    more = reserved(reserved_tokens)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = words_as_bytes(word_regex(pattern, digits, longest_run=LONGEST_RUN))
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        special_tokens=[*SPECIAL_TOKENS, *more],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        max_token_length=max_token_length,
        show_progress=False,
    )
    tokenizer.train_from_iterator(_in_pieces(texts, pattern), trainer)
    tokenizer.pre_tokenizer = saved_pre_tokenizer(pattern, digits)
    say_smaller(tokenizer.get_vocab_size(), vocab_size)
    return wrap(tokenizer, bos=SEPARATOR, eos=SEPARATOR, pad=PAD, additional_special_tokens=[*CHAT_TOKENS, *more])


def _in_pieces(texts: Iterable[str], pattern: str) -> Iterator[str]:
    """The texts in pieces with the same words: the library needs 50 bytes per character of the current text."""
    return (piece for text in texts for piece in cut_at(SAFE_CUTS[pattern], text, length=PIECE_CHARACTERS))


def say_smaller(found: int, vocab_size: int) -> None:
    """Log if the texts gave fewer tokens than requested."""
    if found < vocab_size:
        logger.info(
            f"tokenizer: the text only yields {found:,} distinct tokens, fewer than vocab_size {vocab_size:,}, so the tokenizer is "
            f"smaller."
        )


def train_wordpiece(
    texts: Iterable[str],
    *,
    vocab_size: int,
    min_frequency: int = 0,
    pattern: str = "qwen2",
    digits: str = AS_PATTERN,
    reserved_tokens: int = 0,
) -> PreTrainedTokenizerFast:
    """Train a WordPiece tokenizer on bytes: it always takes the longest piece at the beginning of a word, then the longest of the
    rest.

    BERT's works on characters, with `[UNK]` for words with unknown ones. This one has every byte, at the beginning of a word and
    within it, so it is lossless.

    Args: see `train_bpe`. Raises: ValueError for a vocabulary too small for bytes and special tokens.
    Cost: as for `train_bpe`; encoding takes about the square of a word's length, so the limit on words is permanent.
    Source: Devlin et al. (2019), BERT; the library learns the pieces as a BPE with two kinds of pieces.
    """
    check_vocab_size(vocab_size, algorithm="wordpiece", reserved_tokens=reserved_tokens)
    special = [*SPECIAL_TOKENS, *reserved(reserved_tokens)]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = words_as_bytes(word_regex(pattern, digits, longest_run=LONGEST_WORDPIECE_RUN))
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        # Every byte within a word, listed in advance: the library would number those in the text in a random order.
        special_tokens=[*special, *(WITHIN_WORD + byte for byte in alphabet)],
        initial_alphabet=alphabet,
        continuing_subword_prefix=WITHIN_WORD,
        show_progress=False,
    )
    learner.train_from_iterator(_in_pieces(texts, pattern), trainer)
    say_smaller(learner.get_vocab_size(), vocab_size)
    tokenizer = Tokenizer(
        models.WordPiece(
            learner.get_vocab(),
            unk_token=PAD,  # never used, but required by the library
            continuing_subword_prefix=WITHIN_WORD,
            max_input_chars_per_word=MOST_WORD_CHARACTERS,
        )
    )
    tokenizer.pre_tokenizer = learner.pre_tokenizer
    tokenizer.decoder = decoders.Sequence([decoders.Replace(WITHIN_WORD, ""), decoders.ByteLevel()])
    tokenizer.add_special_tokens(special)
    extra = [*CHAT_TOKENS, *reserved(reserved_tokens)]
    return wrap(tokenizer, bos=SEPARATOR, eos=SEPARATOR, pad=PAD, additional_special_tokens=extra)


def train_word_level(
    texts: Iterable[str], *, vocab_size: int | None = None, min_frequency: int = 0, reserved_tokens: int = 0
) -> PreTrainedTokenizerFast:
    """The book's simple tokenizer: one id per word and punctuation mark, `[UNK]` for everything not seen in training.

    Args: `vocab_size` keeps the most frequent words; None keeps all that occur at least `min_frequency` times.
    Source: Raschka (2024), sections 2.2 to 2.4.
    """
    check_vocab_size(vocab_size, algorithm="wordlevel", reserved_tokens=reserved_tokens)
    bos, eos, pad, unk = WORD_SPECIAL_TOKENS
    more = reserved(reserved_tokens)
    tokenizer = Tokenizer(models.WordLevel(unk_token=unk))
    # The special tokens are in the vocabulary like words, but no text may become one.
    names = "|".join(token.strip("[]") for token in WORD_SPECIAL_TOKENS)
    cuts = (rf"\[(?=(?:{names})\])", WORD_PATTERN)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [*(pre_tokenizers.Split(Regex(cut), behavior="isolated") for cut in cuts), pre_tokenizers.WhitespaceSplit()]
    )
    # Joins with spaces and removes the one before punctuation; the prefix never occurs in a word.
    tokenizer.decoder = decoders.WordPiece(prefix="\0", cleanup=True)
    trainer = trainers.WordLevelTrainer(
        vocab_size=vocab_size or 2**31 - 1,
        min_frequency=min_frequency,
        special_tokens=[*WORD_SPECIAL_TOKENS, *more],
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    extra: dict[str, Any] = {"additional_special_tokens": more} if more else {}
    return wrap(tokenizer, bos=bos, eos=eos, pad=pad, unk_token=unk, **extra)
