"""Generates any number of documents, one at a time; some are copies of a known kind."""

import random
from collections.abc import Iterator, Sequence

# Made-up words, for when no real text is available.
WORDS = [
    f"{first}{second}{third}" for first in "bdfghklmn" for second in ("a", "o", "ar", "in") for third in ("be", "lo", "st", "m")
]
KINDS = ["distinct"] * 16 + ["exact"] + ["near"] * 3  # of every twenty documents
LENGTH = 170  # words, about 1 KB


def planted_copies(words: Sequence[str], number: int) -> Iterator[tuple[str, str, int]]:
    """Yield documents of three kinds, each with its kind and the number of its original (its own number for a distinct one).

    Distinct documents are a stretch of `words` in random order. Exact copies differ from their original in white space. Near copies
    differ in two words that are three apart, so in 8 of 166 runs of five words: their Jaccard similarity is 158 / 174 = 0.908.
    """
    for index in range(number):
        generator, kind, original = random.Random(f"copy {index}"), KINDS[index % 20], index
        while kind != "distinct" and KINDS[original % 20] != "distinct":
            original = generator.randrange(index)
        document = _distinct(words, original)
        if kind == "near":
            place = generator.randrange(4, LENGTH - 8)
            for changed in (place, place + 3):
                document[changed] = f"another{generator.randrange(10**6)}"
        yield ("\n ".join(document) + " " if kind == "exact" else " ".join(document)), kind, original


def _distinct(words: Sequence[str], number: int) -> list[str]:
    generator = random.Random(number)
    start = generator.randrange(len(words) - LENGTH)
    return generator.sample(words[start : start + LENGTH], LENGTH)
