"""The commands of `hfgpt`, where their recipes are, and how messages refer to them."""

import os
import re
import shlex
import sys
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path
from typing import NamedTuple, TextIO

from hfgpt.files import with_home
from hfgpt.tables import Table

_PACKAGE = Path(__file__).parents[1]
# In a wheel, the recipes are inside the package; in a checkout, beside it.
RECIPES = next(folder for folder in (_PACKAGE / "recipes", _PACKAGE.parent / "recipes") if folder.is_dir())
STARTED_AS = "HFGPT_COMMAND"  # cli.py sets it to the name of a command, also for the processes that accelerate starts


class Command(NamedTuple):
    """A command of `hfgpt`.

    Args:
        recipe: its file in recipes/, or an absolute path from elsewhere.
        group: the heading it appears under in `hfgpt --help`.
        purpose: what it does, in one line.
        words: what it adds to the recipe's command line.
    """

    recipe: str
    group: str
    purpose: str
    words: tuple[str, ...] = ()


COMMANDS = Table[Command](
    "command",
    {
        "from-text": Command("from_text.py", "Start", "Make a GPT of your text: tokenizer, rows, model and report in one go."),
        "tokenizer": Command("train_tokenizer.py", "Data", "Train a tokenizer on any text."),
        "data": Command("prepare_data.py", "Data", "Clean, split and pack text into rows to train a model on."),
        "pretrain": Command("pretrain.py", "Train", "Train a GPT from scratch on prepared rows."),
        "classify": Command("finetune_classification.py", "Train", "Fine-tune a text classifier."),
        "instruct": Command("finetune_instructions.py", "Train", "Fine-tune an assistant on instructions and conversations."),
        "align": Command("align_preferences.py", "Train", "Teach an assistant which of two answers people prefer."),
        "generate": Command("generate.py", "Use", "Continue prompts with a model."),
        "chat": Command("generate.py", "Use", "Talk with an assistant in the terminal.", ("--chat", "true")),
        "evaluate": Command("evaluate.py", "Use", "Measure a model on text, labels, conversations or benchmarks."),
        "convert": Command("convert.py", "Share", "Import weights from GPT-2 or nanoGPT; export them to Qwen3, Llama or GGUF."),
        "check": Command("check.py", "Share", "Check what would be published, as a stranger would receive it."),
        "publish": Command("publish.py", "Share", "Publish on the Hugging Face Hub: checked first, private by default."),
    },
)


def started_as_script() -> bool:
    """Whether this process runs a file of recipes/, and not `hfgpt COMMAND` or somebody's own Python program."""
    return STARTED_AS not in os.environ and Path(sys.argv[0]).resolve().parent == RECIPES.resolve()


def started_from_python() -> bool:
    """Whether hfgpt's functions are called by somebody's own Python program."""
    return STARTED_AS not in os.environ and not started_as_script()


def command_line(command: str, *words: object) -> str:
    """A command of `hfgpt` or, in a recipe that was started as a script, that recipe's; quoted for a shell."""
    entry = COMMANDS[command]
    if started_as_script():
        return shlex.join(["python", f"recipes/{entry.recipe}", *map(str, words), *entry.words])
    return shlex.join(["hfgpt", command, *map(str, words)])


def repeats(recipe: str, file: str | Path, *, what: str) -> str:
    """The first line of a YAML file that a recipe wrote: the command that repeats it, as this process was started."""
    words = (file, "--output_dir", "ANOTHER")
    command = command_of(recipe)
    line = command_line(command, *words) if command else shlex.join(["python", f"recipes/{recipe}", *map(str, words)])
    return f"# {line} repeats {what}.\n"


_NAMED = re.compile(r"(?:# )?(?:hfgpt (?P<command>[\w-]+)|python recipes/(?P<recipe>\w+\.py)) ")


def command_in(text: str) -> tuple[str, str] | None:
    """The command that a text begins with, as in `repeats` and in passports, and the rest of the text; None if it names none."""
    found = _NAMED.match(text)
    if found is None:
        return None
    command = found["command"] or command_of(found["recipe"])
    return (command, text[found.end() :]) if command is not None and command in COMMANDS else None


def program() -> str:
    """How this process was started, as `--help` says it: `hfgpt pretrain` or `python recipes/pretrain.py`."""
    if STARTED_AS in os.environ:
        return f"hfgpt {os.environ[STARTED_AS]}"
    return f"python recipes/{Path(sys.argv[0]).name}"


def command_of(recipe: str) -> str | None:
    """The command that starts a recipe, by its file name; if there are two, the first."""
    return next((name for name, entry in COMMANDS.items() if entry.recipe == recipe), None)


_RECIPE_IN_TEXT = re.compile(r"(?:torchrun (?P<processes>[^\n]*?) |python )?(?<![\w/.])recipes/(?P<recipe>\w+\.py)")


def as_started(text: str) -> str:
    """Rewrite the recipe names in a text for the terminal as commands that work where this process was started.

    "python recipes/check.py FOLDER" becomes "hfgpt check FOLDER", or in a recipe's own script that was started from another folder
    its own path. torchrun needs the file itself.
    """
    script = Path(sys.argv[0])
    if started_as_script() and Path("recipes", script.name).is_file():
        return text

    def renamed(match: re.Match[str]) -> str:
        recipe = match["recipe"]
        if started_as_script():
            return match[0].replace(f"recipes/{recipe}", shlex.quote(str(script.with_name(recipe))))
        if (command := command_of(recipe)) is None:
            return match[0]
        return f"torchrun {match['processes']} {RECIPES / recipe}" if match["processes"] else f"hfgpt {command}"

    return _RECIPE_IN_TEXT.sub(renamed, text)


def shipped(name: str, *, kind: str) -> Path:
    """The file of this name, or else the shipped one.

    Args: `kind` is the folder of recipes/ to look in, "configs" or "accelerate"; "quickstart/data.yaml" and
        "recipes/configs/quickstart/data.yaml" are the same shipped file.
    Returns: the path as given if there is neither.
    """
    path = Path(with_home(name))
    places = (path, RECIPES / kind / path, RECIPES.parent / path)
    return next((place for place in places if place.is_file()), path)


def documentation() -> str | None:
    """The address of the documentation, which a wheel does not contain; None if this package was not installed."""
    with suppress(PackageNotFoundError):
        addresses = dict(one.split(", ", 1) for one in metadata("hfgpt").get_all("Project-URL") or [])
        return addresses.get("Documentation")
    return None


def print_page(text: str) -> None:
    """Print to a pipe that may close before the end, as with `| head`."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        discard_output(sys.stdout)


def discard_output(stream: TextIO) -> None:
    """Let a stream whose reader has gone lead nowhere; otherwise every line, and Python's flush at exit, would fail again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
