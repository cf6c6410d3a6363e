"""pyproject.toml declares everything that the package imports: nothing is there only because another package needs it."""

import ast
import re
import sys
from importlib.metadata import packages_distributions

import pytest
from conftest import ROOT

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10, where pytest installs the same under its old name
    import tomli as tomllib

# The distributions of modules that may not be installed here.
DISTRIBUTIONS = {
    "bitsandbytes": "bitsandbytes",
    "gguf": "gguf",
    "llama_cpp": "llama-cpp-python",
    "openai": "openai",
    "pydivsufsort": "pydivsufsort",
    "pynvml": "nvidia-ml-py",
    "tensorflow": "tensorflow",
    "torchao": "torchao",
    "trl": "trl",
}
# Modules of programs that run in a separate process and import each other from their own folder.
BESIDE = {"stranger"}


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def requirements() -> tuple[set[str], set[str]]:
    """Names of the dependencies, and of the packages in the extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    optional = [line for lines in project["optional-dependencies"].values() for line in lines]
    names = [{canonical(re.match(r"[\w.-]+", line)[0]) for line in lines} for lines in (project["dependencies"], optional)]
    return names[0], names[1]


def imported(folder: str) -> dict[str, list[str]]:
    """Top-level modules that a folder's files import anywhere or request with `need`, and where; without ours and Python's."""
    found: dict[str, list[str]] = {}
    for path in sorted((ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module]
            elif isinstance(node, ast.Call) and getattr(node.func, "id", "") == "need":
                names = [node.args[0].value]
            for name in {name.partition(".")[0] for name in names} - {"hfgpt"} - BESIDE:
                if name not in sys.stdlib_module_names:
                    found.setdefault(name, []).append(str(path.relative_to(ROOT)))
    return found


@pytest.mark.parametrize("folder", ["hfgpt", "recipes"])
def test_every_import_is_declared(folder):
    dependencies, extras = requirements()
    installed = packages_distributions()
    modules = imported(folder)
    assert "transformers" in modules  # the files were read
    for module, places in modules.items():
        candidates = {canonical(name) for name in (DISTRIBUTIONS.get(module), *installed.get(module, [])) if name}
        assert candidates & (dependencies | extras), f"{module}, imported in {places}, is not declared in pyproject.toml"


def test_what_is_imported_at_the_top_of_a_file_is_no_extra():
    dependencies, _ = requirements()
    installed = packages_distributions()
    for path in [*(ROOT / "hfgpt").rglob("*.py"), *(ROOT / "recipes").glob("*.py")]:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.level == 0 else []
            for name in {name.partition(".")[0] for name in names} - {"hfgpt"} - BESIDE - set(sys.stdlib_module_names):
                assert {canonical(one) for one in installed[name]} & dependencies, f"{path} imports {name}"


def test_every_dependency_has_a_pin():
    dependencies, _ = requirements()
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert dependencies <= {canonical(line.partition("==")[0]) for line in lines if "==" in line}
