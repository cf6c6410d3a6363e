"""The oldest Python that pyproject.toml allows can parse every file, and its standard library has every name that is used."""

import ast
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT

LEAST = (3, 10)
FILES = [path for folder in ("hfgpt", "recipes", "benchmarks") for path in sorted((ROOT / folder).rglob("*.py"))]
# What later versions added to modules that a package like this one uses. Source: the pages "What's New in Python" 3.11 to 3.14.
LATER = {
    "asyncio": {"Barrier", "Runner", "TaskGroup", "timeout", "timeout_at"},
    "collections.abc": {"Buffer"},
    "contextlib": {"chdir"},
    "copy": {"replace"},
    "datetime": {"UTC"},
    "enum": {"EnumCheck", "FlagBoundary", "ReprEnum", "StrEnum", "member", "nonmember", "property", "verify"},
    "functools": {"Placeholder"},
    "hashlib": {"file_digest"},
    "inspect": {"getmembers_static", "markcoroutinefunction"},
    "itertools": {"batched"},
    "logging": {"getHandlerByName", "getHandlerNames", "getLevelNamesMapping"},
    "math": {"cbrt", "exp2", "fma", "sumprod"},
    "operator": {"call", "is_none", "is_not_none"},
    "os": {"listdrives", "process_cpu_count"},
    "pathlib": {"UnsupportedOperation"},
    "random": {"binomialvariate"},
    "re": {"NOFLAG", "RegexFlag.NOFLAG"},
    "sys": {"activate_stack_trampoline", "exception", "monitoring"},
    "threading": {"setprofile_all_threads", "settrace_all_threads"},
    "types": {"get_original_bases"},
    "typing": {
        *("LiteralString", "Never", "NotRequired", "Required", "Self", "TypeAliasType", "TypeIs", "TypeVarTuple", "Unpack"),
        *("assert_never", "assert_type", "clear_overloads", "dataclass_transform", "get_overloads", "override", "reveal_type"),
    },
    "warnings": {"deprecated"},
}
MODULES = {"annotationlib", "compression", "concurrent.interpreters", "string.templatelib", "tomllib"}
BUILT_IN = {"BaseExceptionGroup", "ExceptionGroup", "PythonFinalizationError"}
METHODS = {"add_note", "from_uri", "is_junction", "full_match"}


def later_names(tree: ast.AST) -> Iterator[str]:
    modules = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                modules[alias.asname or alias.name] = alias.name
                if alias.name in MODULES:
                    yield alias.name
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found = LATER.get(node.module or "", set())
            yield from (f"{node.module}.{alias.name}" for alias in node.names if alias.name in found)
            if node.module in MODULES:
                yield str(node.module)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            owner = modules.get(ast.unparse(node.value), "")
            if node.attr in LATER.get(owner, set()) | METHODS:
                yield f"{owner}.{node.attr}"
        elif isinstance(node, ast.Name) and node.id in BUILT_IN:
            yield node.id


def text_of(path: Path) -> str:
    with tokenize.open(path) as file:
        return file.read()


def test_the_search_finds_what_is_later():
    text = "import math, tomllib\nfrom typing import Self, Any\nmath.cbrt(8)\nerror.add_note('')\nraise ExceptionGroup('', [])\n"
    assert [*later_names(ast.parse(text))] == ["tomllib", "typing.Self", "math.cbrt", ".add_note", "ExceptionGroup"]
    with pytest.raises(SyntaxError):
        ast.parse("try:\n    pass\nexcept* ValueError:\n    pass\n", feature_version=LEAST)


def test_every_file_is_of_the_least_version():
    assert f'requires-python = ">={LEAST[0]}.{LEAST[1]}"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert sys.version_info[:2] >= LEAST
    assert len(FILES) > 200
    found = {}
    for path in FILES:
        if names := [*later_names(ast.parse(text_of(path), feature_version=LEAST))]:
            found[path.relative_to(ROOT).as_posix()] = names
    assert found == {}
