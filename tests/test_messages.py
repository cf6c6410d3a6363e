"""What a message tells the user to type exists: keys, recipes, extras and commands. The strings are read from the code."""

import ast
import re
import typing
from collections.abc import Iterator
from dataclasses import fields
from functools import cache

import pytest
from conftest import ROOT
from recipes_in_process import RECIPES, load

from hfgpt.arguments.commands import COMMANDS, STARTED_AS, as_started

FILES = sorted([*(ROOT / "hfgpt").rglob("*.py"), *RECIPES.glob("*.py")])
# English words where a key could be: "with it", "published: base, adapter, merged".
NO_KEYS = {
    *("allowed", "checks", "evaluation", "multiplicity", "passport", "rows", "stoi"),
    *("answers", "both", "code", "counts", "dashes", "each", "it", "nats", "none", "others", "published", "spaces", "stemming"),
    *("bias", "modules_to_save", "one", "set_prompt_style", "several", "some", "tanh", "that", "them", "this", "what", "zeros"),
    *("completions", "default", "headers", "hfgpt", "lzma", "punctuation", "theirs", "torch", "transformers"),
    *("bunzip2", "bzip2", "gunzip", "gzip", "pdftotext", "unxz", "unzstd", "xz"),
}
# Options of other programs that messages name.
OPTIONS_OF_OTHERS = {"key", "help", "version", "launch", "no_", "quiet", "config_file", "nproc_per_node", "num_processes",
                     "parsable", "export", "dependency", "kill", "to"}  # fmt: skip


def words_of(node: ast.AST) -> str | None:
    """The text of a string, with `{}` for every inserted value."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(part.value if isinstance(part, ast.Constant) else "{}" for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        left, right = words_of(node.left), words_of(node.right)
        return None if left is None and right is None else (left or "{}") + (right or "{}")
    return None


def strings() -> Iterator[tuple[str, str]]:
    """Every string of the code with its place, including docstrings: `--help` shows those of the recipes."""
    for path in FILES:
        inside: set[int] = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            text = words_of(node)
            if text is None or id(node) in inside:
                continue
            inside |= {id(child) for child in ast.walk(node)}
            yield f"{path.relative_to(ROOT)}:{node.lineno}", text


@cache
def keys_of(recipe: str) -> frozenset[str]:
    return frozenset(one.name for one in fields(load(recipe).main.__annotations__["args"]))


@cache
def all_keys() -> frozenset[str]:
    return frozenset().union(*(keys_of(path.stem) for path in RECIPES.glob("*.py")))


@cache
def choices() -> frozenset[str]:
    """The words that are values of keys."""
    found: set[str] = {"true", "false"}
    for path in RECIPES.glob("*.py"):
        for hint in typing.get_type_hints(load(path.stem).main.__annotations__["args"]).values():
            found |= {value for value in typing.get_args(hint) if isinstance(value, str)}
    return frozenset(found)


def test_the_strings_were_read():
    texts = [text for _, text in strings()]
    assert len(texts) > 3000
    assert any("python recipes/check.py {}" in text for text in texts)


# Programs whose command lines messages offer, at the beginning of a clause, to its end.
COMMAND = re.compile(
    r"(?:^|[;:,(] |\bwith )(?:pip install|hfgpt [a-z-]+|(?:python )?recipes/\w+\.py|torchrun|accelerate launch|mv|iconv|jq|ollama) "
    r"[^;:,()]*\.(?:\s|$)"
)


SENTENCE = re.compile(r"\b(and|to|is|it|that|has|writes) |\.\.\.$")  # about a program; "..." stands for the rest of a command


def test_no_full_stop_follows_a_command_because_it_would_be_copied_with_it():
    said = [(place, match[0]) for place, text in strings() for match in COMMAND.finditer(text) if "\n" not in text]
    assert [(place, command) for place, command in said if not SENTENCE.search(command)] == []
    assert COMMAND.search("it is not installed; pip install 'hfgpt[{}]'.")


def test_every_option_is_a_key_of_the_recipe_that_it_stands_with():
    for place, text in strings():
        for command in re.split(r"(?=recipes/\w+\.py)|\n|`", text):
            named = re.match(r"recipes/(\w+)\.py", command)
            known = keys_of(named[1]) if named else all_keys()
            for key in re.findall(r"(?<![\w-])--([a-z]\w*)", command.partition(" && ")[0].partition("accelerate launch")[0]):
                if "hfgpt.hub.card" in text or place.startswith("hfgpt/hub/card/rendering.py"):
                    continue  # that command has its own options, checked by argparse
                assert key in known | OPTIONS_OF_OTHERS, f"{place}: --{key} is no key" + (f" of {named[0]}" if named else "")


def test_every_recipe_and_every_yaml_that_is_named_is_there():
    found = 0
    for place, text in strings():
        for name in re.findall(r"\brecipes/[\w/.-]+\.(?:py|yaml)\b", text):
            found += 1
            assert (ROOT / name).is_file() or name == "recipes/X.py", f"{place}: {name}"
        for name in re.findall(r"python -m (hfgpt[\w.]*)", text):
            path = ROOT / name.replace(".", "/")
            assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), f"{place}: {name}"
    assert found > 30


def test_after_hfgpt_every_recipe_in_a_message_is_the_command_that_runs_it(monkeypatch):
    monkeypatch.setenv(STARTED_AS, "pretrain")
    commands = {entry.recipe: name for name, entry in COMMANDS.items() if not entry.words}
    found = 0
    for place, text in strings():
        named = [name for name in re.findall(r"(?<![\w/.])recipes/(\w+\.py)", text) if name != "X.py"]
        said = as_started(text)
        assert not re.findall(r"(?<![\w/.])(?:python )?recipes/(?!X\.py)\w+\.py", said), place
        for name in named:
            assert f"hfgpt {commands[name]}" in said or f"{RECIPES / name}" in said, f"{place}: {said}"
        found += len(named)
    assert found > 30


def test_every_extra_that_is_named_is_declared():
    declared = set(re.findall(r"^(\w+) = \[", (ROOT / "pyproject.toml").read_text(encoding="utf-8"), flags=re.MULTILINE))
    lists = [(place, extras) for place, text in strings() for extras in re.findall(r"hfgpt\[([\w,]+)\]", text)]
    named = [(place, extra) for place, extras in lists for extra in extras.split(",")]
    calls = re.findall(r'\bextra="(\w+)"', "\n".join(path.read_text(encoding="utf-8") for path in FILES))
    assert calls
    for place, extra in [*named, *(("a call of need()", extra) for extra in calls)]:
        assert extra in declared, f"{place}: the extra {extra}"


def test_what_is_set_to_one_of_our_choices_is_a_key():
    """`keep: last`, `--method head`: a word before a colon and one of the values that keys take."""
    values = "|".join(sorted(map(re.escape, choices()), key=len, reverse=True))
    pattern = re.compile(rf"(?<![\w'\"-])([a-z]+(?:_[a-z0-9]+)*): (?:{values})(?=[.;,)]|$)")
    found = [(place, key) for place, text in strings() for key in pattern.findall(text)]
    assert len(found) > 10
    assert [f"{place}: {key}: ..." for place, key in found if key not in all_keys() | NO_KEYS] == []


def test_a_word_after_with_or_without_is_a_key():
    """ "name the right one with text_field": the last word is a key or an English word."""
    pattern = re.compile(r"[^-]\bwith ([a-z_]+)(?=[.;)]|, or|$)")
    found = [(place, word) for place, text in strings() for word in pattern.findall(text)]
    assert found
    assert [f"{place}: ... with {word}" for place, word in found if word not in all_keys() | NO_KEYS] == []


@pytest.mark.parametrize("recipe", sorted(path.stem for path in RECIPES.glob("*.py")))
def test_the_docstrings_of_argument_classes_name_their_recipe(recipe):
    doc = load(recipe).main.__annotations__["args"].__doc__
    assert doc.splitlines()[0].startswith(f"recipes/{recipe}.py")
