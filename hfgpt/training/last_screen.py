"""The part of a run's report that is printed at its end: as much as a reader can take in at a glance."""

from pathlib import Path

MOST_LINES = 8
ADVICE = "advice:"  # the label of what a run says about its own result
_LAST = ("page:", "end:", "next:")


def last_screen(report: str, file: Path) -> str:
    """The first lines of a report, its advice, and those about where the result is and what to do next; the rest is only in its
    `file`."""
    lines = report.splitlines()
    if len(lines) > MOST_LINES:
        advice, last = ([line for line in lines if line.startswith(label)] for label in (ADVICE, _LAST))
        figures = [line for line in lines if not line.startswith((ADVICE, *_LAST))]
        first = figures[: max(1, MOST_LINES - 1 - len(advice) - len(last))]
        lines = [*first, *advice, f"{'more:':<12}{len(figures) - len(first)} lines in {file}", *last]
    return "\n".join(lines)
