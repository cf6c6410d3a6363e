"""Counts in log lines and messages, with their nouns."""


def counted(number: int, plural: str) -> str:
    """The number and what it counts: "1 document", "2,000 copies". Args: `plural` ends in s; its last word is the noun."""
    if number != 1:
        return f"{number:,} {plural}"
    return f"1 {plural.removesuffix('ies')}y" if plural.endswith("ies") else f"1 {plural.removesuffix('s')}"
