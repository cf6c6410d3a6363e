"""The cost of preparing data, compared with transformers' run_clm.py on the same text, and as the text grows.

    python benchmarks/data_pipeline.py [--text '../shared/data/english_novels/train.txt'] [--rounds 3] [--filters none light]
    taskset -c 0 python benchmarks/data_pipeline.py                  # on one core

Three tables. First, whole processes, alternating: recipes/prepare_data.py with each preset of filters, and a process that tokenises
and groups the same text with the same tokenizer as run_clm.py does (`load_dataset("text")`, a batched `map` that tokenises, a
batched `map` that joins and cuts). Then, packing one long document and training a tokenizer on text without spaces: the seconds per
million should stay constant.
"""

import argparse
import glob
import itertools
import random
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import fields
from pathlib import Path

RECIPES = Path(__file__).resolve().parents[1] / "recipes"
NOVELS = "../shared/data/english_novels/train.txt"


def run_clm(tokenizer: str, block_size: int, files: list[str]) -> None:
    from datasets import load_dataset
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tokenizer)

    def tokenise(batch):
        return tokenizer(batch["text"])

    def group(batch):
        joined = {name: list(itertools.chain.from_iterable(lists)) for name, lists in batch.items()}
        end = len(joined["input_ids"]) // block_size * block_size
        blocks = {name: [ids[start : start + block_size] for start in range(0, end, block_size)] for name, ids in joined.items()}
        return blocks | {"labels": list(blocks["input_ids"])}

    with tempfile.TemporaryDirectory() as cache_dir:
        texts = load_dataset("text", data_files={"train": files}, cache_dir=cache_dir)["train"]
        rows = texts.map(tokenise, batched=True, remove_columns=["text"]).map(group, batched=True)
        print(f"{len(rows):,} rows")


def measure(command: list[str]) -> tuple[float, float, float]:
    """Wall seconds, CPU seconds and peak MiB of one process, which must succeed."""
    start = time.perf_counter()
    # A separate process for each, because the peak covers all children so far.
    code = (
        "import resource, subprocess, sys; done = subprocess.run(sys.argv[1:], capture_output=True, text=True); "
        "sys.stderr.write(done.stderr if done.returncode else ''); used = resource.getrusage(resource.RUSAGE_CHILDREN); "
        "print(used.ru_utime + used.ru_stime, used.ru_maxrss / 1024); sys.exit(done.returncode)"
    )
    done = subprocess.run([sys.executable, "-c", code, *command], check=True, stdout=subprocess.PIPE, text=True)
    cpu, mib = map(float, done.stdout.split())
    return time.perf_counter() - start, cpu, mib


def compare(files: list[str], *, presets: list[str], rounds: int, context_length: int, vocab_size: int) -> None:
    from hfgpt.arguments.documents import PrepareArguments

    has_presets = "filters" in {one.name for one in fields(PrepareArguments)}
    with tempfile.TemporaryDirectory() as folder:
        reading = ["--sources", *files, "--text_documents", "paragraph"]
        tokenizer = f"{folder}/tokenizer"
        train = [sys.executable, str(RECIPES / "train_tokenizer.py"), *reading, "--vocab_size", str(vocab_size)]
        subprocess.run([*train, "--output_dir", tokenizer], check=True, stdout=subprocess.DEVNULL)
        ours = [sys.executable, str(RECIPES / "prepare_data.py"), *reading, "--tokenizer", tokenizer]
        ours += ["--context_length", str(context_length), "--output_dir", f"{folder}/data", "--overwrite", "true"]
        theirs = [sys.executable, __file__, "--as_run_clm", tokenizer, str(context_length), *files]
        sides = {f"prepare_data.py, filters {name}": [*ours, "--filters", name] for name in presets} if has_presets else {}
        sides = (sides or {"prepare_data.py": ours}) | {"as run_clm.py": theirs}
        measured: dict[str, list[tuple[float, float, float]]] = {name: [] for name in sides}
        for _, (name, command) in itertools.product(range(rounds), sides.items()):
            measured[name].append(measure(command))
    num_bytes = sum(Path(file).stat().st_size for file in files)
    print(f"{num_bytes:,} bytes, paragraphs, rows of {context_length}; the minimum of {rounds} runs")
    print("wall s | CPU s | peak MiB | process")
    least = {name: tuple(map(min, zip(*runs, strict=True))) for name, runs in measured.items()}
    for name, (wall, cpu, mib) in least.items():
        print(f"{wall:6.1f} | {cpu:5.1f} | {mib:8,.0f} | {name}")
    *names, theirs = least
    for name in names:
        ratios = [ours / other for ours, other in zip(least[name], least[theirs], strict=True)]
        print(f"{ratios[0]:6.2f} | {ratios[1]:5.2f} | {ratios[2]:8.2f} | {name} / {theirs}")


def pack_long_documents() -> None:
    from hfgpt.data.packing import PackingCounts, cut_windows, pack

    generator = random.Random(0)
    print("\npacking one document\nCPU s | per million tokens | tokens, rows")
    for millions, context_length in itertools.product((1, 2, 5, 10), (64, 256)):
        document = generator.choices(range(2, 30_000), k=millions * 1_000_000)
        given = dict(separator=0, pad=1, counts=PackingCounts())
        kinds = {
            f"packed to {context_length}": pack([document], context_length=context_length, **given),
            f"windows of {context_length}": cut_windows([document], window=context_length, stride=context_length - 1, **given),
        }
        for kind, blocks in kinds.items():
            seconds = cpu_seconds(lambda: sum(len(block.input_ids) for block in blocks))  # noqa: B023
            print(f"{seconds:5.2f} | {seconds / millions:18.3f} | {millions:2} million, {kind}")


def train_without_spaces() -> None:
    from hfgpt.tokenization import encode_texts, train_bpe

    generator = random.Random(0)
    texts = {
        "DNA": "".join(generator.choices("ACGT", k=1_000_000)),
        "Chinese characters": "".join(chr(0x4E00 + int(generator.paretovariate(0.8)) % 3000) for _ in range(333_334)),
    }
    print("\na tokenizer of 2,048 tokens from one line without spaces\ntraining, CPU s | per MB | encoding, CPU s | per MB | text")
    for name, text in texts.items():
        for share in (8, 4, 2, 1):
            part = text[: len(text) // share]
            tokenizers = []
            training = cpu_seconds(lambda: tokenizers.append(train_bpe([part], vocab_size=2048)))  # noqa: B023
            encoding = cpu_seconds(lambda: encode_texts(tokenizers[0], [part]))  # noqa: B023
            megabytes = len(part.encode()) / 1e6
            print(
                f"{training:15.2f} | {training / megabytes:6.2f} | {encoding:15.2f} | {encoding / megabytes:6.2f} | "
                f"{megabytes:.3f} MB, {name}"
            )


def cpu_seconds(call) -> float:
    def used() -> float:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return usage.ru_utime + usage.ru_stime

    start = used()
    call()
    return used() - start


def main(args: argparse.Namespace) -> None:
    files = sorted(itertools.chain.from_iterable(map(glob.glob, args.text)))
    if files:
        compare(files, presets=args.filters, rounds=args.rounds, context_length=args.context_length, vocab_size=args.vocab_size)
    else:
        print(
            f"no file matches {' '.join(args.text)} (looked from {Path.cwd()}); give a text with --text to compare with run_clm.py"
        )
    pack_long_documents()
    train_without_spaces()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--as_run_clm"]:
        run_clm(sys.argv[2], int(sys.argv[3]), sys.argv[4:])
        sys.exit()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", nargs="+", default=[NOVELS], help="Files or patterns.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--filters", nargs="+", default=["none", "light"], help="Presets of filters to measure.")
    parser.add_argument("--context_length", type=int, default=256)
    parser.add_argument("--vocab_size", type=int, default=8192)
    main(parser.parse_args())
