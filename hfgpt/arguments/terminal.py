"""What a recipe prints: plain lines, bars in a terminal only, and no bars of libraries that mean nothing to the reader."""

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import wraps

from tqdm import tqdm

from hfgpt.arguments.commands import as_started

QUIET = "--quiet"
RESULT = 25  # between INFO and WARNING: the level of a recipe's last screen, which --quiet leaves
# What libraries do for a moment on the way; a model of one file has one shard.
_NEEDLESS_BARS = ("Flattening the indices", "Loading weights", "Saving the dataset", "Writing model shards")


def split_quiet(words: list[str]) -> tuple[list[str], bool]:
    """A command line without `--quiet`, and whether it was given; as every switch it may be followed by true or false."""
    if QUIET not in words:
        return words, False
    place = words.index(QUIET)
    said = words[place + 1 : place + 2]
    is_value = said in (["true"], ["false"])
    return words[:place] + words[place + 1 + is_value :], said != ["false"]


def hide_what_is_for_developers() -> None:
    """What a user cannot mend: deprecations between libraries, and what torchao says of kernels that this machine cannot load."""
    if not sys.warnoptions:  # nobody has asked Python for them
        warnings.simplefilter("ignore", FutureWarning)
    logging.getLogger("torchao").setLevel(logging.ERROR)


class Lines(logging.StreamHandler):
    """A plain line per message, above the bar where there is one, in the words that work where this process was started."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print the message."""
        try:
            tqdm.write(as_started(self.format(record)), file=self.stream)
            self.flush()
        except Exception:
            self.handleError(record)


@contextmanager
def lines_and_bars(logger: logging.Logger) -> Iterator[None]:
    """Messages of `logger` as lines on standard output, from the main process alone; bars where somebody watches them.

    transformers and datasets keep their own handlers; accelerate's logger would put its rank before every line.
    """
    quiet = split_quiet(sys.argv[1:])[1]
    logger.handlers = [Lines(sys.stdout)]
    logger.propagate = False  # a library that gives the root logger a handler would have every line printed twice
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
