"""What only the owner of a model knows about it: licence, language, intended use. Stored in card.yaml, never published.

The recipes' key `card` writes that file to the output folder; it can also be written by hand.
"""

from pathlib import Path

import yaml

from hfgpt.arguments.card import SETTINGS_NAME, checked_settings
from hfgpt.artifacts import adapter_around
from hfgpt.errors import UserError
from hfgpt.files import write_whole


def settings_place(folder: Path) -> Path:
    """The path of a folder's card.yaml: one file serves an adapter, its base and its merged model.

    Base and merged model only have their own if somebody put one there to use different text.
    """
    around = adapter_around(folder)
    return (around if around and not (folder / SETTINGS_NAME).is_file() else folder) / SETTINGS_NAME


def load_settings(folder: Path) -> dict[str, str | list[str] | bool]:
    """The contents of card.yaml; the base and the merged model of an adapter use the adapter's if they have none of their own.

    Raises: ValueError for a file that is not a valid mapping.
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
    """Write card.yaml; without settings, an existing file, which may be hand-written, is kept."""
    if settings:
        write_whole(folder / SETTINGS_NAME, yaml.safe_dump(settings, allow_unicode=True, sort_keys=False))
