"""Train a GPT on your own text in one command: a tokenizer, rows, a model and a report, within the minutes you give.

    python recipes/from_text.py 'my_texts/*.txt' --minutes 10 --output_dir runs/mine
    python recipes/from_text.py book.txt --minutes 3 --output_dir runs/book
    python recipes/from_text.py big.jsonl --text_field body --minutes 60 --output_dir runs/big

The vocabulary, size, context, steps and learning rates are chosen from the text, the minutes and this machine, and the reasons are
printed. If the text is too large for the time, a stated share is read, taken evenly from all of it. Each step's YAML is kept in the
folder: tokenizer.yaml, data.yaml and pretrain.yaml each repeat their step, and can be edited. Started again, the same command
continues where it stopped, or says that it is done. docs/from_text.md answers common questions.
"""

if __name__ == "__main__":  # --help and mistakes are answered here, before the imports below
    from hfgpt.arguments.launching import check_command_line

    check_command_line("hfgpt.arguments.from_text:FromTextArguments")

import time
from pathlib import Path

import torch

from hfgpt.api.calls import run_recipe
from hfgpt.arguments.commands import command_line
from hfgpt.arguments.from_text import FromTextArguments
from hfgpt.arguments.launching import launch, logger
from hfgpt.arguments.processes import time_of_start
from hfgpt.arguments.run import bfloat16_is_fast
from hfgpt.arguments.terminal import RESULT
from hfgpt.data.passport import Passport
from hfgpt.data.sources import find_sources
from hfgpt.data.text_pieces import read_in_pieces, size_of
from hfgpt.files import read_json
from hfgpt.training.flops import measured_ceiling
from hfgpt.training.from_text import (
    Steps,
    choose_preparation,
    describe_preparation,
    last_screen,
    one_command,
)
from hfgpt.training.next_steps import generate_command


def main(args: FromTextArguments) -> dict[str, float]:
    # 1. The sources, and what the minutes allow
    started, folder = time_of_start(), Path(args.output_dir)
    # A missing source is a mistake that should leave no folder behind.
    sources = find_sources(args.sources) if args.overwrite or not (folder / "tokenizer.yaml").is_file() else []
    steps = Steps.in_folder(folder, asked=args.asked(), overwrite=args.overwrite)
    if not steps.has("tokenizer"):
        names = args.sources
        num_bytes = size_of(sources)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        speed = measured_ceiling(device, torch.bfloat16 if bfloat16_is_fast() else torch.float32)
        preparation = choose_preparation(num_bytes, seconds=60 * args.minutes, flops_per_second=speed)
        logger.info("\n".join(describe_preparation(num_bytes, preparation, minutes=args.minutes)))
        reading = {"text_documents": args.text_documents, "text_field": args.text_field}
        if preparation.read_bytes is not None:
            names, reading = read_in_pieces(sources, folder, most=preparation.read_bytes, reading=reading)
        steps.write_preparation(preparation, sources=names, reading=reading, card=args.card)

    # 2. Tokenizer and rows
    with one_command():
        run_recipe("train_tokenizer", steps.settings("tokenizer"), where="tokenizer.yaml")
        run_recipe("prepare_data", steps.settings("data"), where="data.yaml")

    # 3. The model, in the time that is left
    steps.write_training(seconds=60 * args.minutes - (time.time() - started), card=args.card)
    run_recipe("pretrain", {**steps.settings("pretrain"), "resume": args.resume}, where="pretrain.yaml")

    # 4. The result
    metrics, passport = read_json(folder / "base" / "metrics.json"), Passport.load(folder / "data")
    commands = [
        generate_command(folder / "base", prompt=steps.prompt()),
        command_line("evaluate", folder / "base", "--dataset", folder / "data"),
        command_line("from-text", *args.sources, "--minutes", f"{4 * args.minutes:g}", "--output_dir", f"{folder}-longer"),
    ]
    logger.log(RESULT, "\n".join(["", *last_screen(metrics, passport, folder=folder, minutes=args.minutes, commands=commands)]))
    return metrics


if __name__ == "__main__":
    launch(main, FromTextArguments)
