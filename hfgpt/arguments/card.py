"""What the key `card` of a recipe takes: what only the owner of a model knows about it."""

from hfgpt.arguments.mappings import read_mapping
from hfgpt.errors import UserError
from hfgpt.tables import nearest

SETTINGS_NAME = "card.yaml"

# Front matter values are one line each; the owner's own text is Markdown.
ONE_LINE = ("license", "license_name", "license_link", "title", "author", "base_model")
MARKDOWN = ("description", "intended_use", "limits")
LISTS = ("language", "datasets")
FLAGS = ("file_names",)  # publish the names of the source files; otherwise hfgpt only summarizes them by kind and size
KEYS = (*ONE_LINE, *MARKDOWN, *LISTS, *FLAGS)

CARD_HELP = (
    "What only you know, for the card: a mapping with license, language, title, description, intended_use, limits, author; "
    "file_names: true publishes the names of your files."
)


def checked_settings(settings: dict | str | None, *, where: str = "card") -> dict[str, str | list[str] | bool]:
    """Check what the owner says about an artifact.

    Args:
        settings: a mapping with keys of `KEYS`, or the same as JSON or YAML text; None is an empty one.
        where: what the messages call it.
    Raises: ValueError for unknown keys (with the nearest known one), values that are not text, and a licence without its name.
    """
    if where == "card":
        settings = read_mapping(settings, where, example="'{license: apache-2.0, language: en}'")
    if settings is None:
        return {}
    if not isinstance(settings, dict):  # from a file
        raise UserError(f"{where} is {settings!r}; it must be a mapping with keys such as license and language.")
    found: dict[str, str | list[str] | bool] = {}
    for key, value in settings.items():
        if key not in KEYS:
            near = nearest(str(key), KEYS)
            meant = f"did you mean {near!r}?" if near else f"the known keys are {', '.join(KEYS)}."
            raise UserError(f"unknown key {key!r} in {where}; {meant}")
        if value is None:
            continue
        if key in FLAGS:
            if not isinstance(value, bool):
                raise UserError(f"{key} in {where} is {value!r}; it must be true or false.")
            found[key] = value
            continue
        values = value if isinstance(value, list) and key in LISTS else [value]
        for one in values:
            if not isinstance(one, str):
                quotes = " (YAML reads no, yes, on and off as that: put it in quotes)" if isinstance(one, bool) else ""
                raise UserError(f"{key} in {where} is {one!r}, a {type(one).__name__}; it must be text{quotes}.")
        if key in MARKDOWN:
            found[key] = str(value).strip("\n")
        else:
            words = [" ".join(str(one).split()) for one in values]
            found[key] = words if isinstance(value, list) else words[0]
    if found.get("license") == "other" and not (found.get("license_name") and found.get("license_link")):
        raise UserError(f"license in {where} is 'other', which the Hub takes only with license_name and license_link; give both.")
    return found
