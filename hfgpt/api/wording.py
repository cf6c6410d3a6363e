"""Messages for Python programs: the keys that they name are arguments of a function there, not options of a command line."""

import re
from collections.abc import Collection, Mapping

from hfgpt.arguments.commands import as_started

# A command for a terminal stays one: from its program to the end of the clause, quoted words included.
_COMMAND = (
    r"""\b(?:hfgpt [a-z][a-z-]*|torchrun|accelerate launch|pip install|python|jupyter|sbatch)\b(?:'[^']*'|"[^"]*"|[^;,(\n'"])*"""
)
_VALUE = r"""\d{1,3}(?:,\d{3})+|'[^']*'|"[^"]*"|[^\s,;()]*[^\s,;().]"""
_OPTION = rf"(?<![\w-])--(?P<key>[a-z]\w*)(?: (?P<value>{_VALUE}))?"
_COMMAND_OR_OPTION = re.compile(f"(?P<command>{_COMMAND})|{_OPTION}")
_FIELDS = re.compile(r"(?<![\w-])--allow_change ([a-z_]+(?: [a-z_]+)+)(?=[,.;)]|$)")  # the one key whose values are several words
_NUMBER = re.compile(r"-?\d[\d,]*(\.\d+)?(e-?\d+)?")


def in_python(text: str, choices: Mapping[str, Collection[str]] | None = None) -> str:
    """A message with `--overwrite true` written as `overwrite=True`; commands for a terminal stay as they are.

    Args: `choices` are the words that are values of each of a function's keys; after other keys, only numbers, true and false,
        paths and quoted words are taken for their values.
    """

    def written(match: re.Match[str]) -> str:
        if match["command"]:
            return match[0]
        key, value = match["key"], match["value"]
        if value is None:
            return key
        if (word := _literal(value, (choices or {}).get(key, ()))) is None:
            return f"{key} {value}"
        return f"{key}={word}"

    text = _FIELDS.sub(lambda match: f"allow_change={match[1].split()}", as_started(text))
    return _COMMAND_OR_OPTION.sub(written, text)


def _literal(value: str, choices: Collection[str]) -> str | None:
    """The value as Python writes it; None if it is the next word of the sentence."""
    if value in ("true", "false"):
        return value.title()
    if _NUMBER.fullmatch(value):
        return value.replace(",", "_")
    if value[0] in "'\"":
        return value
    is_word = value in choices or value in ("auto", "never", "none") or "/" in value or "_" in value
    return repr(value) if is_word else None
