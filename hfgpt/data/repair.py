"""Repair of texts: wrong decodings, control characters, line ends and blanks, without changing what its author wrote."""

import functools
import re
from dataclasses import dataclass

from hfgpt.data.steps import Outcome
from hfgpt.errors import require

# What ftfy leaves alone here, because a text may mean it: typographic quotes, ligatures, full-width characters (Chinese and
# Japanese punctuation is full-width) and HTML entities (documentation and code write them).
LEFT_ALONE = ("uncurl_quotes", "fix_latin_ligatures", "fix_character_width", "unescape_html")
REPAIRED = "repaired"
# Plain ASCII has nothing to repair: mojibake is made of other characters.
_NOT_PLAIN = re.compile(r"[^\t\n\f\x20-\x7e]")
_BLANKS_AT_LINE_END = re.compile(r"(?<=\S)(?!  \n)[ \t]+(?=\n|\Z)|^[ \t]+$", re.MULTILINE)
_MANY_BLANK_LINES = re.compile(r"\n{4,}")


@dataclass(frozen=True)
class RepairText:
    """ftfy on every line, then blanks: those at the ends of lines go, but for Markdown's two, and of blank lines two in a row stay.

    Mojibake is decoded again; terminal colours, control characters, byte order marks and unpaired surrogates go; every line ends
    with a line feed; Unicode is in normal form C, which looks the same and means the same. `LEFT_ALONE` stays as it is. A text that
    was repaired is not changed by another repair.

    Cost: 2 s for 100 MB of English, in which few lines are not ASCII; about 15 MB/s for text without ASCII.
    """

    name: str = "repair text"

    @property
    def settings(self) -> dict[str, object]:
        return {"ftfy": True, "left_alone": list(LEFT_ALONE), "normalization": "NFC"}

    def __call__(self, text: str) -> Outcome:
        repaired = text
        if _NOT_PLAIN.search(text):
            # A line feed first, because ftfy takes a text apart there.
            lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
            repaired = "\n".join(line if line.isascii() and not _NOT_PLAIN.search(line) else _repaired_line(line) for line in lines)
        repaired = _BLANKS_AT_LINE_END.sub("", repaired)
        repaired = _MANY_BLANK_LINES.sub("\n\n\n", repaired)
        return Outcome(repaired, {} if repaired == text else {REPAIRED: 1})


def _repaired_line(line: str) -> str:
    """A line after ftfy, as often as it still changes it: what one pass uncovers, the next one repairs."""
    fix, config = _ftfy()
    for _ in range(8):
        line, before = fix(line, config), line
        if line == before:
            break
    return line


@functools.cache
def _ftfy():
    ftfy = require("ftfy", extra="data", purpose="repair_text uses ftfy")
    return ftfy.fix_text, ftfy.TextFixerConfig(**dict.fromkeys(LEFT_ALONE, False), explain=False)
