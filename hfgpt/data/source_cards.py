"""What only the user knows about sources: the licence of a text, where it comes from, and its revision."""

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from pathlib import PurePath

from hfgpt.data.reading import Source
from hfgpt.errors import UserError
from hfgpt.tables import nearest

Cards = Mapping[str, Mapping[str, str]]  # by patterns of names: license, url, revision


def card_of(name: str, cards: Cards | None) -> dict[str, str]:
    """The card of the first pattern that matches the name of a source, in full or by its last part; empty if none does."""
    return dict(next((card for pattern, card in (cards or {}).items() if _matches(name, pattern)), {}))


def check_cards(cards: Cards | None, sources: Iterable[Source]) -> None:
    """Raises: UserError for a pattern that matches no source, and for a revision of a Hub dataset, which hub_revision selects."""
    sources = list(sources)
    for pattern, card in (cards or {}).items():
        matching = [source for source in sources if _matches(source.name, pattern)]
        if not matching:
            names = list(dict.fromkeys(name for source in sources for name in (source.name, PurePath(source.name).name)))
            near = nearest(pattern, names)
            meant = (
                f"did you mean {near!r}?" if near else "use the name of one of them, its file name, or a pattern such as '*.txt'."
            )
            raise UserError(f"source_cards has {pattern!r}, which matches none of the {len(sources):,} sources; {meant}")
        on_hub = next((source.name for source in matching if source.kind == "hub"), None)
        if on_hub and "revision" in card:
            raise UserError(f"source_cards gives the Hub dataset {on_hub} a revision; choose the one to read with --hub_revision.")


def _matches(name: str, pattern: str) -> bool:
    # A name with brackets in it is meant as it is written, too.
    return any(one == pattern or fnmatchcase(one, pattern) for one in (name, PurePath(name).name))
