"""TRL's trainers on both families: real steps with packing, on completions, on assistant turns and on preferences."""

import itertools
import json
import re

import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer

import hfgpt  # noqa: F401  registers the classes

trl = pytest.importorskip("trl", minversion="1.0", reason="fine-tuning needs the package trl")

MODULES = {"os": "files", "re": "text", "math": "numbers", "json": "data"}
CHATS = [
    {"messages": [{"role": "user", "content": f"What is {name}?"}, {"role": "assistant", "content": f"It is {subject}."}]}
    for name, subject in MODULES.items()
]
COMPLETIONS = [{"prompt": f"What is {name}?", "completion": f" It is {subject}."} for name, subject in MODULES.items()]
PREFERENCES = [
    {"prompt": f"What is {name}?", "chosen": f" It is {subject}.", "rejected": " qqq zzz"} for name, subject in MODULES.items()
]
TEXTS = [{"text": f"What is {name}? It is {subject}."} for name, subject in MODULES.items()]


@pytest.fixture(scope="module", params=["book", "modern"])
def folder(request, small_families):
    return small_families[request.param]


@pytest.fixture
def build(folder, tmp_path):
    """Make a TRL trainer for the small model, with the settings that all tests here share."""

    def make(trainer_class, rows: list[dict], **settings):
        config_class = {trl.SFTTrainer: trl.SFTConfig, trl.DPOTrainer: trl.DPOConfig}[trainer_class]
        config = config_class(
            str(tmp_path), max_steps=12, learning_rate=3e-3, per_device_train_batch_size=4, logging_steps=1, save_strategy="no",
            report_to="none", use_cpu=True, bf16=False, gradient_checkpointing=False, disable_tqdm=True, **settings,
        )  # fmt: skip
        model = AutoModelForCausalLM.from_pretrained(folder)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        return trainer_class(model, args=config, train_dataset=Dataset.from_list(rows * 4), processing_class=tokenizer)

    return make


def losses_of(trainer) -> list[float]:
    before = trainer.model.model.layers[0].mlp.up_proj.weight.clone()
    trainer.train()
    assert not torch.equal(trainer.model.model.layers[0].mlp.up_proj.weight, before)
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def trained_text(trainer) -> str:
    """The decoded tokens that have labels in the first row of a batch."""
    row = next(iter(trainer.get_train_dataloader()))
    labels = row["labels"][0]
    return trainer.processing_class.decode(labels[labels != -100])


@pytest.mark.parametrize(
    ("rows", "settings", "beginning"),
    [
        (TEXTS, {}, r"What is \w+\? It is"),
        (COMPLETIONS, dict(completion_only_loss=True), r" It is \w+\."),
        (CHATS, dict(assistant_only_loss=True), r"It is \w+\."),
        (TEXTS, dict(packing=True, packing_strategy="wrapped", max_length=64), r"(?s).*What is \w+\?.*What is \w+\?"),
    ],
    ids=["texts", "completions", "an assistant's turns", "wrapped rows"],
)
def test_supervised_steps_lower_the_loss_of_what_has_labels(build, rows, settings, beginning):
    trainer = build(trl.SFTTrainer, rows, **settings)
    losses = losses_of(trainer)
    assert losses[0] > 3
    assert losses[-1] < 0.7 * losses[0]
    text = trained_text(trainer).removeprefix("<|endoftext|>")
    assert re.match(beginning, text)
    if settings.get("completion_only_loss") or settings.get("assistant_only_loss"):
        assert "What" not in text


@pytest.mark.parametrize("folder", ["book", "modern"], indirect=True)
def test_a_row_packed_longer_than_the_context_trains_document_by_document(build):
    trainer = build(trl.SFTTrainer, CHATS * 20, packing=True, max_length=128)
    packed = next(iter(trainer.get_train_dataloader()))
    assert packed["input_ids"].shape[0] == 1  # the four rows of the batch are concatenated
    assert packed["input_ids"].shape[1] > 256  # more than the model's context; each document is far shorter
    assert packed["position_ids"].max() < 128
    assert "attention_mask" not in packed
    with torch.no_grad():
        together = trainer.model.eval()(packed["input_ids"], position_ids=packed["position_ids"], use_cache=False).logits[0]
        starts = [*(packed["position_ids"][0] == 0).nonzero()[:, 0].tolist(), packed["input_ids"].shape[1]]
        for start, end in list(itertools.pairwise(starts))[:5]:
            alone = trainer.model(packed["input_ids"][:, start:end]).logits[0]
            torch.testing.assert_close(together[start:end], alone, atol=1e-4, rtol=0)
    losses = losses_of(trainer)
    assert losses[-1] < 0.7 * losses[0]


def test_preference_steps_prefer_what_was_chosen(build):
    trainer = build(trl.DPOTrainer, PREFERENCES, beta=0.1)
    losses = losses_of(trainer)
    assert losses[0] == pytest.approx(0.6931, abs=1e-3)  # ln 2: model and reference start out equal
    assert losses[-1] < 0.3
    margins = [entry["rewards/margins"] for entry in trainer.state.log_history if "rewards/margins" in entry]
    assert margins[-1] > margins[0]


def test_a_tuned_model_is_saved_and_loads_equal(build, tmp_path):
    trainer = build(trl.SFTTrainer, CHATS, assistant_only_loss=True)
    trainer.train()
    trainer.save_model(str(tmp_path / "tuned"))
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "tuned").eval()
    ids = torch.arange(10, 40)[None]
    with torch.no_grad():
        assert torch.equal(again(ids).logits, trainer.model.eval()(ids).logits)
    assert (tmp_path / "tuned" / "modeling_hfgpt.py").is_file()
    # Trainers switch the cache off, and TRL saves that; to serve the folder, switch it on again.
    assert json.loads((tmp_path / "tuned" / "config.json").read_text())["use_cache"] is False
