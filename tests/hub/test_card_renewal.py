"""The cure suggested for a card works as written; one card.yaml serves an adapter, its base and its merged twin."""

import re
import shlex
import shutil
from pathlib import Path

import pytest
from gate_folders import good_adapter, good_model
from huggingface_hub import ModelCard
from recipes_in_process import run_script

from hfgpt.hub.card.rendering import renew_card
from hfgpt.hub.card.seal import is_ours


@pytest.fixture(scope="module")
def without_licence(tmp_path_factory, small_tokenizer) -> Path:
    """An adapter as a recipe leaves it when no licence was named, in a folder whose name needs quotes."""
    place = tmp_path_factory.mktemp("a licence")
    folder = good_adapter(place / "my adapter", good_model(place / "model", small_tokenizer))
    (folder / "card.yaml").unlink()
    renew_card(folder)
    return folder


@pytest.fixture
def check(monkeypatch):
    """Run recipes/check.py from a command line, without the process that opens the doors."""
    monkeypatch.setattr("hfgpt.hub.gate.check.open_as_stranger", lambda *args, **kwargs: [])

    def run(command: str):
        program, script, *words = shlex.split(command)
        assert (program, Path(script).parent.name) == ("python", "recipes")
        return run_script(Path(script).name, *words)

    return run


def cures(table: str) -> list[str]:
    return re.findall(r"cure: (.*)", table)


def test_the_cure_of_a_missing_licence_works_as_it_is_written(without_licence, check, tmp_path):
    folder = Path(shutil.copytree(without_licence, tmp_path / "my adapter"))
    before = check(f"python recipes/check.py '{folder}'")
    assert before.returncode == 1
    assert before.stderr.count("licence (") == 3  # the adapter, its base and its merged twin
    told = {cure for cure in cures(before.stdout) if "license" in cure}
    found = {re.fullmatch(r"put a line such as (license: \S+) into (.+?) and run (python .+), which rewrites the card", cure)
             for cure in told}  # fmt: skip
    assert None not in found
    assert {match[2] for match in found} == {str(folder / "card.yaml")}  # one file for all three
    (command,) = {match[3] for match in found if match[3] == f"python recipes/check.py {shlex.quote(str(folder))}"}
    (folder / "card.yaml").write_text(f"{next(iter(found))[1]}\n")
    after = check(command)
    assert after.returncode == 0, after.stdout + after.stderr
    cards = [place / "README.md" for place in (folder, folder / "base", folder / "merged")]
    assert [ModelCard(card.read_text()).data.license for card in cards] == ["apache-2.0"] * 3
    assert [line for line in after.stdout.splitlines() if line.startswith("card: ")] == [
        f"card: {card} rewritten" for card in cards
    ]
    assert not [line for line in check(command).stdout.splitlines() if line.startswith("card: ")]  # no change, nothing written
    assert not list(folder.rglob("README.generated.md"))


def test_an_edited_card_stays_and_its_cure_works_too(without_licence, check, tmp_path):
    folder = Path(shutil.copytree(without_licence, tmp_path / "mine"))
    card = folder / "README.md"
    edited = card.read_text() + "\nA word of mine.\n"
    card.write_text(edited)
    (folder / "card.yaml").write_text("license: mit\n")
    before = check(f"python recipes/check.py {folder}")
    assert card.read_text() == edited
    assert ModelCard((folder / "base" / "README.md").read_text()).data.license == "mit"  # nobody edited that one
    (cure,) = [cure for cure in cures(before.stdout) if "license" in cure]
    assert cure.startswith(
        f"{card} was edited by hand, so hfgpt does not change it: correct it there, or put a line such as license:"
    )
    assert cure.endswith(f"and delete it and run python recipes/check.py {folder}")
    card.unlink()
    assert check(f"python recipes/check.py {folder}").returncode == 0
    assert is_ours(card.read_text())
    card.write_text(card.read_text().replace("license: mit", "license: bsd-3-clause"))
    assert check(f"python recipes/check.py {folder}").returncode == 0
    assert ModelCard(card.read_text()).data.license == "bsd-3-clause"
