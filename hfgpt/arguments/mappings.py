"""Keys whose value is a mapping: in a YAML file, and written out on the command line."""

import json
from typing import Any

import yaml

from hfgpt.errors import UserError

_TEXT = "tag:yaml.org,2002:str"
_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")


class MappingLoader(yaml.SafeLoader):
    """YAML whose numbers, true and null are what they are, and whose dates and times stay the text that was written.

    No key takes a date, and YAML 1.1 makes 7200 of 02:00:00.
    """

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def resolve(self, kind: Any, value: Any, implicit: Any) -> Any:
        tag = super().resolve(kind, value, implicit)
        return _TEXT if tag in _NUMBERS and ":" in value else tag


def read_mapping(value: object, key: str, *, example: str) -> dict | None:
    """The mapping that a key was given: a mapping, or its text as JSON or YAML; None is not given.

    Args: `example` is a value that can be pasted after the key on the command line, with its quotes.
    Raises: UserError for what is not a mapping.
    """
    found, why = value, ""
    if isinstance(value, str):
        try:
            found = json.loads(value)  # first: YAML 1.1 makes text of JSON's 1e-4
        except json.JSONDecodeError:
            try:
                found = yaml.load(value, Loader=MappingLoader)
                found = value if found is None else found
            except yaml.YAMLError as error:
                why = f" ({getattr(error, 'problem', None) or ' '.join(str(error).split())})"
    if found is not None and not isinstance(found, dict):
        raise UserError(f"{key} is not a mapping{why}: {value!r}; write it such as --{key} {example}, or as a mapping in YAML.")
    return found
