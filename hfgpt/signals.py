"""Signals that ask a program to end: the first is answered, the ones that only say it again are not, a second Ctrl-C leaves."""

import os
import signal
import stat
import threading
import time
from collections.abc import Callable
from typing import Any

# What asks a program to end: Ctrl-C, the system, a cluster that wants its machine back (`--signal` of Slurm), and a terminal that
# closes. Windows has the first two.
STOPPING_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGHUP") if hasattr(signal, name))
# Ctrl-C reaches a launcher and its processes at once, and the launcher passes on another signal when it ends: within this time
# all of them are one wish.
ONE_WISH_SECONDS = 1.0


class StopRequest:
    """Listens to the stopping signals, and knows which came first.

    `answer` is called with the first one. Later ones say the same again: a launcher passes on what the terminal has sent already,
    and several processes are not told at once. Only Ctrl-C after `ONE_WISH_SECONDS` is a wish of its own: it leaves at once, by a
    KeyboardInterrupt. What is ignored when listening begins stays so: Ctrl-C of a shell's background job, a terminal that closes
    under nohup.

    Args:
        answer: called in the signal's handler, with its number.
        children: what processes do that are forked meanwhile: "end" as the signal has it, or "ignore" it.
    Attributes: `number` of the first signal, or None.
    """

    def __init__(self, answer: Callable[[int], None], *, children: str):
        self.number: int | None = None
        self._answer = answer
        self._children = children
        self._owner = os.getpid()
        self._since = 0.0
        self._earlier: dict[int, Any] = {}

    def listen(self) -> None:
        """Begin; only the main thread may, and in others nothing happens."""
        self._owner = os.getpid()
        if threading.current_thread() is threading.main_thread():
            for number in STOPPING_SIGNALS:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._earlier[number] = signal.signal(number, self._receive)

    def close(self) -> None:
        """Who listened before listens again."""
        for number, handler in self._earlier.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._earlier = {}

    def note(self, number: int) -> None:
        """This signal has come, here or in another process."""
        self.number, self._since = number, time.monotonic()

    def _receive(self, number: int, frame) -> None:
        if os.getpid() != self._owner:
            if self._children == "end":
                signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)
        elif self.number is None:
            if number == getattr(signal, "SIGHUP", None):
                _leave_terminal()
            self.note(number)
            self._answer(number)
        elif number == signal.SIGINT and time.monotonic() - self._since > ONE_WISH_SECONDS:
            raise KeyboardInterrupt(number)


def ignore_stopping_signals() -> None:
    """For a process that is leaving, or that another one ends: what is still on its way would only cut it short."""
    if threading.current_thread() is threading.main_thread():
        for number in STOPPING_SIGNALS:
            signal.signal(number, signal.SIG_IGN)


def start_reader(start: Callable[[int], None] | None, number: int) -> None:
    """For a DataLoader's `worker_init_fn`: what reads rows stays, because the step that is finished needs it.

    torch ends it at SIGTERM, which a launcher or a cluster sends to all processes, and the one that trains with it.
    """
    ignore_stopping_signals()
    if start is not None:
        start(number)


def _leave_terminal() -> None:
    """Write to nowhere instead of a terminal that has closed, where every write would fail."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for descriptor in (1, 2):
        if stat.S_ISCHR(os.fstat(descriptor).st_mode):
            os.dup2(nowhere, descriptor)
    os.close(nowhere)
