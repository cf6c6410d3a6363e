"""The name in a card's examples: a placeholder until the card is published, then the id of its repository."""

import re
from pathlib import Path

NOTE = "  # or the folder with these files"  # hfgpt writes it after a placeholder
_OWNER = "USER"
# The placeholder as a string of Python, in the card of any folder.
_QUOTED = re.compile(rf"""(["']){_OWNER}/[\w.-]+\1""")


def slug_of(folder: Path) -> str:
    """The folder's name, as the Hub would accept it."""
    return re.sub(r"[^\w.-]+", "-", folder.resolve().name, flags=re.ASCII).strip("-.") or "model"


def placeholder_of(folder: Path) -> str:
    """What the examples in a card name until it is published: `USER/` and the folder's name."""
    return f"{_OWNER}/{slug_of(folder)}"


def with_repo_id(card: str, folder: Path, repo_id: str) -> str:
    """The card that a person edited, with `repo_id` where hfgpt had written its placeholder; everything else is unchanged.

    Args: `folder` is that of the card. If it was renamed since, only placeholders with hfgpt's note are found.
    """
    here, note = re.escape(placeholder_of(folder)), re.escape(NOTE)
    # A lambda, because the id is not a pattern.
    card = re.sub(rf"""(["']){here}\1(?:{note})?""", lambda found: f"{found[1]}{repo_id}{found[1]}", card)
    return re.sub(rf"{_QUOTED.pattern}{note}", lambda found: f"{found[1]}{repo_id}{found[1]}", card)


def placeholders_in(card: str, folder: Path) -> list[tuple[int, str]]:
    """The placeholders in a card, with their lines, counted from 1."""
    pattern = re.compile(rf"\b{re.escape(placeholder_of(folder))}(?![\w-])|{_QUOTED.pattern}")
    return [
        (number, found[0].strip("\"'"))
        for number, line in enumerate(card.splitlines(), start=1)
        for found in pattern.finditer(line)
    ]
