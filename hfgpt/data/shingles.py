"""Texts as sets of hashed shingles: runs of five words, or of five characters, in any script.

All texts of a batch are hashed at once, as one array of code points. A hash has 63 bits and is the same in every process and on
every machine.
"""

import unicodedata
from collections.abc import Sequence

import numpy as np

LENGTH = 5  # words or characters per shingle, as in FineWeb and datatrove
_SEPARATOR, _IN_WORD, _OWN_WORD, _DELETED, _UNKNOWN = range(5)
# Scripts written without spaces: each character counts as a word. (Tibetan separates its syllables.)
WITHOUT_SPACES = (
    *((0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x1950, 0x19DF), (0x1A20, 0x1AAF)),  # Thai, Lao, Burmese, Khmer, Tai
    *((0x3005, 0x3007), (0x3040, 0x30FF), (0x31F0, 0x31FF)),  # Japanese beside its Han characters
    *((0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x3FFFF), (0xA000, 0xA48F)),  # Han and Yi
)
_classes = np.full(0x110000, _UNKNOWN, dtype=np.uint8)  # of code points, filled with those that occur
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # odd: 2**64 divided by the golden ratio


def word_shingles(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Hashes of all five-word runs of each text, and their offsets.

    Unicode form (NFKC), case, punctuation, spaces and invisible format characters are ignored; digits are not. A text with fewer
    words is one shingle; one without a word, such as "!!!", is made of its visible characters instead.

    Returns: hashes (uint64, below 2**63, repeated as the runs are), and offsets (uint64, one more than texts).
    Cost: linear. Time: about 20 ns per character of English. Memory: about 40 bytes per character, for all texts together.
    """
    hashes, counts = _word_runs(texts, lone_characters=False)
    if not counts.all():
        wordless = np.flatnonzero(counts == 0)
        others, other_counts = _word_runs(["".join(texts[int(index)].split()) or "\0" for index in wordless], lone_characters=True)
        places = np.repeat(np.cumsum(counts)[wordless], other_counts)
        hashes = np.insert(hashes, places, others)
        counts[wordless] = other_counts
    return hashes, _offsets(counts)


def character_shingles(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Hashes of all runs of five characters of each text as it is, and offsets; a shorter text is its own only one."""
    codes, lengths = _code_points([text or "\0" for text in texts])
    return _runs(mix(codes.astype(np.uint64)), lengths)


def _word_runs(texts: Sequence[str], *, lone_characters: bool) -> tuple[np.ndarray, np.ndarray]:
    codes, lengths = _code_points([unicodedata.normalize("NFKC", text).casefold() for text in texts])
    classes = _classes_of(codes)
    if lone_characters:
        classes = np.full_like(classes, _OWN_WORD)
    kept = classes != _DELETED
    ends = np.cumsum(lengths)
    if not kept.all():
        ends = np.cumsum(np.bincount(np.repeat(np.arange(len(texts)), lengths)[kept], minlength=len(texts)))
        codes, classes = codes[kept], classes[kept]
    in_word = classes != _SEPARATOR
    starts = in_word.copy()
    own = classes == _OWN_WORD
    starts[1:] &= ~in_word[:-1] | own[1:] | own[:-1]
    starts[ends[ends < len(starts)]] = in_word[ends[ends < len(starts)]]  # a text ends where the next begins
    words_before = np.concatenate([[0], np.cumsum(starts)])
    counts = np.diff(np.concatenate([[0], words_before[ends]]))
    # The hash of a word is a polynomial in its characters.
    first = np.flatnonzero(starts[in_word])
    sizes = np.diff(np.append(first, np.count_nonzero(in_word)))
    if not len(first):
        return np.empty(0, dtype=np.uint64), counts
    powers = np.cumprod(np.full(sizes.max(), _MULTIPLIER, dtype=np.uint64))
    places = np.arange(sizes.sum()) - np.repeat(first, sizes)
    terms = (codes[in_word].astype(np.uint64) + np.uint64(1)) * powers[places]
    hashes, offsets = _runs(mix(np.add.reduceat(terms, first)), counts)
    return hashes, np.diff(offsets.astype(np.int64))


def _runs(values: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Hashes of `LENGTH` values in a row, of each text by itself; of all its values where it has fewer."""
    ends = np.cumsum(counts)
    places = np.arange(len(values))
    end_of = np.repeat(ends, counts)
    is_run = (places + LENGTH <= end_of) | (places == np.repeat(ends - counts, counts))
    runs, end_of = places[is_run], end_of[is_run]
    padded = np.append(values, np.zeros(LENGTH - 1, dtype=np.uint64))
    total = np.zeros(len(runs), dtype=np.uint64)
    powers = np.cumprod(np.full(LENGTH, _MULTIPLIER, dtype=np.uint64))
    for step in range(LENGTH):
        total += np.where(runs + step < end_of, padded[runs + step], np.uint64(0)) * powers[step]
    return mix(total) >> np.uint64(1), _offsets(np.where(counts > 0, np.maximum(1, counts - LENGTH + 1), 0))


def _code_points(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    lengths = np.array([len(text) for text in texts], dtype=np.int64)
    return np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), dtype=np.uint32), lengths


def _classes_of(codes: np.ndarray) -> np.ndarray:
    classes = _classes[codes]
    if (classes == _UNKNOWN).any():
        for code in np.unique(codes[classes == _UNKNOWN]).tolist():
            category = unicodedata.category(chr(code))
            if category[0] in "LMN":
                _classes[code] = _OWN_WORD if any(low <= code <= high for low, high in WITHOUT_SPACES) else _IN_WORD
            else:
                _classes[code] = _DELETED if category == "Cf" else _SEPARATOR
        classes = _classes[codes]
    return classes


def mix(values: np.ndarray) -> np.ndarray:
    """Values whose bits all depend on all bits of what was given. Source: the finalizer of splitmix64 (Steele et al., 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _offsets(counts: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.uint64)
