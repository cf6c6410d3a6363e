"""Call a recipe's `main` in this process, with arguments as from Python."""

import importlib.util
from pathlib import Path

RECIPES = Path(__file__).resolve().parents[1] / "recipes"


def load(name: str):
    """The recipe as a module; recipes are scripts, not a package."""
    spec = importlib.util.spec_from_file_location(f"recipe_{name}", RECIPES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def recipe(name: str, **arguments):
    """Run `main` of recipe `name`; its argument class is the annotation of `main`."""
    module = load(name)
    arguments_class = module.main.__annotations__["args"]
    return module.main(arguments_class(**arguments))
