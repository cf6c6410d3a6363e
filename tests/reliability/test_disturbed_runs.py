"""Whatever happens to a run of any of the four recipes, the same command ends with the weights of an undisturbed one.

With `HFGPT_RELIABILITY=full` (every night) there are 40 kills each, and all four recipes run the tests of code that they share.
Otherwise there are fewer kills, and only the two that keep checkpoints differently: in one folder, and in one per seed.
"""

import json
import os
import random
import re
import shutil
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import lab
import mischief
import pytest
from lab import NAMES, start, words_of
from safetensors.torch import load_file

FULL = os.environ.get("HFGPT_RELIABILITY") == "full"
KILLS = {1: 40 if FULL else 4, 2: 40 if FULL else 2}
SOME = NAMES if FULL else ("pretrain", "finetune_classification")
LANGUAGE_MODELS = [name for name in NAMES if name != "finetune_classification"]  # a finished seed has no checkpoints
TRAINING_STEP = "transformers.Trainer.training_step"
MOMENTS = {
    "data": "transformers.Trainer.get_batch_samples",
    "forward": "transformers.Trainer.compute_loss",
    "step end": "transformers.Trainer._maybe_log_save_evaluate",
}


@dataclass
class Straight:
    """An undisturbed run."""

    words: list[str]
    folder: Path
    seconds: float

    @property
    def weights(self) -> dict[str, str]:
        return lab.weights(self.folder)


@pytest.fixture(scope="session")
def straight(materials, tmp_path_factory):
    """The run of a recipe, saved at every step, made once."""
    made: dict[tuple[str, int], Straight] = {}

    def of(name: str, world: int = 1) -> Straight:
        if (name, world) not in made:
            words = [*words_of(name, materials, world=world, save_steps=1), "--save_total_limit", "20"]
            folder, begun = tmp_path_factory.mktemp(name) / "straight", time.monotonic()
            job = start(name, words, folder, world=world)
            assert job.wait() == 0, job.said
            made[name, world] = Straight(words, folder, time.monotonic() - begun)
        return made[name, world]

    return of


def as_killed_after(checkpoints: list[Path], folder: Path) -> Path:
    """What a kill after the last of these checkpoints of a language model leaves, copied from the undisturbed run."""
    folder.mkdir(parents=True)
    for path in checkpoints:
        shutil.copytree(path, folder / path.name)
    for file in ("run.yaml", "passport.json", "before.json"):
        if (checkpoints[0].parent / file).is_file():
            shutil.copyfile(checkpoints[0].parent / file, folder / file)
    return folder


@pytest.fixture(scope="session")
def interrupted(straight, tmp_path_factory):
    """A copy of a run, or of its first seed, that was killed after its last step, with a checkpoint of every step."""
    made: dict[str, Path] = {}

    def of(name: str, place: Path) -> Path:
        if name in LANGUAGE_MODELS:
            return as_killed_after(mischief.checkpoints(straight(name).folder), place / "run")
        if name not in made:
            made[name] = tmp_path_factory.mktemp(name) / "interrupted"
            job = start(name, straight(name).words, made[name], at=("transformers.Trainer._finalize_training", 1, signal.SIGKILL))
            assert job.wait() == -signal.SIGKILL, job.said
            assert len(mischief.checkpoints(made[name])) >= 5
        shutil.copytree(made[name], place / "run", symlinks=True)
        return place / "run"

    return of


def goes_on(name: str, folder: Path, straight, *, world: int = 1, words: tuple[str, ...] = ()) -> str:
    """The same command ends with the weights of the undisturbed run and leaves nothing behind. Returns: its output."""
    one = straight(name, world)
    job = start(name, [*one.words, *words], folder, world=world)
    assert job.wait() == 0, job.said
    assert "Traceback" not in job.said
    assert lab.weights(folder) == one.weights, job.said
    assert [path for path in folder.rglob("*") if path.name.startswith(".")] == []
    assert {path for path in folder.parent.iterdir() if path.is_dir()} == {folder}
    return job.said


def losses(folder: Path) -> list[dict]:
    """The log of the last checkpoint, without times and speeds."""
    history = json.loads((mischief.checkpoints(folder)[-1] / "trainer_state.json").read_text())["log_history"]
    return [{key: entry[key] for key in ("step", "loss", "grad_norm", "eval_loss") if key in entry} for entry in history]


# Crash and resume


@pytest.mark.parametrize("name", LANGUAGE_MODELS)
def test_from_any_checkpoint_weights_states_and_losses_are_the_same(name, straight, tmp_path):
    """Also optimizer, schedule and random state at the end: the last checkpoint has the same bytes."""
    one = straight(name)
    checkpoints = mischief.checkpoints(one.folder)
    for kept in (len(checkpoints) // 2, len(checkpoints) - 1):  # between two epochs, or within one
        folder = as_killed_after(checkpoints[:kept], tmp_path / str(kept) / "run")
        said = goes_on(name, folder, straight)
        assert f"resume: from {folder / checkpoints[kept - 1].name}" in said
        assert losses(folder) == losses(one.folder)
        for path in mischief.files(mischief.checkpoints(folder)[-1]):
            if path.name not in ("trainer_state.json", "manifest.json", "README.md"):  # times and speeds are in the first two
                assert path.read_bytes() == (checkpoints[-1] / path.name).read_bytes(), path


@pytest.mark.parametrize("world", [1, 2])
def test_killed_at_random_instants(world, straight, tmp_path):
    """Saved at every step; of two processes, both or only one are killed. The fuzzer does it with two in the others."""
    chance, kills, runs = random.Random(world), 0, 0
    names = NAMES if world == 1 else ("pretrain", "finetune_instructions") if FULL else ("pretrain",)
    while kills < KILLS[world]:
        name, runs = names[runs % len(names)], runs + 1
        folder = tmp_path / str(runs) / "run"
        folder.parent.mkdir()
        for _ in range(3):
            job = start(name, straight(name, world).words, folder, world=world)
            job.runs_for(chance.uniform(0, straight(name, world).seconds))
            sent = job.send(signal.SIGKILL, chance.choice([(0,), (1,), (0, 1)]) if world > 1 else (0,))
            killed = job.wait() != 0  # not one that was about to end by itself and got the signal on its last way
            assert sent or not killed, job.said
            kills += killed
            if not killed or kills == KILLS[world]:
                break
        goes_on(name, folder, straight, world=world)
    print(f"{kills} kills in {runs} runs of {world} processes")


@pytest.mark.parametrize("name", SOME)
def test_bad_checkpoints_are_named_and_passed_over(name, interrupted, straight, tmp_path):
    """The newest lacks a file, one has a truncated file, one has changed bytes, and one has a file of another step."""
    folder, chance = interrupted(name, tmp_path), random.Random(0)
    one, two, three, four, five = mischief.checkpoints(folder)[-5:]
    weights = next(path.name for path in mischief.files(five) if path.suffix == ".safetensors")
    optimizer = next(path.name for path in mischief.files(five) if path.name.startswith("optimizer"))
    (five / optimizer).unlink()
    mischief.truncate(four / weights, chance)
    mischief.flip(three / weights, chance)
    shutil.copyfile(one / optimizer, two / optimizer)
    said = goes_on(name, folder, straight)
    for path, fault in ((five, f"{optimizer} is missing"), (four, f"{weights} has "),
                        (three, f"{weights} has changed"),
                        (two, f"{optimizer} has changed")):  # fmt: skip
        assert f"{path} is skipped: {fault}" in said
    assert f"resume: from {one}" in said


def test_where_no_checkpoint_is_whole_training_begins_anew(interrupted, straight, tmp_path):
    folder, chance = interrupted("pretrain", tmp_path), random.Random(0)
    damaged = mischief.checkpoints(folder)
    for path in damaged:
        mischief.empty(path / "config.json", chance)
    mischief.plant(folder, chance)
    said = goes_on("pretrain", folder, straight)
    assert said.count("is skipped") == 1 + len(damaged)
    assert "resume: from" not in said


# Signals


@pytest.mark.parametrize(("name", "moment", "number"), [
    ("pretrain", "data", signal.SIGINT), ("pretrain", "forward", signal.SIGTERM), ("pretrain", "step end", signal.SIGUSR1),
    ("finetune_classification", "forward", signal.SIGINT), ("finetune_instructions", "step end", signal.SIGTERM),
    ("align_preferences", "data", signal.SIGUSR1),
])  # fmt: skip
def test_a_signal_saves_at_the_end_of_the_step_and_stops(name, moment, number, straight, tmp_path):
    folder = tmp_path / "run"
    words = [*straight(name).words, "--save_steps", "100"]
    call = 7 if moment == "forward" else 4  # called twice per step, or once
    job = start(name, words, folder, at=(MOMENTS[moment], call, number))
    assert job.wait() == 75, job.said
    stopped = re.match(r"stopped at step ([34]) of ", job.said.splitlines()[-1])
    assert stopped, job.said
    assert not any((folder / file).exists() for file in ("finished.json", "report.txt", "metrics.json"))
    assert mischief.checkpoints(folder)[-1].name == f"checkpoint-{stopped[1]}"
    goes_on(name, folder, straight)


def test_two_processes_that_are_signalled_apart_stop_at_the_same_step(straight, tmp_path):
    folder, name = tmp_path / "run", "finetune_instructions"
    job = start(name, straight(name, 2).words, folder, world=2)
    assert job.runs_until(folder / "checkpoint-2"), job.said
    job.send(signal.SIGTERM, (0,))
    time.sleep(0.45)
    job.send(signal.SIGTERM, (1,))
    assert job.wait() == 75, job.said
    assert len({line for line in job.said.splitlines() if line.startswith("stopped at step")}) == 1
    goes_on(name, folder, straight, world=2)


def test_one_of_two_processes_is_killed_twice(straight, tmp_path):
    folder = tmp_path / "run"
    for number, rank in ((2, 1), (5, 0)):
        job = start("pretrain", straight("pretrain", 2).words, folder, world=2)
        assert job.runs_until(folder / f"checkpoint-{number}")
        job.send(signal.SIGKILL, (rank,))
        assert job.wait(60) != 0, job.said
    goes_on("pretrain", folder, straight, world=2)


# Numbers


@pytest.mark.parametrize("name", NAMES)
def test_a_rate_that_is_far_too_high_stops_before_the_update_and_every_checkpoint_is_finite(name, straight, tmp_path):
    folder, rates = tmp_path / "run", ("--learning_rate", "1e30")
    job = start(name, [*straight(name).words, *rates], folder)
    assert job.wait() == 1, job.said
    (sentence,) = [line for line in job.said.splitlines() if line.startswith("error: ")]
    assert re.search(r"step \d+ is not taken: the (loss|norm of the gradient) is (nan|inf)", sentence)
    assert "smaller --learning_rate" in sentence
    assert "Traceback" not in job.said
    saved = mischief.checkpoints(folder)
    assert str(saved[-1]) in sentence
    files = [path for one in saved for path in one.glob("*.safetensors") if path.name.startswith(("model", "adapter"))]
    assert {path.parent for path in files} == set(saved)
    for path in files:
        assert all(tensor.isfinite().all() for tensor in load_file(path).values()), path


# The disk


@pytest.mark.parametrize("name", SOME)
def test_a_file_that_may_not_grow_in_the_first_save_is_one_sentence(name, straight, tmp_path):
    folder = tmp_path / "run"
    largest = max(path.stat().st_size for path in straight("pretrain").folder.rglob("checkpoint-*/*") if path.is_file())
    job = start(name, straight(name).words, folder, file_limit=40_000)
    assert largest > 40_000
    assert job.wait() == 1, job.said
    (sentence,) = [line for line in job.said.splitlines() if line.startswith("error: ")]
    assert str(folder) in sentence
    assert "File too large" in sentence
    assert "Traceback" not in job.said
    assert mischief.checkpoints(folder) == []
    goes_on(name, folder, straight)


def test_a_full_disk_is_one_sentence_and_what_was_saved_stays(straight, tmp_path):
    disk = mischief.Disk(tmp_path / "disk")
    if not disk.mounted:
        pytest.skip("needs the right to mount a small file system")
    try:
        folder = disk.folder / "run"
        job = start("pretrain", straight("pretrain").words, folder, at=(TRAINING_STEP, 7, signal.SIGKILL))
        assert job.wait() == -signal.SIGKILL, job.said
        before = {path: lab.sha256_of_file(path) for path in folder.glob("checkpoint-*/*")}
        assert before
        for room in (100_000, 700_000):  # not enough for one more checkpoint, and enough for only one
            with disk.with_room_for(room):
                job = start("pretrain", straight("pretrain").words, folder)
                assert job.wait() == 1, job.said
            (sentence,) = [line for line in job.said.splitlines() if line.startswith("error: ")]
            assert str(folder) in sentence
            assert "free" in sentence
            assert "Traceback" not in job.said
        assert {path: lab.sha256_of_file(path) for path in before} == before
        assert [path for path in folder.rglob("*") if path.name.startswith(".")] == []
        assert mischief.checkpoints(folder)
        job = start("pretrain", straight("pretrain").words, folder)
        assert job.wait() == 0, job.said
        assert lab.weights(folder) == straight("pretrain").weights
    finally:
        disk.close()


# The folder


@pytest.mark.parametrize("name", SOME)
def test_a_finished_run_is_started_twice_more(name, straight, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(straight(name).folder, folder)
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}
    for _ in range(2):
        job = start(name, straight(name).words, folder)
        assert job.wait() == 0, job.said
        assert "already done" in job.said
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("name", SOME)
def test_a_second_run_in_the_same_folder_is_refused_and_the_first_goes_on(name, straight, tmp_path):
    folder = tmp_path / "run"
    first = start(name, straight(name).words, folder)
    assert first.runs_until(lambda: bool(mischief.checkpoints(folder)))
    first.send(signal.SIGSTOP)  # however long the second one takes to start
    second = lab.Job(name, [*straight(name).words, "--output_dir", folder], tmp_path / "second.log")
    assert second.wait() == 1, second.said
    first.send(signal.SIGCONT)
    (sentence,) = [line for line in second.said.splitlines() if line.startswith("error: ")]
    assert str(folder) in sentence
    assert "another" in sentence
    assert "Traceback" not in second.said
    assert first.wait() == 0, first.said
    assert lab.weights(folder) == straight(name).weights


# Security


class Payload:
    """Unpickled, it leaves a file."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("name", ["finetune_instructions"])
def test_a_pickle_in_any_file_of_a_checkpoint_is_never_run(name, interrupted, straight, tmp_path):
    """Even if the manifest was changed to match."""
    import pickle

    import torch

    folder, marker = interrupted(name, tmp_path), tmp_path / "marker"
    newest = mischief.checkpoints(folder)[-1]
    names = [path.name for path in mischief.files(newest) if path.name not in ("manifest.json", "README.md")]
    names += ["optimizer.pt", "scheduler.pt", "rng_state.pth", "pytorch_model.bin", "adapter_model.bin", "training_args.bin"]
    for file in dict.fromkeys(names):
        content = pickle.dumps(Payload(marker))
        if file.endswith((".pt", ".pth", ".bin")):
            torch.save(Payload(marker), newest / file)
        else:
            (newest / file).write_bytes(content)
    said = goes_on(name, folder, straight)
    assert f"{newest} is skipped" in said
    assert not marker.exists()

    shutil.rmtree(folder)
    folder = interrupted(name, tmp_path)
    manifest = json.loads((newest / "manifest.json").read_text())
    planted = [file for file in manifest["files"] if Path(file).suffix in (".pt", ".pth", ".bin")]
    for file in [*planted, "optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin"]:
        torch.save(Payload(marker), newest / file)
        size, sha256 = (newest / file).stat().st_size, lab.sha256_of_file(newest / file)
        manifest["files"][file] = {"bytes": size, "sha256": sha256}
    (newest / "manifest.json").write_text(json.dumps(manifest))
    assert f"resume: from {newest}" in goes_on(name, folder, straight)
    assert not marker.exists()
