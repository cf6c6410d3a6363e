"""How much text there is in mail, of which attachments may be the larger part."""

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from hfgpt.data.mail_files import MAIL_KINDS, messages_of
from hfgpt.data.mail_messages import text_of_message
from hfgpt.data.reading import Source, evenly

# Files of this many bytes together are read completely; of more, so many messages, evenly spaced.
READ_BYTES, SAMPLED_MESSAGES = 2**20, 100
BLOCK_BYTES = 2**24


def mail_text_bytes(sources: Sequence[Source]) -> int:
    """The bytes of text in mail (`MAIL_KINDS`); of large files about, from some messages and the number of all.

    Cost: reads archives once, at about the speed of the disk, to count their messages.
    """
    assert all(source.kind in MAIL_KINDS for source in sources)
    files = [source.file for source in sources if source.kind == "eml"]
    sizes = [_in_archive(source.file) for source in sources if source.kind == "mbox"]
    if files:
        read = sum(file.stat().st_size for file in files) <= READ_BYTES or len(files) <= SAMPLED_MESSAGES
        chosen = files if read else list(evenly(files, SAMPLED_MESSAGES / len(files)))
        sizes.append(_estimated([file.read_bytes() for file in chosen], of=len(files)))
    return sum(sizes)


def _in_archive(path: Path) -> int:
    if path.stat().st_size <= READ_BYTES:
        return sum(_text_bytes(raw) for _, raw in messages_of(path))
    return _estimated(list(_sample(path)), of=_count(path))


def _estimated(messages: Sequence[bytes], *, of: int) -> int:
    """The text of `of` messages like these, with two digits if these are not all."""
    found = sum(map(_text_bytes, messages))
    return found if len(messages) == of else int(float(f"{found * of / max(1, len(messages)):.2g}"))


def _text_bytes(raw: bytes) -> int:
    return len(text_of_message(raw).text.encode())


def _sample(path: Path) -> Iterator[bytes]:
    """The messages that follow evenly spaced positions."""
    size = path.stat().st_size
    for number in range(SAMPLED_MESSAGES):
        messages = messages_of(path, offset=number * size // SAMPLED_MESSAGES)
        yield from (raw for _, raw in islice(messages, 1 if number else 0, 2 if number else 1))


def _count(path: Path) -> int:
    """About the number of messages: a line of a text may look like the beginning of one."""
    begin = b"\nFrom "
    count, end = 1, b""
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            count += (end + block).count(begin)
            end = block[1 - len(begin) :]
    return count
