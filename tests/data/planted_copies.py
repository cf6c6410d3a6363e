"""Documents with copies of a known kind among them, as many as are wanted, one at a time."""

import random
from collections.abc import Iterator, Sequence

# Syllables put together, for where no real text is at hand.
WORDS = [
    f"{first}{second}{third}" for first in "bdfghklmn" for second in ("a", "o", "ar", "in") for third in ("be", "lo", "st", "m")
]
KINDS = ["distinct"] * 16 + ["exact"] + ["near"] * 3  # of twenty documents in a row
LENGTH = 170  # words, about 1 KB


def planted_copies(words: Sequence[str], number: int) -> Iterator[tuple[str, str, int]]:
    """Documents of three kinds, each with its kind and the number of its original, which is its own for a distinct one.

    Distinct ones are the words of one place of a text in random order; exact copies differ from theirs in white space; near copies
    differ in two words that stand three apart, so in 8 of 166 runs of five words: their Jaccard similarity is 158 / 174 = 0.908.
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
