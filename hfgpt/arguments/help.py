"""`--help` of a recipe: our keys by group, Trainer's on request."""

import argparse
import inspect
import re
import shutil
import sys
from typing import Any, cast

from transformers import HfArgumentParser
from transformers.hf_argparser import string_to_bool

from hfgpt.arguments.commands import as_started, documentation, program
from hfgpt.arguments.keys import GROUPS, TRAINER, RecipeArguments, as_words
from hfgpt.errors import UserError
from hfgpt.tables import nearest

WIDTH, KEY_WIDTH = 132, 40
_KINDS = {str: "TEXT", int: "INTEGER", float: "NUMBER", string_to_bool: "{true,false}"}
_NAMES = {int: "a whole number", float: "a number", string_to_bool: "true or false"}


class KeyParser(HfArgumentParser):
    """Reads the keys of a class of arguments and explains them by group."""

    def __init__(self, arguments_class: type[RecipeArguments]):
        self.positional = arguments_class.positional
        self.required: list[str] = []
        self.shown: dict[str, list[argparse.Action]] = {}
        # A recipe's own keys come before the shared ones.
        kinds = {name: kind for one in arguments_class.__mro__ for name, kind in inspect.get_annotations(one).items()}
        self.order = list(kinds)
        super().__init__(cast(Any, arguments_class), allow_abbrev=False, add_help=False, formatter_class=_KeyFormatter)
        for action in self._actions:
            if "dict" in str(kinds.get(action.dest)):  # HfArgumentParser reads it as a string
                action.metavar = "MAPPING"

    def add_argument(self, *options, group: str = TRAINER, required: bool = False, **settings) -> argparse.Action:
        """As in every parser; HfArgumentParser passes on the metadata of a field, which contains the group.

        argparse does not know what is required: `RecipeArguments.require` reports missing keys and says what to do.
        """
        action = super().add_argument(*options, **settings)
        if not options[0].startswith("--no_"):  # "--no_stream" says the same as "--stream false"
            self.shown.setdefault(group, []).append(action)
        if required:
            self.required.append(action.dest)
            action.help = f"{action.help} [required]"
        return action

    def error(self, message: str):
        """Raises: UserError instead of ending the process."""
        raise UserError(self._in_words(message) or f"{message}; see --help.")

    def _in_words(self, message: str) -> str | None:
        """argparse's message about the value of a key, as hfgpt words its own; None for any other message."""
        found = re.fullmatch(r"argument --(?P<key>\w+)\S*: (?P<said>.*)", message, flags=re.DOTALL)
        action = next((one for one in self._actions if found and one.dest == found["key"].removeprefix("no_")), None)
        if found is None or action is None:
            return None
        key, said = found["key"], found["said"]
        if said.startswith("expected"):
            return f"{key} has no value; write --{action.dest} {kind_of(action)}."
        if value := re.match(r"invalid choice: (.+?) \(choose from", said, flags=re.DOTALL):
            choices = [str(choice) for choice in action.choices or ()]
            near = nearest(value[1].strip("'\""), choices)
            return f"{key} is {value[1]}; allowed: {', '.join(choices)}." + (f" Did you mean {near!r}?" if near else "")
        if value := re.match(r"invalid \w+ value: (.+)", said, flags=re.DOTALL):
            return f"{key} is {value[1]}; it must be {_NAMES.get(action.type, 'another kind of value')}."
        if value := re.match(r"Truthy value expected: got (.*) but expected", said, flags=re.DOTALL):
            return f"{key} is {value[1]!r}; it must be {_NAMES[string_to_bool]}."
        return None

    def explain(self, *, everything: bool) -> str:
        """The text of `--help`, or of `--help all`, which includes Trainer's keys."""
        first = "[run.yaml]" if self.positional is None else f"[{self.positional.upper()} | run.yaml]"
        text = f"usage: {program()} {first} [--key value ...]\n"
        words = [name.upper() if name == self.positional else f"--{name}" for name in sorted(self.required, key=self.order.index)]
        text += f"required, here or in run.yaml: {', '.join(words)}    [in brackets]: the default\n"
        columns = shutil.get_terminal_size((WIDTH, 0)).columns
        formatter = _KeyFormatter(prog=program(), width=min(WIDTH, columns), max_help_position=KEY_WIDTH)
        formatter.add_text(sys.modules["__main__"].__doc__)
        for group in [*GROUPS, TRAINER] if everything else GROUPS:
            formatter.start_section(group)
            formatter.add_arguments(sorted(self.shown.get(group, []), key=self._place))
            formatter.end_section()
        text += f"\n{formatter.format_help()}"
        text += "\n--quiet prints only warnings and the result.\n"
        if TRAINER in self.shown and not everything:
            text += "Trainer's own keys (max_steps, seed, weight_decay, push_to_hub and many more) are listed by --help all\n"
        return as_started(_with_addresses(text))

    def _place(self, action: argparse.Action) -> tuple[bool, int]:
        return action.dest not in self.required, self.order.index(action.dest)


def _with_addresses(text: str) -> str:
    """The text with the address of each page that it names."""
    address = documentation()
    return re.sub(r"(?<![\w/])docs/([\w/]+\.md)", rf"{address}/\1", text) if address else text


def kind_of(action: argparse.Action) -> str:
    """What is given for a key, as `--help` shows it."""
    one = (
        "{" + ",".join(map(str, action.choices)) + "}" if action.choices else str(action.metavar or _KINDS.get(action.type, "TEXT"))
    )
    return one + (" ..." if action.nargs == "+" else "")


class _KeyFormatter(argparse.RawDescriptionHelpFormatter):
    """One spelling per key, and its default, if any, as it would be typed."""

    def _format_action_invocation(self, action: argparse.Action) -> str:
        return f"{action.option_strings[0]} {kind_of(action)}"

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default in (None, "", [], [""]):
            return action.help
        default = " ".join(as_words(action.dest, action.default)[1:]).replace("%", "%%")
        return f"{action.help} [{default}]"
