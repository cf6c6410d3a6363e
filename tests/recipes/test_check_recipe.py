"""recipes/check.py on the command line: a table, JSON, and an exit code that stops a pipeline."""

import json
import shutil
from pathlib import Path

import pytest
from recipes_in_process import run_script

pytestmark = pytest.mark.slow


@pytest.fixture
def folder(small_rows, tmp_path) -> Path:
    """Prepared data with a card: the kind of folder that is checked fastest."""
    copy = Path(shutil.copytree(small_rows, tmp_path / "rows"))
    (copy / "README.md").write_text("---\nlicense: mit\n---\nMade from documents.jsonl.\n")
    return copy


def test_a_good_folder_ends_with_its_counts_and_exit_code_0(folder, tmp_path):
    before = {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    done = run_script("check.py", folder, "--json", tmp_path / "check.json")
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == f"card: {folder / 'README.md'} was edited by hand, so it would be published as it is"
    assert lines[1] == f"{folder} (dataset)"
    assert lines[-1].startswith("passed: 1")
    assert ", failed: 0, " in lines[-1]
    content = json.loads((tmp_path / "check.json").read_text())
    assert content["passed"] is True
    (report,) = content["folders"]
    statuses = {result["name"]: result["status"] for result in report["results"]}
    assert statuses["load_from_disk"] == statuses["AutoTokenizer"] == statuses["without hfgpt"] == "pass"
    assert {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_a_failure_names_its_cure_and_ends_with_exit_code_1(folder):
    (folder / "README.md").write_text("---\nlanguage: en\n---\nMade from documents.jsonl.\n")
    done = run_script("check.py", folder, "--json", "-", "--seconds", "1")
    assert done.returncode == 1
    content = json.loads(done.stdout)  # nothing else is on stdout: the table goes to stderr
    assert content["passed"] is False
    assert "was edited by hand" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: 2 checks failed: licence (")  # and "doors", which ran out of time
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ((), "folder is missing; give the folder of a model first"),
        (("nowhere",), "nowhere does not exist"),
        ((".",), "has no model (config.json), adapter"),
        ((".", "--jason", "x"), "did you mean 'json'?"),
        ((".", "--seconds", "0"), "seconds is 0; it must be at least 1"),
    ],
)
def test_a_mistake_is_one_sentence(words, sentence, tmp_path):
    done = run_script("check.py", *words, cwd=tmp_path)
    assert done.returncode == 1
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
