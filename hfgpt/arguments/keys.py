"""A key of a recipe: its default, its purpose and its group in `--help`, in one declaration."""

import copy
import json
from collections.abc import Collection, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from functools import partial
from typing import Any, ClassVar, Literal

from hfgpt.arguments.card import CARD_HELP, checked_settings
from hfgpt.arguments.needs import NEEDS, Need, check_needs
from hfgpt.errors import UserError

ON_ERROR_HELP = "What to do with rows that cannot be used: stop at the first, or skip them and count them by reason."


def key(default: object, help: str, *, group: str, **settings: object) -> Any:
    """A field of a dataclass of arguments; a list as the default is copied for each instance.

    Args: `settings` are `required`, which `--help` shows, and other settings of `ArgumentParser.add_argument`, such as choices.
    """
    metadata = {"help": help, "group": group, **settings}
    if isinstance(default, list):
        return field(default_factory=partial(copy.copy, default), metadata=metadata)
    return field(default=default, metadata=metadata)


GROUPS = (
    "Data",
    "Model",
    "Method",
    "Training",
    "Clean data and hidden triggers",
    "Evaluation",
    "Generated text",
    "Machine",
    "Output",
)
TRAINER = "Trainer"  # the group of keys that our classes do not declare, or that few will ever change; shown by --help all
data_key, model_key, method_key, training_key, hygiene_key, evaluation_key, generation_key, machine_key, output_key = (
    partial(key, group=group) for group in GROUPS
)
trainer_key = partial(key, group=TRAINER)


def default_of(one: Field) -> Any:
    """The default of a field of a dataclass."""
    return one.default if one.default_factory is MISSING else one.default_factory()


def as_words(name: str, value: object) -> list[str]:
    """A key and its value as words of a command line."""
    if isinstance(value, str) and value.startswith("-"):  # on its own, it would be read as a key
        return [f"--{name}={value}"]
    return [f"--{name}", *map(as_word, value if isinstance(value, list) else [value])]


def as_word(value: object) -> str:
    """A value as a word of a command line."""
    if isinstance(value, dict):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e9:
        value = int(value)  # steps are floats, because they can also be a share of all steps
    return str(value).lower() if isinstance(value, bool) else str(value)


class RecipeArguments:
    """The base of all argument classes, which are dataclasses of keys.

    Attributes:
        positional: the key that a leading value without dashes sets.
        needs: what keys need to have an effect.
    """

    positional: ClassVar[str | None] = None
    needs: ClassVar[tuple[Need, ...]] = NEEDS

    def require(self, **cures: str) -> None:
        """Raises: UserError, with what to do, for the first of these keys that is missing."""
        for name, cure in cures.items():
            if not getattr(self, name):
                raise UserError(f"{name} is missing; {cure}")

    def check_least(self, **least: float) -> None:
        """Refuse a number below the minimum for its key; None means not given. Raises: UserError."""
        for name, smallest in least.items():
            value = getattr(self, name)
            if value is not None and not value >= smallest:  # also True for NaN
                raise UserError(f"{name} is {value}; it must be at least {smallest}.")

    def check_needs(self, given: Mapping[str, object], *, unsettled: Collection[str] = ()) -> None:
        """Raises: UserError for a key of `given` that would have no effect given the others; see `check_needs` in needs.py."""
        check_needs(given, vars(self), needs=self.needs, unsettled=unsettled)

    def given(self, **changes: object) -> dict[str, Any]:
        """The values that differ from the defaults, by key; `changes` replace some of them."""
        defaults = {one.name: default_of(one) for one in fields(self)}  # pyright: ignore[reportArgumentType]  # all are dataclasses
        values = {name: changes.get(name, getattr(self, name)) for name in defaults}
        return {name: value for name, value in values.items() if value not in (defaults[name], None, {})}

    def values_of(self, *names: str) -> dict[str, Any]:
        """The values of these keys."""
        return {name: getattr(self, name) for name in names}

    def as_command(self, **changes: object) -> list[str]:
        """These arguments as words of a command line: those that differ from the defaults, after `changes`."""
        values = self.given(**changes)
        words = [str(values.pop(self.positional))] if self.positional else []
        for name, value in values.items():
            words += as_words(name, value)
        return words


@dataclass
class OutputKeys(RecipeArguments):
    """Where a result goes, for recipes that write their result all at once."""

    output_dir: str = output_key("", "Folder for the result.", required=True)
    overwrite: bool = output_key(False, "Replace the contents of output_dir.")
    card: dict | str | None = output_key(None, CARD_HELP)

    def check_output(self) -> None:
        """Raises: UserError for a missing folder, and for card settings that are not allowed."""
        self.require(output_dir="give a folder for the result with --output_dir.")
        self.card = checked_settings(self.card)


@dataclass
class ReadingKeys(RecipeArguments):
    """How the texts of documents are read."""

    text_field: str | None = data_key(None, "Column with the text in CSV, TSV, JSON, Parquet and Hub rows (default: 'text').")
    text_documents: str | None = data_key(
        None,
        "What counts as a document in a text file: 'file' (default), 'paragraph', 'line', or the line that separates documents.",
    )
    hub_split: str | None = data_key(None, "Split of a Hub dataset (default: 'train').")
    hub_revision: str | None = data_key(None, "Branch, tag or commit of a Hub dataset.")
    streaming: bool = data_key(False, "Stream Hub datasets without storing them.")
    max_documents: int | None = data_key(None, "Stop after this many documents.")

    def reading_options(self) -> dict[str, Any]:
        """The values of `hfgpt.data.sources.ReadingOptions`."""
        return self.values_of("text_field", "text_documents", "hub_split", "hub_revision", "streaming", "max_documents")


@dataclass
class RecordKeys(RecipeArguments):
    """How the rows of tables are read."""

    header: bool = data_key(True, "The first line of CSV and TSV files names the columns.")
    columns: list[str] | None = data_key(None, "Names of the columns, if there is no header.")
    separator: str | None = data_key(
        None, "Column separator: comma, semicolon, tab or a character (default: detected from the header)."
    )
    max_records: int | None = data_key(None, "Read at most this many rows per set.")
    on_error: Literal["stop", "skip"] = data_key("stop", ON_ERROR_HELP)

    def table_options(self) -> dict[str, Any]:
        """The values of `hfgpt.data.records.RecordOptions`, except the split of a Hub dataset."""
        return self.values_of("header", "columns", "separator", "max_records")


@dataclass
class ModelKeys(RecipeArguments):
    """A model to load; the first value without dashes may be its name."""

    positional: ClassVar[str | None] = "model"

    model: str = model_key(
        "", "Folder or Hub id of the model; may be given as the first argument, without its name.", required=True
    )
    trust_remote_code: bool = model_key(False, "Run the code that a third-party repository contains.")
