"""Signals that ask a program to stop: the first is handled, repetitions are ignored, and a second Ctrl-C exits."""

import os
import signal
import stat
import threading
import time
from collections.abc import Callable
from typing import Any

# Signals that ask a program to stop: Ctrl-C, the system, a cluster that reclaims its machine (`--signal` of Slurm), and a terminal
# that closes. Windows has the first two.
STOPPING_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGHUP") if hasattr(signal, name))
# Ctrl-C reaches a launcher and its processes at the same time, and the launcher sends another signal when it ends: within this
# time, all of them count as one request.
ONE_WISH_SECONDS = 1.0


class StopRequest:
    """Listens for stopping signals, and remembers which came first.

    `answer` is called with the first one. Later ones are repetitions: a launcher forwards what the terminal has already sent, and
    several processes are not signalled simultaneously. Only Ctrl-C after `ONE_WISH_SECONDS` is a new request: it exits at once with
    a KeyboardInterrupt. Signals that are ignored when listening begins stay ignored: Ctrl-C in a shell's background job, a closing
    terminal under nohup.

    Args:
        answer: called in the signal's handler, with its number.
        children: what processes forked in the meantime do: "end" on the signal, or "ignore" it.
    Attributes: `number` is that of the first signal, or None.
    """

    def __init__(self, answer: Callable[[int], None], *, children: str):
        self.number: int | None = None
        self._answer = answer
        self._children = children
        self._owner = os.getpid()
        self._since = 0.0
        self._earlier: dict[int, Any] = {}

    def listen(self) -> None:
        """Start listening; only possible in the main thread, does nothing in others."""
        self._owner = os.getpid()
        if threading.current_thread() is threading.main_thread():
            for number in STOPPING_SIGNALS:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._earlier[number] = signal.signal(number, self._receive)

    def close(self) -> None:
        """Restore the previous handlers."""
        for number, handler in self._earlier.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._earlier = {}

    def note(self, number: int) -> None:
        """Record that this signal has arrived, here or in another process."""
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


def leave_on_ctrl_c() -> None:
    """Until a program has anything to finish or to remove, Ctrl-C ends it with one line, not with a traceback of its imports."""
    owner = os.getpid()

    def leave(number: int, frame) -> None:
        if os.getpid() == owner:  # a fork of it ends without a word
            os.write(2, f"{stopped_by(number)}\n".encode())
        os._exit(128 + number)

    in_main_thread = threading.current_thread() is threading.main_thread()
    if in_main_thread and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, leave)


def stopped_by(number: int) -> str:
    """The last line of a program that a signal ended."""
    return f"stopped by {signal.Signals(number).name}; run the same command to start again, or to continue where possible."


def ignore_stopping_signals() -> None:
    """For a process that is exiting, or that another one will end: late signals would only cut it short."""
    if threading.current_thread() is threading.main_thread():
        for number in STOPPING_SIGNALS:
            signal.signal(number, signal.SIG_IGN)


def start_reader(start: Callable[[int], None] | None, number: int) -> None:
    """For a DataLoader's `worker_init_fn`: workers keep running, because the step being finished needs them.

    On SIGTERM, which a launcher or a cluster sends to all processes, torch would end the worker and, with it, the training process.
    """
    ignore_stopping_signals()
    if start is not None:
        start(number)


def _leave_terminal() -> None:
    """Discard output instead of writing to a closed terminal, where every write would fail."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for descriptor in (1, 2):
        if stat.S_ISCHR(os.fstat(descriptor).st_mode):
            os.dup2(nowhere, descriptor)
    os.close(nowhere)
