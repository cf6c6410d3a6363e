"""What only the owner of a model knows of it: its licence, its language, what it is meant for. Kept in card.yaml, never published.

The recipes' key `card` writes that file into the output folder; whoever has none writes it by hand.
"""

from pathlib import Path

import yaml

from hfgpt.arguments.card import SETTINGS_NAME, checked_settings
from hfgpt.artifacts import adapter_around
from hfgpt.errors import UserError
from hfgpt.files import write_whole


def settings_place(folder: Path) -> Path:
    """Where the card.yaml of a folder is or belongs: one serves an adapter, its base and its merged twin.

    Those two have one of their own only where somebody put it there, for words that differ.
    """
    around = adapter_around(folder)
    return (around if around and not (folder / SETTINGS_NAME).is_file() else folder) / SETTINGS_NAME


def load_settings(folder: Path) -> dict[str, str | list[str] | bool]:
    """What card.yaml says; the base and the merged twin of an adapter have their adapter's, where they have none of their own.

    Raises: ValueError for a file that is not such a mapping.
    """
    path = settings_place(folder)
    if not path.is_file():
        return {}
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    return checked_settings(content, where=str(path))


def save_settings(folder: Path, settings: dict | None) -> None:
    """Write card.yaml; without settings the file, which may be written by hand, stays as it is."""
    if settings:
        write_whole(folder / SETTINGS_NAME, yaml.safe_dump(settings, allow_unicode=True, sort_keys=False))
