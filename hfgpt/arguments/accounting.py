"""The keys that account for data: what only the user knows about its sources, and the check of data prepared earlier."""

from dataclasses import dataclass
from typing import Any

from hfgpt.arguments.keys import ReadingKeys, data_key
from hfgpt.arguments.mappings import read_mapping
from hfgpt.errors import UserError
from hfgpt.tables import nearest

SOURCE_CARD_KEYS = ("license", "url", "revision")


@dataclass
class SourceCardKeys(ReadingKeys):
    """How the texts of documents are read, and what the user knows about their origin."""

    source_cards: dict | str | None = data_key(
        None,
        "What only you know about your sources, by name or pattern: {'novels*.txt': {license: ..., url: ..., revision: ...}}.",
    )

    def reading_options(self) -> dict[str, Any]:
        """The values of `hfgpt.data.sources.ReadingOptions`."""
        return super().reading_options() | {"source_cards": self.source_cards}


def checked_source_cards(cards: dict | str | None) -> dict[str, dict[str, str]] | None:
    """Check what the owner says about sources: a mapping, or the same as JSON or YAML text.

    Raises: ValueError if it is not such a mapping, for unknown keys (with the nearest known one), and for values that are not text.
    """
    wanted = "a mapping such as {'novels*.txt': {'license': 'cc0-1.0', 'url': 'https://...'}} is needed"
    cards = read_mapping(cards, "source_cards", example="\"{'novels*.txt': {license: cc0-1.0}}\"")
    if cards is None:
        return None
    checked = {}
    for pattern, card in cards.items():
        if not isinstance(card, dict):
            raise UserError(f"source_cards has {card!r} for {pattern!r}; {wanted}.")
        for key, value in card.items():
            if key not in SOURCE_CARD_KEYS:
                near = nearest(str(key), SOURCE_CARD_KEYS)
                meant = f"did you mean {near!r}?" if near else f"the known keys are {', '.join(SOURCE_CARD_KEYS)}."
                raise UserError(f"unknown key {key!r} in source_cards, for {pattern!r}; {meant}")
            if not isinstance(value, str):
                raise UserError(f"{key} in source_cards, for {pattern!r}, is {value!r}; it must be text, in quotes.")
        checked[str(pattern)] = {key: " ".join(value.split()) for key, value in card.items()}
    return checked


@dataclass
class VerifyKeys:
    """A check that replaces the recipe's usual work."""

    verify: str = data_key("", "Check the prepared data in this folder against its passport, and do nothing else.")
