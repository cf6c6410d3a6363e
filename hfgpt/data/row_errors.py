"""Handling of single rows that cannot be used: stop at the first one, or skip them and count them by reason.

The same rule for all readers of rows and documents. Only errors in a single row may be skipped (a line that is not JSON, a blank
answer, a number instead of text); errors in a whole file (an unknown encoding, a missing column) always stop the run.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TypeVar

from hfgpt.counting import counted
from hfgpt.data.passport import Passport
from hfgpt.errors import UserError
from hfgpt.tables import check_allowed

logger = logging.getLogger(__name__)

Row = TypeVar("Row")
Value = TypeVar("Value")

ON_ERROR = ("stop", "skip")
# Before a command that ends a message: no full stop follows, which would be copied with it, and nothing else.
CONVERT_WITH = "; convert it with: "


class RowError(UserError):
    """One row cannot be used.

    Args:
        message: the full message, with the row's position, the value and what to do.
        reason: what is wrong, without position or value: rows with the same reason are counted together.
        source: the file or data set of the row.
        of_all: whether all rows of the source seem to have the same fault, so that skipping them would leave none.
    """

    def __init__(self, message: str, *, reason: str, source: str, of_all: bool = False):
        super().__init__(message)
        self.reason, self.source, self.of_all = reason, source, of_all

    def __reduce__(self):  # by default, an exception from another process only keeps its message
        return partial(type(self), reason=self.reason, source=self.source), self.args


class RowErrors:
    """Handles every `RowError` of one pass, and counts skipped rows.

    Args: `on_error` is one of `ON_ERROR`.
    """

    def __init__(self, on_error: str = "stop"):
        check_allowed("on_error", on_error, ON_ERROR)
        self.on_error = on_error
        self.counts: Counter[str] = Counter()  # by reason
        self.firsts: dict[str, str] = {}  # the first message of each reason
        self.sources: Counter[str] = Counter()

    def handle(self, error: RowError) -> None:
        """Count the row as skipped.

        Raises: the error itself if `on_error` is "stop".
        """
        if self.on_error == "stop":
            if error.of_all:
                raise error from None
            said, convert, command = str(error).partition(CONVERT_WITH)
            skip = "set --on_error skip"
            message = f"{said} To skip such rows, {skip}."
            if convert:
                message = f"{said}; to skip such rows, {skip}, or convert the file with: {command}"
            raise RowError(message, reason=error.reason, source=error.source) from None
        self.counts[error.reason] += 1
        self.firsts.setdefault(error.reason, str(error))
        self.sources[error.source] += 1

    @property
    def skipped(self) -> int:
        return sum(self.counts.values())

    def finish(self, used: Iterable[str], passport: Passport | None = None) -> None:
        """Log how many rows were skipped for each reason, with the first of each, and record the counts in the passport.

        Args: `used` names the sources of the rows that were not skipped; repeated names do not matter.
        Raises: UserError if all rows of a source were skipped.
        """
        if not self.counts:
            return
        for reason, count in self.counts.most_common():
            logger.info(f"skipped {counted(count, 'rows')} ({reason}); the first: {self.firsts[reason]}")
        empty = self.sources.keys() - set(used)
        if empty:
            source = min(empty)
            raise UserError(
                f"all {self.sources[source]:,} rows of {source} were skipped (on_error: skip): "
                f"{', '.join(f'{reason} ({count:,})' for reason, count in self.counts.most_common())}. The first: "
                f"{next(iter(self.firsts.values()))}"
            )
        if passport is not None:
            passport.steps.append({"step": "skip rows that cannot be used", "rows": self.skipped, "reasons": dict(self.counts)})


def usable(rows: Iterable[Row], read: Callable[[Row], Value], errors: RowErrors | None) -> Iterator[Value]:
    """Apply `read` to each row; if it raises a `RowError`, pass it to `refuse`."""
    for row in rows:
        try:
            value = read(row)
        except RowError as error:
            refuse(error, errors)
            continue
        yield value


def refuse(error: RowError, errors: RowErrors | None) -> None:
    """Pass the error to `errors`, or raise it if there is none."""
    if errors is None:
        raise error from None
    errors.handle(error)
