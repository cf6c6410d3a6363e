"""The arguments of the recipes that read documents: train_tokenizer.py and prepare_data.py."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from hfgpt.arguments.accounting import SourceCardKeys, VerifyKeys, checked_source_cards
from hfgpt.arguments.cleaning import CLEANING_DEFAULTS, FILTER_DETAILS, CleaningKeys, DroppedKeys
from hfgpt.arguments.copies import COPY_DEFAULTS, CopyKeys
from hfgpt.arguments.engine import MACHINE_KEYS, EngineKeys, ProcessKeys
from hfgpt.arguments.keys import ON_ERROR_HELP, OutputKeys, as_words, data_key, hygiene_key, model_key
from hfgpt.arguments.mixture import MixtureKeys
from hfgpt.arguments.privacy import PRIVACY_DEFAULTS, PrivacyKeys
from hfgpt.arguments.rows import PackingKeys
from hfgpt.arguments.splits import LeakKeys, SplitKeys
from hfgpt.arguments.tokenizers import TokenizerKeys
from hfgpt.errors import UserError
from hfgpt.files import expand_home, public_name

# The defaults of a recipe that reads documents; prepare_data.py does what its tokenizer's training did.
READING_DEFAULTS = {
    **{"text_field": "text", "text_documents": None, "hub_split": "train", "hub_revision": None, "max_documents": None},
    "read_share": None,
    "on_error": "stop",
    "source_cards": None,
    "group_field": None,
}
# What is done to documents before they are split; tokenizer and rows see the same text.
STEP_DEFAULTS = {**CLEANING_DEFAULTS, **PRIVACY_DEFAULTS, **COPY_DEFAULTS, "repeated_passage_bytes": None}
SPLIT_DEFAULTS = {"split_by": "auto", "validation_share": 0.05, "test_share": 0.05, "split_seed": 0}
INHERITED = ("sources", *READING_DEFAULTS, *STEP_DEFAULTS, *SPLIT_DEFAULTS)


SOURCES_HELP = (
    "Text, mail (.mbox, .eml, Maildir), CSV, TSV, JSON(L), Parquet files, patterns or folders; Hub datasets "
    "(user/name[:config]); python-docs."
)


@dataclass
class SourceArguments(CleaningKeys, PrivacyKeys, CopyKeys, SplitKeys, SourceCardKeys, ProcessKeys, OutputKeys):
    """What is read and which part of it is held out: the same in every recipe that reads documents.

    None means that a key was not given, so prepare_data.py can take it from the tokenizer; after `filled`, no such None is left.
    """

    sources: list[str] = data_key([], f"{SOURCES_HELP} Default: those of the tokenizer, read and split in the same way.")
    read_share: float | None = data_key(
        None,
        "Read only this share of every source, such as 0.1: evenly spaced pieces of text files and JSON lines, single documents of "
        "others.",
    )
    on_error: str | None = data_key(None, f"{ON_ERROR_HELP} Default: 'stop'.")
    split_by: str | None = data_key(
        None,
        "'document', 'group' (see group_field), 'position' to cut each document (for one or a few), or 'auto' (default): by group "
        "if group_field is given, otherwise by document if there are enough.",
    )
    validation_share: float | None = data_key(None, "Share of the documents for validation during training (default: 0.05).")
    test_share: float | None = data_key(None, "Share of the documents for the single test at the end (default: 0.05).")
    split_seed: int | None = data_key(None, "Seed that decides which documents are held out (default: 0).")

    def __post_init__(self):
        expand_home(self, "output_dir")  # patterns.py does it for sources: the passport keeps the tilde
        self.source_cards = checked_source_cards(self.source_cards)
        self.check_output()
        self.check_splits()
        self.check_cleaning()
        self.check_copies()
        self.check_privacy()
        self.check_least(num_proc=1, max_documents=1)
        self.check_needs(self.given(), unsettled=INHERITED)  # for the others, see `filled`

    def filled(self, earlier: Mapping[str, object]):
        """These arguments with the missing ones filled in: from `earlier`, the settings of a tokenizer's passport, or else the
        defaults.

        How texts are read belongs to the texts: it is only taken over if the sources are the same.
        """
        given = self.values_of(*INHERITED)
        if given["split_by"] == "auto":
            given["split_by"] = None
        same_sources = bool(earlier.get("sources")) and self.sources in ([], earlier["sources"])
        always = {*STEP_DEFAULTS, *SPLIT_DEFAULTS} - {"split_by"}
        known = {name: earlier.get(name) for name in given if same_sources or name in always}
        if given["filters"] not in (None, known["filters"]):  # settings for one preset are not meant for another
            known |= dict.fromkeys(FILTER_DETAILS)
        values: dict[str, Any] = {"sources": []} | READING_DEFAULTS | STEP_DEFAULTS | SPLIT_DEFAULTS
        for source in (known, given):
            values |= {name: value for name, value in source.items() if value not in (None, [])}
        if self.group_field is None and values["split_by"] not in ("group", "auto"):
            values["group_field"] = None  # it was the tokenizer's
        filled = replace(self, **values)
        assert filled.split_by is not None  # SPLIT_DEFAULTS fills it
        filled.check_groups(filled.split_by)
        filled.check_needs(self.given())
        return filled

    def reading_options(self) -> dict[str, Any]:
        return super().reading_options() | {"group_field": self.group_field, "read_share": self.read_share}

    def asked(self) -> dict[str, Any]:
        """What was asked for, as the passport stores it beside the outcome; sources are identified by SHA-256, not by name."""
        left_out = ("sources", "tokenizer", "output_dir", "overwrite", "card", "verify", *MACHINE_KEYS)
        return {key: value for key, value in vars(self).items() if key not in left_out}

    def command(self, recipe: str) -> str:
        """The command line for the passport, which is published: file names only, nothing about this machine."""
        words = ["python", f"recipes/{recipe}"]
        for name, value in self.given().items():
            if name in ("output_dir", "overwrite", "card", "source_cards", *MACHINE_KEYS):
                continue
            if name not in ("text_field", "text_documents"):  # which may have a slash in them
                value = [_without_place(item) for item in value] if isinstance(value, list) else _without_place(value)
            words += as_words(name, value)
        return shlex.join(words)

    def document_steps(self) -> dict[str, Any]:
        """The settings of `hfgpt.hygiene.documents.clean_documents` for all documents together."""
        copies = ("deduplicate", "near_copy_similarity", "repeated_passage_bytes")
        return self.values_of("perplexity_model", "perplexity_sigmas", *copies)

    def split(self) -> dict[str, Any]:
        """The values of `hfgpt.data.splitting.Split`."""
        by = "group" if self.group_field is not None else self.split_by
        return dict(by=by, validation_share=self.validation_share, test_share=self.test_share, seed=self.split_seed)


def _without_place(value: object) -> object:
    is_place = isinstance(value, str) and any(mark in value for mark in ("/", "\\", "~"))
    return public_name(value) if isinstance(value, str) and is_place else value


@dataclass
class TokenizerArguments(SourceArguments, TokenizerKeys):
    """recipes/train_tokenizer.py"""

    sources: list[str] = data_key([], SOURCES_HELP, required=True)

    def __post_init__(self):
        super().__post_init__()
        self.check_tokenizer()


@dataclass
class PrepareArguments(VerifyKeys, SourceArguments, DroppedKeys, LeakKeys, MixtureKeys, PackingKeys, EngineKeys):
    """recipes/prepare_data.py"""

    tokenizer: str = model_key("", "Folder or Hub id of the tokenizer.", required=True)
    context_length: int | None = model_key(None, "Tokens per row (default: 1,024, or fewer if the text would fill too few rows).")
    lzma_baseline: bool = data_key(False, "Measure how well lzma compresses the test documents (for small corpora).")
    plant_canaries: bool = hygiene_key(
        False, "Insert made-up secrets into the training text to measure later what a model memorizes."
    )
    canary_counts: list[int] = hygiene_key([1, 2, 4, 8, 16, 32], "How many copies of a planted secret to insert; each number once.")
    canaries_per_count: int = hygiene_key(4, "Planted secrets for each number of copies.")
    canary_seed: int = hygiene_key(0, "Seed that decides the secrets and where they are placed.")

    def __post_init__(self):
        expand_home(self, "tokenizer", "verify")
        if self.verify:
            if other := next((name for name in self.given() if name != "verify"), None):
                raise UserError(f"{other} is given with verify, which only checks a folder; leave one of them out.")
            return
        super().__post_init__()
        self.check_engine()
        self.check_leaks()
        self.require(tokenizer="give its folder with --tokenizer (recipes/train_tokenizer.py makes one).")
        self.check_mixture()
        self.check_packing()
        if self.window is not None:
            if self.context_length not in (None, self.window):
                raise UserError(
                    f"context_length is {self.context_length}, but window is {self.window}, and each window is a row; give only "
                    f"one of them."
                )
            self.context_length = self.window
        if self.context_length is not None and self.context_length < 3:
            raise UserError(f"context_length is {self.context_length}; it must be at least 3: two separators and a token.")
