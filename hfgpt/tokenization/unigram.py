"""Unigram on bytes: the pieces under which the words of the text are most likely, learned by sentencepiece."""

import io
import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from hfgpt.arguments.tokenizers import AS_PATTERN
from hfgpt.errors import require
from hfgpt.tokenization.patterns import LONGEST_RUN, saved_pre_tokenizer, word_regex
from hfgpt.tokenization.special_tokens import CHAT_TOKENS, PAD, SEPARATOR, SPECIAL_TOKENS, reserved, wrap
from hfgpt.tokenization.training import check_vocab_size, say_smaller

LONGEST_PIECE = 16  # bytes, sentencepiece's usual limit
LEARNED_BYTES = 16 << 20
_CALL_CHARACTERS = 2**16  # searched for words at once


def train_unigram(
    texts: Iterable[str],
    *,
    vocab_size: int,
    max_token_length: int = LONGEST_PIECE,
    pattern: str = "qwen2",
    digits: str = AS_PATTERN,
    reserved_tokens: int = 0,
) -> PreTrainedTokenizerFast:
    """Train a Unigram model: a word is split into the pieces that are most likely together.

    Learned by sentencepiece in one thread, because the library `tokenizers` gives different scores in every run (0.23: its words
    have a random order); used with `tokenizers`, like all others. Every byte is a piece, so it is lossless.

    Args: see `train_bpe`. Raises: ValueError for a vocabulary without room for bytes and special tokens, and without
        sentencepiece.
    Cost: counting words takes about 3 MB per second. Learning is linear in the text up to `LEARNED_BYTES`; for more text, the word
    counts are scaled down, because sentencepiece writes out every word as often as it is counted.
    Source: Kudo (2018), Subword regularization.
    """
    check_vocab_size(vocab_size, algorithm="unigram", reserved_tokens=reserved_tokens)
    spm = require("sentencepiece", extra="unigram", purpose="training Unigram tokenizers needs sentencepiece")
    special = [*SPECIAL_TOKENS, *reserved(reserved_tokens)]
    counts = _lessened(_count_words(texts, word_regex(pattern, digits, longest_run=LONGEST_RUN)))
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    unseen = sorted(set(alphabet).difference(*counts))
    scores = _learn(spm, counts, num_pieces=vocab_size - len(special) - len(unseen), longest=max_token_length)
    # A byte that does not occur in the text is less likely than all others; special tokens are never created from text.
    last = min(scores.values(), default=0.0)
    pieces = [*((token, last - 20.0) for token in special), *scores.items(), *((byte, last - 10.0) for byte in unseen)]
    say_smaller(len(pieces), vocab_size)
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=None, byte_fallback=False))
    tokenizer.pre_tokenizer = saved_pre_tokenizer(pattern, digits)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(special)
    return wrap(
        tokenizer, bos=SEPARATOR, eos=SEPARATOR, pad=PAD, additional_special_tokens=[*CHAT_TOKENS, *reserved(reserved_tokens)]
    )


def _count_words(texts: Iterable[str], regex: str) -> dict[str, int]:
    """How often each word occurs in the texts, with bytes represented as characters."""
    split = pre_tokenizers.Split(Regex(regex), behavior="isolated")
    counts: Counter[str] = Counter()
    for text in texts:
        for start in range(0, len(text), _CALL_CHARACTERS):
            # A word cut in two here is one of thousands.
            counts.update(word for word, _ in split.pre_tokenize_str(text[start : start + _CALL_CHARACTERS]))
    as_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return {as_bytes.pre_tokenize_str(word)[0][0]: count for word, count in sorted(counts.items())}


def _lessened(counts: dict[str, int]) -> dict[str, int]:
    """The counts scaled down so that all words together have about `LEARNED_BYTES`; the minimum is 1."""
    divisor = sum(len(word) * count for word, count in counts.items()) / LEARNED_BYTES
    return counts if divisor <= 1 else {word: max(1, round(count / divisor)) for word, count in counts.items()}


def _learn(spm, counts: dict[str, int], *, num_pieces: int, longest: int) -> dict[str, float]:
    """The pieces with their log probabilities, the most likely first."""
    with tempfile.TemporaryDirectory(prefix="hfgpt-") as folder:
        words = Path(folder) / "words.tsv"
        with words.open("w", encoding="utf-8", newline="\n") as file:
            file.writelines(f"{word}\t{count}\n" for word, count in counts.items())
        model = io.BytesIO()
        spm.SentencePieceTrainer.train(
            input=str(words),
            input_format="tsv",
            model_writer=model,
            model_type="unigram",
            vocab_size=num_pieces + 1,  # plus its own unknown piece
            hard_vocab_limit=False,
            max_sentencepiece_length=longest,
            # The words are final: nothing is normalised, split or marked.
            **dict(normalization_rule_name="identity", add_dummy_prefix=False, remove_extra_whitespaces=False),
            **dict(split_by_whitespace=False, split_by_unicode_script=False, split_by_number=False),
            **dict(character_coverage=1.0, max_sentence_length=2**20),
            **dict(unk_id=0, bos_id=-1, eos_id=-1, pad_id=-1),
            num_threads=1,  # a fixed order of float summation
            minloglevel=2,
        )
    learned = spm.SentencePieceProcessor(model_proto=model.getvalue())
    return {learned.id_to_piece(id): learned.get_score(id) for id in range(1, learned.get_piece_size())}
