"""Plain text files: one document each, or one per paragraph, per line, or between separating lines."""

from collections.abc import Iterator

from hfgpt.data.encoding import decoded_lines
from hfgpt.data.markers import refuse_unread_separators
from hfgpt.data.on_disk import Document
from hfgpt.data.reading import Source, SourceKind, SourceOptions
from hfgpt.data.row_errors import RowError, RowErrors

WHOLE_FILES = "the text files"  # as the source of rows that are a file each, of which a single one is no source of its own


def read_text(source: Source, options: SourceOptions, errors: RowErrors | None) -> Iterator[Document]:
    """The documents of a text file; one with a line that is not valid UTF-8 is left out whole, where `errors` skips."""
    path = source.file
    rule = options.text_documents or "file"
    separator = None if rule in ("file", "paragraph", "line") else rule.strip()
    start, lines = 1, []
    damage: list[RowError] = []

    def document() -> Iterator[Document]:
        """The one that ends here, if there is one."""
        if damage:
            for error in damage if rule == "line" else damage[:1]:
                place = WHOLE_FILES if rule == "file" else source.name
                skipped.handle(RowError(str(error), reason=error.reason, source=place))
        elif lines:
            text = "".join(lines)
            if options.text_documents is None:
                refuse_unread_separators(text, path)
            yield {"text": text, "source": source.name, "row_id": str(start)}
        damage.clear()
        lines.clear()

    skipped = errors or RowErrors()
    for number, line in decoded_lines(path, on_invalid=damage.append if skipped.on_error == "skip" else None):
        if (rule == "paragraph" and not line.strip()) or (separator is not None and line.strip() == separator):
            yield from document()
            continue
        if rule == "line" and damage:  # of the lines before this one
            yield from document()
        if not lines:
            start = number
        lines.append(line)
        if rule == "line":
            yield from document()
    yield from document()


TEXT_FILES = SourceKind(documents=read_text, suffixes=(".txt", ".md", ".rst", ".text"))
