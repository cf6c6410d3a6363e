"""What becomes of single rows that cannot be used: the run stops at the first, or leaves them out, counted by reason.

One rule for all readers of rows and documents. Only what is wrong with one row may be skipped (a line that is not JSON, a blank
answer, a number where text is needed); what is wrong with a whole file (an unknown encoding, a missing column) always stops.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TypeVar

from hfgpt.data.passport import Passport
from hfgpt.errors import UserError

logger = logging.getLogger(__name__)

Row = TypeVar("Row")
Value = TypeVar("Value")

ON_ERROR = ("stop", "skip")


class RowError(UserError):
    """One row cannot be used.

    Args:
        message: the whole sentence, with the row's place, value and cure.
        reason: what is wrong, without place or value: rows of one reason are counted together.
        source: the file or data set that the row is from.
    """

    def __init__(self, message: str, *, reason: str, source: str):
        super().__init__(message)
        self.reason, self.source = reason, source

    def __reduce__(self):  # by itself, an exception comes from another process with its message alone
        return partial(type(self), reason=self.reason, source=self.source), self.args


class RowErrors:
    """Decides about every `RowError` of one reading, and counts what is skipped.

    Args: `on_error` is one of `ON_ERROR`.
    """

    def __init__(self, on_error: str = "stop"):
        if on_error not in ON_ERROR:
            raise UserError(f"on_error is {on_error!r}; allowed are {' and '.join(map(repr, ON_ERROR))}.")
        self.on_error = on_error
        self.counts: Counter[str] = Counter()  # by reason
        self.firsts: dict[str, str] = {}  # the first message of each reason
        self.sources: Counter[str] = Counter()

    def handle(self, error: RowError) -> None:
        """Count the row as skipped.

        Raises: the error itself where `on_error` is "stop".
        """
        if self.on_error == "stop":
            message = f"{error} To leave such rows out, set on_error: skip."
            raise RowError(message, reason=error.reason, source=error.source) from None
        self.counts[error.reason] += 1
        self.firsts.setdefault(error.reason, str(error))
        self.sources[error.source] += 1

    @property
    def skipped(self) -> int:
        return sum(self.counts.values())

    def finish(self, used: Iterable[str], passport: Passport | None = None) -> None:
        """Log how many rows were skipped by reason, with the first of each, and note the counts in the passport.

        Args: `used` names the sources of the rows that were not skipped; repeated names do not matter.
        Raises: UserError where all rows of a source were skipped.
        """
        if not self.counts:
            return
        for reason, count in self.counts.most_common():
            logger.info(f"skipped {count:,} {'row' if count == 1 else 'rows'} ({reason}); the first: {self.firsts[reason]}")
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
    """What `read` makes of each row; a row that it refuses with a `RowError` goes to `errors`, as `refuse` has it."""
    for row in rows:
        try:
            value = read(row)
        except RowError as error:
            refuse(error, errors)
            continue
        yield value


def refuse(error: RowError, errors: RowErrors | None) -> None:
    """Hand the error to those who decide about it, or raise it where nobody does."""
    if errors is None:
        raise error from None
    errors.handle(error)
