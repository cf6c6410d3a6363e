"""Tables instead of ifs: what depends on a name stands in one entry, and a new entry is all that an addition needs."""

import difflib
import importlib
from collections.abc import Iterable
from typing import Any, TypeVar

from hfgpt.errors import UserError

Entry = TypeVar("Entry")


class Table(dict[str, Entry]):
    """Entries by their names, in the order in which they were added; `TABLE["name"] = entry` adds one, from any package.

    Args: `key` is what the user wrote the name for, as the sentence about an unknown one calls it.
    """

    def __init__(self, key: str, entries: dict[str, Entry]):
        super().__init__(entries)
        self.key = key

    def find(self, name: str) -> Entry:
        """The entry of this name. Raises: UserError with the names that there are."""
        if name not in self:
            near = nearest(name, self)
            raise UserError(f"{self.key} is {name!r}; it can be {', '.join(self)}" + (f". Did you mean {near!r}?" if near else "."))
        return self[name]


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that was probably meant by a misspelled one; None where none is like it."""
    return next(iter(difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)), None)


def resolve(named: Any) -> Any:
    """What "module:object" names, imported now, so that a table of names costs no import of torch; any other object as it is."""
    if not isinstance(named, str):
        return named
    module, _, name = named.partition(":")
    return getattr(importlib.import_module(module), name)
