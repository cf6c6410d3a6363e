"""Fit the constants used to predict the loss of a budget (`LAW` in hfgpt/training/plan.py) to runs on this machine.

    python benchmarks/loss_law.py --dataset runs/quickstart/data --runs /tmp/runs.jsonl   # trains a grid, one line each
    python benchmarks/loss_law.py --runs /tmp/runs.jsonl --fit true                       # fits to all existing lines

A line has the inputs of the law (the text's tokens, bytes per token, difficulty and row length; parameters, those of embedding and
head, tokens read, tokens per step) and the outcome (`bits_per_byte` on the test set). Lines from other texts and machines can be
added.
"""

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
from scipy.optimize import least_squares

from hfgpt.api.calls import run_recipe
from hfgpt.files import read_json
from hfgpt.tokenization import load_tokenizer
from hfgpt.training.plan import LAW, Candidate, Law, Text, expected_bits_per_byte, rates, shape
from hfgpt.training.plan_measuring import difficulty_of
from hfgpt.training.pretraining import load_rows

# Depth, width, rows of a step at 256 tokens, and steps of the runs.
GRID = [
    *((4, 128, 8, steps) for steps in (100, 200, 400, 800)),
    *((2, 64, 8, 400), (2, 128, 8, 400), (4, 256, 8, 200), (4, 256, 8, 400)),
    *((4, 128, 2, 400), (4, 128, 32, 100)),
]
FIELDS = ("limit", "size", "alpha", "tokens", "beta", "half_value", "per_token", "batch")


def train(dataset: str, runs: Path) -> None:
    """Train the runs of the grid that have no line yet."""
    rows, passport = load_rows(dataset)
    tokenizer = load_tokenizer(Path(dataset) / "tokenizer")
    counts = passport.splits["train"]
    row_tokens = passport.settings["context_length"]
    tokens = len(rows["train"]) * row_tokens
    text = dict(text_tokens=tokens, bytes_per_token=counts["bytes"] / tokens, row_tokens=row_tokens)
    text |= dict(difficulty=difficulty_of(rows["train"], tokenizer), dataset=str(dataset))
    known = [json.loads(line) for line in runs.read_text().splitlines()] if runs.is_file() else []
    for depth, width, rows_per_step, steps in GRID:
        setting = dict(dataset=str(dataset), depth=depth, width=width, rows=rows_per_step * 256 // row_tokens, steps=steps)
        if any(setting.items() <= line.items() for line in known):
            continue
        with tempfile.TemporaryDirectory() as folder:
            given = dict(
                dataset=dataset, output_dir=f"{folder}/base", depth=depth, config_overrides=shape(depth, width), max_steps=steps
            )
            given |= dict(per_device_train_batch_size=setting["rows"], eval_strategy="no", save_strategy="no", **rates(width))
            run_recipe("pretrain", given, where="loss_law.py")
            metrics = read_json(Path(folder) / "base" / "metrics.json")
        batch = setting["rows"] * row_tokens
        line = setting | text | dict(parameters=metrics["parameters"], tables=2 * len(tokenizer) * width)
        line |= dict(tokens=batch * steps, batch=batch, bits_per_byte=metrics["test_bits_per_byte"])
        with runs.open("a") as file:
            file.write(json.dumps(line) + "\n")


def foreseen(line: dict, law: Law) -> float:
    text = Text(line["text_tokens"], line["bytes_per_token"], line["row_tokens"], line["difficulty"])
    candidate = Candidate(line["depth"], line["width"], {}, line["parameters"], line["tables"], 0.0)
    return expected_bits_per_byte(candidate, text, tokens=line["tokens"], batch=line["batch"], law=law)


def fit(runs: Path) -> None:
    """Least squares on the logarithms, starting from the current constants, which a few runs cannot move far."""
    lines = [json.loads(line) for line in runs.read_text().splitlines()]
    start = np.log([getattr(LAW, name) for name in FIELDS])

    def off(logarithms: np.ndarray) -> np.ndarray:
        law = Law(**dict(zip(FIELDS, np.exp(logarithms))))
        errors = [np.log(foreseen(line, law) / line["bits_per_byte"]) for line in lines]
        return np.array([*errors, *0.02 * (logarithms - start)])

    found = Law(**{name: float(f"{value:.3g}") for name, value in zip(FIELDS, np.exp(least_squares(off, start).x))})
    print("parameters    tokens   batch  came  before     now")
    for line in lines:
        before, now = (foreseen(line, law) for law in (LAW, found))
        what = f"{line['parameters']:>10,} {line['tokens']:>9,} {line['batch']:>7,}"
        print(f"{what} {line['bits_per_byte']:.3f}  {before:.3f}   {now:.3f}")
    print(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="runs/quickstart/data")
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--fit", type=lambda word: word == "true", default=False)
    args = parser.parse_args()
    if not args.fit:
        train(args.dataset, args.runs)
    fit(args.runs)


if __name__ == "__main__":
    main()
