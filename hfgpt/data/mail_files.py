"""E-mail: mbox archives, single messages (.eml), and the messages in a Maildir; one message is one document.

Python's `mailbox` is not used for archives: it opens them for writing, and begins a message at every line that begins with "From ",
also within a text.
"""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from hfgpt.data.mail_messages import FIELD, text_of_message
from hfgpt.data.on_disk import Document
from hfgpt.data.reading import Source, SourceKind, SourceOptions, evenly
from hfgpt.data.remarks import PLACE, REMARK, say_once
from hfgpt.data.row_errors import RowErrors
from hfgpt.errors import UserError

MAIL_KINDS = ("mbox", "eml")  # their names in `SOURCES`
BEGINS = b"From "  # the line before each message of an mbox, with sender and date
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
# Programs write such a line of a text as ">From ", and one that already looks like that with one more ">".
ESCAPED = re.compile(rb"^>(>*From )", re.MULTILINE)
LARGEST_MESSAGE = 2**27  # bytes; parsing needs several times as much memory


def read_mbox(source: Source, options: SourceOptions, errors: RowErrors | None) -> Iterator[Document]:
    """The messages of an mbox archive; `row_id` is the number of the message from 0. Memory: one message with its attachments.

    Raises: UserError for a file that is not an mbox archive, and for a message of more than `LARGEST_MESSAGE` bytes.
    """
    messages = enumerate(messages_of(source.file))
    for number, (line, raw) in messages if options.read_share is None else evenly(messages, options.read_share):
        place = f"{source.name}, message {number} (line {line})"
        yield _document(source, ESCAPED.sub(rb"\1", raw), row_id=str(number), place=place)


def read_message(source: Source, options: SourceOptions, errors: RowErrors | None) -> Iterator[Document]:
    """The message in a file of its own. Raises: UserError if it has more than `LARGEST_MESSAGE` bytes."""
    if source.file.stat().st_size > LARGEST_MESSAGE:
        raise UserError(f"{source.name} has more than {LARGEST_MESSAGE:,} bytes, the limit for a message; leave it out.")
    yield _document(source, source.file.read_bytes().removeprefix(BYTE_ORDER_MARK), row_id="0", place=source.name)


def _document(source: Source, raw: bytes, *, row_id: str, place: str) -> Document:
    found = text_of_message(raw)
    document = {"text": found.text, "source": source.name, "row_id": row_id}
    return document if found.remark is None else {**document, REMARK: found.remark, PLACE: place}


def messages_of(path: Path, *, offset: int = 0) -> Iterator[tuple[int, bytes]]:
    """The messages of an mbox archive, each with its "From " line and the number of that line.

    A message begins at such a line after a blank one if the line after it is a header: not all programs escape such a line in a
    text.

    Args: `offset` is the byte to begin at; lines are counted from there, and the first message may be the rest of one.
    """
    with path.open("rb") as file:
        file.seek(offset)
        lines, start, size = [], 1, 0
        for number, line in enumerate(file, start=1):
            if number == 1 and not offset:
                line = line.removeprefix(BYTE_ORDER_MARK)
                if not line.startswith(BEGINS):
                    raise UserError(
                        f"{path} does not begin with {BEGINS.decode()!r}, so it is not an mbox archive, or is damaged; a file with "
                        f"a single message should end in .eml, and one with plain text in .txt."
                    )
            elif lines and lines[-1].startswith(BEGINS) and FIELD.match(line) and (len(lines) == 1 or not lines[-2].strip()):
                begin = lines.pop()
                if lines:
                    yield start, b"".join(lines)
                lines, start, size = [begin], number - 1, len(begin)
            lines.append(line)
            size += len(line)
            if size > LARGEST_MESSAGE:
                raise UserError(
                    f"{path}, line {start}: the message that begins here has more than {LARGEST_MESSAGE:,} bytes; delete it in "
                    f"your mail program, or repair the file if its messages are not separated by lines that begin with 'From '."
                )
        if lines:
            yield start, b"".join(lines)


def say_what_is_kept(sources: Iterable[Source]) -> None:
    """Mail is full of personal data: a line for a run that reads mail and neither masks nor drops it."""
    if any(source.kind in MAIL_KINDS for source in sources):
        say_once(
            "sources: e-mail addresses and phone numbers in the text of messages are kept; --personal_data mask puts placeholders "
            "in their place"
        )


def is_mbox(path: Path) -> bool:
    """Whether a file without a suffix is an mbox archive, such as Thunderbird's "Inbox" or the "mbox" of Apple Mail."""
    if path.suffix or not path.is_file():
        return False
    with path.open("rb") as file:
        return file.readline(1000).startswith(BEGINS) and FIELD.match(file.readline(1000)) is not None


def is_in_maildir(path: Path) -> bool:
    """Whether a file is a message in a Maildir: in the folder "cur" or "new" beside the other. Its name ends with the host's."""
    folder = path.absolute().parent
    return folder.name in ("cur", "new") and all((folder.parent / name).is_dir() for name in ("cur", "new"))


MBOX_FILES = SourceKind(
    documents=read_mbox, options=(), suffixes=(".mbox",), in_folders=True, is_file=is_mbox, reads_pieces=lambda source: True
)
MESSAGE_FILES = SourceKind(
    documents=read_message, options=(), suffixes=(".eml",), in_folders=True, is_file=is_in_maildir, is_one_document=True
)
