"""A training run as charts: which figures of its log belong together, their points, scales and numbers."""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hfgpt.files import write_picture

CURVES_PICTURE = "curves.png"
# With more log lines than this, each point of a curve is the mean of several.
MOST_POINTS = 120
# Rows in the table below a chart; the log has all of them.
MOST_NUMBERS = 12


@dataclass(frozen=True)
class Chart:
    """Figures from the log that are shown together.

    Args:
        title: what they are.
        lines: keys of the log, and the label of each if there are several.
        unit: the unit of all of them.
        is_share: shares between 0 and 1, shown in percent.
        from_zero: whether the scale starts at 0.
        on_card: whether the card's picture shows it; the loss has its own picture.
    """

    title: str
    lines: tuple[tuple[str, str], ...]
    unit: str = ""
    is_share: bool = False
    from_zero: bool = True
    on_card: bool = False


LOSS = Chart("Loss", (("loss", "training"), ("eval_loss", "validation")), from_zero=False)
CHARTS = (
    LOSS,
    Chart("Bits per byte", (("eval_bits_per_byte", "validation"),), "bits per byte of validation text", from_zero=False),
    Chart("Labels", (("eval_accuracy", "accuracy"), ("eval_macro_f1", "macro F1")), "validation texts", is_share=True),
    Chart(
        "Rewards",
        (("eval_chosen_reward", "chosen"), ("eval_rejected_reward", "rejected"), ("eval_reward_margin", "margin")),
        "validation pairs",
        from_zero=False,
    ),
    Chart(
        "Preferred answers",
        (
            ("eval_reward_accuracy", "margin above 0"),
            ("eval_likelihood_accuracy", "chosen answer more likely"),
            ("eval_reward_side_accuracy", "on the right side"),
        ),
        "share of validation pairs",
        is_share=True,
    ),
    Chart("Learning rate", (("learning_rate", "AdamW"), ("muon_learning_rate", "Muon")), on_card=True),
    Chart("Gradient norm", (("grad_norm", ""),), "before clipping", on_card=True),
    Chart("Speed", (("tokens_per_second", ""),), "tokens per second", on_card=True),
    Chart("MFU", (("mfu", ""),), "share of the measured ceiling", is_share=True, on_card=True),
)

Points = list[tuple[float, float]]


def points_of(log: Iterable[Mapping], key: str) -> Points:
    """Steps and values of a figure; values that are not finite are left out."""
    found = ((entry["step"], entry[key]) for entry in log if "step" in entry and isinstance(entry.get(key), (int, float)))
    return [(step, float(value)) for step, value in found if math.isfinite(value)]


def thinned(points: Points, most: int = MOST_POINTS) -> Points:
    """At most this many points, each the mean of several at the last of their steps; if there are few, they stay unchanged."""
    of_one = -(-len(points) // most)
    groups = [points[start : start + of_one] for start in range(0, len(points), of_one or 1)]
    return [(group[-1][0], sum(value for _, value in group) / len(group)) for group in groups]


def ticks(low: float, high: float) -> list[float]:
    """About five evenly spaced round numbers that enclose `low` and `high`."""
    if not high > low:
        low, high = low - (abs(low) * 0.1 or 0.5), high + (abs(high) * 0.1 or 0.5)
    rough = (high - low) / 4
    size = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * size for factor in (1, 2, 2.5, 5, 10) if factor * size >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(number * step, 12) for number in range(first, last + 1)]


def figure(value: float, *, is_share: bool = False) -> str:
    """A number for people: four significant digits, shares in percent."""
    if is_share:
        return f"{100 * value:.4g} %"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if 0 < abs(value) < 0.001 else f"{value:.4g}"


@dataclass(frozen=True)
class DrawnLine:
    """A curve: its name, its points, and their positions in percent of the chart's width and of its height from the top."""

    name: str
    points: Points
    places: Points


@dataclass(frozen=True)
class DrawnChart:
    """A chart ready to be drawn at any size.

    Args:
        lines: its curves.
        x, y: ticks, each with its place in percent and its label.
        moments: strips of its width in percent (start, width), each with the values of the curves there.
        table: rows of the step and the value of each curve, as text.
        summary: what the curves show, in a sentence, for readers who cannot see them.
        of_one: the maximum number of log lines averaged into one point.
    """

    chart: Chart
    unit: str
    lines: list[DrawnLine]
    x: list[tuple[float, str]]
    y: list[tuple[float, str]]
    moments: list[tuple[float, float, str]]
    table: list[list[str]]
    summary: str
    of_one: int


def drawn_charts(log: Sequence[Mapping], *, unit: str = "nats per token") -> list[DrawnChart]:
    """The charts of CHARTS for which this log has figures. Args: `unit` is the unit of the loss."""
    drawn = (_drawn(chart, log, unit if chart is LOSS else chart.unit) for chart in CHARTS)
    return [one for one in drawn if one is not None]


def _drawn(chart: Chart, log: Sequence[Mapping], unit: str) -> DrawnChart | None:
    raw = {name: points for key, name in chart.lines if (points := points_of(log, key))}
    if not raw:
        return None
    curves = {name: thinned(points) for name, points in raw.items()}
    values = [value for points in curves.values() for _, value in points]
    y_ticks = ticks(min([*values, 0.0] if chart.from_zero else values), max(values))
    last = max(points[-1][0] for points in raw.values()) or 1
    x_ticks = sorted({int(tick) for tick in ticks(0, last) if tick <= last})
    bottom, top = y_ticks[0], y_ticks[-1]

    def place(step: float, value: float) -> tuple[float, float]:
        return round(100 * step / last, 3), round(100 * (top - value) / (top - bottom), 3)

    lines = [DrawnLine(name, points, [place(*point) for point in points]) for name, points in curves.items()]
    steps = sorted({step for points in curves.values() for step, _ in points})
    edges = [0.0, *((one + other) / 2 for one, other in itertools.pairwise(steps)), last]
    moments = [
        (round(100 * start / last, 3), round(100 * (end - start) / last, 3), _at(step, curves, chart))
        for step, start, end in zip(steps, edges, edges[1:])
    ]
    return DrawnChart(
        chart=chart,
        unit=unit,
        lines=lines,
        x=[(place(tick, top)[0], f"{tick:,}") for tick in x_ticks],
        y=[(place(0, tick)[1], figure(tick, is_share=chart.is_share)) for tick in y_ticks],
        moments=moments,
        table=_table(raw, chart),
        summary="; ".join(_course(name, points, chart) for name, points in raw.items()),
        of_one=max(-(-len(points) // MOST_POINTS) for points in raw.values()),
    )


def _at(step: float, curves: dict[str, Points], chart: Chart) -> str:
    values = ((name, dict(points).get(step)) for name, points in curves.items())
    said = [f"{name} {figure(value, is_share=chart.is_share)}".strip() for name, value in values if value is not None]
    return f"step {step:,.0f}: {', '.join(said)}"


def _table(curves: dict[str, Points], chart: Chart) -> list[list[str]]:
    """The first step, the last and some in between, from the curve with the fewest points; for the others, the latest value."""
    steps = [step for step, _ in min(curves.values(), key=len)]
    gaps = min(MOST_NUMBERS, len(steps)) - 1
    chosen = [steps[round(number * (len(steps) - 1) / gaps)] for number in range(gaps + 1)] if gaps > 0 else steps[:1]
    rows = []
    for step in chosen:
        before = (max((point for point in points if point[0] <= step), default=None) for points in curves.values())
        shown = [figure(point[1], is_share=chart.is_share) if point else "\N{EN DASH}" for point in before]
        rows.append([f"{step:,.0f}", *shown])
    return rows


def _course(name: str, points: Points, chart: Chart) -> str:
    (first_step, first), (last_step, last) = points[0], points[-1]
    first, last = (figure(value, is_share=chart.is_share) for value in (first, last))
    what = name or chart.title.lower()
    return f"{what} {first} at step {first_step:,.0f}" + (f", {last} at step {last_step:,.0f}" if len(points) > 1 else "")


def draw_curves(log: list[dict], path: Path) -> None:
    """Plot learning rates, gradients and speed of a training run in one picture for its card."""
    shown = [one for one in drawn_charts(log) if one.chart.on_card]
    if not shown:
        return
    from matplotlib.figure import Figure  # without pyplot: no global state, no display
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    rows = -(-len(shown) // 2)
    height = 2.3 * rows  # inches; the margins are set, because finding them takes a third of the time
    picture = Figure(figsize=(8, height))
    picture.subplots_adjust(left=0.085, right=0.98, bottom=0.3 / height, top=1 - 0.3 / height, wspace=0.24, hspace=0.38)
    for number, one in enumerate(shown, start=1):
        axes = picture.add_subplot(rows, 2, number)
        for line, color in zip(one.lines, ("#2f6db5", "#c0392b", "#5b7f3a")):
            axes.plot(*zip(*line.points), color=color, linewidth=1.3, marker="." if len(line.points) < 3 else None, label=line.name)
        if len(one.lines) > 1:
            axes.legend(frameon=False, fontsize=8)
        axes.set_title(one.chart.title + (f" ({one.unit})" if one.unit else ""), fontsize=9, loc="left")
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=0)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda step, _: f"{step:,.0f}"))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _, share=one.chart.is_share: figure(value, is_share=share)))
        axes.tick_params(labelsize=8)
        axes.grid(alpha=0.3)
    write_picture(path, picture)
