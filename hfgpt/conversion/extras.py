"""Packages that only some conversions need."""

import importlib
from types import ModuleType

from hfgpt.errors import UserError


def need(module: str, *, extra: str, purpose: str) -> ModuleType:
    """Import a package that an extra of hfgpt brings. Raises: ValueError with the command that installs it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module:  # it is there, but something that it needs is not
            raise
        raise UserError(f"{purpose}, and {module} is not installed; pip install 'hfgpt[{extra}]'.") from None
