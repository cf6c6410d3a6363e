"""Questions about this Python's standard library, compared with what `inspect` reports about their subjects."""

import importlib
import inspect
import re
from collections import Counter

import pytest

from hfgpt.data.python_questions import MOST_WORDS, QUESTIONS, largest_packages
from hfgpt.data.reading import Record
from hfgpt.data.records import RecordOptions, identities, read_records
from hfgpt.files import PYTHON_DOCS

PARTS = ("train", "validation", "test")


@pytest.fixture(scope="module")
def asked() -> dict[str, list[Record]]:
    return {part: list(read_records([f"python-docs-questions:{part}"], RecordOptions())) for part in PARTS}


def of_kind(records: list[Record], kind: str) -> list[Record]:
    return [record for record in records if record.values["kind"] == kind]


def test_every_part_asks_every_kind_about_its_own_documents(asked):
    about = {}
    for part in PARTS:
        documents = {record.row_id for record in read_records([f"{PYTHON_DOCS}:{part}"], RecordOptions())}
        assert {record.values["kind"] for record in asked[part]} == set(QUESTIONS)
        about[part] = {record.row_id.rpartition(":")[0] for record in asked[part]}
        assert about[part] <= documents
    assert len(asked["train"]) > 15_000
    assert len(asked["test"]) > 1_000
    assert len({record.row_id for record in asked["train"]}) > 0.99 * len(asked["train"])


def test_always_the_same_answer_is_right_in_half_of_the_cases_at_most(asked):
    for part in PARTS:
        for kind in QUESTIONS:
            answers = Counter(record.values["output"] for record in of_kind(asked[part], kind))
            assert answers.most_common(1)[0][1] <= 0.5 * answers.total()
    assert {kind for kind, question in QUESTIONS.items() if question.free} == {"description"}


def test_the_first_questions_are_some_of_every_kind_in_several_wordings(asked):
    first = asked["train"][:400]
    counts, all_counts = (Counter(record.values["kind"] for record in records) for records in (first, asked["train"]))
    assert all(abs(counts[kind] / 400 - all_counts[kind] / all_counts.total()) < 0.08 for kind in QUESTIONS)
    openings = {kind: {str(record.values["instruction"]).split()[0] for record in of_kind(first, kind)} for kind in QUESTIONS}
    assert all(len(words) > 1 for words in openings.values())


def test_descriptions_in_questions_are_short_and_do_not_name_what_they_are_about(asked):
    for record in of_kind(asked["test"], "package"):
        assert len(str(record.values["instruction"]).split()) < MOST_WORDS + 12
        assert record.values["output"] in largest_packages()


MODULES = {"textwrap", "email", "configparser", "argparse", "fractions", "string", "shutil", "json"}


def imported(row_id: str) -> tuple[object, object]:
    """The class or module that contains the subject of a question, and the subject; None if this process has no such thing."""
    module, _, name = row_id.rpartition(":")[0].partition(":")
    owner, found = None, importlib.import_module(module)
    for part in name.split(".") if name else []:
        owner, found = found, inspect.getattr_static(found, part, None)
    return owner, found


def parameters_of(owner: object, found: object) -> list[inspect.Parameter] | None:
    """The parameters of a function as it is called; None if a decorator has replaced it."""
    function = found.__func__ if isinstance(found, (classmethod, staticmethod)) else found
    if not inspect.isfunction(function) or hasattr(function, "__wrapped__"):
        return None
    is_static = isinstance(found, staticmethod) and function.__name__ != "__new__"  # __new__ is called without its class, too
    parameters = list(inspect.signature(function).parameters.values())
    return parameters[1:] if inspect.isclass(owner) and not is_static else parameters


def thing_of(owner: object, found: object) -> str:
    if inspect.ismodule(found):
        return "a module"
    if inspect.isclass(found):
        return "an exception" if issubclass(found, BaseException) else "a class"
    return "a method" if inspect.isclass(owner) else "a function"


FROM_PARAMETERS = {
    "number of arguments": lambda parameters: str(len(parameters)),
    "first argument": lambda parameters: parameters[0].name,
    "default value": lambda parameters: "yes" if any(one.default is not one.empty for one in parameters) else "no",
}


def test_the_answers_are_what_inspect_says(asked):
    checked = Counter()
    for record in (record for part in PARTS for record in asked[part]):
        module, kind, answer = re.split("[.:]", record.row_id)[0], record.values["kind"], record.values["output"]
        owner, found = imported(record.row_id) if module in MODULES else (None, None)
        if found is None:
            continue
        if kind == "package":
            assert answer == module
        elif kind == "thing":
            assert answer == thing_of(owner, found)
        elif kind in FROM_PARAMETERS and (parameters := parameters_of(owner, found)) is not None:
            assert answer == FROM_PARAMETERS[kind](parameters)
        else:
            continue
        checked[kind] += 1
    assert min(checked[kind] for kind in ("package", "thing", *FROM_PARAMETERS)) > 20


def test_whether_a_value_is_returned_is_read_from_the_code(asked):
    answers = {record.row_id: record.values["output"] for part in PARTS for record in of_kind(asked[part], "returns")}
    known = {"shutil:copyfile": "yes", "textwrap:dedent": "yes", "email.message:Message.walk": "yes", "shutil:copymode": "no",
             "configparser:RawConfigParser.set": "no", "email.message:Message.add_header": "no",
             "email.message:Message.attach": "no"}  # fmt: skip
    asked_about = {name: answer for name, answer in known.items() if f"{name}:returns" in answers}
    assert len(asked_about) > 3
    assert asked_about == {name: answers[f"{name}:returns"] for name in asked_about}


def test_the_passport_knows_the_questions_by_a_hash_of_their_own():
    (questions,), (documents,) = (
        identities([name], RecordOptions()) for name in ("python-docs-questions:test", "python-docs:test")
    )
    assert (questions["name"], questions["kind"], questions["license"]) == (
        "python-docs-questions:test",
        "python-docs-questions",
        "PSF-2.0",
    )
    assert questions["sha256"] != documents["sha256"]
    assert questions == identities(["python-docs-questions:test"], RecordOptions())[0]
