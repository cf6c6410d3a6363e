"""Repair texts: wrong decodings, control characters, line endings and whitespace, without changing what the author wrote."""

import functools
import re
from dataclasses import dataclass

from hfgpt.data.steps import Outcome
from hfgpt.errors import require

# Not changed, because it may be intended: typographic quotes, ligatures, full-width characters (such as Chinese and Japanese
# punctuation) and HTML entities (used in documentation and code).
LEFT_ALONE = ("uncurl_quotes", "fix_latin_ligatures", "fix_character_width", "unescape_html")
REPAIRED = "repaired"
# Plain ASCII needs no repair: mojibake consists of other characters.
_NOT_PLAIN = re.compile(r"[^\t\n\f\x20-\x7e]")
_MANY_BLANK_LINES = re.compile(r"\n{4,}")


@dataclass(frozen=True)
class RepairText:
    """ftfy on every line, then whitespace: trailing spaces are removed, except Markdown's two, and at most two blank lines in a row
    are kept.

    Mojibake is decoded again; terminal colours, control characters, byte order marks and unpaired surrogates are removed; every
    line ends with a line feed; Unicode is in normal form C, with the same look and meaning. `LEFT_ALONE` is not changed. Repairing
    twice has no further effect.

    Cost: on one core, 2 s per 100 MB of English, where most lines are ASCII; 20 s per 100 MB of Russian.
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
