"""Pages that are written when the site is built: the keys of every command, the Python functions, and the syllabus as notebooks.

mkdocs imports this in a process of its own, which needs no torch: TrainingArguments has its keys without it, in no time.
"""

import html
import importlib
import json
import os
import re
import sys
from pathlib import Path

os.environ["TRANSFORMERS_VERBOSITY"] = "error"  # otherwise it warns that there is no torch
sys.modules["torch"] = None

from mkdocs.structure.files import File

import hfgpt
from hfgpt.arguments.commands import COMMANDS, RECIPES, Command, command_of
from hfgpt.arguments.help import KeyParser, kind_of
from hfgpt.arguments.keys import GROUPS, TRAINER
from hfgpt.arguments.options import REFUSED

TRAINING_ARGUMENTS = "https://huggingface.co/docs/transformers/main_classes/trainer#transformers.TrainingArguments"


def on_files(files, config):
    """mkdocs calls this before it reads the pages."""
    pages = {f"reference/keys/{name}.md": keys_page(name, command) for name, command in COMMANDS.items() if not command.words}
    pages["reference/api.md"] = api_page()
    for path in sorted(Path(config.docs_dir, "syllabus").glob("[0-9]*.md")):
        pages[f"syllabus/{path.stem}.ipynb"] = notebook(path.read_text(encoding="utf-8"))
    for name, text in pages.items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown, **_):
    """GitHub needs a pipe in a table to be escaped even in code; here the backslash would be shown."""
    return re.sub(r"`[^`\n]+`", lambda code: code[0].replace("\\|", "|"), markdown)


def on_page_content(html, **_):
    """Keep a key from being broken after its dashes."""
    return re.sub(r"(?<=[>\s])(--\w+)(?=[^<>]*</code>|<span)", r'<span class="key">\1</span>', html)


def keys_page(name: str, command: Command) -> str:
    """What `hfgpt NAME --help` says, as tables."""
    recipe = (RECIPES / command.recipe).read_text(encoding="utf-8")
    module, class_name = re.search(r'check_command_line\("(.+?):(.+?)"\)', recipe).groups()
    parser = KeyParser(getattr(importlib.import_module(module), class_name))
    text = re.match(r'"""(.*?)"""', recipe, flags=re.DOTALL)[1]
    lines = [f"# hfgpt {name}", "", _as_commands(re.sub(r"((?:^ {4}.*\n)+)", r"```bash\n\1```\n", text, flags=re.MULTILINE))]
    lines += [
        f"The recipe is `recipes/{command.recipe}`. Keys go on the command line (`--key value`) or into a YAML file (`key: value`)."
    ]
    for group in GROUPS:
        if group in parser.shown:
            lines += ["", f"## {group}", "", *map(_entry, sorted(parser.shown[group], key=parser._place))]
    if TRAINER in parser.shown:
        lines += [
            "",
            f"## {TRAINER}",
            "",
            f"The command also takes every key of transformers' [`TrainingArguments`]({TRAINING_ARGUMENTS}),",
        ]
        lines += [f"such as `max_steps`, `seed` and `weight_decay`; `hfgpt {name} --help all` lists them. Some are refused:", ""]
        lines += ['??? note "Trainer keys that are refused, and why"', "", "    | key | |", "    |---|---|"]
        lines += [f"    | `{key}` | {reason} |" for key, reason in REFUSED.items()]
    return "\n".join(lines) + "\n"


def _as_commands(text: str) -> str:
    """Replace recipes by the names of their commands, and unindent examples; what torchrun starts stays a file."""
    named = re.sub(
        r"^(?!.*torchrun)(.*)$",
        lambda line: re.sub(
            r"(?:python )?recipes/(\w+\.py)", lambda one: f"hfgpt {command_of(one[1])}" if command_of(one[1]) else one[0], line[0]
        ),
        text,
        flags=re.MULTILINE,
    )
    return re.sub(r"^ {4}", "", named, flags=re.MULTILINE)


def _entry(action) -> str:
    """A key, what it takes, and its help, as an item of a definition list: it also reads well on a narrow screen."""
    kind, more, _ = kind_of(action).partition(" ...")
    one = ", ".join(f"`{choice}`" for choice in kind.strip("{}").split(",")) if kind.startswith("{") else kind.lower()
    about = [one + (", one or more" if more else "")]
    help, mark, _ = (action.help or "").partition(" [required]")
    if mark:
        about.insert(0, "**required**")
    if action.default not in (None, "", [], [""]):
        value = action.default if isinstance(action.default, str) else json.dumps(action.default)
        about.append(f"default `{value}`")
    return f"`{action.dest}` <small>{'; '.join(about)}</small>\n:   {html.escape(_as_commands(help), quote=False)}\n"


def api_page() -> str:
    """Every public name of hfgpt, by the module that it comes from, for mkdocstrings to fill in."""
    titles = {
        "hfgpt.api.training": "Train",
        "hfgpt.api.models": "Use and share",
        "hfgpt.api.texts": "Read, cut and pack",
        "hfgpt.api.results": "Results",
    }
    lines = [
        "# Python functions and classes",
        "",
        "Import each name from `hfgpt` itself. [hfgpt from Python](../python.md) shows them in use.",
        "",
        "`Place` is a path (`str` or `os.PathLike`) or, where the text says so, the id of a repository on the Hub.",
        "",
    ]
    names = {title: [name for name, where in hfgpt._MODULE_OF.items() if where == module] for module, title in titles.items()}
    named = {name for group in names.values() for name in group}
    names["Text, errors and the model's classes"] = [name for name in hfgpt._MODULE_OF if name not in named]
    for title, group in names.items():
        lines += ["", f"## {title}", "", *(f"::: hfgpt.{name}\n" for name in group)]
    return "\n".join(lines)


def notebook(page: str) -> str:
    """A page of the syllabus as a Jupyter notebook: a cell for each block of Python, and one for the text before it."""
    cells = []
    for number, part in enumerate(re.split(r"```python\n(.*?)```\n", page, flags=re.DOTALL)):
        if not number % 2:  # links lead to pages that are not next to a notebook
            part = re.sub(r"\[([^\]]+)\]\((?!https?:)[^)]+\)", r"\1", part)
        if part.strip():
            kind = {"cell_type": "code", "execution_count": None, "outputs": []} if number % 2 else {"cell_type": "markdown"}
            cells.append(kind | {"id": str(number), "metadata": {}, "source": part.strip()})
    metadata = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    return json.dumps({"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}, indent=1)
