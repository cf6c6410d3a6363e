"""Keys for repairing and filtering documents before they are compared, split and trained on."""

from dataclasses import dataclass
from typing import Any, Literal

from hfgpt.arguments.filter_settings import PRESETS, check_settings
from hfgpt.arguments.keys import RecipeArguments, data_key
from hfgpt.arguments.mappings import read_mapping
from hfgpt.errors import UserError
from hfgpt.files import expand_home
from hfgpt.tables import check_allowed

FILTER_DETAILS = ("filter_settings", "repair_text", "languages")
CLEANING_DEFAULTS = {
    "filters": "none",
    **dict.fromkeys(FILTER_DETAILS),
    "perplexity_model": None,
    "perplexity_sigmas": 3.0,
}


@dataclass
class CleaningKeys(RecipeArguments):
    """What is repaired, and which documents are dropped for their content."""

    filters: Literal["none", "light", "web"] | None = data_key(
        None,
        "Which documents are dropped for low quality: 'none' (default), 'light' (unusable ones, in any language) or 'web' (also "
        "those that the rules of Gopher, C4 and FineWeb remove from web pages).",
    )
    filter_settings: dict | str | None = data_key(
        None,
        "Thresholds that replace those of the preset: {min_words: 20, max_short_lines: null}. docs/data/filters.md lists them.",
    )
    repair_text: bool | None = data_key(
        None, "Repair mojibake, control characters, line endings and whitespace (default: only with filters light and web)."
    )
    languages: list[str] | None = data_key(
        None, "Keep only documents in these languages (ISO 639 codes: en de); default: 'en' with filters web, otherwise all."
    )
    perplexity_model: str | None = data_key(
        None, "Folder or Hub id of a model: drop documents it finds unlikely, by the mean log-perplexity of their tokens."
    )
    perplexity_sigmas: float | None = data_key(
        None, "How many standard deviations above the mean of all documents count as unlikely (default: 3)."
    )

    def check_cleaning(self) -> None:
        """Raises: UserError for impossible values."""
        self.filter_settings = read_mapping(self.filter_settings, "filter_settings", example="'{min_words: 20}'")
        check_settings(self.filter_settings)
        if self.filters is not None:  # from Python, which no parser has checked
            check_allowed("filters", self.filters, PRESETS)
        if self.perplexity_sigmas is not None and not 0 < self.perplexity_sigmas < float("inf"):
            raise UserError(f"perplexity_sigmas is {self.perplexity_sigmas}; it must be above 0 (3 is usual).")
        expand_home(self, "perplexity_model")

    def cleaning(self) -> dict[str, Any]:
        """The values of `hfgpt.data.filters.cleaning_steps`."""
        return self.values_of("filters", *FILTER_DETAILS)


@dataclass
class DroppedKeys(RecipeArguments):
    """What happens to dropped documents."""

    keep_dropped: bool = data_key(
        False,
        "Write documents that a step drops as a whole (filters, copies, overlap with held-out or benchmark text) to dropped.jsonl "
        "in output_dir, with step and reason; the file is never published.",
    )
