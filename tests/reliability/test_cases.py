"""Every case of docs/reliability.md has tests, and they exist."""

import ast
import re
from pathlib import Path

from cases import CASES
from conftest import ROOT


def test_every_case_has_tests_that_are_there():
    assert len(CASES) == 39
    there = {}
    for case, tests in CASES.items():
        assert tests, case
        for file, name in tests:
            if file not in there:
                tree = ast.parse((ROOT / "tests" / file).read_text(encoding="utf-8"))
                there[file] = {one.name for one in tree.body if isinstance(one, ast.FunctionDef)}
            assert name in there[file], f"{case}: tests/{file}::{name}"


def test_the_page_has_a_row_for_every_case():
    page = Path(ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| ([ABCD]-?\w+) \|", page, re.MULTILINE) == list(CASES)
