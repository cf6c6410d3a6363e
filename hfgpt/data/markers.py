"""Special tokens that other tools write into plain text: `<|endoftext|>` on a line of its own between two stories.

In text they are characters like any other and end no document (tokenization.py sees to that), so a model that is trained on
them learns to spell them. Files that separate documents in this way are common, and nothing of it is silent here.
"""

import functools
import logging
import re
from collections import Counter
from pathlib import Path

from hfgpt.counting import counted
from hfgpt.errors import UserError

logger = logging.getLogger(__name__)

MARKER = re.compile(r"<\|\w+\|>|</s>|<(?:eos|eot|sep)>|\[(?:EOS|SEP)\]")
# Each of them ends so; a look that costs next to nothing beside the search.
ENDINGS = ("|>", "</s>", "<eos>", "<eot>", "<sep>", "[EOS]", "[SEP]")

OFTEN = 20


def markers_in(text: str) -> tuple[Counter[str], Counter[str]]:
    """How often each marker stands on a line of its own, and how often in all."""
    if not _may_hold_marker(text):
        return Counter(), Counter()
    lines = (line.group().strip() for line in re.finditer(r"[^\r\n]+", text))
    return Counter(line for line in lines if MARKER.fullmatch(line)), Counter(MARKER.findall(text))


def _may_hold_marker(text: str) -> bool:
    return (">" in text or "]" in text) and any(ending in text for ending in ENDINGS)


def refuse_unread_separators(text: str, path: Path) -> None:
    """Raises: ValueError for a file with two or more lines that are the same marker, with the key that reads them as separators."""
    alone, _ = markers_in(text)
    marker, count = max(alone.items(), key=lambda item: item[1], default=("", 0))
    if count > 1:
        raise UserError(
            f"{path} has {count:,} lines that are {marker!r} and nothing else; they look like separators of documents, and as text "
            f"they would be learned by heart. Give --text_documents '{marker}' to separate documents there, or --text_documents "
            "file to keep them as text."
        )


class MarkerCounts:
    """What markers the documents of one reading hold."""

    def __init__(self):
        self.alone: Counter[str] = Counter()
        self.total: Counter[str] = Counter()
        self.documents: Counter[str] = Counter()

    def add(self, text: str) -> None:
        if not _may_hold_marker(text):
            return  # at once: most documents
        alone, total = markers_in(text)
        self.alone += alone
        self.total += total
        self.documents.update(total.keys())

    def warn(self) -> None:
        """One line for each marker that is more than a mention, as in a text about them: twice on a line of its own, or often."""
        for marker, count in self.total.most_common(3):
            alone = self.alone[marker]
            if alone < 2 and count < OFTEN:
                continue
            cure = f" Text files whose documents it separates are read with --text_documents '{marker}'." if alone else ""
            _warn(
                f"warning: {marker!r} stands {counted(count, 'times')} in the text "
                f"({counted(self.documents[marker], 'documents')}, {counted(alone, 'times')} on a line of its own). "
                "In rows it is learned as any text is, and ends no document; the "
                f"vocabulary of a tokenizer is trained without it where it is one of its special tokens.{cure}"
            )


@functools.cache  # who reads the same sources twice is told once
def _warn(message: str) -> None:
    logger.warning(message)
