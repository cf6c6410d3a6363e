"""Steps on single texts in several processes of this machine, with the documents in their order and the same counts."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from itertools import chain
from multiprocessing.connection import wait

from hfgpt.data.on_disk import Document, in_batches
from hfgpt.data.steps import StepCounts, TextStep, apply_steps

# Processes take seconds to start, and as long as a text is on its way to one, it is in memory three times.
WORTH_PROCESSES = 2**23  # characters that come before any are started
TOO_LONG_TO_SEND = 2**24  # characters of one document, which stays in this process
Done = tuple[list[Document], list[StepCounts]]


def apply_steps_in_processes(
    documents: Iterable[Document], steps: Sequence[TextStep], counts: Sequence[StepCounts], *, num_proc: int
) -> Iterator[Document]:
    """What `apply_steps` gives, in the same order, from `num_proc` processes once there is enough text to be worth it.

    A process that is killed ends the run with an error; where this one is killed, the others end by themselves.
    Memory: two batches of about `BATCH_CHARACTERS` for each process.
    """
    documents = iter(documents)
    if not steps or num_proc < 2:
        yield from apply_steps(documents, steps, counts)
        return
    seen = _Characters()
    yield from apply_steps(seen.up_to(WORTH_PROCESSES, documents), steps, counts)
    following = next(documents, None)
    if following is None:
        return
    yield from _in_pool(in_batches(chain([following], documents)), steps, counts, num_proc=num_proc)


def _in_pool(
    batches: Iterator[list[Document]], steps: Sequence[TextStep], counts: Sequence[StepCounts], *, num_proc: int
) -> Iterator[Document]:
    # Not forked from this process, whose threads (Arrow's, the progress bar's) a copy would lack, with the locks that they held.
    method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    pool = ProcessPoolExecutor(num_proc, multiprocessing.get_context(method), _begin, (tuple(steps),))
    waiting: deque[Future[Done] | Done] = deque()

    def first() -> Iterator[Document]:
        done = waiting.popleft()
        kept, counted = done.result() if isinstance(done, Future) else done
        for count, more in zip(counts, counted, strict=True):
            count.add(more)
        yield from kept

    try:
        for batch in batches:
            if max(len(document["text"]) for document in batch) > TOO_LONG_TO_SEND:
                while waiting:
                    yield from first()
                waiting.append(_apply(batch, steps))
            else:
                waiting.append(pool.submit(_apply_here, list(batch)))
            while len(waiting) > 2 * num_proc:
                yield from first()
        while waiting:
            yield from first()
    finally:
        pool.shutdown(cancel_futures=True)


@dataclass
class _Characters:
    """Counts the characters of the texts that go through."""

    number: int = 0

    def up_to(self, most: int, documents: Iterator[Document]) -> Iterator[Document]:
        while self.number < most and (document := next(documents, None)) is not None:
            self.number += len(document["text"])
            yield document


def _apply(batch: list[Document], steps: Sequence[TextStep]) -> Done:
    counts = [StepCounts() for _ in steps]
    return list(apply_steps(batch, steps, counts)), counts


# In the other processes

_steps: Sequence[TextStep] = ()


def _begin(steps: Sequence[TextStep]) -> None:
    global _steps
    _steps = steps
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all of them; the first one stops the others
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


def _apply_here(batch: list[Document]) -> Done:
    return _apply(batch, _steps)
