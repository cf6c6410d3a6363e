"""Tokenizers: train them, give them their special tokens, and encode text so that it stays text.

Three of the four algorithms work on bytes and lose nothing: every text, whatever its bytes, comes back as it was. The word-level
tokenizer is the book's first one, for learning; it loses spacing and unknown words.
"""

from hfgpt.arguments.tokenizers import BPE_PATTERN as BPE_PATTERN
from hfgpt.tokenization.encoding import (
    PIECE_CHARACTERS as PIECE_CHARACTERS,
    cut_at as cut_at,
    encode_texts as encode_texts,
    split_special_tokens as split_special_tokens,
    tokenizer_sha256 as tokenizer_sha256,
)
from hfgpt.tokenization.loading import (
    character_tokenizer as character_tokenizer,
    gpt2_tokenizer as gpt2_tokenizer,
    load_or_wrap_tokenizer as load_or_wrap_tokenizer,
    load_tokenizer as load_tokenizer,
)
from hfgpt.tokenization.patterns import (
    LONGEST_RUN as LONGEST_RUN,
    SAFE_CUTS as SAFE_CUTS,
    TRAINING_PATTERN as TRAINING_PATTERN,
    word_pattern as word_pattern,
)
from hfgpt.tokenization.special_tokens import (
    CHAT_TOKENS as CHAT_TOKENS,
    PAD as PAD,
    SEPARATOR as SEPARATOR,
    SPECIAL_TOKENS as SPECIAL_TOKENS,
    WORD_SPECIAL_TOKENS as WORD_SPECIAL_TOKENS,
    ensure_pad_token as ensure_pad_token,
)
from hfgpt.tokenization.training import (
    check_vocab_size as check_vocab_size,
    suitable_vocab_size as suitable_vocab_size,
    train_bpe as train_bpe,
    train_word_level as train_word_level,
    train_wordpiece as train_wordpiece,
)
from hfgpt.tokenization.unigram import train_unigram as train_unigram
