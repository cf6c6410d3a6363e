"""The last line of a card: by the hash in it hfgpt knows a card that it wrote and nobody has changed since."""

import hashlib
import re

SEAL = re.compile(r"\n<!-- hfgpt card, SHA-256 ([0-9a-f]{64}) -->\n?\Z")


def sealed(text: str) -> str:
    """The text with a last line by which `is_ours` knows it."""
    return f"{text}\n<!-- hfgpt card, SHA-256 {hashlib.sha256(text.encode()).hexdigest()} -->\n"


def is_ours(text: str) -> bool:
    """Whether hfgpt wrote this card and nobody has changed it since; line endings do not count."""
    text = text.replace("\r\n", "\n")
    seal = SEAL.search(text)
    return seal is not None and hashlib.sha256(text[: seal.start()].encode()).hexdigest() == seal[1]
