"""Word and sentence splitting for datatrove's filters, without spaCy.

datatrove has a splitter per language: mostly spaCy, for some a package with its own model. Its blocks also accept an instance of
`WordTokenizer` instead of the language ("Pass in a WordTokenizer directly", datatrove.utils.word_tokenizers).
"""

import functools

# Han, kana, Thai, Lao, Khmer, Burmese and Tibetan are written without spaces; each character, with its marks, counts as a word.
_UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}"
# A word with what binds it (don't, well-known, 3.14; \u2019 is the typographic apostrophe), a character as above, or a run of one
# and the same mark (as "..." or "--"). Nothing here goes back over what it has read, so that no text takes more than linear time.
WORD = rf"[{_UNSPACED}]\p{{M}}*+|(?:(?![{_UNSPACED}])\w)++(?:['\u2019.-](?:(?![{_UNSPACED}])\w)++)*+|([^\w\s])\1*+"
# The end of a sentence if a space follows, after closing quotes and brackets; not after initials and a few abbreviations.
_WESTERN_END = r"(?<![.?!\u2026])(?<!\b(?:Mr|Mrs|Ms|Dr|St|\p{Lu})(?=\.))[.?!\u2026]++[\"'\u201d\u2019)\]]*+(?=\s|\Z)"
_CLOSING = "\"'\u201d\u2019\u300d\u300f\uff09"


@functools.cache
def word_splitter():
    """The splitter of this process, for `language=` of datatrove's filters; equal texts give equal words in any process.

    Unlike in spaCy, which datatrove uses for English, contractions and hyphenated compounds are one word.
    """
    import regex
    from datatrove.utils.text import TERMINAL_PUNCTUATION
    from datatrove.utils.word_tokenizers import WordTokenizer

    # In other scripts, punctuation ends a sentence whatever follows.
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
