"""Stages on a cluster: Slurm scripts, what is kept between commands, and the same rows from both engines as from one machine."""

import json
import re
import subprocess
from pathlib import Path

import pytest
from recipes_in_process import recipe
from slurm_tasks import do_tasks

from hfgpt.data.engine import Engine, Stage, clear_tasks, tasks_folder
from hfgpt.data.passport import Passport
from hfgpt.errors import UserError
from hfgpt.files import sha256_of_file

pytest.importorskip("datatrove")
pytestmark = pytest.mark.usefixtures("no_slurm")


class Touch:
    """A step that records each time it runs."""

    def __init__(self, folder, refused=None):
        self.folder, self.refused = folder, refused

    def __call__(self, data, rank, world_size):
        if rank == self.refused:
            raise UserError(f"task {rank} cannot")
        with (self.folder / f"{rank} of {world_size}").open("a") as file:
            file.write("once")


def stages_in(folder):
    return [Stage("first", [Touch(folder)], 4), Stage("second", [Touch(folder)], 1)]


def slurm(folder, **given):
    return Engine("slurm", folder, None, **given)  # no task here encodes anything


def hand_over(engine, stages, plan):
    with pytest.raises(UserError, match=r"no sbatch here; the scripts are ready: run .*submit.sh"):
        engine.complete(stages, plan=plan)


def test_the_scripts_for_slurm_are_these(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    engine = slurm(tmp_path / "out-tasks", settings={"partition": "lot", "mem_per_cpu_gb": 4, "workers": 2},
                   command=("python", "recipes/prepare_data.py", "my run.yaml"))  # fmt: skip
    hand_over(engine, stages_in(tmp_path), {})
    scripts = {path.name: path.read_text().replace(str(tmp_path), "/place") for path in (tmp_path / "out-tasks").glob("*.s*")}
    assert sorted(scripts) == ["collect.slurm", "first.slurm", "second.slurm", "submit.sh"]
    assert scripts["submit.sh"] == (
        "#!/bin/bash\nset -e\ncd /place/out-tasks\n"
        "first=$(sbatch --parsable --export=ALL,RUN_OFFSET=0 first.slurm)\n"
        "second=$(sbatch --parsable --export=ALL,RUN_OFFSET=0 --dependency=afterok:${first%%;*} --kill-on-invalid-dep=yes "
        "second.slurm)\n"
        "collect=$(sbatch --parsable --dependency=afterok:${second%%;*} --kill-on-invalid-dep=yes collect.slurm)\n"
        'echo "jobs $first, $second, then $collect"\n'
    )
    head = "#!/bin/bash\n#SBATCH --cpus-per-task=1\n#SBATCH --mem-per-cpu=4G\n#SBATCH --nodes=1\n#SBATCH --partition=lot\n"

    def logs(stage):
        return "#SBATCH --time=24:00:00\n" + "".join(
            f"#SBATCH --{key}=/place/out-tasks/logs/{stage}/slurm_logs/%A_%a.out\n" for key in ("output", "error")
        )

    for stage, number in (("first", 4), ("second", 1)):
        lines = re.sub(r"\n\s*\n", "\n", scripts[f"{stage}.slurm"])
        array = f"#SBATCH --array=0-{number - 1}%2\n#SBATCH --requeue\n"
        assert lines.startswith(head + f"#SBATCH --job-name=hfgpt-{stage}\n" + logs(stage) + array)
        assert lines.endswith(f"srun -l -n 1 launch_pickled_pipeline /place/out-tasks/logs/{stage}/executor.pik\n")
        ranks = json.loads((tmp_path / "out-tasks" / "logs" / stage / "ranks_to_run.json").read_text())
        assert ranks == list(range(number))
    collecting = scripts["collect.slurm"]
    assert collecting.startswith(head + "#SBATCH --job-name=hfgpt-collect\n" + logs("collect") + "#SBATCH --requeue\n")
    assert "--array" not in collecting
    assert collecting.endswith("cd /place\npython recipes/prepare_data.py 'my run.yaml'\n")
    for name in scripts:
        assert subprocess.run(["bash", "-n", str(tmp_path / "out-tasks" / name)], capture_output=True).returncode == 0


def test_finished_tasks_are_kept_and_only_the_others_are_handed_over_again(tmp_path, monkeypatch):
    engine = slurm(tmp_path / "tasks")
    stages = stages_in(tmp_path)
    hand_over(engine, stages, {"similarity": 0.8})
    assert do_tasks(engine.folder, monkeypatch) == ["first", "second", "collect"]
    engine.complete(stages, plan={"similarity": 0.8})  # nothing is left to do
    completions = engine.folder / "logs" / "first" / "completions"
    (completions / "00002").unlink()  # as if the task had been killed
    hand_over(engine, stages, {"similarity": 0.8})
    assert json.loads((engine.folder / "logs" / "first" / "ranks_to_run.json").read_text()) == [2]
    assert do_tasks(engine.folder, monkeypatch) == ["first", "collect"]
    assert {path.name: path.read_text() for path in tmp_path.glob("* of 4")} == {
        "0 of 4": "once", "1 of 4": "once", "2 of 4": "onceonce", "3 of 4": "once"}  # fmt: skip
    hand_over(engine, stages, {"similarity": 0.9})  # with another plan, nothing is kept
    assert not list((engine.folder / "logs").glob("*/completions"))


def test_what_a_task_cannot_do_is_said_by_the_process_that_collects(tmp_path, monkeypatch):
    engine = slurm(tmp_path / "tasks")
    stage = Stage("first", [Touch(tmp_path, refused=1)], 2)
    hand_over(engine, [stage], {})
    with pytest.raises(RuntimeError, match="task 1 cannot"):
        do_tasks(engine.folder, monkeypatch)
    with pytest.raises(UserError, match=r"^task 1 cannot$"):
        engine._refuse(stage)


def test_a_folder_of_somebody_else_is_neither_used_nor_removed(tmp_path):
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "homework.txt").write_text("mine")
    with pytest.raises(UserError, match=r"tasks, where tasks would write, contains other files"):
        slurm(tmp_path / "tasks").complete(stages_in(tmp_path), plan={})
    clear_tasks(tmp_path / "tasks")
    assert (tmp_path / "tasks" / "homework.txt").read_text() == "mine"


# The whole recipe

SENTENCE = "the lake was calm and two men sat in a boat by the far shore while it rained on the old mill"
WORDS = SENTENCE.split()


@pytest.fixture
def sources(tmp_path):
    """Five text files with blank lines and with exact and near copies across files; and a JSON Lines file with one bad row."""
    folder = tmp_path / "texts"
    folder.mkdir()
    for number in range(5):
        lines = []
        for line in range(30 + 20 * number):
            words = [f"{WORDS[(line * 7 + place * (number + 3)) % len(WORDS)]}{(line * place) % 11}" for place in range(30)]
            lines.append(" ".join(words) if line % 9 else "   ")
        lines[4] = " ".join(WORDS * 3)
        lines[5] = " ".join([*WORDS * 3, f"number{number}"])
        (folder / f"{number}.txt").write_text("".join(f"{line}\n" for line in lines))
    rows = [json.dumps({"text": " ".join(f"{word}{number}" for word in WORDS)}) for number in range(40)]
    (folder / "rows.jsonl").write_text("\n".join([*rows, '{"text": 3}\n']))
    return [str(folder / f"{number}.txt") for number in range(5)] + [str(folder / "rows.jsonl")]


def contents(folder: Path):
    return {path.relative_to(folder).as_posix(): sha256_of_file(path) for path in folder.rglob("*.arrow")}


def assert_the_same(one: Path, other: Path):
    """Assert that the rows are the same byte for byte, and that the passports are equal."""
    assert contents(one) == contents(other) != {}
    first, second = (json.loads((folder / "passport.json").read_text()) for folder in (one, other))
    assert first == second


CASES = [
    dict(),
    dict(deduplicate="exact", mixture_alpha=0.7),
    dict(deduplicate="none", shuffle_documents=True, repeated_passage_bytes=200),
]


def given_for(sources, small_tokenizer, **more):
    return dict(sources=sources, tokenizer=str(small_tokenizer), context_length=64, text_documents="line", on_error="skip", **more)


@pytest.mark.parametrize("more", CASES, ids=["near", "exact", "none"])
def test_slurm_gives_the_rows_and_counts_of_one_machine(sources, small_tokenizer, tmp_path, monkeypatch, more):
    given, place = given_for(sources, small_tokenizer, **more), tmp_path / "slurm" / "rows"
    (tmp_path / "local").mkdir()
    recipe("prepare_data", **given, output_dir=str(tmp_path / "local" / "rows"))
    on_cluster = given | dict(engine="slurm", num_tasks=4, output_dir=str(place))
    with pytest.raises(UserError, match="no sbatch here"):
        recipe("prepare_data", **on_cluster)
    stages = do_tasks(tasks_folder(place), monkeypatch, backwards=True)
    assert stages == ["documents", "signatures", "buckets", "clusters", "filter", "collect"]
    encoded = []
    from hfgpt.data import cluster_tokens

    encode = cluster_tokens.encode_to_arrays
    monkeypatch.setattr(cluster_tokens, "encode_to_arrays", lambda *words: encoded.append(len(words[1])) or encode(*words))
    recipe("prepare_data", **on_cluster)
    assert_the_same(place, tmp_path / "local" / "rows")
    assert [path.name for path in place.parent.iterdir()] == ["rows"]
    passport = Passport.load(place)
    steps = [step for step in passport.steps if step.get("documents_in") is not None]
    dropped = {step["step"]: step["documents_in"] - step["documents_out"] for step in steps}
    assert dropped["drop blank"] > 10
    kinds = {"near": ("exact", "near"), "exact": ("exact",), "none": ()}[more.get("deduplicate", "near")]
    assert all(dropped[f"drop {kind} copies"] >= 4 for kind in kinds)
    if not more:  # only documents that leaks were cut out of are encoded here
        assert sum(encoded) <= 0.2 * sum(counts["documents"] for counts in passport.splits.values())


def test_what_another_engine_left_is_removed_when_the_rows_are_there(sources, small_tokenizer, tmp_path):
    given, place = given_for(sources, small_tokenizer), tmp_path / "here" / "rows"
    with pytest.raises(UserError, match="no sbatch here"):
        recipe("prepare_data", **given, output_dir=str(place), engine="slurm")
    assert [path.name for path in place.parent.iterdir()] == ["rows-tasks"]
    recipe("prepare_data", **given, output_dir=str(place))
    assert [path.name for path in place.parent.iterdir()] == ["rows"]


@pytest.mark.slow
def test_ray_gives_the_rows_and_counts_of_one_machine(sources, small_tokenizer, tmp_path, monkeypatch):
    pytest.importorskip("ray")
    monkeypatch.setattr("hfgpt.data.engine.available_processors", lambda: 2)
    temporary = {path.name for path in Path("/tmp").glob("*ray*")}
    given = given_for(sources, small_tokenizer)
    (tmp_path / "ray").mkdir()
    (tmp_path / "local").mkdir()
    recipe("prepare_data", **given, output_dir=str(tmp_path / "local" / "rows"))
    recipe("prepare_data", **given, output_dir=str(tmp_path / "ray" / "rows"), engine="ray", num_tasks=2)
    assert_the_same(tmp_path / "ray" / "rows", tmp_path / "local" / "rows")
    assert [path.name for path in (tmp_path / "ray").iterdir()] == ["rows"]
    with pytest.raises(UserError, match=r"rows.jsonl, line 41: the field 'text' is a number"):  # the message comes from a task
        recipe("prepare_data", **given | {"on_error": "stop"}, output_dir=str(tmp_path / "ray" / "other"), engine="ray",
               num_tasks=1)  # fmt: skip
    assert [path.name for path in (tmp_path / "ray").iterdir()] == ["rows"]
    assert {path.name for path in Path("/tmp").glob("*ray*")} <= temporary
