"""The text of an e-mail message: its subject, and its body as a reader sees it."""

import codecs
import re
from contextlib import suppress
from dataclasses import dataclass
from email import message_from_bytes, policy
from email.message import EmailMessage
from typing import cast

from hfgpt.data.html_text import text_of_html

NO_TEXT = "without a text in the body, left out"
NOT_A_MESSAGE = "without header lines, which are not messages, left out"
NOT_PARSED = "whose structure Python's email package cannot read, left out"
REPLACED = "with bytes that are not valid in the declared encoding, which were replaced by \ufffd"
# Programs declare the smaller encoding and write the larger one; mail programs and browsers read it like this (WHATWG).
LARGER = {"ascii": "utf-8", "iso8859-1": "cp1252", "gb2312": "gb18030", "gbk": "gb18030", "euc_kr": "cp949"}
# In these, bytes that are valid UTF-8 would be pairs such as "Ã¼", so they are UTF-8: a wrong label, or a converted archive.
WESTERN = ("iso8859-1", "iso8859-15", "cp1252")
# A header begins with the name of a field. A colon after it may be preceded by spaces in very old mail.
FIELD = re.compile(rb"[!-9;-~]+[ \t]*:")


@dataclass(frozen=True)
class MessageText:
    """Args: `text` is "" if there is none; `remark` says what was changed, or why there is none."""

    text: str
    remark: str | None = None


def text_of_message(raw: bytes) -> MessageText:
    """Subject, a blank line, and the body: text/plain as its part declares its encoding, else text/html without its tags.

    Attachments, all other headers, and messages within the message are left out; line breaks become LF.
    """
    try:
        message = cast(EmailMessage, message_from_bytes(raw, policy=policy.default))
        if not message.keys():
            return MessageText("", NOT_A_MESSAGE if raw.strip() else NO_TEXT)
        subject, is_whole = _valid(" ".join(str(message["subject"] or "").split()))
        is_whole = is_whole and "\ufffd" not in subject
        body = ""
        for kind in ("plain", "html"):
            part = message.get_body((kind,))
            if part is not None:
                body, is_decoded = _body_of(cast(EmailMessage, part), is_html=kind == "html")
                if body:
                    is_whole = is_whole and is_decoded
                    break
    # The headers of real mail and spam make the package raise nearly everything, from UnicodeEncodeError to IndexError.
    except Exception:
        return MessageText("", NOT_PARSED)
    if not body:
        return MessageText("", NO_TEXT)
    return MessageText(f"{subject}\n\n{body}\n" if subject else f"{body}\n", None if is_whole else REPLACED)


def _body_of(part: EmailMessage, *, is_html: bool) -> tuple[str, bool]:
    """The text of a part, "" if nothing is visible, and whether all its bytes were valid."""
    raw = part.get_payload(decode=True)
    text, is_whole = _decoded(raw, part.get_content_charset("ascii")) if isinstance(raw, bytes) else ("", True)
    text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    text = text_of_html(text) if is_html else text.rstrip().lstrip("\n")
    return ("" if text.isspace() else text), is_whole


def _decoded(raw: bytes, charset: str) -> tuple[str, bool]:
    """The text in its declared encoding, or in UTF-8 if it is that instead, and whether all bytes were valid."""
    declared = _known(charset)
    larger = LARGER.get(declared, declared)
    codecs_to_try = [larger, declared]
    if not raw.isascii():  # ASCII that is not valid in the declared encoding, such as ISO-2022-JP, would be valid UTF-8, but wrong
        codecs_to_try.insert(0 if declared in WESTERN else 2, "utf-8")
    for codec in codecs_to_try:
        try:
            return _valid(raw.decode(codec))
        except UnicodeError:
            continue
    return _valid(raw.decode(larger, "replace"))[0], False


def _known(charset: str) -> str:
    """Python's name of an encoding; "ascii" if it is unknown, or a codec of something else, such as zlib."""
    try:
        with suppress(UnicodeError):
            b" ".decode(charset)
        return codecs.lookup(charset).name
    except (LookupError, ValueError):  # ValueError for a NUL
        return "ascii"


def _valid(text: str) -> tuple[str, bool]:
    """The text without halves of surrogate pairs, as which the package and UTF-7 return invalid bytes; and whether it had none."""
    valid = text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
    return valid, valid == text
