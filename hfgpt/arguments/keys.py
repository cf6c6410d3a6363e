"""A key of a recipe: its default, what it is for, and the group that `--help` shows it in, in one declaration."""

import copy
import json
from collections.abc import Collection, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from functools import partial
from typing import Any, ClassVar, Literal

from hfgpt.arguments.card import CARD_HELP, checked_settings
from hfgpt.arguments.needs import check_needs
from hfgpt.errors import UserError

ON_ERROR_HELP = "What becomes of rows that cannot be used: stop at the first, or skip them, counted by reason."


def key(default: object, help: str, *, group: str, **settings: object) -> Any:
    """A field of a dataclass of arguments; a list as default is copied for each instance.

    Args: `settings` are `required`, which `--help` shows, and further ones of `ArgumentParser.add_argument`, such as its choices.
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
TRAINER = "Trainer"  # the group of what no class of ours declares, and of what few will ever change; shown by --help all
data_key, model_key, method_key, training_key, hygiene_key, evaluation_key, generation_key, machine_key, output_key = (
    partial(key, group=group) for group in GROUPS
)
trainer_key = partial(key, group=TRAINER)


def default_of(one: Field) -> Any:
    """The default of a field of a dataclass."""
    return one.default if one.default_factory is MISSING else one.default_factory()


def as_words(name: str, value: object) -> list[str]:
    """A key and its value as words of a command line."""

    def word(item: object) -> str:
        if isinstance(item, dict):
            return json.dumps(item, ensure_ascii=False)
        return str(item).lower() if isinstance(item, bool) else str(item)

    return [f"--{name}", *map(word, value if isinstance(value, list) else [value])]


class RecipeArguments:
    """What all classes of arguments have, which are dataclasses of keys.

    Attributes: `positional` is the key that a leading value without dashes is for.
    """

    positional: ClassVar[str | None] = None

    def require(self, **cures: str) -> None:
        """Raises: UserError, with what to do, for the first of these keys that was not given."""
        for name, cure in cures.items():
            if not getattr(self, name):
                raise UserError(f"{name} is missing; {cure}")

    def check_least(self, **least: float) -> None:
        """Refuse a number below the least that makes sense for its key; None is not given. Raises: UserError."""
        for name, smallest in least.items():
            value = getattr(self, name)
            if value is not None and not value >= smallest:  # also True for NaN
                raise UserError(f"{name} is {value}; {smallest} or more is needed.")

    def check_needs(self, given: Mapping[str, object], *, unsettled: Collection[str] = ()) -> None:
        """Raises: UserError for a key of `given` that would do nothing beside the others (needs.py); see `check_needs` there."""
        check_needs(given, vars(self), unsettled=unsettled)

    def given(self, **changes: object) -> dict[str, Any]:
        """The values that differ from the defaults, by their keys; `changes` take the place of some."""
        defaults = {one.name: default_of(one) for one in fields(self)}  # pyright: ignore[reportArgumentType]  # all are dataclasses
        values = {name: changes.get(name, getattr(self, name)) for name in defaults}
        return {name: value for name, value in values.items() if value not in (defaults[name], None, {})}

    def values_of(self, *names: str) -> dict[str, Any]:
        """The values of these keys."""
        return {name: getattr(self, name) for name in names}

    def as_command(self, **changes: object) -> list[str]:
        """These arguments as words of a command line: what differs from the defaults, after `changes`."""
        values = self.given(**changes)
        words = [str(values.pop(self.positional))] if self.positional else []
        for name, value in values.items():
            words += as_words(name, value)
        return words


@dataclass
class OutputKeys(RecipeArguments):
    """Where a result goes, for recipes whose result is written whole."""

    output_dir: str = output_key("", "Folder that the result is written to.", required=True)
    overwrite: bool = output_key(False, "Replace what output_dir holds.")
    card: dict | str | None = output_key(None, CARD_HELP)

    def check_output(self) -> None:
        """Raises: UserError for a missing folder, and words for the card that it cannot take."""
        self.require(output_dir="name the folder for the result with --output_dir.")
        self.card = checked_settings(self.card)


@dataclass
class ReadingKeys(RecipeArguments):
    """How the texts of documents are read."""

    text_field: str | None = data_key(
        None, "Column of CSV, TSV, JSON, Parquet and Hub rows that holds the text; 'text' without it."
    )
    text_documents: str | None = data_key(
        None, "One document of a text file: 'file' (without it), 'paragraph', 'line', or the line that separates documents."
    )
    hub_split: str | None = data_key(None, "Split of a Hub dataset; 'train' without it.")
    hub_revision: str | None = data_key(None, "Branch, tag or commit of a Hub dataset.")
    streaming: bool = data_key(False, "Read Hub datasets as they come, without storing them.")
    max_documents: int | None = data_key(None, "Stop after this many documents.")

    def reading_options(self) -> dict[str, Any]:
        """The values of `hfgpt.data.sources.ReadingOptions`."""
        return self.values_of("text_field", "text_documents", "hub_split", "hub_revision", "streaming", "max_documents")


@dataclass
class RecordKeys(RecipeArguments):
    """How the rows of tables are read."""

    header: bool = data_key(True, "The first line of CSV and TSV files names the columns.")
    columns: list[str] | None = data_key(None, "Names of the columns where no header names them.")
    separator: str | None = data_key(None, "Column separator: comma, semicolon, tab or a character; else told from the header.")
    max_records: int | None = data_key(None, "Read at most this many rows of each set.")
    on_error: Literal["stop", "skip"] = data_key("stop", ON_ERROR_HELP)

    def table_options(self) -> dict[str, Any]:
        """The values of `hfgpt.data.records.RecordOptions`, but for where a Hub dataset is read."""
        return self.values_of("header", "columns", "separator", "max_records")


@dataclass
class ModelKeys(RecipeArguments):
    """A model that is read; the first value without dashes may be its name."""

    positional: ClassVar[str | None] = "model"

    model: str = model_key("", "Folder or Hub id of the model; the first argument without dashes.", required=True)
    trust_remote_code: bool = model_key(False, "Run the code that a foreign repository brings.")
