"""How to repeat what a card is about: the commands that prepared its rows and trained it, without places of the machine."""

import re
import shlex

from hfgpt.arguments.commands import command_of
from hfgpt.artifacts import Artifact
from hfgpt.hub.card.facts import TOLD_SETTINGS, of_the_adapter, run_settings
from hfgpt.hub.card.markdown import one_line
from hfgpt.hub.file_names import PYTHON_DOCS

_WIDTH = 90  # of a line, which Markdown would not break


def command_of_data(passport: dict) -> str | None:
    """The command that prepared the rows, which a pretrained model's passport names as well."""
    command = passport.get("command")
    if not isinstance(command, str):
        return None
    recipe = re.match(r"python recipes/(\w+\.py)", command)
    name = command_of(recipe[1]) if recipe else None
    return f"hfgpt {name}{command[recipe.end() :]}" if recipe and name else command


def command_of_training(artifact: Artifact, *, base_hub_id: str | None) -> str | None:
    """The command that trains such a model again, in lines for a shell; None if run.yaml does not say which recipe it was.

    It has the settings of `TOLD_SETTINGS` that differ from the defaults. Words in capitals stand for folders and files of the
    machine; data that everybody has keeps its name.
    """
    path = of_the_adapter(artifact, "run.yaml")
    recipe = re.match(r"# python recipes/(\w+\.py) ", path.read_text(encoding="utf-8")) if path.is_file() else None
    command = command_of(recipe[1]) if recipe else None
    if command is None:
        return None
    settings = run_settings(artifact)
    options = ["--dataset DATA"] if settings.get("dataset") else []
    if settings.get("model"):
        options.append(f"--model {_words(base_hub_id or 'BASE')}")
    for key in ("sources", "validation_sources", "test_sources"):
        if sources := settings.get(key):
            names = sources if isinstance(sources, list) else [sources]
            everybodys = all(str(name).startswith(PYTHON_DOCS) for name in names)
            options.append(f"--{key} {_words(names) if everybodys else 'FILES'}")
    options += [f"--{key} {_words(value)}" for key in TOLD_SETTINGS if (value := settings.get(key)) is not None]
    lines = [f"hfgpt {command}"]
    for option in [*options, "--output_dir OUTPUT"]:
        if len(lines[-1]) + len(option) > _WIDTH:
            lines.append("   ")
        lines[-1] += f" {option}"
    return " \\\n".join(lines)


def _words(value: object) -> str:
    """A value, or the values of a list, as words of a command line."""
    values = value if isinstance(value, list) else [value]
    texts = [str(one).lower() if isinstance(one, bool) else one_line(str(one)) for one in values]
    return " ".join(map(shlex.quote, texts))
