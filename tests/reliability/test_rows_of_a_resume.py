"""A run that resumes reads the rows that come next, and none before them."""

import json
import shutil

import pytest
import torch
from torch.utils.data import Dataset
from transformers import TrainingArguments

from hfgpt import HfGptConfig, HfGptForCausalLM
from hfgpt.files import sha256_of_file
from hfgpt.training.trainer import HfGptTrainer


class Rows(Dataset):
    """Rows that record when they are read."""

    def __init__(self, number: int):
        self.number, self.read = number, []

    def __len__(self):
        return self.number

    def __getitem__(self, row):
        self.read.append(row)
        ids = torch.tensor([row % 50, 1, 2, 3])
        return {"input_ids": ids, "labels": ids}


def trained(folder, rows: Rows, *, max_steps: int, checkpoint=None) -> list[int]:
    """Train from `checkpoint` with batches of 8. Returns: the rows that were read, in order."""
    shape = dict(vocab_size=64, hidden_size=16, num_attention_heads=1, num_key_value_heads=1, head_dim=16, intermediate_size=16)
    ids = dict(pad_token_id=0, bos_token_id=1, eos_token_id=1, max_position_embeddings=8)
    args = TrainingArguments(str(folder), max_steps=max_steps, per_device_train_batch_size=8, save_steps=1, save_total_limit=20,
                             use_cpu=True, report_to="none", disable_tqdm=True, logging_strategy="no")  # fmt: skip
    HfGptTrainer(HfGptForCausalLM(HfGptConfig.modern(1, **shape, **ids)), args, train_dataset=rows).train(checkpoint)
    return rows.read


@pytest.mark.parametrize("step", [1000, 16_000])
def test_going_on_at_step_16000_reads_three_batches_at_most(step, tmp_path):
    """As at step 1,000: rows that were read before are skipped by index."""
    trained(tmp_path, Rows(1_000_000), max_steps=1)
    checkpoint = tmp_path / f"checkpoint-{step}"
    (tmp_path / "checkpoint-1").rename(checkpoint)
    state = json.loads((checkpoint / "trainer_state.json").read_text())
    state["global_step"] = step
    (checkpoint / "trainer_state.json").write_text(json.dumps(state))
    _make_manifest_fit(checkpoint, step)
    read = trained(tmp_path, Rows(1_000_000), max_steps=step + 1, checkpoint=str(checkpoint))
    assert 8 <= len(read) <= 3 * 8
    assert (tmp_path / f"checkpoint-{step + 1}").is_dir()


def test_a_second_pass_goes_on_at_the_right_row(tmp_path):
    """Twelve steps per epoch; stopped at the fifteenth."""
    straight = trained(tmp_path / "straight", Rows(12 * 8), max_steps=20)
    assert sorted(straight[: 12 * 8]) == list(range(12 * 8))
    shutil.copytree(tmp_path / "straight" / "checkpoint-15", tmp_path / "stopped" / "checkpoint-15")
    went_on = trained(tmp_path / "stopped", Rows(12 * 8), max_steps=20, checkpoint=str(tmp_path / "stopped" / "checkpoint-15"))
    assert went_on == straight[15 * 8 :]


def _make_manifest_fit(checkpoint, step: int) -> None:
    path = checkpoint / "manifest.json"
    manifest = json.loads(path.read_text()) | {"step": step}
    state = checkpoint / "trainer_state.json"
    manifest["files"][state.name] = {"bytes": state.stat().st_size, "sha256": sha256_of_file(state)}
    path.write_text(json.dumps(manifest))
