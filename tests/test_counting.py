"""Counts with their nouns, and messages that use them."""

import ast
import re

import pytest
from conftest import ROOT

from hfgpt.counting import counted, in_words, listed

# Nouns that a person meets with a 1 before them; all other counts (tokens, parameters, bytes) are large.
NOUNS = "minutes|documents|checks|files|conversations|warnings"
FORMATS = ("f','", "f'g'")  # {number:,} and {number:g}
# Where the number is that of something else ("3 of 40 documents", "all 12 conversations"), or at least 2.
NOT_ONE = re.compile(r"(\bof|\ball|\bthe|->|fewer than) $")


@pytest.mark.parametrize(
    ("number", "plural", "said"),
    [
        (1, "documents", "1 document"),
        (2000, "copies", "2,000 copies"),
        (1, "copies", "1 copy"),
        (0, "files", "0 files"),
        (1.0, "minutes", "1 minute"),
        (10.0, "minutes", "10 minutes"),
        (2.5, "minutes", "2.5 minutes"),
        (1, "pairs of equal answers", "1 pair of equal answers"),
        (3, "pairs of equal answers", "3 pairs of equal answers"),
    ],
)
def test_a_count_agrees_with_its_noun(number, plural, said):
    assert counted(number, plural) == said


@pytest.mark.parametrize(
    ("count", "said"),
    [
        (640, "640"),
        (999_999, "999,999"),
        (1_838_208, "1.84 million"),
        (999_499_999, "999 million"),
        (999_999_999, "1 billion"),  # not 1,000 million
        (2.5e9, "2.5 billion"),
        (1.234e15, "1,230 trillion"),
    ],
)
def test_large_numbers_in_words(count, said):
    assert in_words(count) == said


def test_a_long_list_says_how_many_more_there_are():
    assert listed([1, 2, 3], most=3) == "1, 2, 3"
    assert listed(["a", "b", "c"], most=2, between="; ") == "a; b and 1 more"
    assert listed(range(2000), most=1) == "0 and 1,999 more"


def test_no_message_puts_a_plural_after_a_number_that_may_be_1():
    """In an f-string: a number in braces and a plural right after it, without `counted`."""
    found = []
    for path in sorted([*(ROOT / "hfgpt").rglob("*.py"), *(ROOT / "recipes").glob("*.py")]):
        if path.parent.name == "gate":
            continue  # some of these files run without hfgpt
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.JoinedStr):
                continue
            before = ""
            for part, after in zip(node.values, [*node.values[1:], ast.Constant("")]):
                said = after.value if isinstance(after, ast.Constant) and isinstance(after.value, str) else ""
                is_count = isinstance(part, ast.FormattedValue) and ast.unparse(part.format_spec or ast.Constant("")) in FORMATS
                if is_count and re.match(rf" ({NOUNS})\b", said) and not NOT_ONE.search(before):
                    found.append(f"{path.relative_to(ROOT)}:{part.lineno}: {ast.unparse(part)}{said[:20]}")
                before = part.value if isinstance(part, ast.Constant) and isinstance(part.value, str) else ""
    assert found == []
