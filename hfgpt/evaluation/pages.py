"""What our HTML pages share: one self-contained file whose texts are displayed and never executed, whatever they contain."""

import base64
import hashlib
import re
import unicodedata
from pathlib import Path

import jinja2

# Characters that are invisible or reorder others: controls, zero-width, direction marks, tags, private use. Joiners between
# non-ASCII characters are kept, because emoji and many scripts use them.
_INVISIBLE = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    r"\ud800-\udfff\ue000-\uf8ff\U000e0000-\U000e01ef]"
    r"|(?<![^\x00-\x7f])[\u200c\u200d]|[\u200c\u200d](?![^\x00-\x7f])"
)


def page_environment(folder: Path) -> jinja2.Environment:
    """Templates of `folder`: values are escaped, a missing name is an error."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"pieces": pieces, "policy_hash": policy_hash, "words": lambda name: name.replace("_", " ")}
    return environment


def pieces(text: str) -> list[tuple[str, str | None]]:
    """The text in pieces, with each invisible character replaced by its code point and name."""
    found, end = [], 0
    for match in _INVISIBLE.finditer(text):
        found.append((text[end : match.start()], None))
        character = match.group()
        found.append((f"U+{ord(character):04X}", unicodedata.name(character, "unnamed character")))
        end = match.end()
    return [(piece, name) for piece, name in [*found, (text[end:], None)] if piece]


def policy_hash(text: str) -> str:
    """The hash that allows a style or script in a page's content security policy."""
    # Safe in an attribute: base64 inside single quotes written by the template.
    digest = base64.b64encode(hashlib.sha256(str(text).encode("utf-8")).digest()).decode("ascii")
    return f"'sha256-{digest}'"
