"""Keys whose value is a mapping, in a YAML file or written out on the command line."""

import json
import re
from typing import Any

import yaml

from hfgpt.errors import UserError

_TEXT = "tag:yaml.org,2002:str"
_FLOAT = "tag:yaml.org,2002:float"
_NUMBERS = ("tag:yaml.org,2002:int", _FLOAT)


class MappingLoader(yaml.SafeLoader):
    """YAML that converts numbers, true and null, but leaves dates and times as text.

    No key takes a date, and YAML 1.1 would turn 02:00:00 into 7200.
    """

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def resolve(self, kind: Any, value: Any, implicit: Any) -> Any:
        tag = super().resolve(kind, value, implicit)
        return _TEXT if tag in _NUMBERS and ":" in value else tag


# YAML 1.1 wants a dot and a sign in 1.0e-4; as everywhere else, 1e-4 is a number, too.
MappingLoader.add_implicit_resolver(_FLOAT, re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789"))

MOST_CHARACTERS = 10_000_000  # in a YAML text with its aliases expanded


def load_yaml(text: str, kind: type[yaml.SafeLoader]) -> Any:
    """Parse a YAML text.

    Raises: yaml.YAMLError, also for a key given twice, and for nested aliases that would fill the memory ("billion laughs").
    """
    loader = kind(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        if (size := _written_out(node, {})) > MOST_CHARACTERS:
            raise yaml.YAMLError(f"with its aliases expanded it has {size:,} characters; {MOST_CHARACTERS:,} are allowed")
        return loader.construct_document(node)
    except RecursionError:
        raise yaml.YAMLError("it is nested too deeply") from None
    finally:
        loader.dispose()


def _written_out(node: yaml.Node, known: dict[int, int | None]) -> int:
    """Roughly how many characters a node has with every alias expanded; each node is counted once."""
    if id(node) not in known:
        known[id(node)] = None
        if isinstance(node, yaml.ScalarNode):
            known[id(node)] = len(node.value) + 1
        else:
            if isinstance(node, yaml.MappingNode):
                _refuse_repeated_keys(node)
            parts = [part for pair in node.value for part in pair] if isinstance(node, yaml.MappingNode) else node.value
            known[id(node)] = 1 + sum(_written_out(part, known) for part in parts)
    size = known[id(node)]
    if size is None:
        raise yaml.YAMLError("it contains an alias that refers to itself")
    return size


def _refuse_repeated_keys(node: yaml.MappingNode) -> None:
    """PyYAML would silently keep the last value."""
    keys: set[str] = set()
    for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
        if key.value in keys:
            raise yaml.YAMLError(f"{key.value} is given twice, the second time in line {key.start_mark.line + 1}; leave one out")
        keys.add(key.value)


def read_mapping(value: object, key: str, *, example: str) -> dict | None:
    """The mapping given for a key: a mapping, or its text as JSON or YAML; None means not given.

    Args: `example` is a value that can be pasted after the key on the command line, with its quotes.
    Raises: UserError if it is not a mapping.
    """
    found, why = value, ""
    if isinstance(value, str):
        try:
            found = json.loads(value)  # first, because YAML knows no surrogate pairs
        except (json.JSONDecodeError, RecursionError):
            try:
                found = load_yaml(value, MappingLoader)
                found = value if found is None else found
            except yaml.YAMLError as error:
                why = f" ({getattr(error, 'problem', None) or ' '.join(str(error).split())})"
    if found is not None and not isinstance(found, dict):
        raise UserError(f"{key} is not a mapping{why}: {value!r}; write it like this: --{key} {example}, or as a mapping in YAML.")
    return found
