"""Does averaging weights pay? One run per seed: the test loss of its last weights, and of exponential averages (EMA) of them.

    python benchmarks/averaged_weights.py --dataset runs/quickstart/data --seeds 0 1 2 [more arguments of pretrain.py]

All averages come from the same run, so they differ from the last weights in nothing else. A decay of 0.9 averages about the last 10
steps, 0.99 the last 100. Norms and embeddings are averaged, too.
"""

import argparse
import tempfile

import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from trainer_step import build
from transformers import TrainerCallback

from hfgpt.arguments.parsing import parse_arguments
from hfgpt.arguments.pretraining import PretrainArguments
from hfgpt.training.pretraining import bytes_of, figures_of, load_rows


class Averages(TrainerCallback):
    """The averages of the weights after each step."""

    def __init__(self, decays: list[float]):
        self.decays, self.of = decays, {}

    def on_train_begin(self, args, state, control, *, model, **kwargs):
        self.of = {decay: AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay)) for decay in self.decays}

    def on_step_end(self, args, state, control, *, model, **kwargs):
        for average in self.of.values():
            average.update_parameters(model)


def main(args: argparse.Namespace, more: list[str]) -> None:
    rows, passport = load_rows(args.dataset)
    print("| seed | last weights | " + " | ".join(f"EMA {decay}" for decay in args.decays) + " |")
    print("|---:" * (2 + len(args.decays)) + "|")
    for seed in args.seeds:
        with tempfile.TemporaryDirectory() as folder:
            words = ["--dataset", args.dataset, "--output_dir", folder, "--seed", str(seed), "--use_cpu", "true",
                     "--eval_strategy", "no", "--save_strategy", "no", "--disable_tqdm", "true", *more]  # fmt: skip
            averages = Averages(args.decays)
            trainer = build(parse_arguments(PretrainArguments, words), averages)
            trainer.train()
            found = []
            for source in [trainer.trained, *(average.module for average in averages.of.values())]:
                with torch.no_grad():
                    for weight, other in zip(trainer.trained.parameters(), source.parameters(), strict=True):
                        weight.copy_(other)
                num_bytes = bytes_of("test", passport, trainer.text_tokenizer)
                found.append(figures_of(trainer, rows["test"], name="test", num_bytes=num_bytes)["test_bits_per_byte"])
        print(f"| {seed} | " + " | ".join(f"{value:.4f}" for value in found) + " |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="runs/quickstart/data")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--decays", type=float, nargs="+", default=[0.9, 0.97, 0.99])
    main(*parser.parse_known_args())
