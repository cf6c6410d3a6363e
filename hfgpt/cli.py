"""`hfgpt COMMAND [run.yaml] [--key value]`: every command is a recipe, run in this process or started by `accelerate launch`.

Nothing heavy is imported before the command is known, so `hfgpt --help` answers at once.
"""

import os
import runpy
import sys

from hfgpt import __version__
from hfgpt.arguments.commands import COMMANDS, RECIPES, STARTED_AS, documentation, print_page, shipped
from hfgpt.errors import MissingFileError, UserError
from hfgpt.signals import leave_on_ctrl_c

ABOUT = """\
usage: hfgpt COMMAND [run.yaml] [--key value ...] [--launch accelerate.yaml]
       hfgpt COMMAND --help | hfgpt --version

Your text in, your own GPT on the Hugging Face Hub out.
"""
EXAMPLES = """
Every command takes a YAML file with its keys, keys on the command line, or both; the command line wins. Shipped files need no
path: hfgpt pretrain quickstart/pretrain.yaml. --launch selects the machine: hfgpt pretrain ... --launch ddp.yaml
"""


def main() -> None:
    """The console script. Exits with the recipe's exit code; an error in the command itself gives one sentence and exit code 1."""
    leave_on_ctrl_c()
    name, *words = sys.argv[1:] or ["--help"]
    if name in ("--help", "-h", "help"):
        print_page(overview())
    elif name == "--version":
        print(f"hfgpt {__version__}")
    else:
        try:
            command = COMMANDS.find(name)
            words, machine = split_launch(words)
        except UserError as error:
            sys.exit(f"error: {error}")
        os.environ[STARTED_AS] = name
        recipe, words = str(RECIPES / command.recipe), [*words, *command.words]
        if machine:
            launch(machine, recipe, words)
        else:
            sys.argv = [recipe, *words]
            runpy.run_path(recipe, run_name="__main__")


def overview() -> str:
    """All commands, one line each, by group."""
    lines = [ABOUT.rstrip()]
    for group in dict.fromkeys(command.group for command in COMMANDS.values()):
        lines += ["", f"{group}:"]
        lines += [f"  {name:<10} {command.purpose}" for name, command in COMMANDS.items() if command.group == group]
    address = documentation()
    return "\n".join(lines) + "\n" + EXAMPLES.rstrip() + (f"\n\nDocumentation: {address}" if address else "")


def split_launch(words: list[str]) -> tuple[list[str], str | None]:
    """The recipe's words, and accelerate's file if `--launch` gives one. Raises: UserError if that file is missing."""
    for place, word in enumerate(words):
        option, equals, file = word.partition("=")
        if option != "--launch":
            continue
        rest = words[:place] + words[place + (1 if equals else 2) :]
        file = file or "".join(words[place + 1 : place + 2])
        if not file:
            raise UserError("--launch needs an accelerate file, such as --launch ddp.yaml.")
        path = shipped(file, kind="accelerate")
        if not path.is_file():
            known = ", ".join(sorted(one.name for one in (RECIPES / "accelerate").glob("*.yaml")))
            raise MissingFileError(f"--launch {file} does not exist (looked from {os.getcwd()}); the shipped files are {known}.")  # noqa: PTH109
        return rest, str(path)
    return words, None


def launch(machine: str, recipe: str, words: list[str]) -> None:
    """Run a recipe like `accelerate launch --config_file MACHINE RECIPE WORDS`, and exit with the recipe's exit code."""
    from accelerate.commands import launch as accelerate
    from accelerate.utils.launch import prepare_simple_launcher_cmd_env
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    def become_recipe(arguments) -> None:
        command, environment = prepare_simple_launcher_cmd_env(arguments)
        os.execve(command[0], command, environment)

    if os.name == "posix":
        # accelerate would wait for the single process it starts, keep signals from it and turn its exit code into 1.
        accelerate.simple_launcher = become_recipe
    try:
        accelerate.launch_command(
            accelerate.launch_command_parser().parse_args(["--quiet", "--config_file", machine, recipe, *words])
        )
    except ChildFailedError as failed:  # the recipe has printed the reason
        code = failed.get_first_failure()[1].exitcode
        sys.exit(code if code >= 0 else 128 - code)
    except SignalException as stopped:
        sys.exit(128 + stopped.sigval)
