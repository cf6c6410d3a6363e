"""The same command again resumes the run; changes are stated, refused with old and new value, or allowed by name."""

import json
import os
import shutil
import time
from pathlib import Path

import pytest
import torch
import yaml
from conftest import SMALL_RUN
from killing import CONTEXT, kill, run_main, sha256_of_weights, state_of
from recipes_in_process import recipe

from hfgpt.errors import UserError
from hfgpt.files import PARTIAL, hold, release, write_step
from hfgpt.training.changes import layout_in_words
from hfgpt.training.pretraining import load_rows
from hfgpt.training.run_folder import check_base_files

pytestmark = pytest.mark.slow

WORDS = (*SMALL_RUN, "--use_cpu", "true", "--disable_tqdm", "true", "--max_steps", "6", "--save_steps", "2", "--eval_steps", "6",
         "--save_total_limit", "5", "--lr_scheduler_type", "constant", "--warmup_steps", "0",
         "--config_overrides", '{"residual_dropout": 0.0, "attention_dropout": 0.0, "embedding_dropout": 0.0}',
         "--logging_steps", "1")  # fmt: skip


@pytest.fixture(scope="module")
def begun(small_rows, tmp_path_factory) -> Path:
    """A run that was killed before it saved step 6, with checkpoints at steps 2 and 4."""
    folder = tmp_path_factory.mktemp("begun") / "base"
    words = [*WORDS, "--dataset", small_rows, "--output_dir", folder]
    kill("pretrain", words, at="hfgpt.training.saving.SavingTrainer._require_space", call=3)
    assert sorted(path.name for path in folder.glob("checkpoint-*")) == ["checkpoint-2", "checkpoint-4"]
    return folder


@pytest.fixture(scope="module")
def straight(small_rows, tmp_path_factory) -> Path:
    """The same run without a stop."""
    folder = tmp_path_factory.mktemp("straight") / "base"
    run_main("pretrain", [*WORDS, "--dataset", small_rows, "--output_dir", folder])
    return folder


@pytest.fixture
def unfinished(begun, tmp_path) -> Path:
    """A copy of that run."""
    shutil.copytree(begun, tmp_path / "base")
    return tmp_path / "base"


@pytest.fixture
def again(small_rows, unfinished, caplog):
    """Run the command of that run again, with more arguments, and return what it logs."""

    def run(*words: object) -> str:
        caplog.clear()
        with caplog.at_level("INFO", logger="hfgpt"):
            run_main("pretrain", [*WORDS, "--dataset", small_rows, "--output_dir", unfinished, *words])
        return "\n".join(caplog.messages)

    return run


def history(folder: Path) -> list[dict]:
    return json.loads((folder / "history.json").read_text())["log"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ("--learning_rate", "0.1"),
            r"learning_rate was 0\.003, is now 0\.1\); .*--allow_change learning_rate, or give another --output_",
        ),
        (("--lr_scheduler_type", "linear"), r"lr_scheduler_type was constant, is now linear\)"),
        (("--seed", "1"), r"seed was 42, is now 1\)"),
        (
            ("--gradient_accumulation_steps", "2"),
            r"rows_per_step was 8 \(1 x 8 x 1.*is now 16 \(1 x 8 x 2.*--allow_change rows_per_step,",
        ),
        (
            ("--optimizer", "adamw"),
            r"optimizer was muon, is now adamw\), and optimizer cannot change within a run, because a checkpoint",
        ),
        (("--depth", "3"), r"depth was 2, is now 3\), and depth cannot change within a run, because the weights"),
        (
            ("--max_steps", "8", "--seed", "1"),
            r"max_steps was 6, is now 8; seed was 42, is now 1\); .*--allow_change max_steps seed,",
        ),
        (
            ("--max_steps", "8", "--seed", "1", "--allow_change", "seed"),
            r"run \(max_steps was 6, is now 8\); .*--allow_change max_steps,",
        ),
        (("--resume", "never"), r"holds an unfinished run, but resume is never; .*--overwrite true"),
    ],
)
def test_what_would_train_another_model_is_refused_with_both_values_and_the_way_out(again, unfinished, words, said):
    before = state_of(unfinished)
    with pytest.raises(UserError, match=said):
        again(*words)
    assert state_of(unfinished) == before


def test_a_key_that_nobody_knows_or_that_cannot_change_is_refused_at_once(tmp_path):
    common = dict(dataset="rows", output_dir=str(tmp_path / "out"))
    with pytest.raises(UserError, match="allow_change has 'learning_rat', which is not a key; did you mean 'learning_rate'"):
        recipe("pretrain", **common, allow_change=["learning_rat"])
    with pytest.raises(UserError, match="allow_change has depth, which cannot change within a run: the weights"):
        recipe("pretrain", **common, allow_change=["depth"])
    with pytest.raises(UserError, match="resume is 'newest'; allowed: auto, never, or the folder of a checkpoint"):
        recipe("pretrain", **common, resume="newest")


def test_an_allowed_change_is_noted_and_has_its_effect(again, unfinished):
    said = again("--learning_rate", "0.001", "--allow_change", "learning_rate")
    assert "changed at step 4: learning_rate was 0.003, is now 0.001, as allowed" in said
    assert f"resume: from {unfinished / 'checkpoint-4'}, step 4" in said
    rates = {entry["step"]: entry["learning_rate"] for entry in history(unfinished) if "learning_rate" in entry}
    assert (rates[4], rates[5]) == (0.003, 0.001)
    head = (unfinished / "run.yaml").read_text().splitlines()[:2]
    assert head == [
        "# Settings of this run of recipes/pretrain.py since its last change; it does not repeat the run.",
        "# changed at step 4: learning_rate was 0.003, is now 0.001",
    ]
    assert yaml.safe_load((unfinished / "run.yaml").read_text())["learning_rate"] == 0.001
    assert "already done" in again("--learning_rate", "0.001")
    with pytest.raises(UserError, match=r"learning_rate was 0\.001, is now 0\.003"):
        again()


def test_a_run_may_be_lengthened_but_not_cut_below_what_it_has_made(again, unfinished):
    with pytest.raises(UserError, match="has 3 steps, but .*checkpoint-4 is already at step 4; give --max_steps 4 or more"):
        again("--max_steps", "3", "--allow_change", "max_steps")
    again()
    with pytest.raises(
        UserError,
        match="it has no step left to apply a change to .seed was 42, is now 1.; give a larger --max_steps",
    ):
        again("--seed", "1", "--allow_change", "seed")
    again("--max_steps", "8", "--allow_change", "max_steps")
    metrics = json.loads((unfinished / "metrics.json").read_text())
    assert (metrics["steps"], metrics["steps_timed"]) == (8, 2)
    assert [entry["step"] for entry in history(unfinished) if "loss" in entry] == list(range(1, 9))


def test_the_rows_of_a_step_may_be_divided_otherwise(again, unfinished, straight):
    said = again("--per_device_train_batch_size", "4", "--gradient_accumulation_steps", "2")
    assert "continues with 1 x 4 x 2 rows per step instead of 1 x 8 x 1: the same rows in each step" in said
    losses = [[entry["loss"] for entry in history(folder) if "loss" in entry] for folder in (unfinished, straight)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)
    where = dict(per_device_train_batch_size=4, gradient_accumulation_steps=1)
    assert layout_in_words({"world_size": 2, **where}, {"world_size": 1, **where, "gradient_accumulation_steps": 2}) == (
        "continues with 1 process instead of 2: the same rows in each step, losses equal up to rounding (with dropout, different "
        "random numbers)"
    )


def test_a_named_checkpoint_is_gone_on_from_and_newer_ones_are_set_aside(again, unfinished, straight):
    (unfinished / "checkpoint-²").mkdir()  # a digit to str.isdigit, but not to int
    said = again("--resume", unfinished / "checkpoint-2")
    assert f"resume: from {unfinished / 'checkpoint-2'}, step 2" in said
    assert "checkpoint-4 is newer than checkpoint-2 and has been renamed to abandoned-checkpoint-4" in said
    assert (unfinished / "abandoned-checkpoint-4").is_dir()
    assert sha256_of_weights(unfinished) == sha256_of_weights(straight)


def test_another_runs_checkpoint_and_what_is_none_are_refused(again, unfinished, small_rows, tmp_path):
    other = tmp_path / "other"
    run_main("pretrain", [*WORDS, "--dataset", small_rows, "--output_dir", other, "--seed", "1", "--max_steps", "2"])
    with pytest.raises(UserError, match="cannot resume from .*other/checkpoint-2: it belongs to another run"):
        again("--resume", other / "checkpoint-2")
    with pytest.raises(UserError, match="cannot resume from .*: manifest.json, which is written last, is missing"):
        again("--resume", other)
    weights = unfinished / "checkpoint-4" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-5] ^= 1
    weights.write_bytes(content)
    with pytest.raises(UserError, match="cannot resume from .*: model.safetensors has changed"):
        again("--resume", unfinished / "checkpoint-4")
    shutil.copytree(other / "checkpoint-2", unfinished / "checkpoint-5")
    said = again()  # the newest is from another run, the next one is damaged
    assert f"resume: from {unfinished / 'checkpoint-2'}, step 2" in said


def test_a_finished_run_says_so_and_changes_nothing(again, unfinished):
    again()
    before = state_of(unfinished)
    smaller = ("--per_device_train_batch_size", "4", "--gradient_accumulation_steps", "2")
    for words in ((), ("--logging_steps", "3"), ("--resume", "never"), smaller, ("--resume", unfinished / "checkpoint-2")):
        assert "already done" in again(*words), words
        assert state_of(unfinished) == before
    said = again("--push_to_hub", "true", "--hub_model_id", "ann/fables")
    assert (
        f"nothing is pushed, because this run was already finished; hfgpt publish {unfinished} --repo ann/fables --push true"
        in said
    )
    assert state_of(unfinished) == before
    card = ("--card", '{"license": "mit"}')
    again(*card)
    renewed = state_of(unfinished)
    assert sorted(name for name in renewed if renewed[name] != before.get(name)) == [".", "README.md", "card.yaml"]
    again(*card)
    assert state_of(unfinished) == renewed
    tokenizer = unfinished / "tokenizer.json"
    tokenizer.write_bytes(tokenizer.read_bytes().replace(b"e", b"f", 1))
    assert "finished but damaged since then (tokenizer.json has changed since it was written (SHA-256" in again()
    assert state_of(unfinished)["tokenizer.json"][1] == before["tokenizer.json"][1]


def test_a_base_with_other_bytes_than_were_saved_is_refused(again, unfinished):
    again()
    check_base_files(unfinished)
    weights = unfinished / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(UserError, match=r"model.safetensors has changed since it was saved \(SHA-256 .*fingerprint.json says"):
        check_base_files(unfinished)
    weights.write_bytes(content)
    (unfinished / "tokenizer.json").write_bytes((unfinished / "tokenizer.json").read_bytes() + b"\n")
    with pytest.raises(UserError, match=r"tokenizer.json has changed since it was saved \(SHA-256 .*finished.json says"):
        check_base_files(unfinished)


@pytest.mark.parametrize(
    "name", ["train/data-00000-of-00001.arrow", "train/dataset_info.json", "test/state.json", "dataset_dict.json"]
)
@pytest.mark.parametrize("damage", ["flip", "cut", "gone"])
def test_rows_that_are_not_as_they_were_made_are_refused(small_rows, tmp_path, name, damage):
    shutil.copytree(small_rows, tmp_path / "rows")
    path = tmp_path / "rows" / name
    content = path.read_bytes()
    path.unlink()
    if damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "flip":
        path.write_bytes(content.replace(content[-80:], bytes(byte ^ 1 for byte in content[-80:])))
    said = f"the {path.parent.name} rows have changed since they were prepared" if "/" in name else "the rows cannot be opened"
    if path.name == "dataset_info.json":
        said = "the rows cannot be opened"
    with pytest.raises(UserError, match=f"rows: {said} .*; prepare the data again"):
        load_rows(str(tmp_path / "rows"))


def test_what_killed_runs_left_is_removed_and_nothing_else(again, unfinished):
    beside = unfinished.parent
    mine = [beside / ".base-push-abcd1234", beside / ".base-push-mine", beside / ".base2-push-abcd1234", unfinished / ".hidden"]
    for folder in mine:
        folder.mkdir()
        (folder / "file").touch()
    (unfinished / f".report.txt{PARTIAL}").write_text("half")
    (unfinished / ".checkpoint-6").mkdir()
    again()
    assert [folder.exists() for folder in mine] == [False, True, True, True]
    assert sorted(path.name for path in unfinished.glob(".*")) == [".hidden"]
    assert not (beside / ".hfgpt-base").exists()
    (beside / ".hfgpt-base").mkdir()  # killed after its last file
    (beside / ".hfgpt-base" / "lock").write_text("process 1")
    assert "already done" in again()
    assert not (beside / ".hfgpt-base").exists()


def test_other_versions_are_stated(again, unfinished):
    path = unfinished / "checkpoint-4" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["environment"] |= {"torch": "2.0.0", "threads": 7}
    path.write_text(json.dumps(manifest))
    said = again("--attn_implementation", "sdpa")
    assert f"resume: torch is {torch.__version__}, was 2.0.0: the last bits may differ" in said
    assert "resume: threads is 1, was 7: the last bits may differ" in said
    assert "resume: attn_implementation was eager, is now sdpa; the last bits may differ" in said


def test_other_rows_are_refused_and_may_be_allowed(again, unfinished, small_corpus, small_tokenizer, tmp_path):
    others = dict(sources=[str(small_corpus)], tokenizer=str(small_tokenizer), validation_share=0.1, test_share=0.1)
    recipe("prepare_data", **others, context_length=64, split_seed=1, output_dir=str(tmp_path / "rows"))
    with pytest.raises(
        UserError, match=r"are not the ones that the run in .* began with \(.*: SHA-256 .*…, now .*--allow_change rows,"
    ):
        again("--dataset", tmp_path / "rows")
    said = again("--dataset", tmp_path / "rows", "--allow_change", "rows")
    assert "changed at step 4: rows was " in said
    recipe("prepare_data", **others, context_length=32, output_dir=str(tmp_path / "short"))
    with pytest.raises(UserError, match="and they are 32 tokens long instead of the 64 that the model was made for"):
        again("--dataset", tmp_path / "short", "--allow_change", "rows")


def _hold(folder: Path, ready) -> None:
    hold(folder)
    ready.set()
    time.sleep(600)


def test_a_second_run_in_the_folder_is_refused_while_the_first_lives_and_not_after(again, unfinished):
    ready = CONTEXT.Event()
    first = CONTEXT.Process(target=_hold, args=(unfinished, ready))
    first.start()
    assert ready.wait(60)
    link = unfinished.with_name("link")
    link.symlink_to(unfinished)
    before = state_of(unfinished)
    for words in ((), ("--overwrite", "true"), ("--output_dir", link)):
        with pytest.raises(UserError, match=rf"is being written by another process \(process {first.pid}\); wait until"):
            again(*words)
    assert state_of(unfinished) == before
    first.kill()
    first.join()
    assert (unfinished.parent / ".hfgpt-base" / "lock").exists()
    assert "resume: from" in again()


def test_a_lock_ends_with_its_process_or_before(tmp_path):
    hold(tmp_path / "out")
    hold(tmp_path / "out")  # a second call changes nothing
    assert (tmp_path / ".hfgpt-out" / "lock").read_text() == f"process {os.getpid()}"
    release(tmp_path / "out")
    release(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_overwriting_removes_links_and_follows_none(again, unfinished, tmp_path):
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.txt").write_text("years")
    (unfinished / "folder").symlink_to(precious)
    (unfinished / "file").symlink_to(precious / "thesis.txt")
    assert "the unfinished run in" in again("--overwrite", "true", "--max_steps", "1")
    assert [path.name for path in precious.iterdir()] == ["thesis.txt"]
    assert not (unfinished / "folder").is_symlink()
    assert not (unfinished / "checkpoint-4").exists()
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
    with pytest.raises(UserError, match="nowhere is a link to .*gone, which does not exist"):
        again("--output_dir", tmp_path / "nowhere")


def test_each_step_has_one_line_whatever_was_killed(tmp_path):
    path = tmp_path / "samples.jsonl"
    for step in (2, 4, 6):
        write_step(path, {"step": step, "try": 1})
    with path.open("a") as file:
        file.write('{"step": 8, "tr')
    assert write_step(path, {"step": 4, "try": 2}) == [{"step": 2, "try": 1}, {"step": 4, "try": 2}]
    assert path.read_text() == '{"step": 2, "try": 1}\n{"step": 4, "try": 2}\n'
