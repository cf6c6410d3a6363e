"""The arguments of the recipes about the Hub: check.py and publish.py."""

import re
from dataclasses import dataclass
from typing import ClassVar

from hfgpt.arguments.keys import RecipeArguments, model_key, output_key
from hfgpt.errors import UserError
from hfgpt.files import expand_home

TOKEN = re.compile(r"(?<![A-Za-z0-9])hf_[A-Za-z0-9]{20,}")  # as the Hub makes them


@dataclass
class CheckArguments(RecipeArguments):
    """recipes/check.py"""

    positional: ClassVar[str | None] = "folder"

    folder: str = model_key("", "Folder that a recipe wrote; the first argument without dashes.", required=True)
    json: str = output_key("", "File for the result as JSON; - prints it, and the table goes to stderr.")
    parts: bool = model_key(True, "Of an adapter, check the base and the merged twin that lie in it as well.")
    record: bool = model_key(False, "First write fingerprint.json anew from what the folder holds now; it then proves only itself.")
    seconds: int = output_key(900, "Most seconds for opening all the doors of one model.")

    def __post_init__(self):
        expand_home(self, "folder", "json")
        self.require(folder="give the folder of a model first: recipes/check.py FOLDER")
        if self.seconds < 1:
            raise UserError(f"seconds is {self.seconds}; 1 or more is needed, a small model takes about 20.")


@dataclass
class PublishArguments(RecipeArguments):
    """recipes/publish.py"""

    positional: ClassVar[str | None] = "folder"

    folder: str = model_key("", "Folder that a recipe wrote; the first argument without dashes.", required=True)
    repo: str = output_key("", "Where it goes on the Hub: USER/NAME; an adapter has -base and -merged as well.", required=True)
    push: bool = output_key(False, "Send it; without it everything is done but the sending (a dry run).")
    public: bool = output_key(False, "Make it public once all of it is there; a new repository is private.")
    tag: str = output_key("", "Tag of the revision, as v1.0; without it weights-1a2b3c4d, by their SHA-256.")
    parts: list[str] = model_key([], "Of an adapter, what is published: base, adapter, merged; all without it.")
    base_repo: str = model_key("", "Hub id of the adapter's base, where it is there already; base/ stays here.")
    base_revision: str = model_key("", "Branch, tag or commit of base_repo.")
    delete_others: bool = output_key(False, "Delete on the Hub what this folder does not hold.")
    token: str = output_key("", "Refused, a command line is seen by others: HF_TOKEN or `hf auth login`.")

    def __post_init__(self):
        given = {name: value for name, value in vars(self).items() if isinstance(value, str)} | {"parts": " ".join(self.parts)}
        named = [name for name, value in given.items() if TOKEN.search(value)]
        if self.token or named:  # whatever was given is not repeated: logs keep what is printed
            raise UserError(
                f"{'token' if self.token else named[0]} holds a token, and none is taken on the command line or from a file, "
                "because other users, the shell's history and logs see it: use `hf auth login` or HF_TOKEN in the environment, and "
                "revoke this one at https://huggingface.co/settings/tokens."
            )
        expand_home(self, "folder")
        self.require(folder="name what is to be published first: recipes/publish.py FOLDER --repo USER/NAME.")
        self.require(repo="name its place on the Hub with --repo USER/NAME.")
        if self.base_revision and not self.base_repo:
            raise UserError(f"base_revision is {self.base_revision}, but base_repo is missing; give both, or neither.")
