"""Run text steps in several processes on this machine, keeping document order and counts."""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from functools import partial
from itertools import chain
from multiprocessing.connection import wait
from types import ModuleType
from typing import Any, TypeVar

from hfgpt.data.on_disk import Document, in_batches
from hfgpt.data.steps import Outcome, StepCounts, TextStep, apply_steps

# Processes take seconds to start, and a text in transit is in memory three times.
WORTH_PROCESSES = 2**23  # characters processed before any are started
TOO_LONG_TO_SEND = 2**24  # characters of one document, which stays in this process
Drop = tuple[Document, int, Outcome]  # with the number of the step
Done = tuple[list[Document], list[StepCounts], list[Drop]]
Batch = TypeVar("Batch")
Result = TypeVar("Result")


def apply_steps_in_processes(
    documents: Iterable[Document],
    steps: Sequence[TextStep],
    counts: Sequence[StepCounts],
    *,
    num_proc: int,
    on_drop: Callable[[Document, TextStep, Outcome], None] | None = None,
) -> Iterator[Document]:
    """Same as `apply_steps`, in the same order, with `num_proc` processes once there is enough text to make it worthwhile.

    Memory: two batches of about `BATCH_CHARACTERS` per process.
    """
    documents = iter(documents)
    if not steps or num_proc < 2:
        yield from apply_steps(documents, steps, counts, on_drop)
        return
    yield from apply_steps(_first(documents, WORTH_PROCESSES), steps, counts, on_drop)
    following = next(documents, None)
    if following is None:
        return
    batches = in_batches(chain([following], documents))
    apply, from_main = partial(_apply, steps=tuple(steps)), any(type(step).__module__ == "__main__" for step in steps)
    for kept, counted, drops in in_processes(apply, batches, num_proc=num_proc, too_long=_is_long, from_main=from_main):
        for count, more in zip(counts, counted, strict=True):
            count.add(more)
        if on_drop is not None:
            for document, number, outcome in drops:
                on_drop(document, steps[number], outcome)
        yield from kept


def in_processes(
    function: Callable[[Batch], Result],
    batches: Iterable[Batch],
    *,
    num_proc: int,
    too_long: Callable[[Batch], bool],
    from_main: bool = False,
) -> Iterator[Result]:
    """Apply `function` to each batch, in order; batches that are `too_long` to send are handled in this process.

    If a process is killed, the run ends with an error; if this one is killed, the others exit by themselves.

    Args: `from_main` if `function` needs definitions from the script of this process.
    Memory: two batches per process, and 80 to 100 MB for its imported modules.
    """
    if num_proc < 2:
        yield from map(function, batches)
        return
    # Not forked: a copy of this process would lack its threads (Arrow's, the progress bar's) but keep their locks.
    method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    pool = ProcessPoolExecutor(num_proc, multiprocessing.get_context(method), _begin, (function,))
    waiting: deque[Future[Result]] = deque()
    try:
        for batch in batches:
            if too_long(batch):
                while waiting:
                    yield waiting.popleft().result()
                yield function(batch)
            else:
                with contextlib.nullcontext() if from_main else _no_main_module():
                    waiting.append(pool.submit(_call, batch))  # starts a process if all are busy
            while len(waiting) > 2 * num_proc:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def _no_main_module() -> Iterator[None]:
    """Processes started in this context do not import this one's script: a recipe imports datasets and transformers, 100 MB."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _is_long(batch: list[Document]) -> bool:
    return max(len(document["text"]) for document in batch) > TOO_LONG_TO_SEND


def _first(documents: Iterator[Document], characters: int) -> Iterator[Document]:
    while characters > 0 and (document := next(documents, None)) is not None:
        characters -= len(document["text"])
        yield document


def _apply(batch: list[Document], steps: Sequence[TextStep]) -> Done:
    counts = [StepCounts() for _ in steps]
    drops: list[Drop] = []
    numbers = {id(step): number for number, step in enumerate(steps)}

    def on_drop(document: Document, step: TextStep, outcome: Outcome) -> None:
        drops.append((document, numbers[id(step)], outcome))

    return list(apply_steps(batch, steps, counts, on_drop)), counts, drops


# In the other processes

_function: Callable[[Any], Any] = list  # until `_begin` says which


def _begin(function: Callable[[Any], Any]) -> None:
    global _function
    _function = function
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all of them; the first one stops the others
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


def _call(batch: Any) -> Any:
    return _function(batch)
