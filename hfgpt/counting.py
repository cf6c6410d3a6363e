"""Counts in log lines and messages, with their nouns, and lists that stay short."""

from collections.abc import Sequence

MOST_LISTED = 10


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


def listed(names: Sequence[object], *, most: int = MOST_LISTED, between: str = ", ") -> str:
    """The names, of which more than `most` end in "and 92 more"."""
    shown = between.join(str(name) for name in names[:most])
    return shown + (f" and {len(names) - most:,} more" if len(names) > most else "")
