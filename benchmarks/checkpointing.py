"""The cost of a checkpoint: the plain Trainer's save compared with ours, which is hashed, synced to disk (fsync) and renamed.

    python benchmarks/checkpointing.py [--layers 2 6] [--widths 192 512] [--rounds 15] [--folder FOLDER]

All save the same model and AdamW's state, and keep two checkpoints. "until it is named" is ours including the work done while
training continues: hashing, fsync, rename, rotation; "and without fsync" is the same with fsync disabled; "Trainer, then fsync" is
Trainer's save followed by a sync to disk. Each save starts only after the previous one has finished.

What training pays between saves is measured as well: the steps of runs that save every tenth step, without those that save. Ours
watch for signals and for values that are not finite, and work on the last checkpoint in the background meanwhile.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import transformers
from datasets import Dataset
from measure import seconds_in_turns
from transformers import Trainer, TrainerCallback, TrainingArguments, default_data_collator

from hfgpt import HfGptConfig, HfGptForCausalLM
from hfgpt.training.trainer import HfGptTrainer

SAVE_STEPS = 10  # of the runs whose steps are timed


class Clock(TrainerCallback):
    """When each step ended, its save included."""

    def __init__(self):
        self.ends: list[float] = []

    def on_step_begin(self, args, state, control, **kwargs):
        self.ends.append(time.perf_counter())

    def between_saves(self) -> float:
        """Seconds of the steps that did not save; the first ten prepare memory and kernels."""
        seconds = [end - begin for begin, end in zip(self.ends, self.ends[1:])]
        return sum(one for number, one in enumerate(seconds, 1) if number > SAVE_STEPS and number % SAVE_STEPS)


def trained(
    kind: type[Trainer],
    folder: Path,
    *,
    layers: int,
    width: int,
    steps: int = 2,
    save_steps: int = 1000,
    length: int = 32,
    callbacks: Sequence[TrainerCallback] = (),
) -> Trainer:
    """A trainer after some steps, so that its optimizer has a state."""
    torch.manual_seed(0)
    config = HfGptConfig.modern(
        layers, vocab_size=2048, hidden_size=width, num_attention_heads=width // 64, num_key_value_heads=width // 64
    )
    ids = torch.randint(0, 2048, (8, length)).tolist()
    rows = Dataset.from_dict({"input_ids": ids, "labels": ids})
    args = TrainingArguments(
        output_dir=str(folder), max_steps=steps, per_device_train_batch_size=2, save_strategy="steps", save_steps=save_steps,
        use_cpu=True, save_total_limit=2, disable_tqdm=True, report_to=[], logging_strategy="no",
    )  # fmt: skip
    trainer = kind(HfGptForCausalLM(config), args, train_dataset=rows, data_collator=default_data_collator, callbacks=[*callbacks])
    trainer.train()
    return trainer


def saving(trainer: Trainer) -> Callable[[], Path]:
    """Saves the next checkpoint, and says where."""

    def save() -> Path:
        trainer.state.global_step += 1
        trainer._save_checkpoint(trainer.model_wrapped, None)
        return Path(str(trainer.args.output_dir)) / f"checkpoint-{trainer.state.global_step}"

    return save


def until_named(trainer: HfGptTrainer, *, synced: bool = True) -> Callable[[], None]:
    """Saves, and waits until the checkpoint has its final name."""
    save = saving(trainer)

    def save_and_wait() -> None:
        sync = os.fsync
        os.fsync = sync if synced else lambda _: None
        try:
            save()
            trainer._wait_for_checkpoint()
        finally:
            os.fsync = sync

    return save_and_wait


def then_sync(save: Callable[[], Path]) -> Callable[[], None]:
    """Saves, and waits until all files are on disk."""

    def save_and_sync() -> None:
        for path in save().rglob("*"):
            with path.open("rb") as file:
                os.fsync(file.fileno())

    return save_and_sync


def between_saves(kind: type[Trainer], *, layers: int, width: int, steps: int, folder: Path | None) -> float:
    """Seconds of the steps of a run that did not save."""
    clock = Clock()
    with tempfile.TemporaryDirectory(dir=folder) as run:
        trained(kind, Path(run), layers=layers, width=width, steps=steps, save_steps=SAVE_STEPS, length=512, callbacks=[clock])
    return clock.between_saves()


def main(args: argparse.Namespace) -> dict[str, float]:
    transformers.utils.logging.disable_progress_bar()
    shares = {}
    for layers, width in zip(args.layers, args.widths):
        with tempfile.TemporaryDirectory(dir=args.folder) as folder:
            shape = dict(layers=layers, width=width)
            theirs = [trained(Trainer, Path(folder) / f"theirs{number}", **shape) for number in range(2)]
            ours = [trained(HfGptTrainer, Path(folder) / f"ours{number}", **shape) for number in range(3)]
            candidates = {
                "Trainer": saving(theirs[0]),
                "hfgpt": saving(ours[0]),
                "wait": ours[0]._wait_for_checkpoint,  # unfinished work of a save must not count for the next candidate
                "hfgpt, until it is named": until_named(ours[1]),
                "and without fsync": until_named(ours[2], synced=False),
                "Trainer, then fsync": then_sync(saving(theirs[1])),
            }
            seconds = seconds_in_turns(candidates, rounds=args.rounds)
            seconds.pop("wait")
            ours[0]._wait_for_checkpoint()
            place = Path(folder) / "ours0" / f"checkpoint-{ours[0].state.global_step}"
            bytes_saved = sum(path.stat().st_size for path in place.rglob("*"))
        parameters = sum(one.numel() for one in ours[0].model.parameters())
        medians = {name: statistics.median(values) for name, values in seconds.items()}
        print(
            f"{parameters:,} parameters, {bytes_saved:,} bytes, {torch.get_num_threads()} threads, {args.rounds} rounds, medians:"
        )
        for name, value in medians.items():
            share = statistics.median(one / other for one, other in zip(seconds[name], seconds["Trainer"]))
            print(f"  {name:25} {1000 * value:8.1f} ms, {share:.2f} x Trainer's in the same round")
            shares[f"{parameters} {name}"] = share
        runs: dict[str, list[float]] = {"Trainer": [], "hfgpt": []}
        for number in range(args.rounds):
            for name, kind in [("Trainer", Trainer), ("hfgpt", HfGptTrainer)][:: -1 if number % 2 else 1]:
                runs[name].append(between_saves(kind, **shape, steps=args.steps, folder=args.folder))
        ratios = [ours / theirs for ours, theirs in zip(runs["hfgpt"], runs["Trainer"])]
        share = shares[f"{parameters} between saves"] = statistics.median(ratios)
        print(f"  between saves             {share:.3f} x Trainer's steps ({min(ratios):.3f} to {max(ratios):.3f})", flush=True)
    return shares


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, nargs="+", default=[2, 6])
    parser.add_argument("--widths", type=int, nargs="+", default=[192, 512])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=61, help="of the runs whose steps between saves are timed")
    parser.add_argument("--folder", type=Path, default=None, help="on the disk to measure (default: the one for temporary files)")
    main(parser.parse_args())
