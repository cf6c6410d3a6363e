"""Counts in log lines and messages, with their nouns or in words, and lists that stay short."""

from collections.abc import Iterable, Sequence

MOST_LISTED = 10
_WORDS = ((1e12, "trillion"), (1e9, "billion"), (1e6, "million"))


def counted(number: float, plural: str) -> str:
    """The number and what it counts: "1 document", "2,000 copies", "2.5 minutes".

    Args: `plural` ends in s; its last word is the noun, unless words with " of " follow it: "pairs of answers".
    """
    if number != 1:
        return f"{int(number) if number == int(number) else number:,} {plural}"
    plural, of, what = plural.partition(" of ")
    if of:
        return f"{counted(number, plural)}{of}{what}"
    return f"1 {plural.removesuffix('ies')}y" if plural.endswith("ies") else f"1 {plural.removesuffix('s')}"


def quoted(names: Iterable[object]) -> str:
    """All the names in quotes, or "none"."""
    return ", ".join(map(repr, names)) or "none"


def in_words(count: float) -> str:
    """A large number to three digits and in words, "1.84 million"; one below a million in full, "640,000"."""
    if count < 1e6:
        return f"{count:,.0f}"
    rounded = float(f"{count:.3g}")  # first, or 999,999,999 would be 1,000 million
    size, word = next((size, word) for size, word in _WORDS if rounded >= size)
    return f"{rounded / size:,.10g} {word}"


def listed(names: Sequence[object], *, most: int = MOST_LISTED, between: str = ", ") -> str:
    """The names, of which more than `most` end in "and 92 more"."""
    shown = between.join(str(name) for name in names[:most])
    return shown + (f" and {len(names) - most:,} more" if len(names) > most else "")
