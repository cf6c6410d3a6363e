"""Parse the recipes' arguments: dataclass default < YAML < command line; no typo passes unnoticed."""

import argparse
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

import yaml
from transformers.hf_argparser import string_to_bool

from hfgpt.arguments.commands import print_page, shipped
from hfgpt.arguments.help import KeyParser
from hfgpt.arguments.keys import RecipeArguments
from hfgpt.arguments.mappings import MappingLoader, load_yaml
from hfgpt.arguments.terminal import split_quiet
from hfgpt.errors import MissingFileError, UserError
from hfgpt.files import with_home
from hfgpt.tables import nearest

ON_OFF = {"on": "true", "off": "false"}  # YAML 1.1 knows them besides yes and no


Arguments = TypeVar("Arguments", bound=RecipeArguments)


def parse_arguments(arguments_class: type[Arguments], argv: list[str]) -> Arguments:
    """Read `[run.yaml] [--key value ...]` into `arguments_class`.

    Args: `argv` is the command line without the program's name. A leading value without dashes is a YAML file, here or among the
    shipped ones, or the value of the class's `positional`.
    Raises: FileNotFoundError for a missing YAML file; ValueError for unknown keys (with the nearest known one), values of the
        wrong type, and missing ones; SystemExit after answering `--help`.
    """
    values = read_values(arguments_class, argv)
    try:
        return arguments_class(**values)
    except ValueError as error:  # TrainingArguments refuses contradictions; none of our checks has run yet
        raise UserError(str(error)) from None


def read_values(arguments_class: type[RecipeArguments], argv: list[str]) -> dict[str, Any]:
    """The given values by key, of their keys' types; otherwise like `parse_arguments`."""
    parser = KeyParser(arguments_class)
    for word in ("--help", "-h", "--help-all"):
        if word in argv:
            following = argv[argv.index(word) + 1 :][:1]
            print_page(parser.explain(everything=word == "--help-all" or following in (["all"], ["trainer"])))
            raise SystemExit(0)
    known = [action.dest for actions in parser.shown.values() for action in actions]
    argv = split_quiet(list(argv))[0]
    from_yaml: list[str] = []
    lists: dict[str, list] = {}
    if argv and not argv[0].startswith("-"):
        first = with_home(argv.pop(0))
        if Path(first).suffix.lower() in (".yaml", ".yml"):
            switches = {action.dest for action in parser._actions if action.type is string_to_bool}
            from_yaml, lists = _arguments_in_yaml(shipped(first, kind="configs"), known, switches)
        elif parser.positional:
            argv[:0] = [f"--{parser.positional}", first]
        else:
            raise UserError(f"got {first!r}; the first argument must be a YAML file or --key value.")
    several = {action.dest for action in parser._actions if action.nargs == "+"}
    keys = [_key_of(word) for word in argv if word.startswith("--")]
    for place, key in enumerate(keys):
        check_key(key, known, where="the command line")
        # The last of several single values wins, so that a script's words can be followed by others; of lists, both were meant.
        if key in several and key in keys[:place]:
            raise UserError(f"{key} is given twice on the command line; write all its values after one --{key}.")

    defaults = vars(parser.parse_args([]))
    # A list is passed as the default of its key: on a command line, an item such as "--x" would be taken for a key.
    parser.set_defaults(**{key: _converted(parser, key, items) for key, items in lists.items()})
    namespace, rest = parser.parse_known_args(from_yaml + argv)
    if rest:
        raise UserError(f"on the command line, {' '.join(rest)!r} belongs to no key; write --key value.")
    # What was given is passed on even if it equals the default: code that chooses values for the user must not change it.
    named = {_key_of(word) for word in from_yaml if word.startswith("--")} | {*keys, *lists}
    return {name: getattr(namespace, name) for name in known if name in named or getattr(namespace, name) != defaults[name]}


def _key_of(word: str) -> str:
    """The key in a word of a command line, `--key` or `--key=value`."""
    return word[2:].split("=")[0].replace("-", "_")


def check_key(key: str, known: Iterable[str], *, where: str) -> None:
    """Raises: ValueError for an unknown key, with the nearest known one."""
    if key not in known and key.removeprefix("no_") not in known:
        near = nearest(key, known)
        raise UserError(f"unknown key {key!r} in {where}" + (f"; did you mean {near!r}?" if near else "."))


def _converted(parser: KeyParser, key: str, items: list) -> list:
    action = next(action for action in parser._actions if action.dest == key)
    if action.nargs != "+":
        raise UserError(f"{key} is a list of {len(items)} items; it must be a single value.")
    if others := [item for item in items if not isinstance(item, str)]:
        raise UserError(f"{key} has the item {others[0]!r}; every item must be a single value.")
    try:
        return [parser._get_value(action, item) for item in items]
    except argparse.ArgumentError as error:
        parser.error(str(error))


class _AsWritten(yaml.SafeLoader):
    """YAML whose scalars stay as written; the key's own type decides later what they mean.

    YAML 1.1 turns `no` and `on` into booleans, 1.10 into 1.1 and 1:10 into 70, whatever the key. Only empty values and merge keys
    keep their YAML meaning here.
    """

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag in ("tag:yaml.org,2002:null", "tag:yaml.org,2002:merge")]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


def _arguments_in_yaml(path: Path, known: list[str], switches: set[str]) -> tuple[list[str], dict[str, list]]:
    """The YAML's entries as words of a command line, so that one parser converts and checks both; lists are returned separately.

    Args: `switches` are the keys that are true or false, for which YAML has spellings that the parser does not know.
    """
    if not path.is_file():
        raise MissingFileError(f"{path} does not exist (looked from {Path.cwd()}); check the spelling.")
    try:
        text = path.read_text(encoding="utf-8")
        written = load_yaml(text, _AsWritten) or {}
        resolved = load_yaml(text, MappingLoader)
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(written, dict):
        raise UserError(f"{path} holds a {type(written).__name__}; it must consist of lines of the form 'key: value'.")
    words: list[str] = []
    lists: dict[str, list] = {}
    for key, value in written.items():
        if not isinstance(key, str):
            raise UserError(f"{path} has the key {key!r}; every line must begin with the name of a key.")
        check_key(key, known, where=str(path))
        if value is None:
            continue  # the default
        if isinstance(value, dict):
            words += [f"--{key}={json.dumps(resolved[key])}"]  # no type of ours describes its contents
        elif isinstance(value, list):
            lists[key] = value
        else:
            words += [f"--{key}={ON_OFF.get(value.lower(), value) if key in switches else value}"]
    return words, lists
