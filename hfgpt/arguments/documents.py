"""The arguments of the recipes that read documents: train_tokenizer.py and prepare_data.py."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from hfgpt.arguments.engine import MACHINE_KEYS, EngineKeys, ProcessKeys
from hfgpt.arguments.keys import ON_ERROR_HELP, OutputKeys, ReadingKeys, data_key, hygiene_key, model_key
from hfgpt.errors import UserError
from hfgpt.files import expand_home

# What a recipe that reads documents does where it is not told; prepare_data.py does as its tokenizer's training did.
READING_DEFAULTS = {
    **{"text_field": "text", "text_documents": None, "hub_split": "train", "hub_revision": None, "max_documents": None},
    "on_error": "stop",
}
# What is done to documents before they are split; tokenizer and rows see the same.
STEP_DEFAULTS = {"deduplicate": True}
SPLIT_DEFAULTS = {"split_by": "auto", "validation_share": 0.05, "test_share": 0.05, "split_seed": 0}


@dataclass
class SourceArguments(ReadingKeys, ProcessKeys, OutputKeys):
    """What is read, and which part of it is held out; the same in every recipe that reads documents.

    None means that a key was not given, so that prepare_data.py can take it from the tokenizer; `filled` leaves no such None.
    """

    sources: list[str] = data_key(
        [],
        "Text, JSON(L), Parquet files, patterns or folders; Hub datasets (user/name or user/name:configuration); python-docs. "
        "prepare_data.py takes those of its tokenizer, and how they are read and split, where it is not told.",
    )
    on_error: str | None = data_key(None, f"{ON_ERROR_HELP} 'stop' without it.")
    deduplicate: bool | None = data_key(None, "Drop documents with the same text as an earlier one; true without it.")
    split_by: str | None = data_key(
        None,
        "'document', 'position' to cut each document (for one or few), or 'auto' (without it): by document where there are enough.",
    )
    validation_share: float | None = data_key(None, "Share of the documents for validation while training; 0.05 without it.")
    test_share: float | None = data_key(None, "Share of the documents for the one test at the end; 0.05 without it.")
    split_seed: int | None = data_key(None, "Another seed holds out other documents; 0 without it.")

    def __post_init__(self):
        expand_home(self, "output_dir")  # of sources, patterns.py does: the passport keeps the tilde
        self.check_output()
        self.check_least(num_proc=1)

    def filled(self, earlier: Mapping[str, object]):
        """These arguments with what was not given: from `earlier`, the settings of a tokenizer's passport, else the defaults.

        How texts are read belongs to the texts: it is taken only with the same sources.
        """
        given = {name: getattr(self, name) for name in ("sources", *READING_DEFAULTS, *STEP_DEFAULTS, *SPLIT_DEFAULTS)}
        if given["split_by"] == "auto":
            given["split_by"] = None
        same_sources = bool(earlier.get("sources")) and self.sources in ([], earlier["sources"])
        always = {*STEP_DEFAULTS, *SPLIT_DEFAULTS} - {"split_by"}
        known = {name: earlier.get(name) for name in given if same_sources or name in always}
        values: dict[str, Any] = {"sources": []} | READING_DEFAULTS | STEP_DEFAULTS | SPLIT_DEFAULTS
        for source in (known, given):
            values |= {name: value for name, value in source.items() if value not in (None, [])}
        return replace(self, **values)

    def asked(self) -> dict[str, Any]:
        """What was asked for, as the passport keeps it beside what came of it; sources are known by their SHA-256, not by name."""
        left_out = ("sources", "tokenizer", "output_dir", "overwrite", "card", *MACHINE_KEYS)
        return {key: value for key, value in vars(self).items() if key not in left_out}

    def split(self) -> dict[str, Any]:
        """The values of `hfgpt.data.splitting.Split`."""
        return dict(by=self.split_by, validation_share=self.validation_share, test_share=self.test_share, seed=self.split_seed)


@dataclass
class TokenizerArguments(SourceArguments):
    """recipes/train_tokenizer.py"""

    algorithm: Literal["bpe", "wordlevel"] = model_key("bpe", "'bpe' (byte-level) or 'wordlevel' (the book's first).")
    vocab_size: int | None = model_key(
        None,
        "Rows of the embedding, special tokens included; without it as many as suit the size of the text (wordlevel: every word). "
        "A text with fewer different tokens gives a smaller one.",
    )
    max_token_length: int | None = model_key(None, "Most characters of one token.")
    max_bytes: int = data_key(1_000_000_000, "Train on at most this many bytes; the counts of distinct words stay in memory.")


@dataclass
class PrepareArguments(SourceArguments, EngineKeys):
    """recipes/prepare_data.py"""

    tokenizer: str = model_key("", "Folder or Hub id of the tokenizer.")
    context_length: int | None = model_key(None, "Tokens per row; without it 1,024, or less where the text would fill too few.")
    window: int | None = model_key(None, "Cut training documents into the book's sliding windows of this many tokens.")
    stride: int | None = model_key(None, "Tokens between window starts; window - 1 without it.")
    lzma_baseline: bool = data_key(False, "Measure what lzma needs for the test documents (small corpora).")
    plant_canaries: bool = hygiene_key(
        False, "Put made-up secrets into the training text, to measure later what a model memorizes."
    )
    canary_counts: list[int] = hygiene_key([1, 2, 4, 8, 16, 32], "How many copies of a planted secret; each number once.")
    canaries_per_count: int = hygiene_key(4, "Planted secrets with each number of copies.")
    canary_seed: int = hygiene_key(0, "Another seed, other secrets in other places.")

    def __post_init__(self):
        super().__post_init__()
        self.check_engine()
        expand_home(self, "tokenizer")
        self.require(tokenizer="name its folder with --tokenizer (recipes/train_tokenizer.py makes one).")
        if self.window is not None:
            if self.window < 2:
                raise UserError(f"window is {self.window}; 2 tokens or more are needed, an input and its target.")
            if self.stride is None:
                self.stride = self.window - 1
            if not 1 <= self.stride <= self.window:
                raise UserError(
                    f"stride is {self.stride}, window {self.window}; a stride from 1 to the window is needed, or tokens get lost."
                )
            self.context_length = self.window
        elif self.stride is not None:
            raise UserError(
                f"stride is {self.stride}, but window is missing; give both for sliding windows, or neither for packing."
            )
        for name, value in self.given().items():
            if name in ("canary_counts", "canaries_per_count", "canary_seed") and not self.plant_canaries:
                raise UserError(f"{name} is {value}, but plant_canaries is false; --plant_canaries true plants them.")
        if self.context_length is not None and self.context_length < 3:
            raise UserError(f"context_length is {self.context_length}; 3 or more are needed: two separators and a token.")
