"""The arguments of the recipes about the Hub: check.py and publish.py."""

import re
from dataclasses import dataclass
from typing import ClassVar

from hfgpt.arguments.keys import RecipeArguments, model_key, output_key
from hfgpt.errors import UserError
from hfgpt.files import expand_home

TOKEN = re.compile(r"(?<![A-Za-z0-9])hf_[A-Za-z0-9]{20,}")  # the Hub's format


@dataclass
class CheckArguments(RecipeArguments):
    """recipes/check.py"""

    positional: ClassVar[str | None] = "folder"

    folder: str = model_key("", "Folder that a recipe wrote; may be given as the first argument, without its name.", required=True)
    json: str = output_key("", "File for the result as JSON; - prints it to stdout and the table to stderr.")
    parts: bool = model_key(True, "For an adapter, also check the base and the merged model in its folder.")
    record: bool = model_key(
        False, "First rewrite fingerprint.json from the current contents of the folder; it then proves nothing about the original."
    )
    details: bool = output_key(False, "Also print what each passed check found.")
    seconds: int = output_key(900, "Maximum number of seconds for all loading checks of one model.")

    def __post_init__(self):
        expand_home(self, "folder", "json")
        self.require(folder="give the folder of a model first: recipes/check.py FOLDER")
        if self.seconds < 1:
            raise UserError(f"seconds is {self.seconds}; it must be at least 1 (a small model takes about 20).")


@dataclass
class PublishArguments(RecipeArguments):
    """recipes/publish.py"""

    positional: ClassVar[str | None] = "folder"

    folder: str = model_key("", "Folder that a recipe wrote; may be given as the first argument, without its name.", required=True)
    repo: str = output_key("", "Repository on the Hub: USER/NAME; an adapter also gets -base and -merged.", required=True)
    push: bool = output_key(False, "Upload it; without it, this is a dry run that does everything except the upload.")
    public: bool = output_key(False, "Make it public after everything is uploaded; a new repository is private.")
    tag: str = output_key("", "Tag of the revision, such as v1.0 (default: weights-1a2b3c4d, from their SHA-256).")
    parts: list[str] = model_key([], "For an adapter, what to publish: base, adapter, merged (default: all).")
    base_repo: str = model_key("", "Hub id of the adapter's base, if it is already on the Hub; base/ is then not uploaded.")
    base_revision: str = model_key("", "Branch, tag or commit of base_repo.")
    delete_others: bool = output_key(False, "Delete files on the Hub that this folder does not contain.")
    token: str = output_key("", "Always refused, because others can see a command line; use HF_TOKEN or `hf auth login`.")

    def __post_init__(self):
        given = {name: value for name, value in vars(self).items() if isinstance(value, str)} | {"parts": " ".join(self.parts)}
        named = [name for name, value in given.items() if TOKEN.search(value)]
        if self.token or named:  # do not repeat the value: logs keep what is printed
            raise UserError(
                f"{'a token is given' if self.token else f'{named[0]} contains a token'}. Tokens are not accepted on the command "
                f"line or in a file, where other users, the shell's history and logs can see them: use `hf auth login` or "
                f"HF_TOKEN in the environment, and revoke this one at https://huggingface.co/settings/tokens."
            )
        expand_home(self, "folder")
        self.require(folder="give the folder to publish first: recipes/publish.py FOLDER --repo USER/NAME")
        self.require(repo="give its repository on the Hub with --repo USER/NAME.")
        if self.base_revision and not self.base_repo:
            raise UserError(f"base_revision is {self.base_revision}, but base_repo is missing; give both, or neither.")
