"""How well a time budget is kept, and how well its loss is predicted: whole commands, timed from outside.

    python benchmarks/time_budget.py                                          # 50 KB, 1 MB and 20 MB, 60 and 180 seconds each
    python benchmarks/time_budget.py --sizes 1000000 --seconds 180 600 --from_text true
    python benchmarks/time_budget.py --sizes 300000000 --seconds 600 --from_text true      # the novels, repeated

The texts are the beginnings of a text (the novels, paragraph by paragraph). Without --from_text the rows are prepared first, which
is not timed, and `recipes/pretrain.py --time_budget` is; with it, the whole of `recipes/from_text.py`. "Took" is the time of the
process from start to end; cores is its CPU seconds per second, which is below the number of threads if other programs use the
machine, and then the figures are meaningless.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RECIPES = Path(__file__).resolve().parents[1] / "recipes"
HEAD = (
    "| text, bytes | given, s | predicted, s | took, s | off | parameters | tokens | epochs | predicted bits per byte | actual | "
    "off "
    "| cores |",
    "|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
)


def run(name: str, *words: object) -> tuple[float, float]:
    """Seconds and CPU seconds of a recipe in a separate process, which must succeed."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run([sys.executable, str(RECIPES / name), *map(str, words)], capture_output=True, text=True)
    seconds = time.perf_counter() - start
    if done.returncode:
        sys.exit(f"{name} failed:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def write_text(path: Path, source: Path, *, num_bytes: int) -> None:
    """The beginning of the source, repeated if it is shorter."""
    text = source.read_bytes()
    with path.open("wb") as file:
        left = num_bytes
        while left > 0:
            file.write(text[:left])
            left -= len(text)


def prepared(text: Path, folder: Path) -> Path:
    """Rows of the text, as from_text.py would have them on a laptop."""
    size = text.stat().st_size
    vocab_size, length = (1024, 64) if size < 2e5 else (4096, 256)
    share = 0.1 if size < 1e5 else min(0.05, 2e5 / size)
    held_out = ("--validation_share", share, "--test_share", share)
    words = ("--sources", text, "--text_documents", "paragraph", "--vocab_size", vocab_size, *held_out)
    run("train_tokenizer.py", *words, "--output_dir", folder / "tokenizer")
    run("prepare_data.py", "--tokenizer", folder / "tokenizer", "--context_length", length, "--output_dir", folder / "data")
    return folder / "data"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, default=Path("../shared/data/english_novels/train.txt"))
    parser.add_argument("--sizes", type=int, nargs="+", default=[50_000, 1_000_000, 20_000_000], help="bytes of text")
    parser.add_argument("--seconds", type=float, nargs="+", default=[60, 180])
    parser.add_argument("--from_text", type=lambda word: word == "true", default=False)
    parser.add_argument("--keys", nargs="*", default=[], help="further arguments for the recipe, such as --keys=--cpu_threads=1")
    args = parser.parse_args()
    print("\n".join(HEAD), flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        for size in args.sizes:
            folder = Path(temporary) / str(size)
            folder.mkdir()
            text = folder / "text.txt"
            write_text(text, args.text, num_bytes=size)
            data = None if args.from_text else prepared(text, folder)
            for seconds in args.seconds:
                out = folder / f"{seconds:g}"
                if data is None:
                    words = (text, "--text_documents", "paragraph", "--minutes", seconds / 60, "--output_dir", out)
                    took, cpu = run("from_text.py", *words, *args.keys)
                    out = out / "base"
                else:
                    words = ("--dataset", data, "--time_budget", seconds, "--output_dir", out)
                    took, cpu = run("pretrain.py", *words, *args.keys)
                metrics = json.loads((out / "metrics.json").read_text())
                expected, came = metrics["plan"]["expected"], metrics["test_bits_per_byte"]
                foreseen = seconds if data is None else expected["seconds"]
                foreseen_bits = expected["bits_per_byte"]
                cells = [f"{size:,}", f"{seconds:g}", f"{foreseen:.0f}", f"{took:.0f}", f"{100 * (took / seconds - 1):+.1f} %"]
                cells += [f"{expected['parameters']:,}", f"{expected['tokens']:,}", f"{expected['epochs']:.1f}"]
                cells += [f"{foreseen_bits:.3f}", f"{came:.3f}", f"{100 * (came / foreseen_bits - 1):+.1f} %", f"{cpu / took:.2f}"]
                print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
