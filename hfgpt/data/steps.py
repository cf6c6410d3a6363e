"""Steps applied to each document individually, before documents are compared: repairs, filters, masking.

A step takes the text of one document and returns the outcome. Steps run in order, one document at a time, wherever the documents
are: in this process, in others on this machine, or on a cluster.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from hfgpt.data.on_disk import Document
from hfgpt.data.passport import Passport

logger = logging.getLogger(__name__)

MOST_REASONS = 6  # in the log; the passport has all of them


@dataclass(frozen=True)
class Outcome:
    """The outcome for a text. Args: `text` is None if the document is dropped; `counts` says what was done how often, or why."""

    text: str | None
    counts: Mapping[str, int] = field(default_factory=dict)


class TextStep(Protocol):
    """One step. It can be pickled, and gives the same result for the same text in every process.

    Attributes:
        name: its name in log and passport, such as "mask personal data".
        settings: its settings for the passport.
    """

    @property
    def name(self) -> str: ...

    @property
    def settings(self) -> dict[str, object]: ...

    def __call__(self, text: str) -> Outcome: ...


@dataclass
class StepCounts:
    """What one step has done so far, in documents and UTF-8 bytes; `reasons` are its own counts."""

    documents_in: int = 0
    documents_out: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    seconds: float = 0.0
    reasons: Counter[str] = field(default_factory=Counter)

    def add(self, more: "StepCounts") -> None:
        """Add counts from elsewhere."""
        self.documents_in += more.documents_in
        self.documents_out += more.documents_out
        self.bytes_in += more.bytes_in
        self.bytes_out += more.bytes_out
        self.seconds += more.seconds
        self.reasons += more.reasons


def apply_steps(
    documents: Iterable[Document],
    steps: Sequence[TextStep],
    counts: Sequence[StepCounts],
    on_drop: Callable[[Document, TextStep, Outcome], None] | None = None,
) -> Iterator[Document]:
    """The documents kept by all steps, in order, with the resulting texts.

    Args: `on_drop` is called for each dropped document, with the text before the step.
    """
    for document in documents:
        for step, count in zip(steps, counts, strict=True):
            start = time.perf_counter()
            outcome = step(document["text"])
            count.seconds += time.perf_counter() - start
            count.documents_in += 1
            count.bytes_in += len(document["text"].encode())
            count.reasons.update(outcome.counts)
            if outcome.text is None:
                if on_drop is not None:
                    on_drop(document, step, outcome)
                break
            count.documents_out += 1
            count.bytes_out += len(outcome.text.encode())
            document = {**document, "text": outcome.text}
        else:
            yield document


def record_steps(steps: Sequence[TextStep], counts: Sequence[StepCounts], passport: Passport) -> None:
    """Add a passport entry and a log line for each step."""
    for step, count in zip(steps, counts, strict=True):
        passport.record(
            step.name,
            count.documents_in,
            count.documents_out,
            time.perf_counter() - count.seconds,
            bytes_in=count.bytes_in,
            bytes_out=count.bytes_out,
            reasons=dict(sorted(count.reasons.items())),
            settings=step.settings,
        )
        if count.reasons:
            ranked = count.reasons.most_common()
            more = [f"{len(ranked) - MOST_REASONS:,} more"] if len(ranked) > MOST_REASONS else []
            said = ", ".join([*(f"{reason} {number:,}" for reason, number in ranked[:MOST_REASONS]), *more])
            logger.info(f"{step.name}: {said}")
