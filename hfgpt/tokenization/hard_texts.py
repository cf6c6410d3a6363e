"""Texts that break naive tokenizers: all our tokenizers, and all engines that load them, must agree on these."""

from hfgpt.tokenization.special_tokens import SPECIAL_TOKENS

# Every Unicode plane, what breaks naive pre-tokenizers, and text that looks like special tokens.
HARD_TEXTS = [
    *(chr(plane * 0x10000 + offset) for plane in range(17) for offset in (0x0021, 0x2603, 0xFFFD)),
    "emoji: 🤷🏽‍♂️ 👩‍👩‍👧‍👦 🏴󠁧󠁢󠁥󠁮󠁧󠁿 ☃️",
    "漢字かな交じり文、한국어 텍스트。",
    "العربية من اليمين إلى اليسار ‏‎ עברית",
    "e\u0301 é ﬁ Å \u212b",  # combining marks and compatibility forms are preserved
    "NUL \x00 and \x7f and \x1b[0m",
    "lone CR\rthen CRLF\r\nthen LF\n\n\n",
    " " * 300 + "x" + " " * 7 + "\t\t \u00a0\u2003",
    "1234567890 3.14159 0x7f",
    "don't we'll THEY'RE I'd've y'all's 'tis",
    "tabs\tand \t both\t\n\tindented\r\n\r\n  twice  \n trailing   ",
    "\ufffd\ufffd \u00c3\u00a9 \u00ff\u00fe \ud7ff\ue000",  # replacement characters, and the edges of the surrogates
    "zero\u200bwidth\u200cjoin\u200ders\u2060 \ufeff \u0928\u094d\u0937 \u1100\u1161\u11a8",
    "x = {'a': [1, 2.5e-3], \"b\": None}  # ===> <=> /* */ ``` $$ \\\n",
    " ".join(SPECIAL_TOKENS) + "<|endoftext|>x<|pad|>",
    "",
]
