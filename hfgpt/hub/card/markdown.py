"""Values on their way into a card: whatever they hold, the card shows exactly that text, and nothing of it acts."""

import json
import math
import re

# CommonMark lets a backslash take the meaning of any punctuation. These have one within a line or a table's cell: emphasis, code,
# links, HTML, entities, formulas, mentions; and of addresses, which GitHub's Markdown links by themselves, the colon or point.
_ACTIVE = re.compile(r"[\\`*\[\]<>|~&$@]|(?<![^\W_])_|_(?![^\W_])|:(?=//)|(?<=www)\.", re.IGNORECASE)
# Also those that turn the direction of the text around, behind which something else would be read.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff]+")
_BEGINS_BLOCK = re.compile(r"^(?=[#+=-])")


class Markdown(str):
    """Text that is Markdown already and goes into the card as it is."""


def escaped(value: object) -> str:
    """A value as the text of a line or a table's cell; line breaks and control characters become spaces.

    Every value that a template prints goes through here: what is `Markdown` stays, a number is written for people.
    """
    if isinstance(value, Markdown):
        return value
    if isinstance(value, bool):
        return Markdown("yes" if value else "no")
    if isinstance(value, (int, float)):
        return number(value)
    return Markdown(_BEGINS_BLOCK.sub(r"\\", _ACTIVE.sub(r"\\\g<0>", one_line(str(value)))))


def one_line(text: str) -> str:
    """Without control characters, and without what Markdown would not show: several spaces in a row, and those at the ends."""
    return " ".join(_CONTROL.sub(" ", text).split())


def number(value: int | float) -> Markdown:
    """With thousands separators; a fraction with as many digits as it has."""
    if isinstance(value, int):
        return Markdown(f"{value:,}")
    if not math.isfinite(value):
        return Markdown("not a number" if math.isnan(value) else "infinite")
    return Markdown(f"{value:,.0f}" if value.is_integer() else f"{value:,}")


def link(text: object, address: object) -> Markdown:
    """A text that leads to an address of the web; the text alone where there is none, or it holds what could end the link."""
    # Whatever else an address holds could end the link, or be one that runs a script.
    safe = isinstance(address, str) and re.fullmatch(r"https?://[^\s<>()\[\]\\`\"'|]+", address)
    return Markdown(f"[{escaped(text)}]({address})" if safe else escaped(text))


def figure(value: int | float) -> Markdown:
    """A measured value with four digits that count."""
    if isinstance(value, int) or not math.isfinite(value) or value == 0:
        return number(value)
    if abs(value) >= 1000:
        return Markdown(f"{value:,.0f}")
    return Markdown(f"{value:.1e}" if abs(value) < 1e-4 else f"{value:#.4g}")


def share(value: float) -> Markdown:
    """A share of 1 as a percentage with two digits behind the point."""
    return Markdown(f"{100 * value:.2f} %" if math.isfinite(value) else "not a number")


def size(value: int) -> Markdown:
    """Bytes in the unit that people use for as many."""
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
    """Watt-hours, as an electricity meter counts them."""
    hours = joules / 3600
    return Markdown(f"{hours / 1000:,.2f} kWh" if hours >= 1000 else f"{hours:,.3g} Wh")


def literal(value: str) -> Markdown:
    """A value as a string of Python or JSON, for lines of code: quotes, line breaks and backslashes escaped."""
    # A backtick could end the block of code around it, which nothing else in one line can.
    return Markdown(json.dumps(value, ensure_ascii=not value.isprintable()).replace("`", "\\u0060"))


def code_line(value: str) -> Markdown:
    """A command as one line in a block of code, which it cannot end."""
    text = one_line(value)
    return Markdown(f"# {text}" if text.startswith(("`", "~")) else text)


def rough(value: int) -> Markdown:
    """A large count in the words that people use: 1.8 million."""
    for unit, factor in (("billion", 1e9), ("million", 1e6)):
        if value >= factor:
            return Markdown(f"{value / factor:,.3g} {unit}" if value < 1000 * factor else f"{value / factor:,.0f} {unit}")
    return number(value)


FILTERS = {
    function.__name__: function for function in (number, rough, figure, share, size, duration, energy, literal, link, code_line)
}
