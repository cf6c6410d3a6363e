"""overview.png: document lengths, tokens per source, and documents dropped per step."""

import unicodedata
import warnings
from pathlib import Path, PureWindowsPath
from typing import TYPE_CHECKING

from hfgpt.counting import counted
from hfgpt.data.passport import Passport
from hfgpt.data.splitting import SPLIT_STEP
from hfgpt.files import write_picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes

OVERVIEW_NAME = "overview.png"

MOST_SOURCES, MOST_STEPS = 12, 18  # the rest is combined in the last bar
_LONGEST_LABEL = 34
_COLORS = {"train": "#2c6fbb", "validation": "#e08a1e", "test": "#c0392b"}
_GREY = "#9db4cf"


def draw_overview(passport: Passport, path: Path) -> None:
    """Draw three plots from the passport of prepared data; the same passport gives the same bytes.

    Files are shown by the last part of their names; the published version omits them (hub/file_names.py).
    """
    from matplotlib.figure import Figure  # not pyplot: no global state, no display

    sources, steps = largest_sources(passport), dropped_by_step(passport)
    height = 2.2 + 0.26 * max(8, len(sources), min(len(steps), MOST_STEPS))
    figure = Figure(figsize=(15, height), layout="constrained")
    plots = figure.subplots(1, 3, squeeze=False)[0]
    _draw_lengths(plots[0], passport)
    _draw_sources(plots[1], sources)
    _draw_steps(plots[2], steps)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # such names are drawn as boxes
        write_picture(path, figure)


def largest_sources(passport: Passport) -> list[tuple[str, dict[str, int]]]:
    """The name of each source with its tokens by split, the largest first; those beyond `MOST_SOURCES` combined."""
    found = [
        (str(entry.get("name")), {split: counts["tokens"] for split, counts in (entry.get("splits") or {}).items()})
        for entry in passport.inputs
    ]
    known = {split: sum(tokens.get(split, 0) for _, tokens in found) for split in passport.splits}
    others = {split: max(0, counts["tokens"] - known[split]) for split, counts in passport.splits.items()}
    if any(others.values()):
        found.append(("made by steps", others))  # such as planted secrets
    found.sort(key=lambda one: -sum(one[1].values()))
    if len(found) > MOST_SOURCES:
        rest = found[MOST_SOURCES - 1 :]
        together = {split: sum(tokens.get(split, 0) for _, tokens in rest) for split in passport.splits}
        found = [*found[: MOST_SOURCES - 1], (f"{len(rest):,} others", together)]
    return found


def dropped_by_step(passport: Passport) -> list[tuple[str, int, int]]:
    """Each step that can drop documents, with its input and dropped counts, in order."""
    steps = [
        (str(entry["step"]), entry["documents_in"], entry["documents_in"] - entry["documents_out"])
        for entry in passport.steps
        if entry["step"] != SPLIT_STEP
        and isinstance(entry.get("documents_in"), int)
        and isinstance(entry.get("documents_out"), int)
    ]
    return [one for one in steps if one[2] >= 0]  # a step that adds documents, such as planted secrets, drops none


def _draw_lengths(axes: "Axes", passport: Passport) -> None:
    """Shares of the documents of each split by their tokens, in powers of two."""
    from matplotlib.ticker import PercentFormatter

    by_bits = {
        split: {int(least).bit_length(): count for least, count in lengths.items()} for split, lengths in passport.lengths.items()
    }
    used = [bits for lengths in by_bits.values() for bits in lengths]
    first, last = min(used, default=0), max(used, default=0)
    width = 0.8 / max(1, len(by_bits))
    for number, (split, lengths) in enumerate(by_bits.items()):
        total = sum(lengths.values())
        shares = [lengths.get(bits, 0) / max(1, total) for bits in range(first, last + 1)]
        places = [bits + (number - (len(by_bits) - 1) / 2) * width for bits in range(first, last + 1)]
        axes.bar(places, shares, width, color=_COLORS.get(split, _GREY), label=f"{split}: {counted(total, 'documents')}")
    step = max(1, (last - first) // 8)
    ticks = range(first, last + 1, step)
    axes.set_xticks(ticks, [_bin(bits) for bits in ticks], rotation=45, ha="right", fontsize=8)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set(xlabel="tokens per document", ylabel="share of the documents", title="Length")
    axes.margins(y=0.25)  # room for the legend
    axes.set_yticks([tick for tick in axes.get_yticks() if 0 <= tick <= 1])
    if passport.lengths:
        axes.legend(fontsize=8, frameon=False)


def _bin(bits: int) -> str:
    if bits < 2:
        return str(bits)
    return f"{_short_number(2 ** (bits - 1))}+"


def _short_number(value: float) -> str:
    for unit, factor in (("G", 2**30), ("M", 2**20), ("k", 2**10)):
        if value >= factor:
            return f"{value / factor:.0f}{unit}"
    return f"{value:.0f}"


def _draw_sources(axes: "Axes", sources: list[tuple[str, dict[str, int]]]) -> None:
    """Horizontal bars, a piece for each split."""
    total = max(1, sum(sum(tokens.values()) for _, tokens in sources))
    left = [0.0] * len(sources)
    for split in dict.fromkeys(split for _, tokens in sources for split in tokens):
        values = [tokens.get(split, 0) for _, tokens in sources]
        axes.barh(range(len(sources)), values, left=left, color=_COLORS.get(split, _GREY))
        left = [one + value for one, value in zip(left, values, strict=True)]
    ends = [f"{_count(value)} ({_percent(value / total)})" for value in left]
    _bars(axes, [name for name, _ in sources], left, ends)
    axes.set(xlabel="tokens (colours as on the left)", title="Tokens by source")


def _draw_steps(axes: "Axes", steps: list[tuple[str, int, int]]) -> None:
    """Horizontal bars of the documents that each step dropped, in order from above."""
    if len(steps) > MOST_STEPS:
        rest = steps[MOST_STEPS - 1 :]
        steps = [*steps[: MOST_STEPS - 1], (f"{len(rest):,} later steps", rest[0][1], sum(dropped for *_, dropped in rest))]
    values = [float(dropped) for *_, dropped in steps]
    axes.barh(range(len(steps)), values, color="#7f8c8d")
    ends = [f"{_count(dropped)} of {_count(before)} ({_percent(dropped / max(1, before))})" for _, before, dropped in steps]
    _bars(axes, [name for name, *_ in steps], values, ends)
    axes.set(xlabel="documents dropped", title="Dropped per step")


def _bars(axes: "Axes", names: list[str], values: list[float], ends: list[str]) -> None:
    """Names and values of horizontal bars; the first is the uppermost."""
    from matplotlib.ticker import EngFormatter, MaxNLocator

    axes.set_yticks(range(len(names)), [_label(name) for name in names], fontsize=8)
    for label in axes.get_yticklabels():
        label.set_parse_math(False)  # a name may have $ in it
    axes.set_ylim(max(len(names), 6) - 0.4, -0.6)  # few bars stay thin
    most = max([*values, 1.0])
    axes.set_xlim(0, 1.8 * most)  # room for what stands behind the bars
    axes.xaxis.set_major_locator(MaxNLocator(nbins=4, integer=True))
    axes.xaxis.set_major_formatter(EngFormatter(sep=" "))
    for place, (value, end) in enumerate(zip(values, ends, strict=True)):
        axes.text(value + 0.015 * most, place, end, va="center", fontsize=8)


def _label(name: str) -> str:
    """The last part of a name on one line; of a long one, beginning and end."""
    name = PureWindowsPath(name).name or name if not _on_hub(name) else name
    name = "".join(" " if unicodedata.category(character)[0] == "C" else character for character in name)
    name = " ".join(name.split())
    half = (_LONGEST_LABEL - 1) // 2
    return name if len(name) <= _LONGEST_LABEL else f"{name[:half]}…{name[-half:]}"


def _on_hub(name: str) -> bool:
    return name.count("/") == 1 and not PureWindowsPath(name).suffix


def _count(value: float) -> str:
    return f"{value:,.0f}" if value < 1e6 else f"{value / 1e6:,.2f} M" if value < 1e9 else f"{value / 1e9:,.2f} G"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.1 or not share else f"{100 * share:.1f} %" if share >= 0.001 else "< 0.1 %"
