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
_MANY_BLANK_LINES = re.compile(r"\n{4,}")


@dataclass(frozen=True)
class RepairText:
    """ftfy on every line, then blanks: those at the ends of lines go, but for Markdown's two, and of blank lines two in a row stay.

    Mojibake is decoded again; terminal colours, control characters, byte order marks and unpaired surrogates go; every line ends
    with a line feed; Unicode is in normal form C, which looks the same and means the same. `LEFT_ALONE` stays as it is. A text that
    was repaired is not changed by another repair.

    Cost: 2 s for 100 MB of English, in which few lines are not ASCII; 20 s for 100 MB of Russian, on one core.
    """

    name: str = "repair text"

    @property
    def settings(self) -> dict[str, object]:
        return {"ftfy": True, "left_alone": list(LEFT_ALONE), "normalization": "NFC"}

    def __call__(self, text: str) -> Outcome:
        repaired = text
        if _NOT_PLAIN.search(text):
            # Line feeds first, because ftfy takes a text apart there.
            lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
            repaired = "\n".join(_repaired_line(line) if _NOT_PLAIN.search(line) else line for line in lines)
        repaired = "\n".join(_without_blanks(line) if line.endswith((" ", "\t")) else line for line in repaired.split("\n"))
        if "\n\n\n\n" in repaired:
            repaired = _MANY_BLANK_LINES.sub("\n\n\n", repaired)
        return Outcome(repaired, {} if repaired == text else {REPAIRED: 1})


def _repaired_line(line: str) -> str:
    """A line after ftfy and without blanks at its end, as often as that still changes it: a pass can uncover work for the next."""
    fix, config = _ftfy()
    for _ in range(8):
        before = line
        line = "\n".join(map(_without_blanks, fix(line, config).split("\n")))
        if line == before:
            break
    return line


def _without_blanks(line: str) -> str:
    """A line without the blanks at its end, but for the two that are a line break in Markdown."""
    text = line.rstrip(" \t")
    return line if text and line == f"{text}  " else text


@functools.cache
def _ftfy():
    ftfy = require("ftfy", extra="data", purpose="repair_text uses ftfy")
    return ftfy.fix_text, ftfy.TextFixerConfig(**dict.fromkeys(LEFT_ALONE, False), explain=False)
