"""The text of an HTML page without its tags."""

import re
from html.parser import HTMLParser

COMMENT = re.compile(r"<!--.*?(?:-->|\Z)", re.DOTALL)
# For tags and comments that are never closed, html.parser takes minutes: quadratic time.
UNCLOSED = re.compile(r"<(?=[^<>]*(?:<|\Z))")
# Their content is not shown. A title is: a mail program shows the subject instead.
SILENT = {"script", "style", "title"}
PARAGRAPHS = {"p", "h1", "h2", "h3", "h4", "h5", "h6", "ul", "ol", "dl", "table", "blockquote", "pre", "hr", "body"}
LINES = {"div", "tr", "li", "dt", "dd", "section", "article", "header", "footer"}


class _Reader(HTMLParser):
    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self._silent = ""
        self._preformatted = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._silent = self._silent or (tag if tag in SILENT else "")
        self._tag(tag, begins=True)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._tag(tag, begins=False)

    def handle_endtag(self, tag: str) -> None:
        if tag == self._silent:
            self._silent = ""
        self._tag(tag, begins=False)

    def _tag(self, tag: str, *, begins: bool) -> None:
        if tag == "pre":
            self._preformatted = begins
        if tag in PARAGRAPHS:
            self.parts.append("\n\n")
        elif tag == "br" or (tag in LINES and not self._at_line_start()):
            self.parts.append("\n")
        elif tag in ("td", "th"):
            self.parts.append(" ")

    def handle_data(self, data: str) -> None:
        if self._silent:
            return
        if self._preformatted:
            self.parts.append(data)
        elif not (data.isspace() and self._at_line_start()):
            self.parts.append(re.sub(r"\s+", " ", data))

    def _at_line_start(self) -> bool:
        return not self.parts or self.parts[-1].endswith("\n")


def text_of_html(page: str) -> str:
    """The text of a page: paragraphs with a blank line between them, without tags, scripts, styles and comments."""
    reader = _Reader()
    reader.feed(UNCLOSED.sub("&lt;", COMMENT.sub("", page)))
    reader.close()
    lines = (" ".join(line.split()) for line in "".join(reader.parts).splitlines())
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()
