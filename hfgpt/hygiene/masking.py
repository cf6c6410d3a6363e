"""Handle findings in a text: replace them with typed placeholders, or drop the document."""

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from hfgpt.data.steps import Outcome


class Found(NamedTuple):
    """A finding in a text. Args: characters `start` to `end`; `type` is used for the placeholder, `kind` for counting."""

    start: int
    end: int
    type: str
    kind: str


def placeholder(type: str) -> str:
    """`<EMAIL>` for "email": plain text, distinct from our special tokens, which are written `<|...|>`."""
    return f"<{type.upper()}>"


def joined(found: Iterable[Found]) -> list[Found]:
    """Sorted; overlapping findings become one, with the type that begins first, so that no part is left."""
    places: list[Found] = []
    for one in sorted(found, key=lambda one: (one.start, -one.end)):
        if places and one.start < places[-1].end:
            places[-1] = places[-1]._replace(end=max(places[-1].end, one.end))
        else:
            places.append(one)
    return places


def outcome(text: str, found: Iterable[Found], action: str) -> Outcome:
    """The text with placeholders ("mask"), or None ("drop") if anything was found; counts of findings by kind."""
    places = joined(found)
    if not places:
        return Outcome(text)
    counts = Counter(place.kind for place in places)
    if action == "drop":
        return Outcome(None, counts)
    pieces, end = [], 0
    for place in places:
        pieces += [text[end : place.start], placeholder(place.type)]
        end = place.end
    return Outcome("".join([*pieces, text[end:]]), counts)
