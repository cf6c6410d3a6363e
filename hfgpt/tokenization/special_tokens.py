"""Special tokens, which only code creates: which ones exist, how a tokenizer gets them, and texts that contain them."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from tokenizers import Tokenizer, processors
from transformers import PreTrainedTokenizerFast

from hfgpt.chat_templates import CHAT_STYLES, add_special_tokens

SEPARATOR = "<|endoftext|>"  # ends every document and begins the next: EOS and BOS in one
PAD = "<|pad|>"  # a separate token: if padding equalled EOS, the loss would ignore the end of a text
CHAT_TOKENS = CHAT_STYLES["chat"].special_tokens  # reserved from the start, so that fine-tuning needs no new rows
SPECIAL_TOKENS = (SEPARATOR, PAD, *CHAT_TOKENS)
WORD_SPECIAL_TOKENS = ("[BOS]", "[EOS]", "[PAD]", "[UNK]")


def reserved(number: int) -> list[str]:
    """This many unused special tokens: `<|reserved_0|>`, `<|reserved_1|>`, ..."""
    return [f"<|reserved_{index}|>" for index in range(number)]


@dataclass
class WithoutSpecialTokens:
    """Removes special tokens written in texts from a tokenizer's training text.

    Otherwise, words in special tokens, such as "endoftext", would become part of the vocabulary, although normal text does not
    contain them. The text before and after one counts as two texts.

    Args: `tokens` are removed, as are those of every chat style, which fine-tuning may add later.
    Attributes: `found` counts how often `texts` removed each one.
    """

    tokens: Iterable[str]
    found: dict[str, int] = field(default_factory=dict)

    def __post_init__(self):
        chat = (token for style in CHAT_STYLES.values() for token in style.special_tokens)
        # The longest first, so that one that begins with another is matched completely.
        known = sorted({*self.tokens, *chat, *SPECIAL_TOKENS}, key=lambda token: (-len(token), token))
        self._pattern = re.compile("|".join(map(re.escape, known)))

    def texts(self, texts: Iterable[str]) -> Iterator[str]:
        """The texts, each split at its special tokens."""
        self.found = {}
        for text in texts:
            start = 0
            for match in self._pattern.finditer(text):
                self.found[match.group()] = self.found.get(match.group(), 0) + 1
                if match.start() > start:
                    yield text[start : match.start()]
                start = match.end()
            if start < len(text):
                yield text[start:] if start else text


def wrap(
    tokenizer: Tokenizer, *, bos: str, eos: str, pad: str, begins_with_eos: bool = True, **special_tokens
) -> PreTrainedTokenizerFast:
    """The tokenizer as a transformers class, with its special tokens.

    Args: `begins_with_eos` puts the separator before a text, as in training; encode_texts leaves it out when building rows.
    """
    if begins_with_eos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{eos} $A", pair=f"{eos} $A {eos} $B", special_tokens=[(eos, tokenizer.token_to_id(eos))]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=bos,
        eos_token=eos,
        pad_token=pad,
        padding_side="left",  # generation continues at the right end
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
        **special_tokens,
    )


def ensure_pad_token(tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """Add a separate padding token, `<|pad|>`, if the tokenizer has none or pads with the token that ends a text.

    Returns: the new ids; the model needs rows for them.
    """
    if tokenizer.pad_token_id is not None and tokenizer.pad_token_id != tokenizer.eos_token_id:
        return []
    new = add_special_tokens(tokenizer, [PAD])
    tokenizer.pad_token = PAD
    return new
