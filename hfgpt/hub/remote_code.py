"""The code published with a model: check that the files named in config.json exist and define the named classes. None of it is
run."""

import ast
import re
from pathlib import Path

from hfgpt.files import read_json
from hfgpt.hub.gate.report import Disagreement


def check_code(folder: Path) -> None:
    """Check that every class in config.json's auto_map is defined in its file in `folder`, and that the architecture is one of
    them.

    Raises: Disagreement, for a folder that would not load with trust_remote_code.
    """
    config = read_json(folder / "config.json")
    auto_map = config.get("auto_map") or {}
    names = set()
    for auto_class, target in auto_map.items():
        for one in [target] if isinstance(target, str) else [part for part in target if part]:
            module, _, name = one.rpartition(".")
            path = folder / f"{module}.py"
            if not re.fullmatch(r"\w+", module) or not path.is_file():
                raise Disagreement(f"auto_map: {auto_class} is {one}, but there is no {module}.py beside it")
            defined = {node.name for node in ast.parse(path.read_bytes()).body if isinstance(node, ast.ClassDef)}
            if name not in defined:
                raise Disagreement(f"auto_map: {auto_class} is {one}, but {module}.py does not define {name}")
            names.add(name)
    for architecture in config.get("architectures") or [] if auto_map else []:
        # `transformers serve` may also look up an Auto class.
        if architecture not in names and not architecture.startswith("AutoModel"):
            raise Disagreement(f"config.json: the architecture {architecture} is not one of the classes in auto_map")
