"""Tokenizers: train them, give them their special tokens, and encode text so that it stays text.

Three of the four algorithms work on bytes and lose nothing: every text, whatever its bytes, comes back as it was. The word-level
tokenizer is the book's first one, for learning; it loses spacing and unknown words.
"""

from hfgpt.arguments.tokenizers import BPE_PATTERN as BPE_PATTERN
from hfgpt.tokenization.encoding import (
    PIECE_CHARACTERS as PIECE_CHARACTERS,
)
from hfgpt.tokenization.encoding import (
    cut_at as cut_at,
)
from hfgpt.tokenization.encoding import (
    encode_texts as encode_texts,
)
from hfgpt.tokenization.encoding import (
    encode_to_arrays as encode_to_arrays,
)
from hfgpt.tokenization.encoding import (
    split_special_tokens as split_special_tokens,
)
from hfgpt.tokenization.encoding import (
    tokenizer_sha256 as tokenizer_sha256,
)
from hfgpt.tokenization.loading import (
    character_tokenizer as character_tokenizer,
)
from hfgpt.tokenization.loading import (
    gpt2_tokenizer as gpt2_tokenizer,
)
from hfgpt.tokenization.loading import (
    load_or_wrap_tokenizer as load_or_wrap_tokenizer,
)
from hfgpt.tokenization.loading import (
    load_tokenizer as load_tokenizer,
)
from hfgpt.tokenization.patterns import (
    LONGEST_RUN as LONGEST_RUN,
)
from hfgpt.tokenization.patterns import (
    SAFE_CUTS as SAFE_CUTS,
)
from hfgpt.tokenization.patterns import (
    TRAINING_PATTERN as TRAINING_PATTERN,
)
from hfgpt.tokenization.patterns import (
    word_pattern as word_pattern,
)
from hfgpt.tokenization.special_tokens import (
    CHAT_TOKENS as CHAT_TOKENS,
)
from hfgpt.tokenization.special_tokens import (
    PAD as PAD,
)
from hfgpt.tokenization.special_tokens import (
    SEPARATOR as SEPARATOR,
)
from hfgpt.tokenization.special_tokens import (
    SPECIAL_TOKENS as SPECIAL_TOKENS,
)
from hfgpt.tokenization.special_tokens import (
    WORD_SPECIAL_TOKENS as WORD_SPECIAL_TOKENS,
)
from hfgpt.tokenization.special_tokens import (
    ensure_pad_token as ensure_pad_token,
)
from hfgpt.tokenization.training import (
    check_vocab_size as check_vocab_size,
)
from hfgpt.tokenization.training import (
    suitable_vocab_size as suitable_vocab_size,
)
from hfgpt.tokenization.training import (
    train_bpe as train_bpe,
)
from hfgpt.tokenization.training import (
    train_word_level as train_word_level,
)
from hfgpt.tokenization.training import (
    train_wordpiece as train_wordpiece,
)
from hfgpt.tokenization.unigram import train_unigram as train_unigram
