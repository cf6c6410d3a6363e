"""docs/: every command works as written, the syllabus runs, and the site builds without a warning."""

import contextlib
import importlib
import io
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from hfgpt.arguments.commands import COMMANDS, RECIPES, command_of
from hfgpt.arguments.help import KeyParser
from hfgpt.arguments.parsing import parse_arguments
from hfgpt.errors import UserError

PAGES = sorted((ROOT / "docs").rglob("*.md"))
SYLLABUS = sorted((ROOT / "docs" / "syllabus").glob("[0-9]*.md"))
TEXT = {str(path.relative_to(ROOT / "docs")): path.read_text(encoding="utf-8") for path in PAGES}
# What may come before a recipe's own arguments on a command line.
LAUNCHED = re.compile(
    r"(?:hfgpt (?P<command>[\w-]+)|(?:python|torchrun .*?|accelerate launch .*?) ?recipes/(?P<recipe>\w+\.py))(?P<words>.*)"
)


def arguments_class(command: str):
    recipe = (RECIPES / COMMANDS[command].recipe).read_text(encoding="utf-8")
    module, name = re.search(r'check_command_line\("(.+?):(.+?)"\)', recipe).groups()
    return getattr(importlib.import_module(module), name)


def keys_of(command: str) -> set[str]:
    parser = KeyParser(arguments_class(command))
    return {action.dest for actions in parser.shown.values() for action in actions} | {"help", "launch", "quiet"}


def launched(line: str) -> tuple[str, list[str]] | None:
    """The hfgpt command that a line starts, and its arguments."""
    found = LAUNCHED.match(line)
    if found is None:
        return None
    words = shlex.split(found["words"], comments=True)
    return found["command"] or command_of(found["recipe"]), words


FENCE = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^\1```$", flags=re.DOTALL | re.MULTILINE)
BLOCKS = [(page, found[2], found[3].replace("\\\n", " ")) for page, text in TEXT.items() for found in FENCE.finditer(text)]


def blocks(*languages: str) -> list[tuple[str, str]]:
    """Page and text of each block in these languages; "" is a block without a language."""
    return [(page, text) for page, language, text in BLOCKS if language in languages]


LINES = [
    (page, line.strip().removeprefix("$ ")) for page, text in blocks("bash", "sh", "console", "") for line in text.splitlines()
]
COMMAND_LINES = sorted({(page, line) for page, line in LINES if launched(line)})


def test_there_are_commands_on_the_pages():
    assert len(COMMAND_LINES) > 60
    assert {launched(line)[0] for _, line in COMMAND_LINES} == set(COMMANDS)


@pytest.mark.parametrize(("page", "line"), COMMAND_LINES)
def test_a_command_can_be_given_as_it_stands(page, line, monkeypatch):
    """Keys, values and YAML files are parsed as the recipe does; only a model that an earlier command makes may be missing."""
    monkeypatch.chdir(ROOT)
    command, words = launched(line)
    if "--launch" in words:
        at = words.index("--launch")
        assert (RECIPES / "accelerate" / words[at + 1]).is_file()
        del words[at : at + 2]
    if any(word == "..." or word.startswith("$") for word in words):
        assert {word[2:] for word in words if word.startswith("--")} <= keys_of(command)
        return
    try:
        parse_arguments(arguments_class(command), words)
    except UserError as error:
        if not re.match(r"runs/\S+ does not exist|model 'runs/\S+' is not a folder here", str(error)):
            raise


@pytest.mark.parametrize("page", TEXT)
def test_what_a_page_names_in_its_text_exists(page):
    text = re.sub(r"```.*?```", "", TEXT[page], flags=re.DOTALL)
    spans = re.findall(r"`([^`\n]+)`", text)
    every_key = set().union(*map(keys_of, COMMANDS)) | {"key", "num_processes", "nproc_per_node", "config_file", "num_machines"}
    for span in spans:
        found = launched(span) if span.startswith(("hfgpt ", "python recipes/")) else None
        if found and found[0] not in (None, "COMMAND"):
            assert found[0] in COMMANDS, span
            keys = {word[2:].partition("=")[0] for word in found[1] if word.startswith("--")}
            assert keys <= keys_of(found[0]), span
        elif key := re.match(r"--([a-z_]+)(?: |$)", span):
            assert key[1] in every_key | {"nodes", "signal"}, span
    for path in set(re.findall(r"(?:recipes|benchmarks|hfgpt|tests)/[\w/-]+\.(?:py|yaml|sh|sbatch)", TEXT[page])):
        assert (ROOT / path).is_file(), path


# The keys without which each command does nothing, for advice in a sentence that names only the others.
LEAST = {
    "from-text": "notes.txt",
    "tokenizer": "--sources notes.txt",
    "data": "--tokenizer a/tokenizer",
    "pretrain": "--dataset rows",
    "classify": "--model a/base --sources rows.csv",
    "instruct": "--model a/base --sources rows.json",
    "align": "--model a/base --sources pairs.json",
    "generate": "a/base",
    "chat": "a/base",
    "evaluate": "a/base --text notes.txt --dataset rows",
    "convert": "a/base",
    "check": "folder",
    "publish": "folder --repo user/name",
}


@pytest.mark.parametrize("page", TEXT)
def test_keys_that_a_sentence_advises_can_be_given_together(page):
    """`--filters light --languages de`: at least one command accepts these keys and values, without others that it must be told."""
    text = re.sub(r"```.*?```", "", TEXT[page], flags=re.DOTALL)
    for span in re.findall(r"`(--[a-z_]+ [^`\n]+)`", text):
        words = shlex.split(span)
        keys = {word[2:].partition("=")[0] for word in words if word.startswith("--")}
        if any(word.isupper() for word in words) or keys & {"launch", "fsdp"}:  # these are for several processes
            continue
        refusals = [said for command in COMMANDS if keys <= keys_of(command) if (said := refusal(command, words, keys))]
        accepting = [command for command in COMMANDS if keys <= keys_of(command)]
        assert len(refusals) < len(accepting), f"{span}: {refusals[:1]}"


def refusal(command: str, words: list[str], keys: set[str]) -> str | None:
    """Why a command does not take these words, besides the ones it must have."""
    least = re.split(r" (?=--)", f"{LEAST[command]} --output_dir runs/out" if "output_dir" in keys_of(command) else LEAST[command])
    given = [word for one in least if one.partition(" ")[0][2:] not in keys for word in one.split(" ")]
    try:
        args = parse_arguments(arguments_class(command), [*given, *words])
        if hasattr(args, "filled"):  # checks what a tokenizer's passport may still bring
            args.filled({})
    except UserError as error:
        return str(error)
    return None


@pytest.mark.parametrize(("page", "code"), blocks("py", "python"))
def test_python_on_the_pages_is_python(page, code):
    compile(re.sub(r"^    ", "", code, flags=re.MULTILINE) if code.startswith("    ") else code, page, "exec")


@pytest.mark.slow
def test_the_files_of_a_run_are_explained(small_run, small_rows, small_tokenizer):
    """Every file in the folders is on the page, and the page shows correctly which ones are published."""
    from hfgpt.artifacts import identify

    rows = re.findall(r"^\| (`.+?) \| (P?) ?\|", TEXT["reference/files.md"], flags=re.MULTILINE)
    named = {name: mark == "P" for cell, mark in rows for name in re.findall(r"`([^`]+)`", cell)}
    for folder in (small_run, small_rows, small_tokenizer):
        published = {path.parts[0] for path in identify(folder).files()}
        for path in folder.iterdir():
            name = re.sub(r"checkpoint-\d+", "checkpoint-STEP", path.name) + "/" * path.is_dir()
            if not name.startswith("."):
                assert named.get(name) == (path.name in published), name


@pytest.mark.slow
def test_the_syllabus_runs(tmp_path):
    """Page after page in one folder, as a reader does it; the pages themselves assert what they claim."""
    here = Path.cwd()
    os.chdir(tmp_path)
    try:
        for path in SYLLABUS:
            code = re.findall(r"```python\n(.*?)```", path.read_text(encoding="utf-8"), flags=re.DOTALL)
            assert sum(len(one.splitlines()) for one in code) < 30, path
            names: dict = {}
            for one in code:
                one = one.replace("max_steps=", "cpu_threads=1, max_steps=")  # tests run side by side, one core each
                with contextlib.redirect_stdout(io.StringIO()):
                    exec(compile(one, path.name, "exec"), names)
    finally:
        os.chdir(here)
    assert {"tokenizer", "data", "base", "gpt2-native", "classifier", "assistant"} <= {
        path.name for path in (tmp_path / "runs").iterdir()
    }


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    pytest.importorskip("mkdocs", reason="the site is built by mkdocs, of the extra docs")
    folder = tmp_path_factory.mktemp("site")
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", folder]
    done = subprocess.run(words, cwd=ROOT, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.mark.slow
def test_the_site_asks_no_other_place_for_anything(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) > len(TEXT) // 2
    for path in pages:
        text = path.read_text(encoding="utf-8")
        assert not re.findall(r'<(?:script|img|iframe|source)[^>]+src="?(?:https?:)?//[^>]*', text), path
        assert not re.findall(r'<link[^>]+href="?(?:https?:)?//[^>]*', text), path


@pytest.mark.slow
def test_every_key_and_every_public_name_is_on_the_site(site):
    import hfgpt

    for name, command in COMMANDS.items():
        if not command.words:
            page = (site / "reference" / "keys" / f"{name}.html").read_text(encoding="utf-8")
            parser = KeyParser(arguments_class(name))
            ours = {action.dest for group, actions in parser.shown.items() if group != "Trainer" for action in actions}
            assert ours == set(re.findall(r"<dt><code>(\w+)</code>", page))
    api = (site / "reference" / "api.html").read_text(encoding="utf-8")
    assert {name for name in hfgpt.__all__ if f'id="hfgpt.{name}"' not in api} == {"__version__"}
    assert len(list((site / "syllabus").glob("*.ipynb"))) == len(SYLLABUS)
