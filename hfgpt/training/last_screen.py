"""The part of a run's report that is printed at its end: as much as a reader can take in at a glance."""

from pathlib import Path

MOST_LINES = 8
_LAST = ("page:", "end:", "next:")


def last_screen(report: str, file: Path) -> str:
    """The first lines of a report and those about where the result is and what to do next; the rest is only in its `file`."""
    lines = report.splitlines()
    if len(lines) > MOST_LINES:
        last = [line for line in lines if line.startswith(_LAST)]
        first = lines[: MOST_LINES - 1 - len(last)]
        lines = [*first, f"{'more:':<12}{len(lines) - len(first) - len(last)} lines in {file}", *last]
    return "\n".join(lines)
