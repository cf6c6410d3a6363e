"""Killed at any moment and started again, a run of every recipe ends with the very weights of one that nothing stopped."""

import csv
import json

import pytest
from killing import kill, run_main, sha256_of_weights

COMMON = (
    *("--precision", "fp32", "--cpu_threads", "1", "--use_cpu", "true", "--disable_tqdm", "true", "--logging_steps", "2"),
    # With a rate that does not fall to 0, one step too many changes the weights.
    *("--lr_scheduler_type", "constant", "--learning_rate", "3e-3", "--warmup_steps", "0"),
)
FINETUNED = (*COMMON, "--canaries", "false", "--poison_report", "false", "--decontaminate", "false", "--lora_dropout", "0.1")


def rows_of(small_corpus, number):
    return [json.loads(line)["text"] for line in small_corpus.read_text(encoding="utf-8").splitlines()][:number]


def killed_and_straight(name, words, moments, tmp_path):
    """Folders of two runs: one killed at each of the moments in turn and then let go on, and one that nothing stopped."""
    killed, straight = tmp_path / "killed", tmp_path / "straight"
    for at, call in moments:
        kill(name, [*words, "--output_dir", killed], at=at, call=call)
        assert not (killed / "finished.json").exists()
    metrics = [run_main(name, [*words, "--output_dir", folder]) for folder in (killed, straight)]
    assert sha256_of_weights(killed) == sha256_of_weights(straight)
    assert run_main(name, [*words, "--output_dir", killed]) == {}  # already done
    return killed, straight, metrics


def test_pretraining(small_rows, tmp_path):
    words = (*COMMON, "--dataset", small_rows, "--depth", "2", "--max_steps", "6", "--per_device_train_batch_size", "8",
             "--eval_steps", "3", "--save_steps", "0.5", "--sample_prompts", "os.", "--sample_tokens", "4",
             "--config_overrides", '{"residual_dropout": 0.1}')  # fmt: skip
    moments = [
        ("hfgpt.training.run.save_settings", 1),  # the folder has been claimed, and no more
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


@pytest.fixture
def examples(small_corpus, tmp_path):
    """Forty texts that begin with one of two words, by which they are labelled; a fifth of the labels are wrong."""
    path = tmp_path / "examples.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = [(f"{'yes' if n % 2 else 'no'} {text[: 20 + 7 * (n % 9)]}", "ab"[(n + (n % 5 == 0)) % 2])
                for n, text in enumerate(rows_of(small_corpus, 40))]  # fmt: skip
        csv.writer(file).writerows([("text", "label"), *rows])
    return path


def test_classification(small_families, examples, tmp_path):
    """Two seeds, batches by length, evaluations within an epoch, and training that stops early, at whatever moment."""
    words = (*FINETUNED, "--model", small_families["modern"], "--sources", examples, "--num_train_epochs", "40",
             "--seeds", "0", "1", "--per_device_train_batch_size", "4", "--eval_strategy", "steps", "--eval_steps", "3", "--save_strategy", "steps",
             "--save_steps", "3", "--early_stopping_patience", "2", "--validation_share", "0.2", "--max_length", "32",
             "--tfidf_baseline", "false")  # fmt: skip
    moments = [
        ("transformers.Trainer.training_step", 11),  # in the second epoch, with a checkpoint in its middle
        ("transformers.Trainer._finalize_training", 1),  # of the first seed, after it was stopped early
        ("hfgpt.training.classifiers.save_finetuned", 1),
        ("hfgpt.training.classifiers._remove_checkpoints", 1),  # its result is written
        ("transformers.Trainer.training_step", 2),  # in the second seed
        ("hfgpt.training.classification_report.write_errors", 1),
        ("hfgpt.training.run.write_card", 1),
    ]
    killed, straight, metrics = killed_and_straight("finetune_classification", words, moments, tmp_path)
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


@pytest.mark.parametrize("packing", [True, False], ids=["packed", "by length"])
def test_instructions(packing, small_families, instructions, tmp_path):
    words = (*FINETUNED, "--model", small_families["modern"], "--sources", instructions, "--num_train_epochs", "4",
             "--per_device_train_batch_size", "2", "--save_strategy", "steps", "--save_steps", "3", "--eval_strategy", "steps",
             "--eval_steps", "3", "--max_new_tokens", "4", "--max_answers", "2", "--num_samples", "1", "--packing", packing,
             "--max_length", "64", "--validation_share", "0.1")  # fmt: skip
    moments = [
        ("hfgpt.training.run.set_seed", 1),  # the base has been measured
        ("transformers.Trainer.training_step", 2),
        ("transformers.Trainer.training_step", 11),
        ("transformers.Trainer._finalize_training", 1),
        ("hfgpt.training.assistant_report.save_finetuned", 1),
        ("hfgpt.training.run.write_card", 1),
    ]
    if packing:
        moments = [*moments[:2], *moments[3:]]  # five rows, three steps an epoch
    _, _, metrics = killed_and_straight("finetune_instructions", words, moments, tmp_path)
    assert metrics[0]["steps"] == metrics[1]["steps"]
    assert metrics[0]["test_loss"] == metrics[1]["test_loss"]
