"""What is said once although the same sources are read twice, such as remarks of readers, counted over all sources of a pass."""

import functools
import logging
from collections import Counter

from hfgpt.counting import counted
from hfgpt.data.on_disk import Document

logger = logging.getLogger(__name__)

REMARK, PLACE = "remark", "place"  # keys of a document


class Remarks:
    """The remarks about the documents of one pass.

    A reader puts a remark under the key `REMARK`, in words that follow "3 documents", and the position of the document under
    `PLACE`. A document with a remark and without a text is left out.
    """

    def __init__(self):
        self.counts: Counter[str] = Counter()
        self.firsts: dict[str, str] = {}

    def take(self, document: Document) -> bool:
        """Count the remark of a document and remove it. Returns: whether there is a document."""
        remark, place = document.pop(REMARK, None), document.pop(PLACE, None)
        if remark is None:
            return True
        self.counts[remark] += 1
        self.firsts.setdefault(remark, place or document["source"])
        return bool(document["text"])

    def say(self) -> None:
        """One line per remark, with the first document that it is about."""
        for remark, count in self.counts.most_common():
            say_once(f"sources: {counted(count, 'documents')} {remark}; the first: {self.firsts[remark]}")


@functools.cache
def say_once(message: str, level: int = logging.WARNING) -> None:
    """Log a message the first time only, in this process."""
    logger.log(level, message)
