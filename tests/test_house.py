"""Which module may import which: only from the same layer or a lower one, and without cycles."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "hfgpt"
# The layers, lowest first; packages in the same layer may import each other, but only in one direction.
FLOORS = (
    {"artifacts", "errors", "files", "inference", "tables", "counting", "signals"},
    {"model", "tokenization", "chat_templates", "metrics", "arguments"},
    {"data", "fingerprint"},
    {"evaluation", "conversion"},
    {"hub", "hygiene"},
    {"training"},
    {"cli", "__main__", "api", "recipes", "__init__"},
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}


def imports() -> list[tuple[str, str, str]]:
    """Every import of one module of hfgpt by another: (importer, imported, where), anywhere in the file."""
    modules = {module_name(path): path for path in PACKAGE.rglob("*.py")}
    found = []
    for name, path in modules.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                package = name if path.name == "__init__.py" else name.rpartition(".")[0]
                for _ in range(node.level - 1):
                    package = package.rpartition(".")[0]
                module = ".".join(part for part in (package if node.level else "", node.module or "") if part)
                targets = {f"{module}.{one.name}" if f"{module}.{one.name}" in modules else module for one in node.names}
            elif isinstance(node, ast.Import):
                targets = {one.name for one in node.names}
            else:
                continue
            where = f"{path.relative_to(ROOT)}:{node.lineno}"
            found += [(name, target, where) for target in targets if target in modules and target not in ("hfgpt", name)]
    return found


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else "__init__"


IMPORTS = imports()


def test_every_room_has_a_floor():
    rooms = {
        path.stem if path.suffix == ".py" else path.name for path in PACKAGE.iterdir() if path.suffix == ".py" or path.is_dir()
    }
    assert rooms - {"__pycache__", "py"} - {path.name for path in PACKAGE.glob("*.typed")} <= set(FLOOR)
    assert len(IMPORTS) > 300  # otherwise the tests check nothing


def test_nothing_is_imported_from_a_higher_floor():
    upward = [f"{where} {one} -> {other}" for one, other, where in IMPORTS if FLOOR[room(other)] > FLOOR[room(one)]]
    assert not upward, "\n".join(upward)


@pytest.mark.parametrize("of", ["rooms", "modules"])
def test_there_are_no_circles(of):
    graph: dict[str, set[str]] = {}
    for one, other, _ in IMPORTS:
        one, other = (one, other) if of == "modules" else (room(one), room(other))
        if one != other and "__init__" not in (one, other):
            graph.setdefault(one, set()).add(other)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"a circle: {' -> '.join(error.args[1])}")


def test_the_models_code_travels_alone():
    """A copy of model/ must work without the rest of hfgpt."""
    assert not [where for one, other, where in IMPORTS if room(one) == "model" and room(other) != "model"]


def test_recipes_import_no_recipe_and_nothing_below_imports_recipes():
    names = {path.stem for path in (ROOT / "recipes").glob("*.py")}
    for path in [*(ROOT / "recipes").glob("*.py"), *PACKAGE.rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                assert (node.module or "").split(".")[0] not in {"recipes", *(names - {"evaluate"})}, f"{path}:{node.lineno}"
