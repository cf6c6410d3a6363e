"""Plain text files: one document each, or one per paragraph, per line, or between separating lines."""

from collections.abc import Iterator

from hfgpt.data.encoding import LINE_PART, Piece, decoded_lines
from hfgpt.data.markers import refuse_unread_separators
from hfgpt.data.on_disk import Document
from hfgpt.data.reading import Source, SourceKind, SourceOptions
from hfgpt.data.row_errors import RowError, RowErrors, refuse
from hfgpt.data.text_pieces import pieces_of
from hfgpt.errors import UserError

WHOLE_FILES = "the text files"  # the source name for rows that are whole files, because a single file is not its own source
# Text to a program but markup to a reader: files with these suffixes are refused. To train on markup, rename them.
MARKUP_FILES = {
    **dict.fromkeys((".html", ".htm", ".xhtml", ".xml", ".svg", ".fb2"), "extract its text first, e.g. with pandoc -t plain"),
    ".ipynb": "extract its text first, e.g. with jupyter nbconvert --to markdown",
}
MARKUP_BEGINS = ("<!doctype html", "<html", "<?xml")
LONGEST_DOCUMENT = 2**28  # characters; preparing needs four bytes of memory per character


def read_text(source: Source, options: SourceOptions, errors: RowErrors | None) -> Iterator[Document]:
    """The documents of a text file; if `errors` skips, a document with a line that is not valid UTF-8 is left out as a whole.

    Raises: ValueError for a document of more than `LONGEST_DOCUMENT` characters.
    """
    rule, share = options.text_documents or "file", options.read_share
    pieces = [None] if share is None else pieces_of(source.file, share=share, rule=rule)
    for piece in pieces:
        yield from _read_piece(source, options, errors, piece)


def _read_piece(source: Source, options: SourceOptions, errors: RowErrors | None, piece: Piece | None) -> Iterator[Document]:
    path = source.file
    rule = options.text_documents or "file"
    separator = None if rule in ("file", "paragraph", "line") else rule.strip()
    start, text = 1, _Text()
    damage: list[RowError] = []

    def document() -> Iterator[Document]:
        """The one that ends here, if there is one."""
        if damage:
            for error in damage if rule == "line" else damage[:1]:
                place = WHOLE_FILES if rule == "file" else source.name
                refuse(RowError(str(error), reason=error.reason, source=place), errors)
            text.take()
        elif text.characters:
            whole = {"text": text.take(), "source": source.name, "row_id": str(start)}
            if options.text_documents is None:
                refuse_unread_separators(whole["text"], path)
            yield whole
        damage.clear()

    line = 0  # the number of the one before
    on_invalid = damage.append if errors is not None and errors.on_error == "skip" else None
    for number, part in decoded_lines(path, on_invalid=on_invalid, in_parts=True, piece=piece):
        goes_on, line = number == line, number
        is_short = not goes_on and len(part) < LINE_PART
        if is_short and ((rule == "paragraph" and not part.strip()) or (separator is not None and part.strip() == separator)):
            yield from document()
            continue
        if rule == "line" and damage and not goes_on:  # of the lines before this one
            yield from document()
        if not text.characters:
            start = number
        text.add(part)
        if text.characters > LONGEST_DOCUMENT:
            raise UserError(
                f"{path}: the document that begins in line {start} has more than {LONGEST_DOCUMENT:,} characters; use "
                f"--text_documents to say where documents end (paragraph, line, or the line that separates them), or split the "
                f"file."
            )
        if rule == "line" and part[-1] in "\r\n":
            yield from document()
    yield from document()


class _Text:
    """The text of a document, as it is read: as long as it is short in its parts, which cost least, from then on as bytes."""

    def __init__(self):
        self.characters = 0
        self._parts: list[str] = []
        self._pending = 0
        self._bytes = bytearray()

    def add(self, part: str) -> None:
        self._parts.append(part)
        self._pending += len(part)
        self.characters += len(part)
        if self._pending >= LINE_PART:
            self._pack()

    def _pack(self) -> None:
        self._bytes += "".join(self._parts).encode()
        self._parts, self._pending = [], 0

    def take(self) -> str:
        """The whole text, of which nothing is left here."""
        if self._bytes:
            self._pack()
            parts = [self._bytes.decode()]
        else:
            parts = self._parts
        self.__init__()
        return parts[0] if len(parts) == 1 else "".join(parts)


TEXT_FILES = SourceKind(
    documents=read_text,
    options=("text_documents",),
    suffixes=(".txt", ".md", ".rst", ".text"),
    in_folders=True,
    reads_pieces=lambda source: True,
)
