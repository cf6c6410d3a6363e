"""This Python's own documentation as documents: real English text on every machine."""

import ast
import builtins
import functools
import gc
import hashlib
import re
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from hfgpt.data.on_disk import Document
from hfgpt.data.passport import SPLITS
from hfgpt.data.reading import Record, Source, SourceKind, SourceOptions, column_of_groups
from hfgpt.data.row_errors import RowErrors
from hfgpt.data.splitting import Split
from hfgpt.errors import MissingFileError, UserError
from hfgpt.files import PYTHON_DOCS

# Parts of it: python-docs:train, :validation and :test, as divided by prepare_data.py with these shares. A model fine-tuned on one
# can be tested on documents that its base has not seen in pretraining either.
PYTHON_DOCS_SPLIT = Split(validation_share=0.02, test_share=0.05)
PYTHON_DOCS_NAMES = (PYTHON_DOCS, *(f"{PYTHON_DOCS}:{part}" for part in SPLITS))
# Not documentation: the library's own tests, vendored packages, and folders that some distributions leave out.
SKIPPED_LIBRARY_FOLDERS = {"test", "tests", "idle_test", "idlelib", "lib2to3", "ensurepip", "pydoc_data", "site-packages",
                           "dist-packages", "turtledemo", "__pycache__"}  # fmt: skip

Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Described:
    """A document of this source, with facts from the library's code about what it describes.

    Attributes:
        document: text, source and row_id.
        thing: "module", "class", "exception", "function", "method"; None for properties, functions in functions, and topics.
        arguments: those of a function or method as called, without `self` and `cls`; None if `thing` is neither.
        returns: whether a function or method returns or yields something other than None; None if its code does not tell.
    """

    document: Document
    thing: str | None = None
    arguments: ast.arguments | None = None
    returns: bool | None = None


def read_python_docs(name: str = PYTHON_DOCS) -> list[Document]:
    """This interpreter's own documentation, about 2 MB of English on every machine.

    First the topics of the language reference (`pydoc_data.topics`), then the docstrings of the standard library, each under
    the signature it belongs to. The files are parsed with `ast`; nothing is imported or run. `row_id` is "topic:with" or, as
    entry points are written, "textwrap:dedent" ("textwrap:" for the module itself).

    Args: `name` is one of `PYTHON_DOCS_NAMES`: all of it, or one of its parts.
    Cost: about 3 s, once per process; the documents then stay in memory.
    Raises: FileNotFoundError if the interpreter does not include its library's source files.
    """
    return [described.document for described in described_python(name)]


def described_python(name: str = PYTHON_DOCS) -> list[Described]:
    """The documents of `read_python_docs`, each with facts from the code about what it describes."""
    part = name.partition(":")[2]
    return [described for side, described in _all_python_docs() if part in ("", side)]


@functools.cache
def _all_python_docs() -> tuple[tuple[str, Described], ...]:
    enabled = gc.isenabled()
    gc.disable()  # syntax trees have no cycles, and searching them for some takes a third of the time
    try:
        all_described = list(_python_docs())
    finally:
        if enabled:
            gc.enable()
    sides = (side for side, _ in PYTHON_DOCS_SPLIT.assign(described.document for described in all_described))
    return tuple(zip(sides, all_described, strict=True))


def _python_docs() -> Iterator[Described]:
    library = Path(sysconfig.get_path("stdlib"))
    files = sorted(path for path in library.rglob("*.py") if not SKIPPED_LIBRARY_FOLDERS & set(path.relative_to(library).parts))
    if not files:
        raise MissingFileError(f"no source files of the standard library under {library}; use a Python that includes them.")
    topics = library / "pydoc_data" / "topics.py"
    if topics.is_file():
        for name, text in sorted(_dictionary_in(topics, "topics").items()):
            yield Described({"text": text.strip() + "\n", "source": PYTHON_DOCS, "row_id": f"topic:{name}"})
    found: list[Described] = []
    bases: dict[str, set[str]] = {}
    for path in files:
        try:
            tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError):
            continue  # a few library files are templates or deliberately broken
        parts = path.relative_to(library).with_suffix("").parts
        module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found += _docstrings(tree, module, "", parent=None, bases=bases)
    exceptions = _derived(bases, {name for name, value in vars(builtins).items() if _is_exception(value)})
    for one in found:
        is_exception = one.thing == "class" and re.split("[:.]", one.document["row_id"])[-1] in exceptions
        yield replace(one, thing="exception") if is_exception else one


def _dictionary_in(path: Path, name: str) -> dict[str, str]:
    for statement in ast.parse(path.read_bytes()).body:
        if isinstance(statement, ast.Assign) and any(getattr(target, "id", None) == name for target in statement.targets):
            return ast.literal_eval(statement.value)
    return {}


def _is_exception(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, BaseException)


def _derived(bases: Mapping[str, set[str]], known: set[str]) -> set[str]:
    """The names in `known` and those of all classes derived from them, directly or indirectly."""
    while found := {name for name, of in bases.items() if of & known and name not in known}:
        known |= found
    return known


def _docstrings(
    node: Documented, module: str, qualname: str, *, parent: Documented | None, bases: dict[str, set[str]]
) -> Iterator[Described]:
    """The docstrings of a piece of code and its parts; classes are added to `bases`."""
    if isinstance(node, ast.ClassDef):
        bases.setdefault(node.name, set()).update(ast.unparse(base).rpartition(".")[2] for base in node.bases)
    docstring = ast.get_docstring(node)
    if docstring and docstring.strip():
        full_name = f"{module}.{qualname}" if qualname else module
        if isinstance(node, ast.Module):
            title = f"module {full_name}"
        elif isinstance(node, ast.ClassDef):
            title = f"class {full_name}"
        else:
            title = f"{full_name}({ast.unparse(node.args)})"
        document: Document = {
            "text": f"{title}\n\n{docstring.strip()}\n",
            "source": PYTHON_DOCS,
            "row_id": f"{module}:{qualname}",
        }
        if isinstance(node, ast.Module):
            yield Described(document, "module")
        elif isinstance(node, ast.ClassDef):
            yield Described(document, "class")
        else:
            yield _function(document, node, parent)
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            child_name = f"{qualname}.{child.name}" if qualname else child.name
            yield from _docstrings(child, module, child_name, parent=node, bases=bases)


def _function(document: Document, node: Function, parent: Documented | None) -> Described:
    decorators = {ast.unparse(decorator) for decorator in node.decorator_list}
    if isinstance(parent, Function) or any("property" in one or one.endswith((".setter", ".deleter")) for one in decorators):
        return Described(document)
    arguments = node.args
    if isinstance(parent, ast.ClassDef) and "staticmethod" not in decorators:
        arguments = ast.arguments(**{name: getattr(node.args, name) for name in node.args._fields})
        positional = "posonlyargs" if arguments.posonlyargs else "args"
        setattr(arguments, positional, getattr(arguments, positional)[1:])
    return Described(document, "method" if isinstance(parent, ast.ClassDef) else "function", arguments, _returns(node))


def _returns(node: Function) -> bool | None:
    """Whether a function's own code returns or yields a value; None if it only raises or does nothing."""
    rest = [statement for statement in node.body[1:] if not isinstance(statement, (ast.Pass, ast.Raise))]
    if not rest:
        return None
    nodes: list[ast.AST] = [*rest]
    while nodes:
        one = nodes.pop()
        if isinstance(one, (ast.Yield, ast.YieldFrom)):
            return True
        if isinstance(one, ast.Return) and one.value is not None and ast.unparse(one.value) != "None":
            return True
        if not isinstance(one, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)):
            nodes += ast.iter_child_nodes(one)
    return False


def questions(source: Source, options: SourceOptions, errors: RowErrors | None, column: str | None = None) -> Iterator[Record]:
    """The subject of a docstring: its module, and a question that it answers.

    `text` is the docstring without the signature above it, `label` the top-level module ("email"), `name` what it describes
    ("email.message.Message.walk"), `instruction` the question "What does ... do?", `output` its first paragraph as one line.
    The topics of the language reference belong to no module and are left out.
    """
    for document in read_python_docs(source.name):
        row_id = document["row_id"]
        module, _, qualname = row_id.partition(":")
        _, _, text = document["text"].partition("\n\n")
        if module == "topic" or not text.strip():
            continue
        described = f"{module}.{qualname}" if qualname else module
        text = text.strip()
        values: dict[str, object] = {
            "text": text,
            "label": module.partition(".")[0],
            "name": described,
            "instruction": f"What does {described} do?",
            "output": " ".join(re.split(r"\n\s*\n", text, maxsplit=1)[0].split()),
        }
        yield Record(values, source.name, row_id, row_id)


def documents(source: Source, options: SourceOptions, errors: RowErrors | None) -> Iterator[Document]:
    """The documents, with their top-level module as the group if groups are requested; a topic is its own group."""
    column = column_of_groups(options)
    if column not in (None, "module"):
        raise UserError(f"group_field is {column!r}; {source.name} is grouped by 'module', the top-level one.")
    for document in read_python_docs(source.name):
        module, _, name = document["row_id"].partition(":")
        group = {} if column is None else {"group": name if module == "topic" else module.partition(".")[0]}
        yield {**document, "source": source.name, **group}


def python_identity(source: Source, options: SourceOptions) -> dict[str, object]:
    """Python's version, the SHA-256 of the texts, and whose they are."""
    digest = hashlib.sha256()
    for document in read_python_docs(source.name):
        digest.update(document["text"].encode() + b"\0")
    python = ".".join(map(str, sys.version_info[:3]))
    about = {"license": "PSF-2.0", "url": f"https://docs.python.org/{sys.version_info[0]}.{sys.version_info[1]}/"}
    return {"python": python, "sha256": digest.hexdigest(), **about}


PYTHON_DOCUMENTATION = SourceKind(
    records=questions,
    documents=documents,
    identity=python_identity,
    options=(),
    is_named=PYTHON_DOCS_NAMES.__contains__,
)
