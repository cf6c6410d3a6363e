"""The words and sentences that datatrove's filters count, without spaCy.

datatrove names a splitter for each language, for most of them spaCy, for some a package with a model of its own. Its blocks also
take an instance of `WordTokenizer` in place of the language ("Pass in a WordTokenizer directly", datatrove.utils.word_tokenizers).
"""

import functools

# Han, kana, Thai, Lao, Khmer, Burmese and Tibetan are written without spaces; their characters count as words, with their marks.
_UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}"
# A word with what binds it (don't, well-known, 3.14; \u2019 is the typographic apostrophe), a character as above, or a run of one
# and the same mark (as "..." or "--"). Nothing here goes back over what it has read, so that no text takes more than linear time.
WORD = rf"[{_UNSPACED}]\p{{M}}*+|(?:(?![{_UNSPACED}])\w)++(?:['\u2019.-](?:(?![{_UNSPACED}])\w)++)*+|([^\w\s])\1*+"
# What ends a sentence where a blank follows, after closing quotes and brackets; not after an initial and a few abbreviations.
_WESTERN_END = r"(?<![.?!\u2026])(?<!\b(?:Mr|Mrs|Ms|Dr|St|\p{Lu})(?=\.))[.?!\u2026]++[\"'\u201d\u2019)\]]*+(?=\s|\Z)"
_CLOSING = "\"'\u201d\u2019\u300d\u300f\uff09"


@functools.cache
def word_splitter():
    """The splitter of this process, for `language=` of datatrove's filters; equal texts give equal words in any process.

    Beside spaCy's, which datatrove uses for English, a contraction and a hyphenated compound are one word.
    """
    import regex
    from datatrove.utils.text import TERMINAL_PUNCTUATION
    from datatrove.utils.word_tokenizers import WordTokenizer

    # In other scripts a mark ends a sentence whatever follows.
    others = regex.escape("".join(sorted({*TERMINAL_PUNCTUATION} - {*".?!"})))
    word, sentence_end = regex.compile(WORD), regex.compile(rf"{_WESTERN_END}|[{others}]++[{_CLOSING}]*+")

    class WordSplitter(WordTokenizer):
        def word_tokenize(self, text: str) -> list[str]:
            return [match[0] for match in word.finditer(text)]

        def span_tokenize(self, text: str) -> list[tuple[int, int]]:
            ends = [match.end() for match in sentence_end.finditer(text)]
            if not ends or text[ends[-1] :].strip():
                ends.append(len(text))
            return list(zip([0, *ends[:-1]], ends, strict=True))

        def sent_tokenize(self, text: str) -> list[str]:
            return [text[start:end].strip() for start, end in self.span_tokenize(text)]

    return WordSplitter()
