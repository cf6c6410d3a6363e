"""Train a GPT on your own text in one command: a tokenizer, rows, a model and a report, within the minutes you give.

    python recipes/from_text.py 'my_texts/*.txt' --minutes 10 --output_dir runs/mine
    python recipes/from_text.py book.txt --minutes 3 --output_dir runs/book
    python recipes/from_text.py big.jsonl --text_field body --minutes 60 --output_dir runs/big

The vocabulary, size, context, steps and learning rates are chosen from the text, the minutes and this machine, and the reasons are
printed. If the text is too large for the time, a stated share is read, taken evenly from all of it. Each step's YAML is kept in the
folder and can be edited: tokenizer.yaml and data.yaml repeat their step, base/run.yaml repeats the training exactly, and
pretrain.yaml plans it anew. Started again, the same command continues where it stopped, or says that it is done.
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
from hfgpt.arguments.keys import as_words
from hfgpt.arguments.launching import launch, logger
from hfgpt.arguments.processes import time_of_start
from hfgpt.arguments.run import bfloat16_is_fast
from hfgpt.arguments.terminal import RESULT
from hfgpt.artifacts import METRICS_FILE
from hfgpt.data.passport import Passport
from hfgpt.data.reading import Source
from hfgpt.data.text_pieces import bounds, size_of
from hfgpt.files import read_json
from hfgpt.training.flops import measured_ceiling
from hfgpt.training.from_text import (
    BYTES,
    MANY_EPOCHS,
    Steps,
    choose_preparation,
    describe_preparation,
    last_screen,
    one_command,
)
from hfgpt.training.from_text_checks import find_texts, in_its_own_words
from hfgpt.training.next_steps import generate_command


def main(args: FromTextArguments) -> dict[str, float]:
    # 1. The sources, and what the minutes allow
    started, folder = time_of_start(), Path(args.output_dir)
    keys = {key: value for key, value in args.given().items() if key != "sources"}
    words = [word for key, value in keys.items() for word in as_words(key, value)]
    sources = find_texts(args.sources, text_documents=args.text_documents, words=words)
    num_bytes = size_of(sources)
    steps = Steps.in_folder(folder, asked={**args.asked(), BYTES: num_bytes}, overwrite=args.overwrite)
    with steps.removed_if_nothing_was_made(), in_its_own_words(minutes=args.minutes):
        return make(args, steps, sources, num_bytes=num_bytes, started=started)


def make(args: FromTextArguments, steps: Steps, sources: list[Source], *, num_bytes: int, started: float) -> dict[str, float]:
    folder = steps.folder
    if not steps.has("tokenizer"):
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        speed = measured_ceiling(device, torch.bfloat16 if bfloat16_is_fast() else torch.float32)
        preparation = choose_preparation(num_bytes, seconds=60 * args.minutes, flops_per_second=speed)
        logger.info("\n".join(describe_preparation(num_bytes, preparation, minutes=args.minutes)))
        keys = ("text_documents", "text_field", "personal_data")
        reading = {**args.values_of(*keys), "on_error": args.on_error if args.on_error != "stop" else None}
        if preparation.read_bytes is not None:
            reading |= bounds(sources, most=preparation.read_bytes)
        steps.write_preparation(preparation, sources=args.sources, reading=reading, card=args.card)

    # 2. Tokenizer and rows
    with one_command():
        steps.make("tokenizer", run_recipe)
        steps.make("data", run_recipe)

    # 3. The model, in the time that is left
    steps.write_training(seconds=60 * args.minutes - (time.time() - started), card=args.card, cpu_threads=args.cpu_threads)
    with one_command():
        threads = {"cpu_threads": args.cpu_threads} if args.cpu_threads else {}
        run_recipe("pretrain", {**steps.settings("pretrain"), **threads, "resume": args.resume}, where="pretrain.yaml")

    # 4. The result
    metrics, passport = read_json(folder / "base" / METRICS_FILE), Passport.load(folder / "data")
    opening = steps.prompt()
    commands = [
        generate_command(folder / "base", prompt=opening),
        command_line("evaluate", folder / "base", "--dataset", folder / "data"),
    ]
    if (metrics.get("epochs") or 0) <= MANY_EPOCHS or passport.settings.get("read_share"):  # else more time would be no use
        # As this one was asked for: its texts may be read in another way otherwise, or its card lack a licence.
        longer = args.given(minutes=f"{4 * args.minutes:g}", output_dir=f"{folder}-longer", overwrite=False, resume="auto")
        names = longer.pop("sources")
        commands.append(command_line("from-text", *names, *(word for key in longer for word in as_words(key, longer[key]))))
    lines = last_screen(metrics, passport, folder=folder, minutes=args.minutes, opening=opening or " ", commands=commands)
    logger.log(RESULT, "\n".join(["", *lines]))
    return metrics


if __name__ == "__main__":
    launch(main, FromTextArguments)
