"""The recipes' arguments: dataclass default < YAML < command line, and no typo passes.

Nothing here imports torch, so a mistake on the command line is answered at once; trainer_arguments.py has those that do.
"""

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from typing import Literal

from hfgpt.arguments.card import CARD_HELP, checked_settings
from hfgpt.errors import UserError
from hfgpt.files import expand_home

ON_ERROR_HELP = "What becomes of rows that cannot be used: stop at the first, or skip them, counted by reason."
# What a recipe that reads documents does where it is not told; prepare_data.py does as its tokenizer's training did.
READING_DEFAULTS = {
    **{"text_field": "text", "text_documents": None, "hub_split": "train", "hub_revision": None, "max_documents": None},
    "on_error": "stop",
}
SPLIT_DEFAULTS = {"split_by": "auto", "validation_share": 0.05, "test_share": 0.05, "split_seed": 0}


@dataclass
class SourceArguments:
    """What is read, and which part of it is held out; the same in every recipe that reads documents.

    None means that a key was not given, so that prepare_data.py can take it from the tokenizer; `filled` leaves no such None.
    """

    sources: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Text, JSON(L), Parquet files, patterns or folders; Hub datasets (user/name or user/name:configuration); "
            "python-docs. prepare_data.py takes those of its tokenizer, and how they are read and split, where it is not told."
        },
    )
    text_field: str | None = field(
        default=None, metadata={"help": "Column that holds the text in JSON, Parquet and Hub rows; 'text' without it."}
    )
    text_documents: str | None = field(
        default=None,
        metadata={
            "help": "One document of a text file: 'file' (without it), 'paragraph', 'line', or the line that separates documents."
        },
    )
    hub_split: str | None = field(default=None, metadata={"help": "Split of a Hub dataset; 'train' without it."})
    hub_revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of a Hub dataset."})
    streaming: bool = field(default=False, metadata={"help": "Read Hub datasets as they come, without storing them."})
    max_documents: int | None = field(default=None, metadata={"help": "Stop after this many documents."})
    on_error: str | None = field(default=None, metadata={"help": f"{ON_ERROR_HELP} 'stop' without it."})
    split_by: str | None = field(
        default=None,
        metadata={
            "help": "'document', 'position' to cut each document (for one or few), or 'auto' (without it): by document where there "
            "are enough."
        },
    )
    validation_share: float | None = field(
        default=None, metadata={"help": "Share of the documents for validation while training; 0.05 without it."}
    )
    test_share: float | None = field(
        default=None, metadata={"help": "Share of the documents for the one test at the end; 0.05 without it."}
    )
    split_seed: int | None = field(default=None, metadata={"help": "Another seed holds out other documents; 0 without it."})
    output_dir: str = field(default="", metadata={"help": "Folder that the result is written to."})
    overwrite: bool = field(default=False, metadata={"help": "Replace what output_dir holds."})
    card: dict | str | None = field(default=None, metadata={"help": CARD_HELP})

    def __post_init__(self):
        expand_home(self, "output_dir")  # of sources, patterns.py does: the passport keeps the tilde
        if not self.output_dir:
            raise UserError("output_dir is missing; name the folder for the result with --output_dir.")
        self.card = checked_settings(self.card)

    def filled(self, earlier: Mapping[str, object]):
        """These arguments with what was not given: from `earlier`, the settings of a tokenizer's passport, else the defaults.

        How texts are read belongs to the texts: it is taken only with the same sources.
        """
        given = {name: getattr(self, name) for name in ("sources", *READING_DEFAULTS, *SPLIT_DEFAULTS)}
        if given["split_by"] == "auto":
            given["split_by"] = None
        same_sources = bool(earlier.get("sources")) and self.sources in ([], earlier["sources"])
        known = {name: earlier.get(name) for name in given if same_sources or (name in SPLIT_DEFAULTS and name != "split_by")}
        values = {"sources": []} | READING_DEFAULTS | SPLIT_DEFAULTS
        for source in (known, given):
            values |= {name: value for name, value in source.items() if value not in (None, [])}
        return replace(self, **values)

    def reading_options(self) -> dict:
        return dict(
            text_field=self.text_field or "text",
            text_documents=self.text_documents,
            hub_split=self.hub_split or "train",
            hub_revision=self.hub_revision,
            streaming=self.streaming,
            max_documents=self.max_documents,
        )

    def split(self) -> dict:
        return dict(by=self.split_by, validation_share=self.validation_share, test_share=self.test_share, seed=self.split_seed)


@dataclass
class TokenizerArguments(SourceArguments):
    """recipes/train_tokenizer.py"""

    algorithm: Literal["bpe", "wordlevel"] = field(
        default="bpe", metadata={"help": "'bpe' (byte-level, for real use) or 'wordlevel' (the book's simple tokenizer)."}
    )
    vocab_size: int | None = field(
        default=None,
        metadata={
            "help": "Rows of the embedding, special tokens included; without it as many as suit the size of the text (wordlevel: "
            "every word). A text with fewer different tokens gives a smaller one."
        },
    )
    max_token_length: int | None = field(default=None, metadata={"help": "Most characters of one token."})
    max_bytes: int = field(
        default=1_000_000_000, metadata={"help": "Train on at most this many bytes; the counts of distinct words stay in memory."}
    )


@dataclass
class PrepareArguments(SourceArguments):
    """recipes/prepare_data.py"""

    tokenizer: str = field(default="", metadata={"help": "Folder or Hub id of the tokenizer."})
    context_length: int | None = field(
        default=None, metadata={"help": "Tokens per row; without it 1,024, or less where the text would fill too few rows."}
    )
    window: int | None = field(
        default=None, metadata={"help": "Cut training documents into the book's sliding windows of this many tokens."}
    )
    stride: int | None = field(default=None, metadata={"help": "Tokens between window starts; window - 1 without it."})
    deduplicate: bool = field(default=True, metadata={"help": "Drop documents with the same text as an earlier one."})
    lzma_baseline: bool = field(default=False, metadata={"help": "Measure what lzma needs for the test documents (small corpora)."})
    plant_canaries: bool = field(
        default=False,
        metadata={"help": "Put made-up secrets into the training text, to measure later which of them the model has memorized."},
    )
    canary_counts: list[int] = field(
        default_factory=lambda: [1, 2, 4, 8, 16, 32], metadata={"help": "How many copies of a planted secret; each number once."}
    )
    canaries_per_count: int = field(default=4, metadata={"help": "Planted secrets with each number of copies."})
    canary_seed: int = field(default=0, metadata={"help": "Another seed, other secrets in other places."})

    def __post_init__(self):
        super().__post_init__()
        expand_home(self, "tokenizer")
        if not self.tokenizer:
            raise UserError("tokenizer is missing; name its folder with --tokenizer (recipes/train_tokenizer.py makes one).")
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
        if not self.plant_canaries:
            for argument in fields(PrepareArguments):
                value = getattr(self, argument.name)
                default = argument.default if argument.default_factory is MISSING else argument.default_factory()
                if argument.name in ("canary_counts", "canaries_per_count", "canary_seed") and value != default:
                    raise UserError(f"{argument.name} is {value}, but plant_canaries is false; --plant_canaries true plants them.")
        if self.context_length is not None and self.context_length < 3:
            raise UserError(f"context_length is {self.context_length}; 3 or more are needed: two separators and a token.")
