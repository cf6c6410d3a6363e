"""Documents read by tasks on a cluster: the rows and counts of one machine, from Ray; scripts for Slurm."""

import json
import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from recipes_in_process import recipe

from hfgpt.data.engine import Engine, ReadingTask, load_on_engine, shares
from hfgpt.data.on_disk import texts_of
from hfgpt.data.passport import Passport
from hfgpt.data.sources import ReadingOptions, find_sources, load_documents
from hfgpt.data.splitting import Split
from hfgpt.data.steps import Outcome
from hfgpt.errors import UserError
from hfgpt.files import sha256_of_file

pytest.importorskip("datatrove")


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


OPTIONS = ReadingOptions(text_documents="line")
STEPS = (DropShort(20),)
KEPT = ("splits", "inputs", "settings", "tokenizer")


def steps_without_seconds(passport):
    return [{key: value for key, value in step.items() if key != "seconds"} for step in passport.steps]


def test_shares_are_neighbours_of_about_the_same_size(sources):
    for number in (1, 2, 3, 6, 9):
        parts = shares(sources, number)
        assert [source for part in parts for source in part] == sources
        assert len(parts) == number
    sizes = [sum(source.path.stat().st_size for source in part) for part in shares(sources, 2)]
    assert max(sizes) < 2 * min(sizes)


def test_tasks_that_are_collected_are_one_reading(sources, tmp_path):
    here, there = Passport(), Passport()
    given = dict(steps=STEPS, draw=Split().draw, on_error="skip")
    expected = load_documents(sources, OPTIONS, here, cache_dir=tmp_path, **given)
    engine = Engine("slurm", tmp_path / "tasks", tasks=3)
    task = ReadingTask(tuple(sources), OPTIONS, STEPS, Split().draw, "skip", engine.folder)
    with pytest.raises(UserError, match=r"no sbatch here; the scripts are written: run .*submit.sh"):
        engine.complete(task)
    for rank in (2, 0, 1):  # as the jobs of the array do, in any order
        task(None, rank, 3)
    found = load_on_engine(engine, sources, OPTIONS, there, **given)
    assert list(texts_of(found)) == list(texts_of(expected))
    assert len(found) > 300
    assert [found[column][:] for column in ("draw", "source")] == [expected[column][:] for column in ("draw", "source")]
    assert steps_without_seconds(there) == steps_without_seconds(here)
    assert there.inputs == here.inputs
    assert there.steps[-1]["reasons"] == {"the text is a number": 1}


def test_files_of_tasks_that_read_something_else_are_not_collected(sources, tmp_path):
    engine = Engine("slurm", tmp_path / "tasks", tasks=2)
    task = ReadingTask(tuple(sources), OPTIONS, STEPS, Split().draw, "skip", engine.folder)
    for _ in range(2):
        with pytest.raises(UserError, match="no sbatch here"):
            engine.complete(task)
        for rank in range(2):
            task(None, rank, 2)
        assert engine.complete(task) == 2
        sources[0].path.write_text("another text, which is long enough\n")


def test_the_scripts_for_slurm_are_these(sources, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    engine = Engine("slurm", tmp_path / "out-tasks", tasks=4, settings={"partition": "lot", "mem_per_cpu_gb": 4, "workers": 2},
                    command=("python", "recipes/prepare_data.py", "my run.yaml"))  # fmt: skip
    with pytest.raises(UserError, match="no sbatch here"):
        engine.complete(ReadingTask(tuple(sources), OPTIONS, STEPS, Split().draw, "stop", engine.folder))
    scripts = {path.name: path.read_text().replace(str(tmp_path), "/place") for path in (tmp_path / "out-tasks").glob("*.s*")}
    assert sorted(scripts) == ["collect.slurm", "submit.sh", "tasks.slurm"]
    assert scripts["submit.sh"] == (
        "#!/bin/bash\nset -e\ncd /place/out-tasks\n"
        "tasks=$(sbatch --parsable --export=ALL,RUN_OFFSET=0 tasks.slurm)\n"
        "collect=$(sbatch --parsable --dependency=afterok:$tasks collect.slurm)\n"
        'echo "jobs $tasks, then $collect"\n'
    )
    head = "#!/bin/bash\n#SBATCH --cpus-per-task=1\n#SBATCH --mem-per-cpu=4G\n#SBATCH --nodes=1\n#SBATCH --partition=lot\n"
    logs = "#SBATCH --time=24:00:00\n" + "".join(
        f"#SBATCH --{key}=/place/out-tasks/logs/slurm_logs/%A_%a.out\n" for key in ("output", "error")
    )
    lines = re.sub(r"\n\s*\n", "\n", scripts["tasks.slurm"])
    assert lines.startswith(head + "#SBATCH --job-name=hfgpt-documents\n" + logs + "#SBATCH --array=0-3%2\n#SBATCH --requeue\n")
    assert lines.endswith("srun -l -n 1 launch_pickled_pipeline /place/out-tasks/logs/executor.pik\n")
    collecting = scripts["collect.slurm"]
    assert collecting.startswith(head + "#SBATCH --job-name=hfgpt-documents-collect\n" + logs + "#SBATCH --requeue\n")
    assert "--array" not in collecting
    assert collecting.endswith("cd /place\npython recipes/prepare_data.py 'my run.yaml'\n")
    for name in scripts:
        assert subprocess.run(["bash", "-n", str(tmp_path / "out-tasks" / name)], capture_output=True).returncode == 0
    assert json.loads((tmp_path / "out-tasks" / "logs" / "ranks_to_run.json").read_text()) == [0, 1, 2, 3]


def test_the_pickled_pipeline_does_its_share_where_slurm_starts_it(sources, tmp_path, monkeypatch):
    import dill

    engine = Engine("slurm", tmp_path / "tasks", tasks=2)
    with pytest.raises(UserError, match="no sbatch here"):
        engine.complete(ReadingTask(tuple(sources), OPTIONS, STEPS, Split().draw, "skip", engine.folder))
    (tmp_path / "bin").mkdir()
    scontrol = tmp_path / "bin" / "scontrol"  # of Slurm's programs the only one that datatrove asks within a job
    scontrol.write_text("#!/bin/sh\necho localhost\n")
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    monkeypatch.setenv("SLURM_NODELIST", "localhost")
    for number in range(2):
        monkeypatch.setenv("SLURM_ARRAY_TASK_ID", str(number))
        with (engine.folder / "logs" / "executor.pik").open("rb") as file:
            dill.load(file).run()
    assert engine.complete(ReadingTask(tuple(sources), OPTIONS, STEPS, Split().draw, "skip", engine.folder)) == 2


def contents(folder: Path):
    return {path.relative_to(folder).as_posix(): sha256_of_file(path) for path in folder.rglob("*.arrow")}


@pytest.mark.slow
def test_ray_gives_the_rows_and_counts_of_one_machine(sources, small_tokenizer, tmp_path, monkeypatch):
    pytest.importorskip("ray")
    monkeypatch.setattr("hfgpt.data.engine.available_processors", lambda: 2)
    given = dict(sources=[str(source.path) for source in sources], tokenizer=str(small_tokenizer), context_length=64,
                 text_documents="line", on_error="skip")  # fmt: skip
    (tmp_path / "ray").mkdir()
    (tmp_path / "local").mkdir()
    recipe("prepare_data", **given, output_dir=str(tmp_path / "local" / "rows"))
    recipe("prepare_data", **given, output_dir=str(tmp_path / "ray" / "rows"), engine="ray", num_tasks=2)
    local, ray = (Passport.load(tmp_path / name / "rows") for name in ("local", "ray"))
    assert contents(tmp_path / "ray" / "rows") == contents(tmp_path / "local" / "rows") != {}
    assert [getattr(ray, name) for name in KEPT] == [getattr(local, name) for name in KEPT]
    assert steps_without_seconds(ray) == steps_without_seconds(local)
    assert [path.name for path in (tmp_path / "ray").iterdir()] == ["rows"]
    with pytest.raises(UserError, match=r"rows.jsonl, line 2: the field 'text' is a number"):  # as a task says it
        recipe("prepare_data", **given | {"on_error": "stop"}, output_dir=str(tmp_path / "ray" / "other"), engine="ray")
    assert [path.name for path in (tmp_path / "ray").iterdir()] == ["rows"]
