"""Tokenizers: train them, add their special tokens, and encode text so that it stays text.

Three of the four algorithms work on bytes and are lossless: decoding restores every text exactly. The word-level tokenizer is the
book's first one, for learning; it loses whitespace and unknown words.
"""

from hfgpt.arguments.tokenizers import BPE_PATTERN
from hfgpt.tokenization.encoding import (
    LONGEST_PIECE,
    PIECE_CHARACTERS,
    cut_at,
    encode_texts,
    encode_to_arrays,
    split_special_tokens,
    start_token,
    tokenizer_sha256,
    tokens_around,
)
from hfgpt.tokenization.loading import character_tokenizer, gpt2_tokenizer, load_or_wrap_tokenizer, load_tokenizer
from hfgpt.tokenization.patterns import LONGEST_RUN, SAFE_CUTS, word_pattern
from hfgpt.tokenization.special_tokens import CHAT_TOKENS, PAD, SEPARATOR, SPECIAL_TOKENS, WORD_SPECIAL_TOKENS, ensure_pad_token
from hfgpt.tokenization.training import check_vocab_size, suitable_vocab_size, train_bpe, train_word_level, train_wordpiece
from hfgpt.tokenization.unigram import train_unigram

__all__ = [
    "BPE_PATTERN",
    "CHAT_TOKENS",
    "LONGEST_PIECE",
    "LONGEST_RUN",
    "PAD",
    "PIECE_CHARACTERS",
    "SAFE_CUTS",
    "SEPARATOR",
    "SPECIAL_TOKENS",
    "WORD_SPECIAL_TOKENS",
    "character_tokenizer",
    "check_vocab_size",
    "cut_at",
    "encode_texts",
    "encode_to_arrays",
    "ensure_pad_token",
    "gpt2_tokenizer",
    "load_or_wrap_tokenizer",
    "load_tokenizer",
    "split_special_tokens",
    "start_token",
    "suitable_vocab_size",
    "tokenizer_sha256",
    "tokens_around",
    "train_bpe",
    "train_unigram",
    "train_word_level",
    "train_wordpiece",
    "word_pattern",
]
