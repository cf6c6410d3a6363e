"""Tokens per second with Trainer and with a bare loop over the same model, rows and optimizer.

    python benchmarks/trainer_step.py --dataset runs/quickstart/data [--steps 40] [--rounds 5] [more arguments of pretrain.py]

Both are built as recipes/pretrain.py builds them. The bare loop is the one from PyTorch tutorials: a loader, forward, backward,
clipping, an optimizer step and a schedule step. Each round trains both, in rotating order; a ratio is from one round, and the first
steps of each are not timed. Trainer writes a log line every ten steps. Needs idle cores.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import cast

import torch
from transformers import TrainerCallback

from hfgpt.arguments.parsing import parse_arguments
from hfgpt.arguments.pretraining import PretrainArguments
from hfgpt.data.collators import PackedRowsCollator
from hfgpt.tokenization import load_tokenizer
from hfgpt.training.optimizers import trainer_optimizer
from hfgpt.training.pretraining import build_model, load_rows
from hfgpt.training.trainer import LanguageModelTrainer

UNTIMED = 3  # steps in which memory is allocated and kernels are selected


class Clock(TrainerCallback):
    """When each step ended."""

    def __init__(self):
        self.ends: list[float] = []

    def on_step_end(self, args, state, control, **kwargs):
        self.ends.append(time.perf_counter())


def build(args: PretrainArguments, callback: TrainerCallback) -> LanguageModelTrainer:
    rows, passport = load_rows(args.dataset)
    tokenizer = load_tokenizer(Path(args.dataset) / "tokenizer")
    model = build_model(tokenizer, context_length=passport.settings["context_length"], family=args.family, depth=args.depth,
                        size=args.size, overrides=cast(dict, args.config_overrides or {}), seed=args.seed,
                        attn_implementation=args.attn_implementation)  # fmt: skip
    return LanguageModelTrainer(
        model=model, args=args, train_dataset=rows["train"], processing_class=tokenizer,
        data_collator=PackedRowsCollator(cast(int, tokenizer.pad_token_id)),
        optimizer_cls_and_kwargs=trainer_optimizer(args.optimizer, args.optimizer_settings()), callbacks=[callback],
    )  # fmt: skip


def bare_loop(trainer: LanguageModelTrainer, clock: Clock) -> None:
    args, model = trainer.args, trainer.trained
    trainer.create_optimizer_and_scheduler(args.max_steps)
    optimizer, scheduler = trainer.optimizer, trainer.lr_scheduler
    loader = torch.utils.data.DataLoader(
        trainer.train_dataset, batch_size=args.train_batch_size, shuffle=True, collate_fn=trainer.data_collator
    )
    model.train()
    while True:
        for batch in loader:
            with torch.autocast("cpu", torch.bfloat16, enabled=args.bf16):
                loss = model(**batch).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), args.max_grad_norm)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
            clock.ends.append(time.perf_counter())
            if len(clock.ends) == args.max_steps:
                return


def main(args: argparse.Namespace, more: list[str]) -> None:
    ways = {"Trainer": lambda trainer, clock: trainer.train(), "bare loop": bare_loop}
    found: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(args.rounds):
        for name in list(ways)[:: -1 if number % 2 else 1]:
            with tempfile.TemporaryDirectory() as folder:
                words = ["--dataset", args.dataset, "--output_dir", folder, "--max_steps", str(args.steps), "--use_cpu", "true",
                         "--logging_steps", "10", "--eval_strategy", "no", "--save_strategy", "no", "--disable_tqdm", "true",
                         *more]  # fmt: skip
                clock = Clock()
                trainer = build(parse_arguments(PretrainArguments, words), clock)
                ways[name](trainer, clock)
            tokens = trainer.args.train_batch_size * len(trainer.train_dataset[0]["input_ids"])
            found[name].append(tokens * (args.steps - UNTIMED) / (clock.ends[-1] - clock.ends[UNTIMED - 1]))
    for name, speeds in found.items():
        print(f"{name}: {statistics.median(speeds):,.0f} tokens per second")
    ratios = [ours / bare for ours, bare in zip(found["Trainer"], found["bare loop"], strict=True)]
    print(f"Trainer to bare loop: {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f}, {args.rounds} rounds)")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="runs/quickstart/data")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=5)
    main(*parser.parse_known_args())
