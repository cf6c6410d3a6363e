"""Tables instead of ifs: everything that depends on a name is in one entry, and adding something only needs a new entry."""

import difflib
import importlib
from collections.abc import Iterable
from typing import Any, TypeVar

from hfgpt.errors import UserError

Entry = TypeVar("Entry")
NEAR = 0.65  # of difflib's ratio: "warmup_ratio" is near "warmup_steps" (0.67), "question_column" not near "columns" (0.6)


class Table(dict[str, Entry]):
    """Entries by name, in the order in which they were added; `TABLE["name"] = entry` adds one, from any package.

    Args: `key` is what the name stands for, used in the message about an unknown name.
    """

    def __init__(self, key: str, entries: dict[str, Entry]):
        super().__init__(entries)
        self.key = key

    def find(self, name: str) -> Entry:
        """The entry with this name. Raises: UserError with the known names."""
        check_allowed(self.key, name, self)
        return self[name]


def check_allowed(key: str, value: str, allowed: Iterable[str]) -> None:
    """Raises: UserError with the allowed values of a key, and the one that was probably meant."""
    if value not in (names := list(allowed)):
        near = nearest(value, names)
        raise UserError(f"{key} is {value!r}; allowed: {', '.join(names)}" + (f". Did you mean {near!r}?" if near else "."))


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name closest to a misspelled one, or the only one with all of its words ("epochs": "num_train_epochs"); else
    None."""
    names = list(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=NEAR)
    longer = [one for one in names if set(name.split("_")) < set(one.split("_"))]
    return near[0] if near else longer[0] if len(longer) == 1 else None


def resolve(named: Any) -> Any:
    """Import and return what "module:object" refers to, so that a table of names needs no import of torch; any other object is
    returned unchanged."""
    if not isinstance(named, str):
        return named
    module, _, name = named.partition(":")
    return getattr(importlib.import_module(module), name)
