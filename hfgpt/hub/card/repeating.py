"""How to repeat what a card is about: the commands that prepared its rows and trained it, without places of the machine.

They can be run as they stand, apart from words in capitals, which stand for folders and files of the machine.
"""

import shlex
from collections.abc import Iterable

from hfgpt.arguments.commands import command_in
from hfgpt.arguments.keys import as_word
from hfgpt.artifacts import RUN_FILE, Artifact
from hfgpt.files import HUB_NAME
from hfgpt.hub.card.facts import TOLD_SETTINGS, of_the_adapter, run_settings
from hfgpt.hub.card.markdown import one_line
from hfgpt.hub.file_names import is_python_docs

_WIDTH = 90  # of a line, which Markdown would not break
# What a command for documents writes, for the next one to read.
_OUTPUTS = {"tokenizer": "TOKENIZER", "data": "DATA"}
# Keys whose value is a folder or a file, unless it is on the Hub.
_PLACES = ("tokenizer", "perplexity_model", "privacy_model")
# A budget chose them, so that it would contradict them.
_BUDGETS = ("time_budget", "token_budget", "flop_budget")
# Settings that the card's table leaves out, but without which the result would be another one.
_MORE = (
    *("config_overrides", "trust_remote_code", "prompt_template", "source_weights", "max_grad_norm", "adam_beta1", "adam_epsilon"),
    *("eval_strategy", "eval_steps", "save_strategy", "save_steps"),
)


def command_of_data(passport: dict) -> str | None:
    """The command that prepared the rows, or trained the tokenizer, in lines for a shell; a model's passport names it as well."""
    text = passport.get("command")
    found = command_in(text) if isinstance(text, str) else None
    if found is None:
        return None
    command, rest = found
    try:
        words = shlex.split(rest)
    except ValueError:  # not one of our lines
        return None
    options: list[list[str]] = []
    for word in words:
        if word.startswith("--") or not options:
            options.append([])
        options[-1].append(word)
    weighted = any(option[0] == "--source_weights" for option in options)  # one for each source
    options = [_without_places(option, once=not weighted) for option in options]
    return _lines(f"hfgpt {command}", [*map(_words, options), f"--output_dir {_OUTPUTS.get(command, 'OUTPUT')}"])


def command_of_training(artifact: Artifact, *, base_hub_id: str | None) -> str | None:
    """The command that trains such a model again, in lines for a shell; None if run.yaml does not say which recipe it was.

    It has those settings of `TOLD_SETTINGS` and `_MORE` that differ from the defaults, with the outcome of a budget in its place.
    Data that everybody has keeps its name.
    """
    path = of_the_adapter(artifact, RUN_FILE)
    found = command_in(path.read_text(encoding="utf-8")) if path.is_file() else None
    if found is None:
        return None
    settings = run_settings(artifact)
    options = ["--dataset DATA"] if settings.get("dataset") else []
    if settings.get("model"):
        options.append(f"--model {_words(base_hub_id or 'BASE')}")
    for key in ("sources", "validation_sources", "test_sources", "decontaminate_against"):
        if sources := settings.get(key):
            names = sources if isinstance(sources, list) else [sources]
            everybodys = all(is_python_docs(str(name)) for name in names)
            options.append(f"--{key} {_words(names) if everybodys else 'FILES'}")
    kept = [key for key in (*TOLD_SETTINGS, *_MORE) if not (settings.get("plan") and key in _BUDGETS)]
    options += [f"--{key} {_words(value)}" for key in kept if (value := settings.get(key)) is not None]
    return _lines(f"hfgpt {found[0]}", [*options, "--output_dir OUTPUT"])


def _without_places(option: list[str], *, once: bool) -> list[str]:
    """A key and its values with a word in capitals for a folder. Args: `once` names several files of one kind once."""
    key, *values = option
    if key.removeprefix("--") in _PLACES and not all(map(HUB_NAME.fullmatch, values)):
        return [key, key.removeprefix("--").upper()]
    return [key, *(dict.fromkeys(values) if once and any(value.startswith("FILE") for value in values) else values)]


def _lines(command: str, options: Iterable[str]) -> str:
    lines = [command]
    for option in options:
        if len(lines[-1]) + len(option) > _WIDTH:
            lines.append("   ")
        lines[-1] += f" {option}"
    return " \\\n".join(lines)


def _words(value: object) -> str:
    """A value, or the values of a list, as words of a command line."""
    values = value if isinstance(value, list) else [value]
    return " ".join(shlex.quote(one_line(as_word(one))) for one in values)
