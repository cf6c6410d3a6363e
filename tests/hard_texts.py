"""The texts that every saved tokenizer is tried on; other engines have to agree on them as well."""

from hfgpt.tokenization.hard_texts import HARD_TEXTS as HARD_TEXTS
