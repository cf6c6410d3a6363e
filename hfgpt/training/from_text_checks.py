"""What `from-text` refuses before any work, and the mistakes of its steps in the words of its own keys."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from hfgpt.arguments.commands import command_line
from hfgpt.data.encoding import encoding_of
from hfgpt.data.markers import refuse_absent_separator
from hfgpt.data.patterns import UnreadTextError
from hfgpt.data.reading import Source
from hfgpt.data.sources import find_sources
from hfgpt.data.text_pieces import size_of
from hfgpt.errors import TooLittleTextError, TooLittleTimeError, UserError

# Less text does not fill a row of training text; what is worth training on is more (`FEW_BYTES` in from_text.py).
FEWEST_BYTES = 1000


def find_texts(names: Sequence[str], *, text_documents: str | None, words: Sequence[object] = ()) -> list[Source]:
    """The sources, of which everything has been checked that can be before they are read.

    Args: `words` are the rest of the command line, for a command that a message offers.
    Raises: UserError for sources that are missing, empty or not text, for a folder of which most would not be read, and for a
        separator that no text contains.
    """
    try:
        sources = find_sources(names)
    except UnreadTextError as error:
        others = [error.pattern if Path(name) == error.folder else name for name in names]
        command = command_line("from-text", *others, *words)
        raise UserError(f"{error.reason}: {command}") from None
    for source in sources:
        if source.kind == "text":
            encoding_of(source.file)
    if (num_bytes := size_of(sources)) < FEWEST_BYTES:
        where = sources[0].name if len(sources) == 1 else f"the {len(sources):,} sources"
        raise UserError(
            f"{where}: {num_bytes:,} bytes of text are too few for a model; give at least {FEWEST_BYTES:,}, better 200,000 or more."
        )
    refuse_absent_separator(sources, text_documents)
    return sources


@contextmanager
def in_its_own_words(*, minutes: float) -> Iterator[None]:
    """Errors of the steps that advise keys of their own recipes, which this command does not have."""
    try:
        yield
    except TooLittleTimeError as error:
        enough = math.ceil(2 * (minutes + error.missing / 60)) / 2
        raise UserError(f"minutes is {minutes:g}: {error.reason}; give --minutes {enough:g} or more.") from None
    except TooLittleTextError as error:
        raise UserError(f"{error.reason}; give more text.") from None
