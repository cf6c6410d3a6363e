"""`--help` of a recipe: our keys in their groups, Trainer's on request."""

import argparse
import sys
from typing import Any, cast

from transformers import HfArgumentParser
from transformers.hf_argparser import string_to_bool

from hfgpt.arguments.commands import as_started, program
from hfgpt.arguments.keys import GROUPS, RecipeArguments
from hfgpt.errors import UserError

TRAINER = "Trainer"  # the group of what no class of ours declares
WIDTH, KEY_WIDTH = 120, 40
_KINDS = {str: "TEXT", int: "INTEGER", float: "NUMBER", string_to_bool: "{true,false}"}


class KeyParser(HfArgumentParser):
    """Reads the keys of a class of arguments, and explains them in their groups."""

    def __init__(self, arguments_class: type[RecipeArguments]):
        self.positional = arguments_class.positional
        self.shown: dict[str, list[argparse.Action]] = {}
        super().__init__(cast(Any, arguments_class), allow_abbrev=False, add_help=False, formatter_class=_KeyFormatter)

    def add_argument(self, *options, group: str = TRAINER, **settings) -> argparse.Action:
        """As of every parser; HfArgumentParser hands on the metadata of a field, which has the group."""
        action = super().add_argument(*options, **settings)
        if not options[0].startswith("--no_"):  # "--no_stream" says the same as "--stream false"
            self.shown.setdefault(group, []).append(action)
        return action

    def error(self, message: str):
        """Raises: UserError instead of ending the process."""
        raise UserError(f"{message}; --help lists what there is.")

    def explain(self, *, everything: bool) -> str:
        """The text of `--help`, or of `--help all`, which has Trainer's keys too."""
        first = "[run.yaml]" if self.positional is None else f"[{self.positional.upper()} | run.yaml]"
        formatter = _KeyFormatter(prog=program(), width=WIDTH, max_help_position=KEY_WIDTH)
        formatter.add_text(sys.modules["__main__"].__doc__)
        for group in [*GROUPS, TRAINER] if everything else GROUPS:
            formatter.start_section(group)
            formatter.add_arguments(self.shown.get(group, []))
            formatter.end_section()
        text = f"usage: {program()} {first} [--key value ...]\n\n{formatter.format_help()}"
        if TRAINER in self.shown and not everything:
            text += "\nTrainer's own keys (max_steps, seed, weight_decay, report_to, push_to_hub and many more): --help all\n"
        return as_started(text)


class _KeyFormatter(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    """One spelling of each key, and its default where it has one."""

    def _format_action_invocation(self, action: argparse.Action) -> str:
        one = "{" + ",".join(map(str, action.choices)) + "}" if action.choices else _KINDS.get(action.type, "TEXT")
        return f"{action.option_strings[0]} {one}" + (" ..." if action.nargs == "+" else "")

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default in (None, "", [], [""]) else super()._get_help_string(action)
