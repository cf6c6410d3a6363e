"""What a recipe prints: plain lines, progress bars only in a terminal, and no library bars that mean nothing to the user."""

import logging
import os
import select
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import wraps
from typing import TextIO

from tqdm import tqdm

from hfgpt.arguments.commands import as_started, discard_output

QUIET = "--quiet"
RESULT = 25  # between INFO and WARNING: the level of a recipe's last screen, which --quiet keeps
# Brief steps inside libraries; a model in one file has one shard.
_NEEDLESS_BARS = ("Flattening the indices", "Loading weights", "Saving the dataset", "Writing model shards")


def open_closed_streams() -> None:
    """Let streams that the caller closed (`>&-`) lead nowhere; they would be None, and the next opened file would be the output."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: PTH123, SIM115


def reader_has_gone(stream: TextIO) -> bool:
    """Whether nobody can read what is printed to this stream any more, as with `| head`."""
    if not hasattr(select, "poll"):  # Windows
        return True
    state = select.poll()
    state.register(stream, 0)
    return any(event & select.POLLERR for _, event in state.poll(0))


def split_quiet(words: list[str]) -> tuple[list[str], bool]:
    """A command line without `--quiet`, and whether it was given; like every switch, it may be followed by true or false."""
    for place, word in enumerate(words):
        option, equals, said = word.partition("=")
        if option == QUIET:
            value = (said if equals else "".join(words[place + 1 : place + 2])).lower()
            is_next = not equals and value in ("true", "false")
            return words[:place] + words[place + 1 + is_next :], value != "false"
    return words, False


def hide_what_is_for_developers() -> None:
    """Hide what a user cannot fix: deprecations between libraries, torchao's messages about kernels that this machine cannot load,
    and torch's about torchao."""
    if not sys.warnoptions:  # the user has not asked Python for warnings
        warnings.simplefilter("ignore", FutureWarning)
    for library in ("torchao", "torch.utils._pytree"):
        logging.getLogger(library).setLevel(logging.ERROR)


class Lines(logging.StreamHandler):
    """One plain line per message, above the progress bar if there is one, with commands as they work where this process was
    started."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print the message."""
        try:
            tqdm.write(as_started(self.format(record)), file=self.stream)
            self.flush()
        except BrokenPipeError:  # as with `| head`: the work goes on without a reader
            discard_output(self.stream)
        except Exception:
            self.handleError(record)


@contextmanager
def lines_and_bars(logger: logging.Logger) -> Iterator[None]:
    """Print messages of `logger` as lines on standard output, from the main process only; show progress bars only in a terminal.

    transformers and datasets keep their own handlers; accelerate's logger would prefix every line with the rank.
    """
    quiet = split_quiet(sys.argv[1:])[1]
    logger.handlers = [Lines(sys.stdout)]
    logger.propagate = False  # a library that adds a handler to the root logger would make every line appear twice
    level = RESULT if quiet else logging.INFO
    logger.setLevel(level if os.environ.get("RANK", "0") == "0" else logging.WARNING)
    no_bars = quiet or not sys.stderr.isatty()
    create = tqdm.__init__

    @wraps(create)
    def create_or_not(self, *args, **settings):
        if no_bars or str(settings.get("desc") or "").startswith(_NEEDLESS_BARS):
            settings["disable"] = True
        create(self, *args, **settings)

    tqdm.__init__ = create_or_not  # every bar of every library is one of these
    try:
        yield
    finally:
        tqdm.__init__ = create
