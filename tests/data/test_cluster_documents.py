"""Documents read by several tasks and collected are the same as those of a single reading."""

from dataclasses import dataclass

import pytest
from slurm_tasks import do_tasks

from hfgpt.data.cluster_documents import load_on_engine, shares
from hfgpt.data.engine import Engine
from hfgpt.data.on_disk import texts_of
from hfgpt.data.passport import Passport
from hfgpt.data.sources import ReadingOptions, find_sources, load_documents
from hfgpt.data.splitting import Split
from hfgpt.data.steps import Outcome
from hfgpt.errors import UserError
from hfgpt.tokenization import load_or_wrap_tokenizer

pytest.importorskip("datatrove")
pytestmark = pytest.mark.usefixtures("no_slurm")


@dataclass(frozen=True)
class DropShort:
    least: int
    name: str = "drop short documents"

    @property
    def settings(self):
        return {"least": self.least}

    def __call__(self, text):
        return Outcome(text if len(text) >= self.least else None, {"short": len(text) < self.least})


@pytest.fixture
def sources(tmp_path):
    folder = tmp_path / "texts"
    folder.mkdir()
    for number in range(5):
        lines = [f"text {number}, line {line}{' and more' * (line % 3)}\n" for line in range(40 * (number + 1))]
        (folder / f"{number}.txt").write_text("".join(lines))
    (folder / "rows.jsonl").write_text('{"text": "a row that is long enough"}\n{"text": 3}\n')
    return find_sources([str(folder / "*.txt"), str(folder / "rows.jsonl")])


def test_shares_are_neighbours_of_about_the_same_size(sources):
    for number in (1, 2, 3, 6, 9):
        parts = shares(sources, number)
        assert [source for part in parts for source in part] == sources
        assert len(parts) == number
    sizes = [sum(source.path.stat().st_size for source in part) for part in shares(sources, 2)]
    assert max(sizes) < 2 * min(sizes)


def test_tasks_that_are_collected_are_one_reading(sources, small_tokenizer, tmp_path, monkeypatch):
    here, there = Passport(), Passport()
    options = ReadingOptions(text_documents="line")
    given = dict(steps=(DropShort(20),), draw=Split().draw, on_error="skip")
    expected = load_documents(sources, options, here, cache_dir=tmp_path, **given)
    engine = Engine("slurm", tmp_path / "tasks", load_or_wrap_tokenizer(str(small_tokenizer)), tasks=3)
    with pytest.raises(UserError, match="no sbatch here"):
        load_on_engine(engine, sources, options, there, **given)
    assert do_tasks(engine.folder, monkeypatch, backwards=True) == ["documents", "tokens", "collect"]
    found, copies = load_on_engine(engine, sources, options, there, **given)
    assert copies is None  # not requested
    assert list(texts_of(found)) == list(texts_of(expected))
    assert len(found) > 300
    assert [found[column][:] for column in ("draw", "source")] == [expected[column][:] for column in ("draw", "source")]
    assert there.steps == here.steps
    assert there.inputs == here.inputs
    assert there.steps[-1]["reasons"] == {"the text is a number": 1}
    sources[0].path.write_text("another text, which is long enough\n")
    with pytest.raises(UserError, match="no sbatch here"):  # earlier results are not collected
        load_on_engine(engine, sources, options, there, **given)
