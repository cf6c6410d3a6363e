"""Measure tokenizers on texts: bytes per token, tokens per word, and unused tokens."""

import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import cast

import numpy as np
from transformers import PreTrainedTokenizerFast

from hfgpt.errors import require
from hfgpt.tokenization.encoding import encode_texts, in_batches
from hfgpt.tokenization.patterns import is_on_bytes
from hfgpt.tokenization.training import WITHIN_WORD

TOLD_BY = 2_000  # characters of a document used to detect its script and language
_SCRIPTS = {"CJK": "Han", "HIRAGANA": "Japanese", "KATAKANA": "Japanese", "HANGUL": "Korean"}


@dataclass
class Amounts:
    """Counts for some texts: documents, UTF-8 bytes, words (separated by spaces), and tokens per tokenizer."""

    documents: int = 0
    bytes: int = 0
    words: int = 0
    tokens: Counter[str] = field(default_factory=Counter)
    unknown: Counter[str] = field(default_factory=Counter)

    def bytes_per_token(self, name: str) -> float:
        """Bytes per token of this tokenizer; 0 if there are no tokens."""
        return self.bytes / self.tokens[name] if self.tokens[name] else 0.0

    def tokens_per_word(self, name: str) -> float:
        """The fertility of this tokenizer; 0 if there are no words."""
        return self.tokens[name] / self.words if self.words else 0.0


@dataclass
class Measures:
    """Measurements of tokenizers, in total and by group; after `measure`, the largest group comes first."""

    all: Amounts = field(default_factory=Amounts)
    sources: dict[str, Amounts] = field(default_factory=dict)
    scripts: dict[str, Amounts] = field(default_factory=dict)
    languages: dict[str, Amounts] = field(default_factory=dict)


def measure(
    tokenizers: Mapping[str, PreTrainedTokenizerFast], texts: Iterable[tuple[str, str]], *, languages: bool = False
) -> Measures:
    """Encode texts with each of the tokenizers, and count.

    Args:
        tokenizers: by the names used for the counts.
        texts: pairs of source and text; read once, about a MB at a time in memory.
        languages: also detect the language of each text.
    Raises: UserError if languages are requested and py3langid is not installed.
    """
    classify = None
    if languages:
        classify = require("py3langid", extra="data", purpose="detecting languages needs py3langid").classify
    measures = Measures()
    for batch in in_batches(texts):
        encoded = {name: encode_texts(tokenizer, [text for _, text in batch]) for name, tokenizer in tokenizers.items()}
        for index, (source, text) in enumerate(batch):
            groups = [measures.all, measures.sources.setdefault(source, Amounts())]
            groups.append(measures.scripts.setdefault(script_of(text), Amounts()))
            if classify is not None:
                groups.append(measures.languages.setdefault(classify(text[:TOLD_BY])[0], Amounts()))
            size, words = len(text.encode("utf-8")), len(text.split())
            for group in groups:
                group.documents += 1
                group.bytes += size
                group.words += words
                for name, ids in encoded.items():
                    group.tokens[name] += len(ids[index])
                    group.unknown[name] += _count_unknown(tokenizers[name], ids[index])
    for name in ("sources", "scripts", "languages"):
        setattr(measures, name, dict(sorted(getattr(measures, name).items(), key=lambda item: (-item[1].bytes, item[0]))))
    return measures


def _count_unknown(tokenizer: PreTrainedTokenizerFast, ids: list[int]) -> int:
    unknown = cast("int | None", tokenizer.unk_token_id)  # one id, although pyright thinks there may be several
    return 0 if unknown is None else ids.count(unknown)


def script_of(text: str) -> str:
    """The script of most letters at the beginning of a text, such as "Latin"; "no letters" if there are none."""
    counts: Counter[str] = Counter()
    for character in filter(str.isalpha, text[:TOLD_BY]):
        first = unicodedata.name(character, "OTHER").split(" ")[0]
        counts[_SCRIPTS.get(first, first.capitalize())] += 1
    return min(counts, key=lambda script: (-counts[script], script)) if counts else "no letters"


@dataclass
class Vocabulary:
    """The tokens of a tokenizer, without special ones, and how often each occurs in a text.

    Attributes: `texts` are the tokens as text, `sizes` their bytes, and `counts` how often they occur; all in the order of the ids.
    """

    texts: list[str]
    sizes: np.ndarray
    counts: np.ndarray

    @property
    def num_unused(self) -> int:
        """Tokens that do not occur."""
        return int((self.counts == 0).sum())

    @property
    def num_unused_bytes(self) -> int:
        """Unused single bytes, which are kept for any future text."""
        return int(((self.counts == 0) & (self.sizes == 1)).sum())

    def longest(self, number: int) -> list[tuple[str, int]]:
        """The longest tokens and their bytes."""
        order = sorted(range(len(self.texts)), key=lambda index: (-self.sizes[index], self.texts[index]))
        return [(self.texts[index], int(self.sizes[index])) for index in order[:number]]


def count_tokens(tokenizer: PreTrainedTokenizerFast, texts: Iterable[str]) -> Vocabulary:
    """How often each token of the vocabulary occurs in the texts. Args: `texts` are read once."""
    vocabulary = tokenizer.get_vocab()
    counts = np.zeros(max(vocabulary.values()) + 1, dtype=np.int64)
    for batch in in_batches(("", text) for text in texts):
        for ids in encode_texts(tokenizer, [text for _, text in batch]):
            counts += np.bincount(ids, minlength=len(counts))
    special = set(tokenizer.all_special_ids)
    tokens = sorted((id, token) for token, id in vocabulary.items() if id not in special)
    if is_on_bytes(tokenizer):
        pieces = [token.removeprefix(WITHIN_WORD) for _, token in tokens]
        sizes, written = [len(piece) for piece in pieces], [cast(str, tokenizer.decode([id])) for id, _ in tokens]
    else:
        written = [token for _, token in tokens]
        sizes = [len(token.encode("utf-8")) for token in written]
    return Vocabulary(written, np.array(sizes), counts[[id for id, _ in tokens]])
