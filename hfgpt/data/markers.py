"""Special tokens that other tools write into plain text, such as `<|endoftext|>` on its own line between two stories.

In text they are ordinary characters and do not end documents (see tokenization.py), so a model trained on them learns to spell
them. Files that separate documents in this way are common, so this is always reported.
"""

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from hfgpt.counting import counted
from hfgpt.data.encoding import decoded_lines
from hfgpt.data.reading import Source
from hfgpt.data.remarks import say_once
from hfgpt.errors import UserError
from hfgpt.tables import nearest

MARKER = re.compile(r"<\|\w+\|>|</s>|<(?:eos|eot|sep)>|\[(?:EOS|SEP)\]")
# Each of them ends like this; checking costs almost nothing compared with the search.
ENDINGS = ("|>", "</s>", "<eos>", "<eot>", "<sep>", "[EOS]", "[SEP]")

OFTEN = 20
# The values of `text_documents` that are not themselves a separator line.
DOCUMENT_RULES = ("file", "paragraph", "line")


def markers_in(text: str) -> tuple[Counter[str], Counter[str]]:
    """How often each marker occurs on its own line, and how often in total."""
    if not _may_hold_marker(text):
        return Counter(), Counter()
    lines = (line.group().strip() for line in re.finditer(r"[^\r\n]+", text))
    return Counter(line for line in lines if MARKER.fullmatch(line)), Counter(MARKER.findall(text))


def _may_hold_marker(text: str) -> bool:
    return (">" in text or "]" in text) and any(ending in text for ending in ENDINGS)


def refuse_unread_separators(text: str, path: Path) -> None:
    """Raises: ValueError for a file with two or more lines consisting of the same marker, naming the key that treats them as
    separators."""
    alone, _ = markers_in(text)
    marker, count = max(alone.items(), key=lambda item: item[1], default=("", 0))
    if count > 1:
        raise UserError(
            f"{path} has {count:,} lines that consist only of {marker!r}; they look like document separators, and as text they "
            f"would be memorized. Give --text_documents '{marker}' to separate documents there, or --text_documents file to keep "
            f"them as text."
        )


def refuse_absent_separator(sources: Iterable[Source], rule: str | None) -> None:
    """Refuse a separator line that none of these text files contains: a misspelled keyword would be one.

    Args: `rule` is `text_documents`.
    Cost: reads until the first such line.
    """
    files = [source.file for source in sources if source.kind == "text"]
    if rule in (None, *DOCUMENT_RULES) or not files:
        return
    separator = str(rule).strip()
    lines = (line for path in files for _, line in decoded_lines(path, on_invalid=lambda error: None, in_parts=True))
    if not any(line.strip() == separator for line in lines):
        near = nearest(separator, DOCUMENT_RULES)
        cure = f"did you mean {near!r}?" if near else f"allowed: {', '.join(DOCUMENT_RULES)}, or the line that separates documents."
        where = str(files[0]) if len(files) == 1 else f"the {len(files):,} text files"
        raise UserError(f"text_documents is {rule!r}, but no line of {where} is exactly that; {cure}")


class MarkerCounts:
    """The markers found in the documents of one pass."""

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
        """One line per marker that is more than just mentioned: twice on its own line, or frequent."""
        for marker, count in self.total.most_common(3):
            alone = self.alone[marker]
            if alone < 2 and count < OFTEN:
                continue
            cure = f" If it separates the documents of text files, use --text_documents '{marker}'." if alone else ""
            say_once(
                f"warning: {marker!r} occurs {counted(count, 'times')} in the text "
                f"({counted(self.documents[marker], 'documents')}, {counted(alone, 'times')} on its own line). In rows it is "
                f"ordinary text and does not end a document; if it is one of a tokenizer's special tokens, the vocabulary is "
                f"trained without it.{cure}"
            )
