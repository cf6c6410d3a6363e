"""A checkpoint is whole or not there: one with changed bytes, or of another run, is skipped and named."""

import json
import os
import random
import re
import resource
import shutil
import subprocess
from concurrent.futures import wait
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from killing import CONTEXT
from tiny_runs import assert_same, tiny_trainer, train, weights
from together import environment_of
from transformers import TrainerCallback

from hfgpt.errors import UserError
from hfgpt.files import sha256_of_file
from hfgpt.training import checkpoints
from hfgpt.training.checkpoints import newest_whole_checkpoint, why_not_whole
from hfgpt.training.states import load_state, random_state, save_state, set_random_state
from hfgpt.training.trainer import HfGptTrainer

# Besides the model's code, which is there for those who load it without hfgpt.
FILES = ["config.json", "generation_config.json", "manifest.json", "model.safetensors", "optimizer.safetensors",
         "rng_state.safetensors", "scheduler.safetensors", "trainer_state.json"]  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> tuple[Path, dict[str, torch.Tensor]]:
    """A run of 8 steps with a checkpoint after every second step, and its final weights."""
    folder = tmp_path_factory.mktemp("checkpoints") / "run"
    trainer = tiny_trainer(folder)
    train(trainer, None)
    return folder, weights(trainer)


@pytest.fixture
def copied(run, tmp_path) -> Path:
    shutil.copytree(run[0], tmp_path / "run")
    return tmp_path / "run"


def test_a_checkpoint_has_a_manifest_of_all_its_files_and_no_pickle(run):
    folder = run[0]
    assert sorted(path.name for path in folder.iterdir() if "checkpoint" in path.name) == [f"checkpoint-{n}" for n in (2, 4, 6, 8)]
    for step in (2, 4, 6, 8):
        place = folder / f"checkpoint-{step}"
        files = sorted(path.name for path in place.iterdir())
        assert [name for name in files if not name.endswith("_hfgpt.py")] == FILES
        manifest = json.loads((place / "manifest.json").read_text())
        assert (manifest["format"], manifest["run"], manifest["step"], manifest["world_size"]) == (1, "one", step, 1)
        assert sorted([*manifest["files"], "manifest.json"]) == files
        for name, said in manifest["files"].items():
            assert said == {"bytes": (place / name).stat().st_size, "sha256": sha256_of_file(place / name)}
        assert manifest["environment"]["torch"] == torch.__version__
        assert manifest["environment"]["per_device_train_batch_size"] == 4
        for path in place.iterdir():  # neither a zip archive of torch.save nor a bare pickle
            assert path.read_bytes()[:2] not in (b"PK", b"\x80\x02", b"\x80\x04", b"\x80\x05")


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_a_run_that_goes_on_is_bit_for_bit_the_one_that_was_not_stopped(run, tmp_path, optimizer):
    straight, resumed = (tiny_trainer(tmp_path / name, optimizer=optimizer) for name in ("straight", "resumed"))
    train(straight, None)
    shutil.copytree(tmp_path / "straight" / "checkpoint-2", tmp_path / "resumed" / "checkpoint-2")
    found = newest_whole_checkpoint(tmp_path / "resumed", run="one")
    assert found == tmp_path / "resumed" / "checkpoint-2"
    train(resumed, found)
    assert_same(resumed, weights(straight))
    states = [load_state(tmp_path / name / "checkpoint-8" / "optimizer.safetensors") for name in ("straight", "resumed")]
    for number, kept in states[0]["state"].items():
        assert all(
            torch.equal(torch.as_tensor(one), torch.as_tensor(states[1]["state"][number][name])) for name, one in kept.items()
        )
    assert states[0]["param_groups"] == states[1]["param_groups"]


def test_a_state_is_read_as_it_was_written_and_other_objects_are_refused(tmp_path):
    shared = torch.arange(6, dtype=torch.bfloat16).reshape(2, 3)
    state = {
        "state": {0: {"step": torch.tensor(3.0), "turned": shared.T, "one": shared, "same": shared}, 1: {}},
        "groups": [{"lr": 0.1 + 0.2, "betas": (0.9, 0.95), "params": [0, 1], "off": None, "on": True, "most": float("inf")}],
        "bytes": torch.tensor([0, 255], dtype=torch.uint8),
    }
    save_state(tmp_path / "state.safetensors", state)
    read = load_state(tmp_path / "state.safetensors")
    assert read["groups"] == state["groups"]
    assert list(read["state"]) == [0, 1]
    for name, tensor in state["state"][0].items():
        assert torch.equal(read["state"][0][name], tensor)
        assert read["state"][0][name].dtype == tensor.dtype
        assert read["state"][0][name].stride() == tensor.stride()
    assert read["state"][0]["one"] is read["state"][0]["same"]
    assert torch.equal(read["bytes"], state["bytes"])
    with pytest.raises(UserError, match=r"state\.projector is a PosixPath, which a checkpoint cannot store without a pickle"):
        save_state(tmp_path / "state.safetensors", {"projector": Path("a")})


def test_random_numbers_go_on_where_they_were(tmp_path):
    device = torch.device("cpu")
    random.gauss(0, 1), np.random.randn()  # both store a second number for the next call
    save_state(tmp_path / "rng.safetensors", random_state(device))
    expected = [random.gauss(0, 1), random.random(), np.random.randn(), np.random.randn(), torch.rand(3).tolist()]
    set_random_state(load_state(tmp_path / "rng.safetensors"), device)
    assert [random.gauss(0, 1), random.random(), np.random.randn(), np.random.randn(), torch.rand(3).tolist()] == expected


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-100] ^= 1  # in the manifest, part of a name or a hash
    path.write_bytes(content)


UNREADABLE = "manifest.json is unreadable"
# What is done to a file, what is said of it, and what is said of the manifest.
DAMAGES = {
    "missing": (Path.unlink, "is missing", "manifest.json, which is written last, is missing"),
    "cut": (cut, "were saved", UNREADABLE),
    "empty": (lambda path: path.write_bytes(b""), "has 0 bytes", UNREADABLE),
    "NUL": (lambda path: path.write_bytes(bytes(path.stat().st_size)), "SHA-256", UNREADABLE),
    "flipped": (flip, "SHA-256", "is missing|SHA-256"),
    "of another step": (lambda path: shutil.copy(path.parent.with_name("checkpoint-2") / path.name, path), "SHA-256|were saved",
                        "manifest.json says it belongs to step 2"),
    "payload": (lambda path: path.write_bytes(b"cos\nsystem\n(S'touch ran'\ntR."), "were saved", UNREADABLE),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_each_file_that_is_damaged_is_named_and_the_checkpoint_before_is_taken(copied, caplog, damage):
    """Cases A3 to A6 and C1."""
    do, of_file, of_manifest = DAMAGES[damage]
    newest, before = copied / "checkpoint-8", copied / "checkpoint-6"
    for name in FILES:
        if damage == "of another step" and name in ("config.json", "generation_config.json"):
            continue  # the same in all checkpoints
        shutil.rmtree(newest)
        shutil.copytree(before, newest)
        manifest = json.loads((before / "manifest.json").read_text()) | {"step": 8}
        (newest / "manifest.json").write_text(json.dumps(manifest))
        assert newest_whole_checkpoint(copied, run="one") == newest
        do(newest / name)
        caplog.clear()
        assert newest_whole_checkpoint(copied, run="one") == before
        (message,) = caplog.messages
        start = f"{newest} is skipped: " if name == "manifest.json" else f"{newest} is skipped: {name} "
        assert message.startswith(start)
        assert re.search(of_manifest if name == "manifest.json" else of_file, message.removeprefix(start))
        assert newest.is_dir()  # skipped, not deleted


def test_whatever_has_the_name_of_a_checkpoint_is_passed_over_and_left_there(copied, run, tmp_path, caplog):
    other = tmp_path / "other"
    train(tiny_trainer(other, run_id="two", max_steps=2), None)
    shutil.copytree(other / "checkpoint-2", copied / "checkpoint-10")  # from another run and another step
    shutil.copytree(copied / "checkpoint-8", copied / "checkpoint-0020")
    (copied / "checkpoint-11").mkdir()
    (copied / "checkpoint-12").write_text("a file")
    (copied / "checkpoint-13").symlink_to(copied / "checkpoint-8")
    (copied / "checkpoint-14").symlink_to("nowhere")
    (copied / "checkpoint-15").mkdir()
    (copied / "checkpoint-15" / "manifest.json").write_text('{"format": 1, "run": "one"')
    (copied / "checkpoint-16").mkdir()
    (copied / "checkpoint-16" / "manifest.json").write_text("[1, 2]")
    (copied / "checkpoint-best").mkdir()
    manifest = json.loads((other / "checkpoint-2" / "manifest.json").read_text())
    manifest["step"] = 10
    (copied / "checkpoint-10" / "manifest.json").write_text(json.dumps(manifest))
    before = sorted(copied.rglob("*"))
    assert newest_whole_checkpoint(copied, run="one") == copied / "checkpoint-8"
    said = [message for message in caplog.messages if " is skipped: " in message]  # the run above may log too
    faults = [message.removeprefix(f"{copied}/").split(" is skipped: ") for message in said]
    assert dict(faults) == {
        "checkpoint-0020": "manifest.json says it belongs to step 8.",
        "checkpoint-16": "manifest.json is unreadable.",
        "checkpoint-15": "manifest.json is unreadable.",
        "checkpoint-14": "it is a link.",
        "checkpoint-13": "it is a link.",
        "checkpoint-12": "it is not a folder.",
        "checkpoint-11": "it is empty.",
        "checkpoint-10": "it belongs to another run.",
    }
    assert newest_whole_checkpoint(copied, run=None) == copied / "checkpoint-10"
    assert sorted(copied.rglob("*")) == before


def test_a_faulty_one_is_replaced_when_its_step_is_saved_again(copied, run):
    flip(copied / "checkpoint-8" / "optimizer.safetensors")
    shutil.rmtree(copied / "checkpoint-6")
    (copied / "checkpoint-6").write_text("a file")
    trainer = tiny_trainer(copied)
    train(trainer, newest_whole_checkpoint(copied, run="one"))
    assert_same(trainer, run[1])
    assert [why_not_whole(copied / f"checkpoint-{step}", run="one") for step in (2, 4, 6, 8)] == [None] * 4
    assert not list(copied.glob(".checkpoint-*"))


def test_rotation_goes_by_step_counts_whole_ones_alone_and_keeps_the_best(tmp_path, run):
    folder = tmp_path / "run"
    folder.mkdir()
    for step in (2, 6):
        shutil.copytree(run[0] / f"checkpoint-{step}", folder / f"checkpoint-{step}")
    cut(folder / "checkpoint-6" / "model.safetensors")  # faulty
    os.utime(folder / "checkpoint-2")
    trainer = tiny_trainer(folder, save_total_limit=2, save_steps=1)
    train(trainer, newest_whole_checkpoint(folder, run="one"))
    assert sorted(path.name for path in folder.glob("checkpoint-*")) == ["checkpoint-7", "checkpoint-8"]  # 6 was replaced
    shutil.copytree(run[0] / "checkpoint-2", folder / "checkpoint-2")
    (folder / "checkpoint-1").mkdir()
    checkpoints.rotate(folder, run="one", keep=2, newest=8, best=2)
    assert sorted(path.name for path in folder.glob("checkpoint-*")) == ["checkpoint-1", "checkpoint-2", "checkpoint-8"]
    checkpoints.rotate(folder, run="one", keep=1, newest=8, best=None)
    assert sorted(path.name for path in folder.glob("checkpoint-*")) == ["checkpoint-1", "checkpoint-8"]


def test_what_killed_saves_left_is_removed_when_training_begins(copied, run):
    (copied / ".checkpoint-7" / "checkpoint-7").mkdir(parents=True)
    (copied / ".checkpoint-7" / "checkpoint-7" / "model.safetensors").write_bytes(b"half")
    trainer = tiny_trainer(copied)
    train(trainer, newest_whole_checkpoint(copied, run="one"))  # the last step: nothing is trained
    assert not list(copied.glob(".checkpoint-*"))
    assert_same(trainer, run[1])
    assert trainer.meter.steps == 0


@pytest.mark.slow
def test_the_best_checkpoint_is_noted_where_it_lies_and_must_be_whole_too(tmp_path, caplog):
    settings = dict(keep="best", eval_strategy="steps", eval_steps=2, save_steps=2, save_total_limit=None)
    trainer = tiny_trainer(tmp_path / "run", **settings)
    train(trainer, None)
    best = tmp_path / "run" / f"checkpoint-{trainer.state.best_global_step}"
    for path in (tmp_path / "run").glob("checkpoint-*"):
        state = json.loads((path / "trainer_state.json").read_text())
        assert Path(state["best_model_checkpoint"]).parent == tmp_path / "run"
    # If its best checkpoint is damaged, the run cannot end as it would have.
    state = json.loads((tmp_path / "run" / "checkpoint-8" / "trainer_state.json").read_text())
    if state["best_global_step"] == 8:
        best = tmp_path / "run" / "checkpoint-6"
        place = tmp_path / "run" / "checkpoint-8"
        state |= {"best_global_step": 6, "best_model_checkpoint": str(best)}
        (place / "trainer_state.json").write_text(json.dumps(state))
        manifest = json.loads((place / "manifest.json").read_text())
        size = (place / "trainer_state.json").stat().st_size
        manifest["files"]["trainer_state.json"] = {"bytes": size, "sha256": sha256_of_file(place / "trainer_state.json")}
        (place / "manifest.json").write_text(json.dumps(manifest))
    flip(best / "model.safetensors")
    found = newest_whole_checkpoint(tmp_path / "run", run="one")
    assert found is not None
    assert int(found.name.rpartition("-")[2]) < int(best.name.rpartition("-")[2])
    assert f"it needs {best.name}, the best one so far, but model.safetensors has changed" in caplog.text
    for path in (tmp_path / "run").glob("checkpoint-*"):
        if path.name not in (best.name, "checkpoint-8"):
            shutil.rmtree(path)
    with pytest.raises(UserError, match=r"Give --resume .*checkpoint-8 to continue without it .*or --overwrite true"):
        newest_whole_checkpoint(tmp_path / "run", run="one")


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 8 MB in memory; skips if this user may not mount one."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(place)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no file system can be mounted here")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def fill(disk: Path, *, leave: int) -> Path:
    (disk / "filler").write_bytes(bytes(shutil.disk_usage(disk).free - leave))
    return disk / "filler"


@pytest.mark.slow
def test_a_disk_without_room_is_refused_before_training(small_disk):
    fill(small_disk, leave=3_000_000)
    trainer = tiny_trainer(small_disk / "run", save_total_limit=2)
    with pytest.raises(UserError, match=r"needs about [\d,]+ bytes \(3 more checkpoints of .*but only [\d,]+ are free there"):
        train(trainer, None)
    assert trainer.meter.steps == 0
    assert not list((small_disk / "run").glob("*checkpoint-*"))


def stopped_by_the_disk(folder: Path, at_step: int, fault) -> tuple[str, HfGptTrainer]:
    """The message of a run that meets a disk fault after a step, once the checkpoint before it is whole."""

    class Fault(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == at_step:
                wait([trainer._published])
                fault()

    trainer = tiny_trainer(folder)
    trainer.add_callback(Fault())
    with pytest.raises(UserError) as error:
        train(trainer, None)
    return str(error.value), trainer


def assert_as_before_and_goes_on(folder: Path, expected: dict[str, torch.Tensor], *, last: int) -> None:
    """Older checkpoints are whole, nothing half-written is left, and the resumed run ends like an undisturbed one."""
    steps = [step for step in (2, 4, 6, 8) if step <= last]
    assert sorted(path.name for path in folder.glob("*checkpoint-*")) == [f"checkpoint-{step}" for step in steps]
    newest = newest_whole_checkpoint(folder, run="one")
    assert newest == folder / f"checkpoint-{last}"
    trainer = tiny_trainer(folder)
    train(trainer, newest)
    assert_same(trainer, expected)


@pytest.mark.slow
@pytest.mark.parametrize("known", [True, False], ids=["seen before writing", "met while writing"])
def test_a_full_disk_is_one_sentence_and_the_run_goes_on_when_there_is_space(small_disk, run, known, monkeypatch):
    """Case A7."""
    folder, fillers = small_disk / "run", []
    if not known:  # as if another program filled the disk after the check
        monkeypatch.setattr(HfGptTrainer, "_require_space", lambda *_: None)
    said, _ = stopped_by_the_disk(folder, 3, lambda: fillers.append(fill(small_disk, leave=500_000)))
    assert said.startswith(f"{folder / 'checkpoint-4'} is not saved")
    assert "500,000" in said or "are free" in said
    assert "free some" in said
    assert "Earlier checkpoints are intact; afterwards, the same command resumes from the newest one." in said
    fillers[0].unlink()
    assert_as_before_and_goes_on(folder, run[1], last=2)


@pytest.mark.slow
def test_a_disk_that_can_only_be_read_is_one_sentence(small_disk, run):
    folder = small_disk / "run"
    remount = lambda how: subprocess.run(["mount", "-o", f"remount,{how}", str(small_disk)], check=True)  # noqa: E731
    said, _ = stopped_by_the_disk(folder, 3, lambda: remount("ro"))
    assert said.startswith(f"{folder / 'checkpoint-4'} is not saved")
    assert "read-only" in said
    remount("rw")
    assert_as_before_and_goes_on(folder, run[1], last=2)


@pytest.mark.slow
def test_a_folder_that_vanishes_is_named_and_not_made_again(run, tmp_path):
    folder, aside = tmp_path / "run", tmp_path / "aside"
    said, _ = stopped_by_the_disk(folder, 3, lambda: folder.rename(aside))
    assert said.startswith(f"{folder / 'checkpoint-4'} is not saved")
    assert f"the folder {folder} has disappeared" in said
    assert not folder.exists()
    aside.rename(folder)
    assert_as_before_and_goes_on(folder, run[1], last=2)


def _with_a_limit(folder: Path, answers) -> None:
    said, _ = stopped_by_the_disk(folder, 3, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000)))
    answers.put(said)


@pytest.mark.slow
def test_a_file_that_may_not_be_so_large_is_one_sentence(run, tmp_path):
    folder, answers = tmp_path / "run", CONTEXT.Queue()
    process = CONTEXT.Process(target=_with_a_limit, args=(folder, answers))  # because the limit cannot be raised again
    process.start()
    said = answers.get(timeout=300)
    process.join()
    assert said.startswith(f"{folder / 'checkpoint-4'} is not saved")
    assert "ulimit -f" in said
    assert_as_before_and_goes_on(folder, run[1], last=2)


def _one_of_two(rank: int, environment: dict[str, str], folder: Path, checkpoint: Path | None) -> None:
    os.environ.update(environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
    train(tiny_trainer(folder, per_device_train_batch_size=2), checkpoint)


@pytest.mark.slow
@pytest.mark.parametrize("file", ["ddp", "fsdp2"])
def test_two_processes_go_on_bit_for_bit_and_every_rank_has_its_random_numbers(tmp_path, file):
    def run_both(folder: Path, checkpoint: Path | None) -> dict[str, dict]:
        environment = environment_of(ROOT / "recipes" / "accelerate" / f"{file}.yaml")
        processes = [CONTEXT.Process(target=_one_of_two, args=(rank, environment, folder, checkpoint)) for rank in range(2)]
        for process in processes:
            process.start()
        for process in processes:
            process.join(timeout=300)
        assert [process.exitcode for process in processes] == [0, 0]
        files = json.loads((folder / "checkpoint-8" / "manifest.json").read_text())["files"]
        return {name: files[name] for name in files if "state" not in name or "rng" in name}

    straight = run_both(tmp_path / "straight", None)
    assert {"model.safetensors", "optimizer.safetensors", "rng_state_0.safetensors", "rng_state_1.safetensors"} < straight.keys()
    shutil.copytree(tmp_path / "straight" / "checkpoint-4", tmp_path / "resumed" / "checkpoint-4")
    assert run_both(tmp_path / "resumed", tmp_path / "resumed" / "checkpoint-4") == straight
