"""A trainer of a tiny model on 22 rows, with dropout: its runs take a second."""

from pathlib import Path

import torch
from datasets import Dataset
from transformers import default_data_collator, set_seed

from hfgpt import HfGptConfig, HfGptForCausalLM
from hfgpt.arguments.run import RunArguments
from hfgpt.training.optimizers import trainer_optimizer
from hfgpt.training.trainer import HfGptTrainer


def tiny_trainer(folder: Path, *, run_id: str = "one", optimizer: str = "muon", **settings) -> HfGptTrainer:
    torch.manual_seed(0)
    config = HfGptConfig.modern(1, vocab_size=64, max_position_embeddings=32, residual_dropout=0.1)
    ids = [[(row * 7 + place * 5) % 60 for place in range(16)] for row in range(22)]
    rows = Dataset.from_dict({"input_ids": ids, "labels": ids})
    settings = {"max_steps": 8, "save_steps": 2, "save_total_limit": None, "per_device_train_batch_size": 4} | settings
    keep, loss, skip = (settings.pop(name, default) for name, default in (("keep", None), ("loss", None), ("skip", 0.0)))
    evaluation = {"eval_dataset": rows.select(range(4))} if keep == "best" else {}
    args = RunArguments(output_dir=str(folder), use_cpu=True, precision="fp32", disable_tqdm=True, optimizer=optimizer,
                        learning_rate=3e-3, cpu_threads=1, **settings)  # fmt: skip
    trainer = HfGptTrainer(
        HfGptForCausalLM(config), args, keep=keep, skip_loss_spikes=skip, train_dataset=rows, data_collator=default_data_collator,
        compute_loss_func=loss, optimizer_cls_and_kwargs=trainer_optimizer(optimizer, args.optimizer_settings()), **evaluation,
    )  # fmt: skip
    trainer.run_id = run_id
    return trainer


def weights(trainer: HfGptTrainer) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in trainer.trained.state_dict().items()}


def assert_same(trainer: HfGptTrainer, expected: dict[str, torch.Tensor]) -> None:
    assert all(torch.equal(tensor, expected[name]) for name, tensor in weights(trainer).items())


def train(trainer: HfGptTrainer, checkpoint: Path | None) -> None:
    """Train to the end, from the start or a checkpoint, as recipes do."""
    if checkpoint is None:
        set_seed(trainer.args.seed)
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
