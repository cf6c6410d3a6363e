"""What others see besides the code: workflows, forms, citation and versions are correct."""

import re

import pytest
import yaml
from conftest import ROOT

import hfgpt

WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
PYPROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
TARGETS = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))


def read(path):
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def test_there_is_a_workflow_for_each_push_and_one_for_each_night():
    assert [path.stem for path in WORKFLOWS] == ["ci", "nightly"]
    triggers = [read(path)[True] for path in WORKFLOWS]  # YAML 1.1 reads the key `on` as true
    assert "pull_request" in triggers[0]
    assert "schedule" in triggers[1]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_may_only_read_and_stops_when_a_newer_one_starts(path):
    workflow = read(path)
    assert workflow["permissions"] == {"contents": "read"}
    assert workflow["concurrency"]["cancel-in-progress"] is True
    for job in workflow["jobs"].values():
        assert "permissions" not in job
        assert job["timeout-minutes"] > 0
        actions = [step["uses"] for step in job["steps"] if "uses" in step]
        assert actions
        assert all(re.fullmatch(r"actions/[\w-]+@v\d+", action) for action in actions), actions
        (python,) = [step["with"] for step in job["steps"] if step.get("uses", "").startswith("actions/setup-python@")]
        assert python["cache"] == "pip"
        assert (ROOT / python["cache-dependency-path"]).is_file()


def test_a_workflow_runs_what_there_is():
    commands = [step["run"] for path in WORKFLOWS for job in read(path)["jobs"].values() for step in job["steps"] if "run" in step]
    assert {"make lint", "make test-fast", "make package", "make docs", ".ci/run"} <= set(commands)
    for program, *words in map(str.split, commands):
        if program == "make":
            assert set(words) <= TARGETS, words
        elif program != ".venv/bin/python":  # created by `make install-dev`
            assert (ROOT / program).stat().st_mode & 0o100, program


def test_the_fast_tests_run_on_every_python_that_is_promised():
    promised = re.findall(r'"Programming Language :: Python :: (3\.\d+)"', PYPROJECT)
    assert f'requires-python = ">={promised[0]}"' in PYPROJECT
    jobs = read(ROOT / ".github/workflows/ci.yml")["jobs"]
    assert jobs["test-fast"]["strategy"]["matrix"]["python-version"] == promised


def test_the_hooks_call_the_tools_of_the_environment():
    (hooks,) = read(ROOT / ".pre-commit-config.yaml")["repos"]
    assert {hook["entry"].split()[0] for hook in hooks["hooks"]} == {".venv/bin/ruff"}


def test_the_version_stands_in_one_place_and_the_others_agree():
    assert 'dynamic = ["version"]' in PYPROJECT
    assert not re.search(r"^version = ", PYPROJECT, flags=re.MULTILINE)
    assert 'path = "hfgpt/__init__.py"' in PYPROJECT
    citation = read(ROOT / "CITATION.cff")
    assert citation["version"] == hfgpt.__version__
    first, *versions = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert first == "Unreleased"
    assert versions[0] == f"{hfgpt.__version__} - {citation['date-released']}"


def test_the_built_metadata_has_that_version(tmp_path):
    core = pytest.importorskip("hatchling.metadata.core", reason="hatchling reads the version as a build does")
    plugins = pytest.importorskip("hatchling.plugin.manager")
    metadata = core.ProjectMetadata(str(ROOT), plugins.PluginManager())
    assert metadata.version == hfgpt.__version__
    assert metadata.core.urls["Changelog"].endswith("/CHANGELOG.md")
    metadata.validate_fields()


def test_the_forms_ask_for_something():
    forms = [read(path) for path in (ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml") if path.stem != "config"]
    assert len(forms) == 2
    for form in forms:
        assert form["name"]
        assert form["description"]
        assert any(field.get("validations", {}).get("required") for field in form["body"])
        identifiers = [field["id"] for field in form["body"]]
        assert len(identifiers) == len(set(identifiers))
        assert all(field["attributes"]["label"] for field in form["body"])


def test_every_address_of_the_project_is_the_same():
    repository = re.search(r'^Repository = "(.+)"$', PYPROJECT, flags=re.MULTILINE)[1]
    pages = [ROOT / name for name in ("CITATION.cff", "CODE_OF_CONDUCT.md", "SECURITY.md", ".github/ISSUE_TEMPLATE/config.yml")]
    for path in pages:
        assert repository in path.read_text(encoding="utf-8"), path


def test_links_between_files_lead_somewhere():
    for name in ("CONTRIBUTING.md", "SECURITY.md", "CODE_OF_CONDUCT.md", "CHANGELOG.md"):
        for target in re.findall(r"\]\((?!https?://)([^)#]+)", (ROOT / name).read_text(encoding="utf-8")):
            assert (ROOT / target).exists(), f"{name}: {target}"
