"""The tokens that only code makes: which there are, how a tokenizer gets them, and texts in which they are written."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from tokenizers import Tokenizer, processors
from transformers import PreTrainedTokenizerFast

from hfgpt.chat_templates import CHAT_STYLES, add_special_tokens

SEPARATOR = "<|endoftext|>"  # ends every document and begins the next: EOS and BOS in one
PAD = "<|pad|>"  # its own token: padding that equals EOS would hide the end of a text from the loss
CHAT_TOKENS = CHAT_STYLES["chat"].special_tokens  # reserved from the first day, so that fine-tuning needs no new rows
SPECIAL_TOKENS = (SEPARATOR, PAD, *CHAT_TOKENS)
WORD_SPECIAL_TOKENS = ("[BOS]", "[EOS]", "[PAD]", "[UNK]")


def reserved(number: int) -> list[str]:
    """So many special tokens that nothing uses yet: `<|reserved_0|>`, `<|reserved_1|>`, ..."""
    return [f"<|reserved_{index}|>" for index in range(number)]


@dataclass
class WithoutSpecialTokens:
    """Takes the special tokens that are written in texts out of what a tokenizer is trained on.

    Otherwise the words of a special token, such as "endoftext", become pieces of the vocabulary, which no text but such accidents
    has a use for. What stands before and after one is trained on as two texts.

    Args: `tokens` are left out; so are those of every chat style, which a later fine-tuning may add.
    Attributes: `found` counts how often each was left out by `texts`.
    """

    tokens: Iterable[str]
    found: dict[str, int] = field(default_factory=dict)

    def __post_init__(self):
        chat = (token for style in CHAT_STYLES.values() for token in style.special_tokens)
        # The longest first, so that one which begins with another is found whole.
        known = sorted({*self.tokens, *chat, *SPECIAL_TOKENS}, key=lambda token: (-len(token), token))
        self._pattern = re.compile("|".join(map(re.escape, known)))

    def texts(self, texts: Iterable[str]) -> Iterator[str]:
        """The texts, each in as many parts as the special tokens in it leave."""
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
    """The tokenizer as transformers has them, with its special tokens.

    Args: `begins_with_eos` puts the separator before a text, as it stood in training; encode_texts leaves it out where rows are
        built.
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
    """Give the tokenizer a padding token of its own, `<|pad|>`, where it has none or pads with what ends a text.

    Returns: the ids that are new; the model needs rows for them.
    """
    if tokenizer.pad_token_id is not None and tokenizer.pad_token_id != tokenizer.eos_token_id:
        return []
    new = add_special_tokens(tokenizer, [PAD])
    tokenizer.pad_token = PAD
    return new
