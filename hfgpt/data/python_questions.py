"""Questions about this Python's own library: kinds with one right answer, and free-text descriptions.

`python-docs-questions`, and its parts `:train`, `:validation` and `:test`, ask about the very documents of `python-docs` and its
parts. The answers are read from the library's code, so they are true by construction.
"""

import ast
import functools
import hashlib
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from hfgpt.data.python_docs import PYTHON_DOCS_NAMES, Described, described_python, python_identity
from hfgpt.data.reading import Record, Source, SourceKind, SourceOptions
from hfgpt.data.row_errors import RowErrors
from hfgpt.files import PYTHON_DOCS

PYTHON_QUESTIONS = f"{PYTHON_DOCS}-questions"
PYTHON_QUESTIONS_NAMES = tuple(name.replace(PYTHON_DOCS, PYTHON_QUESTIONS) for name in PYTHON_DOCS_NAMES)
NUM_PACKAGES = 8  # the largest parts of the library, as many as the quickstart's classifier distinguishes
FREE_SHARE = 0.2  # of the things that could be described are asked about
MOST_ARGUMENTS = 5  # that are counted
MOST_WORDS = 40  # of a description, in a question


@dataclass(frozen=True)
class QuestionKind:
    """One kind of question.

    Args:
        wordings: several wordings of the question, with {name}, {call} (the name with its arguments) or {description} in them.
        answer: the right answer; None if this cannot be asked.
        free: the answer is free text. For the other kinds, no answer occurs more often than the second most frequent one, so always
            giving the same answer is right in at most half of the cases.
    """

    wordings: tuple[str, ...]
    answer: Callable[[Described], str | None]
    free: bool = False


def _package(one: Described) -> str | None:
    package = re.split("[:.]", one.document["row_id"])[0]
    return package if package in largest_packages() else None


@functools.cache
def largest_packages() -> tuple[str, ...]:
    """The top-level modules with the most training documents."""
    names = (re.split("[:.]", one.document["row_id"])[0] for one in described_python(f"{PYTHON_DOCS}:train"))
    return tuple(name for name, _ in Counter(name for name in names if name != "topic").most_common(NUM_PACKAGES))


def _thing(one: Described) -> str | None:
    return None if one.thing is None else f"{'an' if one.thing == 'exception' else 'a'} {one.thing}"


def _names(arguments: ast.arguments) -> list[str]:
    return [argument.arg for argument in (*arguments.posonlyargs, *arguments.args)]


def _number_of_arguments(one: Described) -> str | None:
    if one.arguments is None or one.arguments.vararg or one.arguments.kwarg:
        return None
    number = len(_names(one.arguments)) + len(one.arguments.kwonlyargs)
    return str(number) if number <= MOST_ARGUMENTS else None


def _first_argument(one: Described) -> str | None:
    names = _names(one.arguments) if one.arguments else []
    return names[0] if len(names) > 1 else None


def _has_default(one: Described) -> str | None:
    if one.arguments is None or not ast.unparse(one.arguments) or one.arguments.vararg or one.arguments.kwarg:
        return None  # arguments collected by * and ** are optional and have no default value
    return "yes" if one.arguments.defaults or any(one.arguments.kw_defaults) else "no"


def _returns(one: Described) -> str | None:
    return None if one.returns is None else "yes" if one.returns else "no"


QUESTIONS: dict[str, QuestionKind] = {
    "package": QuestionKind(
        (
            "Which package is this from? {description}",
            "To which part of the library does this belong? {description}",
            "Where in the library is this? {description}",
        ),
        _package,
    ),
    "thing": QuestionKind(
        ("What is {name}?", "What kind of thing is {name}?", "Is {name} a class, a function or something else?"), _thing
    ),
    "number of arguments": QuestionKind(
        (
            "How many arguments does {call} take?",
            "What is the number of arguments of {call}?",
            "Count the arguments of {call}.",
        ),
        _number_of_arguments,
    ),
    "first argument": QuestionKind(
        (
            "What is the first argument of {call}?",
            "Which argument of {call} comes first?",
            "Name the first argument of {call}.",
        ),
        _first_argument,
    ),
    "default value": QuestionKind(
        (
            "Does any argument of {call} have a default value?",
            "Is any argument of {call} optional?",
            "Can any argument of {call} be left out?",
        ),
        _has_default,
    ),
    "returns": QuestionKind(
        (
            "Does this return a value? {description}",
            "Is a value returned by this? {description}",
            "Do I get a value back from this? {description}",
        ),
        _returns,
    ),
    "description": QuestionKind(
        ("What does {call} do?", "Describe {call}.", "What is {call} for?"),
        lambda one: None if one.thing is None else _first_paragraph(one),
        free=True,
    ),
}


def _docstring(one: Described) -> str:
    return one.document["text"].partition("\n\n")[2].strip()


def _first_paragraph(one: Described) -> str:
    return " ".join(re.split(r"\n\s*\n", _docstring(one), maxsplit=1)[0].split())


def _draw(kind: str, one: Described) -> str:
    return hashlib.blake2b(f"{kind}/{one.document['row_id']}/{one.document['text']}".encode(), digest_size=8).hexdigest()


def _asked(kind: str, question: QuestionKind, described: list[Described]) -> list[tuple[str, Described, str]]:
    """The questions of a kind: the random draw, the subject, and the answer of each."""
    answered = [(_draw(kind, one), one, answer) for one in described if (answer := question.answer(one))]
    if question.free:  # a few: they are long, and what is learned of them would outweigh the short answers
        return sorted(answered, key=lambda row: row[0])[: math.ceil(FREE_SHARE * len(answered))]
    counts = Counter(answer for _, _, answer in answered)
    most = sorted(counts.values())[-2] if len(counts) > 1 else 0
    asked, kept = Counter(), []
    for draw, one, answer in sorted(answered, key=lambda row: row[0]):
        asked[answer] += 1
        if asked[answer] <= most:
            kept.append((draw, one, answer))
    return kept


def questions(source: Source, options: SourceOptions, errors: RowErrors | None, column: str | None = None) -> Iterator[Record]:
    """Records with `instruction`, `output` and `kind`, in random order: the first ones include every kind."""
    described = described_python(source.name.replace(PYTHON_QUESTIONS, PYTHON_DOCS))
    asked = [
        (draw, kind, one, answer) for kind, question in QUESTIONS.items() for draw, one, answer in _asked(kind, question, described)
    ]
    # By the last digits of what was drawn: by the first ones it was chosen, and the kinds would not be mixed.
    for draw, kind, one, answer in sorted(asked, key=lambda row: row[0][::-1]):
        module, _, qualname = one.document["row_id"].partition(":")
        name = f"{module}.{qualname}" if qualname else module
        call = name if one.arguments is None else f"{name}({ast.unparse(one.arguments)})"
        wordings = QUESTIONS[kind].wordings
        instruction = wordings[int(draw, 16) % len(wordings)].format(
            name=name, call=call, description=" ".join(_docstring(one).split()[:MOST_WORDS])
        )
        row_id = f"{one.document['row_id']}:{kind}"
        yield Record({"instruction": instruction, "output": answer, "kind": kind}, source.name, row_id, row_id)


def questions_identity(source: Source, options: SourceOptions) -> dict[str, object]:
    """The identity of `python-docs`, with the SHA-256 of these questions and answers."""
    digest = hashlib.sha256()
    for record in questions(source, options, None):
        digest.update(f"{record.values['instruction']}\0{record.values['output']}\0".encode())
    return {**python_identity(Source(PYTHON_DOCS, PYTHON_DOCS), options), "sha256": digest.hexdigest()}


PYTHON_DOCUMENTATION_QUESTIONS = SourceKind(
    records=questions,
    identity=questions_identity,
    options=(),
    is_named=PYTHON_QUESTIONS_NAMES.__contains__,
)
