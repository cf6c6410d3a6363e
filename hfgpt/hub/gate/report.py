"""What the gate found: one line per check, as a table for people and as JSON for machines."""

import textwrap
from dataclasses import asdict, dataclass, field
from typing import Literal

from hfgpt.errors import UserError

AGAIN = "write the folder again with the recipe that made it"
Status = Literal["pass", "fail", "warn", "skip"]
_WIDTH = 132


class Disagreement(UserError):
    """Two files contradict each other, or one is incomplete; `cure` says what to do."""

    def __init__(self, detail: str, cure: str = AGAIN):
        super().__init__(detail)
        self.cure = cure


@dataclass(frozen=True)
class CheckResult:
    """The result of one check.

    Args:
        name: a short name, the same in every report.
        detail: what was found.
        cure: for a failure or a warning, what to do about it.
    """

    name: str
    status: Status
    detail: str = ""
    cure: str = ""


@dataclass
class CheckReport:
    """All checks of one folder; `kind` is what it contains (a name in `hfgpt.artifacts.KINDS`)."""

    folder: str
    kind: str
    results: list[CheckResult] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether nothing failed and at least one check ran."""
        return any(result.status == "pass" for result in self.results) and not self.failures

    @property
    def failures(self) -> list[CheckResult]:
        """The failed checks, in order."""
        return [result for result in self.results if result.status == "fail"]

    def summary(self) -> str:
        """The counts in one line."""
        words = {"pass": "passed", "fail": "failed", "warn": "warnings", "skip": "skipped"}
        counts = {status: sum(result.status == status for result in self.results) for status in words}
        return ", ".join(f"{word}: {counts[status]}" for status, word in words.items())

    def table(self, *, details: bool = False) -> str:
        """A line per result, with the cure below failures and warnings; the last line has the counts.

        Args: `details` gives a line to each passed check, too, with what was found; otherwise, they are only named.
        """
        lines = [f"{self.folder} ({self.kind})"]
        shown = [result for result in self.results if details or result.status != "pass"]
        if not details and (passed := [result.name for result in self.results if result.status == "pass"]):
            lines += _wrapped("pass  ", ", ".join(passed))
        width = max((len(result.name) for result in shown), default=0)
        for result in shown:
            lines += _wrapped(f"{result.status}  {result.name:<{width}}  ", result.detail)
            if result.cure and result.status in ("fail", "warn"):
                lines.append(" " * (width + 8) + f"cure: {_printable(result.cure)}")  # on one line, because commands get pasted
        return "\n".join([*lines, self.summary()])

    def to_json(self) -> dict:
        """The same as one JSON object."""
        return {
            "format": 1,
            "folder": self.folder,
            "kind": self.kind,
            "passed": self.passed,
            "results": [asdict(result) for result in self.results],
        }


def _wrapped(start: str, text: str) -> list[str]:
    lines = textwrap.wrap(
        _printable(text), _WIDTH, initial_indent=start, subsequent_indent=" " * len(start),
        break_long_words=False, break_on_hyphens=False,  # do not break paths and commands
    )  # fmt: skip
    return lines or [start.rstrip()]


def _printable(text: str) -> str:
    # Text from a foreign file must not control the terminal.
    return "".join(character if character.isprintable() else " " for character in text)
