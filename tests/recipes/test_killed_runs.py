"""Killed at any moment and started again, a run of any recipe ends with exactly the weights of an uninterrupted one."""

import csv
import errno
import json
import os
import shutil

import pytest
import yaml
from datasets import load_from_disk
from killing import kill, run_main, sha256_of_weights, state_of
from recipes_in_process import RECIPES, recipe

COMMON = (
    *("--precision", "fp32", "--cpu_threads", "1", "--use_cpu", "true", "--disable_tqdm", "true", "--logging_steps", "2"),
    # With a rate that does not fall to 0, one step too many changes the weights.
    *("--lr_scheduler_type", "constant", "--learning_rate", "3e-3", "--warmup_steps", "0"),
)
FINETUNED = (*COMMON, "--canaries", "false", "--poison_report", "false", "--decontaminate", "false", "--lora_dropout", "0.1")


def rows_of(small_corpus, number):
    return [json.loads(line)["text"] for line in small_corpus.read_text(encoding="utf-8").splitlines()][:number]


def killed_and_straight(name, words, moments, tmp_path, *, made_once=(), changed=()):
    """Folders of two runs: one killed at each of the moments in turn and then completed, and one uninterrupted.

    Args:
        made_once: files that exist at the last moment and are not written again.
        changed: words of one more start, which notices only after reading rows and model that the run is done.
    """
    killed, straight = tmp_path / "killed", tmp_path / "straight"
    for at, call in moments:
        kill(name, [*words, "--output_dir", killed], at=at, call=call)
        assert not (killed / "finished.json").exists()
        assert not (killed / "report.txt").exists() or at.endswith("write_card")
    times = [(killed / file).stat().st_mtime_ns for file in made_once]
    metrics = [run_main(name, [*words, "--output_dir", folder]) for folder in (killed, straight)]
    assert [(killed / file).stat().st_mtime_ns for file in made_once] == times
    assert sha256_of_weights(killed) == sha256_of_weights(straight)
    before = state_of(killed)
    for more in ((), changed) if changed else ((),):
        assert run_main(name, [*words, "--output_dir", killed, *more]) == {}  # already done
        assert state_of(killed) == before
    assert list(killed.parent.glob(".*")) == list(killed.rglob(".*")) == []
    return killed, straight, metrics


def test_pretraining(small_rows, tmp_path):
    words = (*COMMON, "--dataset", small_rows, "--depth", "2", "--max_steps", "6", "--per_device_train_batch_size", "8",
             "--eval_steps", "3", "--save_steps", "0.5", "--sample_prompts", "os.", "--sample_tokens", "4",
             "--config_overrides", '{"residual_dropout": 0.1}')  # fmt: skip
    moments = [
        ("hfgpt.training.run_folder.save_settings", 1),  # the folder has been claimed, nothing else
        ("transformers.Trainer.training_step", 5),
        ("transformers.Trainer._finalize_training", 1),  # after the last checkpoint
        ("hfgpt.training.pretraining.record_fingerprint", 1),  # the model is saved
        ("hfgpt.training.run.write_card", 1),  # the report too
    ]
    killed, _, metrics = killed_and_straight("pretrain", words, moments, tmp_path)
    assert metrics[0]["steps"] == metrics[1]["steps"] == 6
    assert metrics[0]["test_loss"] == metrics[1]["test_loss"]
    states = [json.loads(path.read_text()) for path in killed.glob("checkpoint-*/trainer_state.json")]
    assert max(state["global_step"] for state in states) == 6


def test_pretraining_on_rows_that_change_in_every_epoch(small_corpus, small_tokenizer, tmp_path):
    """Killed within its second epoch, with documents repacked; workers that prefetch change nothing."""
    rows, workers = tmp_path / "rows", tmp_path / "workers"
    recipe("prepare_data", sources=[str(small_corpus)], tokenizer=str(small_tokenizer), context_length=64, packing="in_order",
           validation_share=0.1, test_share=0.1, output_dir=str(rows))  # fmt: skip
    words = (*COMMON, "--dataset", rows, "--depth", "2", "--num_train_epochs", "2", "--per_device_train_batch_size", "32",
             "--repack", "true", "--max_masked_tokens", "3", "--save_steps", "2", "--eval_strategy", "no", "--sample_prompts", "",
             "--config_overrides", '{"residual_dropout": 0.1}')  # fmt: skip
    moments = [("transformers.Trainer.training_step", 14)]
    killed, _, metrics = killed_and_straight("pretrain", words, moments, tmp_path)
    steps_per_epoch = -(-len(load_from_disk(rows)["train"]) // 32)
    assert steps_per_epoch < 12 < 14 < 2 * steps_per_epoch  # the checkpoint and the kill
    assert metrics[1]["steps"] == 2 * steps_per_epoch
    run_main("pretrain", [*words, "--dataloader_num_workers", "2", "--output_dir", workers])
    assert sha256_of_weights(workers) == sha256_of_weights(killed)


@pytest.fixture
def examples(small_corpus, tmp_path):
    """Forty texts that begin with one of two words, which gives the label; a fifth of the labels are wrong."""
    path = tmp_path / "examples.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = [(f"{'yes' if n % 2 else 'no'} {text[: 20 + 7 * (n % 9)]}", "ab"[(n + (n % 5 == 0)) % 2])
                for n, text in enumerate(rows_of(small_corpus, 40))]  # fmt: skip
        csv.writer(file).writerows([("text", "label"), *rows])
    return path


@pytest.mark.slow
def test_classification(small_families, examples, tmp_path):
    """Two seeds, batches by length, evaluations within an epoch, and early stopping; killed at several moments."""
    words = (*FINETUNED, "--model", small_families["modern"], "--sources", examples, "--num_train_epochs", "40", "--tfidf_baseline",
             "false", "--seeds", "0", "1", "--per_device_train_batch_size", "4", "--eval_strategy", "steps", "--eval_steps", "3",
             "--save_strategy", "steps", "--save_steps", "3", "--early_stopping_patience", "2", "--validation_share", "0.2",
             "--max_length", "32")  # fmt: skip
    moments = [
        ("transformers.Trainer.training_step", 11),  # in the second epoch, with a checkpoint in its middle
        ("transformers.Trainer._finalize_training", 1),  # of the first seed, after early stopping
        ("hfgpt.training.classifiers.remove_checkpoints", 1),  # its result is written
        ("transformers.Trainer.training_step", 2),  # in the second seed
        ("hfgpt.training.run.write_card", 1),
    ]
    made_once = ("seed-0/result.json", "seed-1/result.json")
    killed, straight, metrics = killed_and_straight("finetune_classification", words, moments, tmp_path, made_once=made_once)
    assert metrics[0] == metrics[1]
    for seed in ("seed-0", "seed-1"):
        results = [json.loads((folder / seed / "result.json").read_text()) for folder in (killed, straight)]
        assert results[0]["steps"] == results[1]["steps"] < 280  # stopped early
        assert results[0]["test"] == results[1]["test"]
        assert not list(killed.glob(f"{seed}/checkpoint-*"))


@pytest.fixture
def instructions(small_corpus, tmp_path):
    path = tmp_path / "instructions.json"
    rows = [{"instruction": f"Say {n}.", "input": "", "output": text[: 10 + 5 * (n % 7)]}
            for n, text in enumerate(rows_of(small_corpus, 24))]  # fmt: skip
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


@pytest.mark.slow
def test_instructions(small_families, instructions, tmp_path):
    words = (*FINETUNED, "--model", small_families["modern"], "--sources", instructions, "--num_train_epochs", "2",
             "--per_device_train_batch_size", "2", "--save_strategy", "steps", "--save_steps", "3", "--eval_strategy", "steps",
             "--eval_steps", "3", "--max_new_tokens", "4", "--max_answers", "2", "--num_samples", "1", "--packing", "false",
             "--max_length", "64", "--validation_share", "0.1", "--keep", "last", "--gradient_accumulation_steps", "2")  # fmt: skip
    moments = [
        ("hfgpt.training.run.set_seed", 1),  # the base has been measured
        ("transformers.Trainer.training_step", 14),  # in the second epoch, with a checkpoint in its middle
        ("hfgpt.training.comparison.save_finetuned", 1),  # after the last step
        ("hfgpt.training.run.write_card", 1),
    ]
    _, _, metrics = killed_and_straight("finetune_instructions", words, moments, tmp_path, changed=("--logging_steps", "1"))
    assert metrics[0]["steps"] == metrics[1]["steps"]
    assert metrics[0]["test_loss"] == metrics[1]["test_loss"]


@pytest.mark.slow
def test_preferences(small_families, small_corpus, tmp_path):
    pytest.importorskip("trl")
    path = tmp_path / "pairs.jsonl"
    rows = [{"instruction": f"Say {n}.", "input": "", "chosen": text[:12], "rejected": text[12:20]}
            for n, text in enumerate(rows_of(small_corpus, 24))]  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    words = (*FINETUNED[:-2], "--model", small_families["modern"], "--sources", path, "--num_train_epochs", "2",
             "--per_device_train_batch_size", "4", "--save_strategy", "steps", "--save_steps", "3", "--eval_strategy", "steps",
             "--eval_steps", "3", "--max_new_tokens", "4", "--max_answers", "2", "--num_samples", "1")  # fmt: skip
    moments = [
        ("hfgpt.training.run.set_seed", 1),
        ("transformers.Trainer.training_step", 8),
        ("transformers.Trainer._finalize_training", 1),
    ]
    _, _, metrics = killed_and_straight("align_preferences", words, moments, tmp_path)
    assert metrics[0]["test_reward_margin"] == metrics[1]["test_reward_margin"]


def test_two_processes_that_go_on_within_an_epoch_read_its_order():
    """Their shares of the batches, computed in this process."""
    from accelerate import PartialState
    from accelerate.data_loader import BatchSamplerShard, DataLoaderShard, SeedableRandomSampler, skip_first_batches
    from torch.utils.data import BatchSampler

    from hfgpt.training.trainer import EpochLengthGroupedSampler, set_epoch_of_sampler

    PartialState()
    rows = list(range(12))

    def share(kind, *, skipped, epoch=1):
        sampler = (
            SeedableRandomSampler(rows, data_seed=0) if kind == "random" else EpochLengthGroupedSampler(2, lengths=rows, seed=0)
        )
        shard = DataLoaderShard(rows, batch_sampler=BatchSamplerShard(BatchSampler(sampler, 2, drop_last=False), 2, 1))
        set_epoch_of_sampler(shard, epoch)
        left = skip_first_batches(shard, skipped) if skipped else shard
        left.set_epoch(epoch)
        return [batch.tolist() for batch in left]

    for kind in ("random", "by length"):
        whole = share(kind, skipped=0)
        assert share(kind, skipped=1) == whole[1:]
        assert len(whole) == 3
        assert share(kind, skipped=0, epoch=0) != whole


def test_a_finished_run_that_is_damaged_is_finished_again(small_run, small_rows, tmp_path, caplog):
    """An empty report, a missing card, a truncated model: not taken for a finished run, and no step is trained."""
    from conftest import SMALL_RUN

    folder = tmp_path / "base"
    shutil.copytree(small_run, folder)
    words = (*SMALL_RUN, "--dataset", small_rows, "--output_dir", folder)
    expected = sha256_of_weights(folder)
    assert run_main("pretrain", words) == {}
    for damage in (
        lambda: (folder / "report.txt").write_text(""),
        lambda: (folder / "README.md").unlink(),
        lambda: (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-1000]),
        lambda: (folder / "finished.json").write_text("{"),
    ):
        damage()
        caplog.clear()
        assert run_main("pretrain", words)["steps"] == 12
        assert any("finished but damaged since" in message for message in caplog.messages)
        assert sha256_of_weights(folder) == expected
        assert json.loads((folder / "metrics.json").read_text())["steps_timed"] == 0
        assert run_main("pretrain", words) == {}


def test_overwriting_goes_through_a_link_and_says_what_it_cannot_remove(small_run, small_rows, tmp_path, monkeypatch):
    from conftest import SMALL_RUN

    words = (*SMALL_RUN, "--dataset", small_rows, "--output_dir", tmp_path / "link", "--overwrite", "true", "--max_steps", "2")
    shutil.copytree(small_run, tmp_path / "base")
    (tmp_path / "link").symlink_to("base")
    assert run_main("pretrain", words)["steps"] == 2
    assert json.loads((tmp_path / "base" / "metrics.json").read_text())["steps"] == 2
    assert (tmp_path / "link").is_symlink()
    assert not (tmp_path / "base" / "checkpoint-12").exists()

    remove = shutil.rmtree

    def refuse(path, *args, **kwargs):
        if "checkpoint-" in str(path):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        remove(path, *args, **kwargs)

    monkeypatch.setattr(shutil, "rmtree", refuse)
    with pytest.raises(PermissionError, match="checkpoint-"):
        run_main("pretrain", words)
    assert (tmp_path / "base" / "run.yaml").is_file()  # still recognized as a run's folder
    assert not (tmp_path / "base" / "finished.json").exists()


def test_a_folder_that_was_just_claimed_is_a_runs(small_rows, tmp_path):
    """Killed while the first file was written under its temporary name."""
    from conftest import SMALL_RUN

    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".run.yaml.hfgpt-part").write_text("# pyth")
    words = (*SMALL_RUN, "--dataset", small_rows, "--output_dir", tmp_path / "out", "--max_steps", "1", "--sample_tokens", "1")
    assert run_main("pretrain", words)["steps"] == 1


def test_a_run_of_another_base_is_refused_with_the_cure(small_families, examples, tmp_path):
    """`make quickstart` after its base was retrained: the old classifier is neither kept silently nor deleted unasked."""
    from safetensors.torch import load_file, save_file

    base = tmp_path / "base"
    shutil.copytree(small_families["modern"], base)
    words = (*FINETUNED, "--model", base, "--sources", examples, "--num_train_epochs", "1", "--tfidf_baseline", "false",
             "--method", "head", "--output_dir", tmp_path / "out")  # fmt: skip
    assert run_main("finetune_classification", words) != {}
    assert run_main("finetune_classification", words) == {}
    tensors = load_file(base / "model.safetensors")
    tensors["model.norm.weight"] += 0.01
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="began with different weights of .*--overwrite true to replace it"):
        run_main("finetune_classification", words)
    assert run_main("finetune_classification", [*words, "--overwrite", "true"]) != {}


def test_a_finished_run_is_noticed_before_data_and_model_are_read(small_families, examples, tmp_path, monkeypatch):
    """But only if nothing was touched: otherwise everything is compared, and other data is refused."""
    from hfgpt.training import classifiers

    base = tmp_path / "base"
    shutil.copytree(small_families["modern"], base)
    words = (*FINETUNED, "--model", base, "--sources", examples, "--num_train_epochs", "1", "--tfidf_baseline", "false",
             "--method", "head", "--output_dir", tmp_path / "out")  # fmt: skip
    assert run_main("finetune_classification", words) != {}
    read = []
    load_splits = classifiers.load_splits
    monkeypatch.setattr(classifiers, "load_splits", lambda *args, **kwargs: (read.append(1), load_splits(*args, **kwargs))[1])
    assert run_main("finetune_classification", words) == {}
    examples.touch()
    assert run_main("finetune_classification", words) == {}
    assert read == []
    (base / "model.safetensors").touch()  # the same weights, but only loading them shows that
    assert run_main("finetune_classification", words) == {}
    assert read == [1]
    examples.write_text(examples.read_text() + "one more,a\n")
    with pytest.raises(ValueError, match="are not the ones that the run in .* began with"):
        run_main("finetune_classification", words)
    with pytest.raises(ValueError, match="holds another run .learning_rate was 0.003, is now 0.1"):
        run_main("finetune_classification", [*words, "--learning_rate", "0.1"])


def test_no_configuration_replaces_what_lies_there():
    """`overwrite: true` in a file deletes the checkpoints of a run that was killed, and results that took hours."""
    paths = sorted((RECIPES / "configs").rglob("*.yaml"))
    assert len(paths) > 15
    assert [path for path in paths if "overwrite" in yaml.safe_load(path.read_text(encoding="utf-8"))] == []
