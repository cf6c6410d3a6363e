"""Deduplicating documents and short texts: what is found, what is lost, and the cost as their number grows.

    python benchmarks/deduplication.py [--documents 100000] [--processes 1 2]
    python benchmarks/deduplication.py --documents 2000000 --processes 1 --texts     # memory

Documents of 1 KB: words of real text in random order, with planted exact copies and near copies (Jaccard similarity 0.908;
tests/data/planted_copies.py). Texts: lines of 14 words with near copies, and texts that contain others, split into four fifths that
are searched for copies of the rest; then all of them are grouped. Each table row is a separate process.
"""

import argparse
import random
import subprocess
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "data"))
NOVELS = "../shared/data/english_novels/train.txt"
SMS = "../shared/data/sms_spam/SMSSpamCollection.tsv"


def peak_mib() -> float:
    """Of this process. (`ru_maxrss` begins with what the process had that started this one.)"""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def measure_documents(path: str, number: int, num_proc: int) -> None:
    """One line of the table of documents."""
    from planted_copies import KINDS

    from hfgpt.data.document_copies import find_document_copies

    originals: list[int] = []

    def batches():
        with Path(path).open(encoding="utf-8", newline="\n") as file:
            while lines := list(islice(file, 1000)):
                rows = [line.rstrip("\n").split("\t") for line in lines]
                originals.extend(int(original) for original, _ in rows)
                yield [text.replace("\v", "\n") for _, text in rows]

    start, before = time.perf_counter(), time.process_time()
    copies = find_document_copies(batches(), number, num_proc=num_proc)
    seconds, cpu = time.perf_counter() - start, time.process_time() - before
    found, total = dict.fromkeys(KINDS, 0), dict.fromkeys(KINDS, 0)
    for index, original in enumerate(originals):
        kind = KINDS[index % 20] if original != index else "distinct"
        total[kind] += 1
        found[kind] += int((copies.exact if kind == "exact" else copies.near)[index] == original)
    print(
        f"{number:9,} | {num_proc:9} | {seconds:7.1f} | {cpu:6.1f} | {peak_mib():8,.0f} | {found['exact'] / total['exact']:8.2%} | "
        f"{found['near'] / total['near']:7.3%} | {1 - found['distinct'] / total['distinct']:.3%}",
        flush=True,
    )


def measure_texts(path: str) -> None:
    """One line of the table of short texts."""
    from hfgpt.data.near_copies import find_copies, similar_groups

    texts = Path(path).read_text(encoding="utf-8").splitlines()
    before = peak_mib()
    cut = len(texts) * 4 // 5
    times = [time.process_time()]
    found = len(find_copies(texts[:cut], texts[cut:]))
    times.append(time.process_time())
    groups = len(set(similar_groups(texts)))
    times.append(time.process_time())
    one, other = times[1] - times[0], times[2] - times[1]
    print(f"{len(texts):9,} | {found:6,} | {one:5.1f} | {groups:7,} | {other:5.1f} | {peak_mib() - before:8,.0f}", flush=True)


def short_texts(words: list[str], number: int) -> list[str]:
    generator, texts, start = random.Random(0), [], 0
    while len(texts) < number:
        line = words[start : start + 14]
        start = (start + 14) % (len(words) - 14)
        texts.append(" ".join(line))
        if generator.random() < 0.05:
            changed = [*line]
            changed[generator.randrange(14)] = generator.choice(words)
            texts.append(" ".join(changed))
        if generator.random() < 0.02:
            texts.append(" ".join([*generator.choices(words, k=10), *line, *generator.choices(words, k=10)]))
    generator.shuffle(texts)
    return texts


def run_alone(*words: object) -> None:
    subprocess.run([sys.executable, __file__, *map(str, words)], check=True)


def main(args: argparse.Namespace) -> None:
    from planted_copies import planted_copies

    words = Path(args.text).read_text(encoding="utf-8").split()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "documents"
        with path.open("w", encoding="utf-8", newline="\n") as file:
            for text, _, original in planted_copies(words, args.documents):
                file.write(f"{original}\t{text}\n".replace("\n ", "\v "))
        size = path.stat().st_size / args.documents
        print(f"documents of {size:,.0f} bytes")
        print("documents | processes | seconds | CPU s  | peak MiB | exact    | near    | distinct lost", flush=True)
        for num_proc in args.processes:
            run_alone("--one_documents", path, args.documents, num_proc)
    if args.texts:
        print("\nshort texts\n    texts | copies | CPU s |  groups | CPU s | MiB more")
        sms = [line.partition("\t")[2] for line in Path(SMS).read_text(encoding="utf-8").splitlines()]
        with tempfile.TemporaryDirectory() as folder:
            for number in args.texts:
                path = Path(folder) / "texts"
                path.write_text("\n".join(short_texts(words, number) if number else sms), encoding="utf-8")
                run_alone("--one_texts", path)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one_documents"]:
        measure_documents(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
    elif sys.argv[1:2] == ["--one_texts"]:
        measure_texts(sys.argv[2])
    else:
        parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
        parser.add_argument("--text", default=NOVELS, help="A text whose words make up the documents.")
        parser.add_argument("--documents", type=int, default=100_000)
        parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
        parser.add_argument("--texts", type=int, nargs="*", default=[0, 10_000, 100_000], help="Numbers of texts; 0 means the SMS.")
        main(parser.parse_args())
