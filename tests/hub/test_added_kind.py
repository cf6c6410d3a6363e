"""A kind of folder added by another package with an entry in each of two tables gets a card, a gate, a stranger and a tag."""

from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from hfgpt.artifacts import ABOUT, KINDS, Artifact, identify, why_no_model
from hfgpt.hub.card.rendering import write_card
from hfgpt.hub.export import export
from hfgpt.hub.gate.check import check_folder
from hfgpt.hub.kinds import HUB_KINDS, HubKind, always
from hfgpt.hub.publish import parts_of, prepare

CARD = """{% extends "_card.md" %}
{% block lead %}
A list of words.
{% endblock %}
{% block load %}
Read it, a line at a time.
{% endblock %}
{% block facts %}
{% endblock %}
"""
DOORS = """
from pathlib import Path

from stranger import Failed


def open_words(stranger):
    stranger.open("words", lambda: words(stranger))


def words(stranger):
    found = Path(stranger.folder, "words.txt").read_text().split()
    if len(set(found)) != len(found):
        raise Failed("a word stands in it twice", "leave one out")
    return f"{len(found)} words"
"""


class WordsFolder(Artifact):
    """A list of words."""

    kind, described, mark = "words", "word list (words.txt)", "words.txt"
    allowed = ("words.txt", *ABOUT)
    use = "a list of words"


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    theirs = tmp_path / "their package"
    theirs.mkdir()
    (theirs / "words.md").write_text(CARD)
    (theirs / "open_words.py").write_text(DOORS)
    entry = HubKind(
        template=always("words"), template_folder=theirs, opener=(theirs / "open_words.py", "open_words"), libraries=("words",),
        tag="words", main_files=(".txt",),
    )  # fmt: skip
    monkeypatch.setitem(KINDS, "words", WordsFolder)
    monkeypatch.setitem(HUB_KINDS, "words", entry)
    folder = tmp_path / "mine" / "list"
    folder.mkdir(parents=True)
    (folder / "words.txt").write_text("one two three\n")
    (folder / "notes.txt").write_text("stays here\n")
    (folder / "card.yaml").write_text("license: mit\n")
    return folder


def test_it_is_recognised_described_exported_checked_and_tagged(folder, tmp_path):
    assert identify(folder) == WordsFolder(folder)
    assert "contains a list of words" in why_no_model(folder)
    with pytest.raises(ValueError, match=r"has no word list \(words\.txt\), model"):
        identify(tmp_path)
    data = ModelCard(write_card(folder).read_text()).data
    assert (data.library_name, data.license, data.tags) == ("words", "mit", ["hfgpt"])
    assert [name.as_posix() for name in export(identify(folder), tmp_path / "out").names] == ["README.md", "words.txt"]
    (part,) = parts_of(folder, "me/words")
    assert prepare(part, tmp_path / "prepared").tag.startswith("words-")
    report = check_folder(folder)
    assert report.failures == []
    assert {"words", "licence", "without hfgpt", "no secret"} <= {
        result.name for result in report.results if result.status == "pass"
    }
    (folder / "words.txt").write_text("one one\n")
    (failure,) = check_folder(folder).failures
    assert (failure.name, failure.detail, failure.cure) == ("words", "a word stands in it twice", "leave one out")
