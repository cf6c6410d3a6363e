"""What the key `card` of a recipe takes: what only the owner of a model knows about it."""

from hfgpt.arguments.mappings import read_mapping
from hfgpt.errors import UserError
from hfgpt.tables import nearest

SETTINGS_NAME = "card.yaml"

# What stands in the front matter is one line; what is the owner's own text is Markdown.
ONE_LINE = ("license", "license_name", "license_link", "title", "author", "base_model")
MARKDOWN = ("description", "intended_use", "limits")
LISTS = ("language", "datasets")
FLAGS = ("file_names",)  # publish the names of the files that were read, which hfgpt otherwise sums up by kind and size
KEYS = (*ONE_LINE, *MARKDOWN, *LISTS, *FLAGS)

CARD_HELP = (
    "What only you know, for the card: a mapping with license, language, title, description, intended_use, limits, author; "
    "file_names: true publishes the names of your files."
)


def checked_settings(settings: dict | str | None, *, where: str = "card") -> dict[str, str | list[str] | bool]:
    """The owner's words about an artifact, checked.

    Args:
        settings: a mapping with keys of `KEYS`, or the same as the text of JSON or YAML; None is an empty one.
        where: what the messages call it.
    Raises: ValueError for unknown keys (with the nearest known one), values that are not text, and a licence without its name.
    """
    if where == "card":
        settings = read_mapping(settings, where, example="'{license: apache-2.0, language: en}'")
    if settings is None:
        return {}
    if not isinstance(settings, dict):  # what a file holds
        raise UserError(f"{where} is {settings!r}; a mapping with keys such as license and language is needed.")
    found: dict[str, str | list[str] | bool] = {}
    for key, value in settings.items():
        if key not in KEYS:
            near = nearest(str(key), KEYS)
            meant = f"did you mean {near!r}?" if near else f"known are {', '.join(KEYS)}."
            raise UserError(f"unknown key {key!r} in {where}; {meant}")
        if value is None:
            continue
        if key in FLAGS:
            if not isinstance(value, bool):
                raise UserError(f"{key} in {where} is {value!r}; true or false is needed.")
            found[key] = value
            continue
        values = value if isinstance(value, list) and key in LISTS else [value]
        for one in values:
            if not isinstance(one, str):
                quotes = " (YAML reads no, yes, on and off as that: put it in quotes)" if isinstance(one, bool) else ""
                raise UserError(f"{key} in {where} is {one!r}, a {type(one).__name__}; text is needed{quotes}.")
        if key in MARKDOWN:
            found[key] = str(value).strip("\n")
        else:
            words = [" ".join(str(one).split()) for one in values]
            found[key] = words if isinstance(value, list) else words[0]
    if found.get("license") == "other" and not (found.get("license_name") and found.get("license_link")):
        raise UserError(f"license in {where} is 'other', which the Hub takes only with license_name and license_link; give both.")
    return found
