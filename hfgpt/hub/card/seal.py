"""The last line of a card: its hash tells hfgpt whether it wrote the card and nobody has changed it since."""

import hashlib
import re

SEAL = re.compile(r"\n<!-- hfgpt card, SHA-256 ([0-9a-f]{64}) -->\n?\Z")


def sealed(text: str) -> str:
    """The text with a last line that `is_ours` recognizes."""
    return f"{text}\n<!-- hfgpt card, SHA-256 {hashlib.sha256(text.encode()).hexdigest()} -->\n"


def is_ours(text: str) -> bool:
    """Whether hfgpt wrote this card and nobody has changed it since; line endings do not matter."""
    text = text.replace("\r\n", "\n")
    seal = SEAL.search(text)
    return seal is not None and hashlib.sha256(text[: seal.start()].encode()).hexdigest() == seal[1]
