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
