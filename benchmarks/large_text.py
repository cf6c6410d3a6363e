"""Memory and time for preparing data as the text grows: 10 MB to 2 GB, each command measured with all its processes.

    python benchmarks/large_text.py [--megabytes 10 100 1000] [--text ../shared/data/english_novels/train.txt]
    python benchmarks/large_text.py --write 1000 novels-1000.txt       # only the text

The text is the novels repeated, with words replaced in each copy (different words for each), so that no paragraph is a copy of
another and every step has work to do. Memory is the peak over time of the sum over all processes of a command (RSS, every 20 ms);
shared pages count for each process, so it is an upper bound.
"""

import argparse
import itertools
import json
import re
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil

RECIPES = Path(__file__).resolve().parents[1] / "recipes"
NOVELS = "../shared/data/english_novels/train.txt"
WORD = re.compile(r"([a-z]{4,})")


def write(path: Path, text: str, *, megabytes: int) -> None:
    """Paragraphs of at least this many bytes in total: those of the text, then of copies in which one word in four is replaced."""
    paragraphs = "".join(f"{paragraph}\n\n" for paragraph in text.split("\n\n") if paragraph.strip())
    pieces = WORD.split(paragraphs)  # alternately the text between words, and a word
    names = sorted(set(pieces))
    number_of = {piece: number for number, piece in enumerate(names)}
    numbers = np.array([number_of[piece] for piece in pieces])
    del pieces, number_of
    words = np.unique(numbers[1::2])
    written = 0
    with path.open("wb") as file:
        for seed in itertools.count():
            generator = np.random.default_rng(seed)
            other = np.arange(len(names))
            other[words] = generator.permutation(words)
            changed = numbers.copy()
            exchanged = 2 * np.flatnonzero(generator.random(len(numbers) // 2) < (0.25 if seed else 0)) + 1
            changed[exchanged] = other[numbers[exchanged]]
            copy = "".join(map(names.__getitem__, changed.tolist())).encode()
            if written + len(copy) >= megabytes * 1_000_000:
                end = copy.find(b"\n\n", megabytes * 1_000_000 - written)
                file.write(copy[: end + 2] if end >= 0 else copy)
                return
            written += file.write(copy)


def measure(command: list[str]) -> tuple[float, float, float, float]:
    """Wall seconds, CPU seconds, and peak MiB of all processes together and of the largest one. The command must succeed."""
    start, together, alone, cpu = time.perf_counter(), 0, 0, 0.0
    with tempfile.TemporaryFile("w+") as said:
        process = psutil.Popen(command, stdout=said, stderr=said)
        while process.poll() is None:
            used = [_used(one) for one in [process, *_children(process)]]
            together, alone = max(together, sum(size for size, _ in used)), max(alone, *(size for size, _ in used))
            cpu = max(cpu, sum(seconds for _, seconds in used))
            time.sleep(0.02)
        said.seek(0)
        if process.returncode:
            raise SystemExit(said.read())
    return time.perf_counter() - start, cpu, together / 2**20, alone / 2**20


def _children(process: psutil.Popen) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.Error:
        return []


def _used(process: psutil.Process) -> tuple[int, float]:
    """Bytes and CPU seconds of a process; zero if it no longer exists."""
    try:
        times = process.cpu_times()
        return process.memory_info().rss, times.user + times.system
    except psutil.Error:
        return 0, 0.0


def main(args: argparse.Namespace) -> None:
    text = Path(args.text).read_text(encoding="utf-8")
    if args.write:
        write(Path(args.write[1]), text, megabytes=int(args.write[0]))
        return
    print("MB | command | seconds | CPU s | CPU s per 100 MB | MiB, all processes | MiB, the largest")
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        for megabytes in args.megabytes:
            path, tokenizer = Path(folder) / "text.txt", f"{folder}/tokenizer"
            write(path, text, megabytes=megabytes)
            reading = ["--sources", str(path), "--text_documents", "paragraph", *args.more]
            commands = {
                "tokenizer": ["train_tokenizer.py", *reading, "--vocab_size", "8192", "--output_dir", tokenizer],
                "data": ["prepare_data.py", *reading, "--tokenizer", tokenizer, "--context_length", "256",
                         "--output_dir", f"{folder}/data"],
            }  # fmt: skip
            for name, (recipe, *words) in commands.items():
                words = [sys.executable, str(RECIPES / recipe), *words, "--overwrite", "true"]
                seconds, cpu, together, alone = measure(words)
                figures = f"{seconds:.0f} | {cpu:.0f} | {100 * cpu / megabytes:.1f} | {together:,.0f} | {alone:,.0f}"
                print(f"{megabytes} | {name} | {figures}", flush=True)
            steps = json.loads((Path(folder) / "data" / "passport.json").read_text())["steps"]
            print("   " + ", ".join(f"{one['step']} {one.get('documents_out', one.get('rows')):,}" for one in steps), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", default=NOVELS, help="A text of paragraphs.")
    parser.add_argument("--megabytes", type=int, nargs="+", default=[10, 100, 1000])
    parser.add_argument("--write", nargs=2, metavar=("MEGABYTES", "FILE"), help="Write such a text and exit.")
    parser.add_argument("--folder", help="Folder for texts and results (default: a temporary one).")
    parser.add_argument("--more", nargs=argparse.REMAINDER, default=[], help="Further arguments for both commands; must come last.")
    main(parser.parse_args())
