"""This Python's own documentation as documents: real English text on every machine."""

import ast
import functools
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from hfgpt.data.on_disk import Document
from hfgpt.data.splitting import Split
from hfgpt.errors import MissingFileError

PYTHON_DOCS = "python-docs"


# Parts of it: python-docs:train, :validation and :test, as prepare_data.py divides them with these shares. What is fine-tuned on
# the one can be tested on documents that its base was not pretrained on, either.
PYTHON_DOCS_SHARES = {"validation_share": 0.02, "test_share": 0.05}


PYTHON_DOCS_NAMES = (PYTHON_DOCS, *(f"{PYTHON_DOCS}:{part}" for part in ("train", "validation", "test")))


# Not documentation: the library's own tests, vendored packages, and folders that some distributions leave out.
SKIPPED_LIBRARY_FOLDERS = {"test", "tests", "idle_test", "idlelib", "lib2to3", "ensurepip", "pydoc_data", "site-packages",
                           "dist-packages", "turtledemo", "__pycache__"}  # fmt: skip


def read_python_docs(name: str = PYTHON_DOCS) -> list[Document]:
    """This interpreter's own documentation, about 2 MB of English on every machine.

    First the topics of the language reference (`pydoc_data.topics`), then the docstrings of the standard library, each under
    the signature it belongs to. The files are parsed with `ast`; nothing is imported or run. `row_id` is "topic:with" or, as
    entry points are written, "textwrap:dedent" ("textwrap:" for the module itself).

    Args: `name` is one of `PYTHON_DOCS_NAMES`: all of it, or one of its parts.
    Cost: about 3 s, once a process; the documents then stay in memory.
    Raises: FileNotFoundError where the interpreter comes without its library's source files.
    """
    documents = _all_python_docs()
    part = name.removeprefix(PYTHON_DOCS).removeprefix(":")
    return [document for side, document in Split(**PYTHON_DOCS_SHARES).assign(documents) if part in ("", side)]


@functools.cache
def _all_python_docs() -> tuple[Document, ...]:
    return tuple(_python_docs())


def _python_docs() -> Iterator[Document]:
    library = Path(sysconfig.get_path("stdlib"))
    files = sorted(path for path in library.rglob("*.py") if not SKIPPED_LIBRARY_FOLDERS & set(path.relative_to(library).parts))
    if not files:
        raise MissingFileError(f"no source files of the standard library under {library}; use a Python that ships them.")
    topics = library / "pydoc_data" / "topics.py"
    if topics.is_file():
        for name, text in sorted(_dictionary_in(topics, "topics").items()):
            yield {"text": text.strip() + "\n", "source": PYTHON_DOCS, "row_id": f"topic:{name}"}
    for path in files:
        try:
            tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError):
            continue  # a few library files are templates or deliberately broken
        parts = path.relative_to(library).with_suffix("").parts
        module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        yield from _docstrings(tree, module, "")


def _dictionary_in(path: Path, name: str) -> dict[str, str]:
    for statement in ast.parse(path.read_bytes()).body:
        if isinstance(statement, ast.Assign) and any(getattr(target, "id", None) == name for target in statement.targets):
            return ast.literal_eval(statement.value)
    return {}


def _docstrings(node: ast.AST, module: str, qualname: str) -> Iterator[Document]:
    docstring = ast.get_docstring(node)
    if docstring and docstring.strip():
        full_name = f"{module}.{qualname}" if qualname else module
        if isinstance(node, ast.Module):
            title = f"module {full_name}"
        elif isinstance(node, ast.ClassDef):
            title = f"class {full_name}"
        else:
            title = f"{full_name}({ast.unparse(node.args)})"
        text = f"{title}\n\n{docstring.strip()}\n"
        yield {"text": text, "source": PYTHON_DOCS, "row_id": f"{module}:{qualname}"}
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield from _docstrings(child, module, f"{qualname}.{child.name}" if qualname else child.name)
