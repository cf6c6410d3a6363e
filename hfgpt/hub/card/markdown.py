"""Values for a card: whatever they contain, the card shows exactly that text, and none of it is interpreted."""

import json
import math
import re

from hfgpt.counting import in_words

# In CommonMark, a backslash escapes any punctuation. These characters have a meaning within a line or table cell: emphasis, code,
# links, HTML, entities, formulas, mentions; and the colon and dot of addresses, which GitHub turns into links.
_ACTIVE = re.compile(r"[\\`*\[\]<>|~&$@]|(?<![^\W_])_|_(?![^\W_])|:(?=//)|(?<=www)\.", re.IGNORECASE)
# Also those that reverse the text direction, after which the text would read differently.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff]+")
_BEGINS_BLOCK = re.compile(r"^(?=[#+=-])")


class Markdown(str):
    """Text that is already Markdown and goes into the card unchanged."""


def escaped(value: object) -> str:
    """A value as text for a line or a table cell; line breaks and control characters become spaces.

    Every value that a template prints passes through here: `Markdown` stays unchanged, numbers are formatted for people.
    """
    if isinstance(value, Markdown):
        return value
    if isinstance(value, bool):
        return Markdown("yes" if value else "no")
    if isinstance(value, (int, float)):
        return number(value)
    return Markdown(_BEGINS_BLOCK.sub(r"\\", _ACTIVE.sub(r"\\\g<0>", one_line(str(value)))))


def one_line(text: str) -> str:
    """Remove control characters and whitespace that Markdown would not show: repeated spaces, and those at the ends."""
    return " ".join(_CONTROL.sub(" ", text).split())


def number(value: int | float) -> Markdown:
    """With thousands separators; a fraction keeps all its digits."""
    if isinstance(value, int):
        return Markdown(f"{value:,}")
    if not math.isfinite(value):
        return Markdown("not a number" if math.isnan(value) else "infinite")
    return Markdown(f"{value:,.0f}" if value.is_integer() else f"{value:,}")


def link(text: object, address: object) -> Markdown:
    """A link to a web address; only the text if there is none, or if it contains characters that could end the link."""
    # Anything else in an address could end the link or run a script.
    safe = isinstance(address, str) and re.fullmatch(r"https?://[^\s<>()\[\]\\`\"'|]+", address)
    return Markdown(f"[{escaped(text)}]({address})" if safe else escaped(text))


def figure(value: int | float) -> Markdown:
    """A measured value with four significant digits."""
    if isinstance(value, int) or not math.isfinite(value) or value == 0:
        return number(value)
    if abs(value) >= 1000:
        return Markdown(f"{value:,.0f}")
    return Markdown(f"{value:.1e}" if abs(value) < 1e-4 else f"{value:#.4g}")


def share(value: float) -> Markdown:
    """A share of 1 as a percentage with two decimals."""
    return Markdown(f"{100 * value:.2f} %" if math.isfinite(value) else "not a number")


def size(value: int) -> Markdown:
    """Bytes in a suitable unit."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= factor:
            return Markdown(f"{value / factor:,.1f} {unit}")
    return Markdown(f"{value:,} bytes")


def duration(seconds: float) -> Markdown:
    """Hours, minutes or seconds."""
    if seconds < 120:
        return Markdown(f"{seconds:.0f} seconds" if seconds >= 10 else f"{seconds:.1f} seconds")
    return Markdown(f"{seconds / 60:.1f} minutes" if seconds < 7200 else f"{seconds / 3600:,.1f} hours")


def energy(joules: float) -> Markdown:
    """Watt-hours, as on an electricity meter."""
    hours = joules / 3600
    return Markdown(f"{hours / 1000:,.2f} kWh" if hours >= 1000 else f"{hours:,.3g} Wh")


def literal(value: str) -> Markdown:
    """A value as a string of Python or JSON, for lines of code: quotes, line breaks and backslashes escaped."""
    # A backtick could end the surrounding code block, which nothing else on one line can.
    return Markdown(json.dumps(value, ensure_ascii=not value.isprintable()).replace("`", "\\u0060"))


def rough(value: int) -> Markdown:
    """A large count in the words that people use: 1.8 million."""
    return Markdown(in_words(value))


FILTERS = {function.__name__: function for function in (number, rough, figure, share, size, duration, energy, literal, link)}
