"""The texts that every saved tokenizer is tested on; other engines must agree on them as well."""

from hfgpt.tokenization.hard_texts import HARD_TEXTS as HARD_TEXTS
