"""What each data preparation step is worth: novels as a crawler finds them, prepared with and without it, then trained identically.

    python benchmarks/novels.py [--folder runs/novels] [--arms raw filters copies all] [--max_steps 600]

A raw corpus is made from ../shared/data/english_novels with a seed: passages of 26 novels, plus the typical faults of web corpora,
in the shares below. Before any cleaning, made-up secrets are planted in the raw documents once, 4, 16 and 64 times, and so is a
"benchmark": passages of other novels. Each arm trains a tokenizer, prepares rows and trains the same model for the same number of
equal steps, so in equal time. All are measured on held-out novels, and on the benchmark, which the raw corpus leaks. The table
shows what went in, what was left, bits per byte, and how many of the secrets each model leaks.
"""

import argparse
import json
import random
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import hfgpt
from hfgpt.data.passport import Passport
from hfgpt.evaluation.loading import load
from hfgpt.hygiene.exposure import canary_report
from hfgpt.hygiene.planted_secrets import make_canaries

ROOT = Path(__file__).resolve().parents[1]
NOVELS = ROOT.parent / "shared" / "data" / "english_novels"
CONFIGS = ROOT / "recipes" / "configs" / "novels"
PASSAGE_CHARACTERS = 1_500
TRAINING_PASSAGES = 1_600
HELD_OUT_CHARACTERS = 400_000
# Shares of the passages. Lee et al. (2022), Deduplicating Training Data Makes Language Models Better: 3 to 14 % near copies in C4,
# RealNews and LM1B, a sentence of 61 words more than 60,000 times. Elazar et al. (2024), What's In My Big Data?: about half of the
# documents of RedPajama are duplicates.
NEAR_COPIES, EXACT_COPIES, NOTICES, MOJIBAKE, JUNK, CONTACTS, LEAKED = 0.10, 0.10, 0.10, 0.03, 0.05, 0.02, 0.02
NOTICE = (
    "This text is made available at no cost and with almost no restrictions whatsoever. You may copy it, give it away or use it "
    "again under the terms of the notice that is included with it. If you are not located in the country of its first publication, "
    "you have to check the laws of the place where you are before you use this text. Corrections are welcome and go to the editors "
    "who keep a list of all changes that were made since the first edition of this file."
)
CANARY_COUNTS, PER_COUNT = (1, 4, 16, 64), 8

# Steps to switch off in the configs, which have all of them on: for documents, and for training documents.
NO_FILTERS = ["--filters", "none", "--repair_text", "false", "--personal_data", "keep", "--secrets", "keep"]
NO_COPIES = ["--deduplicate", "none", "--repeated_passage_bytes", "100000000"]
NO_CHECKS = ["--leaks", "ignore"]
ARMS: dict[str, tuple[list[str], list[str]]] = {
    "raw": ([*NO_FILTERS, *NO_COPIES], NO_CHECKS),
    "filters": (NO_COPIES, NO_CHECKS),
    "copies": (NO_FILTERS, []),
    "all": ([], []),
}


def passages(text: str) -> Iterator[str]:
    """Paragraphs together up to about `PASSAGE_CHARACTERS`; none crosses the boundary of a book."""
    for book in re.split(r"^<\|endoftext\|>$", text, flags=re.MULTILINE):
        passage = ""
        for paragraph in book.split("\n\n"):
            passage += paragraph.strip() + "\n\n"
            if len(passage) >= PASSAGE_CHARACTERS:
                yield passage
                passage = ""


def make_raw(folder: Path, *, seed: int = 0) -> None:
    """`raw.jsonl`, `held_out.jsonl` and `benchmark.jsonl`; the same files for the same seed."""
    generator = random.Random(seed)
    ours = list(passages((NOVELS / "train.txt").read_text(encoding="utf-8")))
    others = list(passages((NOVELS / "test.txt").read_text(encoding="utf-8")))
    chosen = generator.sample(ours, TRAINING_PASSAGES)
    generator.shuffle(others)
    third = list(passages((NOVELS / "valid.txt").read_text(encoding="utf-8")))  # of books in neither set
    benchmark = generator.sample(third, round(LEAKED * len(chosen)))
    held_out = others[: HELD_OUT_CHARACTERS // PASSAGE_CHARACTERS]

    def some(share: float) -> list[str]:
        return generator.sample(chosen, round(share * len(chosen)))

    documents = [("novel", text) for text in chosen]
    documents += [("exact copy", text) for text in some(EXACT_COPIES)]
    documents += [("near copy", with_other_words(text, generator)) for text in some(NEAR_COPIES)]
    documents += [("mojibake", text.replace("e", "é").encode().decode("cp1252", "replace")) for text in some(MOJIBAKE)]
    documents += [("junk", junk(generator)) for _ in some(JUNK)]
    documents += [("leaked", text) for text in benchmark]
    for index in generator.sample(range(len(chosen)), round(NOTICES * len(chosen))):
        documents[index] = ("novel with notice", f"{NOTICE}\n\n{chosen[index]}")
    for index in generator.sample(range(len(chosen)), round(CONTACTS * len(chosen))):
        kind, text = documents[index]
        documents[index] = (f"{kind}, contact", text + contact(generator))
    canaries = make_canaries(CANARY_COUNTS, per_count=PER_COUNT, seed=seed)
    documents += [("planted secret", canary.text) for canary in canaries for _ in range(canary.count)]
    generator.shuffle(documents)
    parts = {
        "raw": documents,
        "held_out": [("novel", text) for text in held_out],
        "benchmark": [("novel", text) for text in benchmark],
    }
    for name, part in parts.items():
        lines = [json.dumps({"text": text, "kind": kind}, ensure_ascii=False) + "\n" for kind, text in part]
        (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")


def with_other_words(text: str, generator: random.Random) -> str:
    """The text with one word in a hundred replaced by another of its words."""
    words = text.split(" ")
    for index in generator.sample(range(len(words)), max(1, len(words) // 100)):
        words[index] = generator.choice(words)
    return " ".join(words)


def junk(generator: random.Random) -> str:
    """A page without its text: a menu, a table of numbers, one line repeated."""
    menu = ["Home", "About", "Contact", "Login", "Next page", "Previous page", "Share", "Print", "Top"]
    lines = {
        "menu": [" | ".join(generator.sample(menu, 5)) for _ in range(12)],
        "numbers": ["\t".join(str(generator.randrange(10**5)) for _ in range(8)) for _ in range(25)],
        "again": [generator.choice(["Click here to read more...", "Loading, please wait", "All rights reserved"])] * 40,
    }
    return "\n".join(lines[generator.choice(list(lines))]) + "\n"


def contact(generator: random.Random) -> str:
    """A made-up address; the domain is reserved by RFC 2606."""
    name = "".join(generator.choice("abcdefghiklmnoprstuw") for _ in range(7))
    return f"\n\nWrite to {name}@example.org or call +44 20 7946 {generator.randrange(10_000):04d}.\n"


def run_arm(name: str, folder: Path, *, max_steps: int) -> None:
    """Tokenizer, rows and model of one arm; existing results are reused."""
    arm, (of_documents, of_training) = folder / name, ARMS[name]

    def recipe(script: str, config: str, *words: object) -> None:
        command = [sys.executable, str(ROOT / "recipes" / script), str(CONFIGS / config), *map(str, words)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)}\n{done.stdout}\n{done.stderr}")

    made = ["--sources", folder / "raw.jsonl", "--split_by", "document", *of_documents]
    recipe("train_tokenizer.py", "tokenizer.yaml", *made, "--output_dir", arm / "tokenizer")
    against = [] if of_training else ["--decontaminate_against", folder / "benchmark.jsonl"]
    words = ["--tokenizer", arm / "tokenizer", "--output_dir", arm / "data", *of_training, *against]
    recipe("prepare_data.py", "data.yaml", *words)
    held_out = ["--dataset", arm / "data", "--max_steps", max_steps, "--cpu_threads", 1]
    recipe("pretrain.py", "pretrain.yaml", *held_out, "--output_dir", arm / "base")


def figures_of(name: str, folder: Path, *, seed: int = 0) -> dict[str, object]:
    """The input of an arm, what was left of it, and the quality of its model."""
    arm = folder / name
    passport = Passport.load(arm / "data")
    metrics = json.loads((arm / "base" / "metrics.json").read_text())
    found = {}
    for text in ("held_out", "benchmark"):
        measured = hfgpt.evaluate(arm / "base", text=folder / f"{text}.jsonl", stride=128, output_dir=arm / text)
        found[text] = next(value for key, value in measured.metrics.items() if key.endswith("bits_per_byte"))
    loaded = load(str(arm / "base"), task="text-generation")
    canaries = make_canaries(CANARY_COUNTS, per_count=PER_COUNT, seed=seed)
    secrets = canary_report(loaded.model, loaded.tokenizer, canaries, num_references=255, seed=seed)["by_count"]
    train = passport.splits["train"]
    return {
        "bytes_in": sum(one["text_bytes"] for one in passport.inputs),
        "documents_in": sum(one["documents"] for one in passport.inputs),
        "train_documents": train["documents"],
        "train_tokens": train["tokens"],
        "test_bits_per_byte": metrics["test_bits_per_byte"],
        "held_out_bits_per_byte": found["held_out"],
        "benchmark_bits_per_byte": found["benchmark"],
        "exposure": {row["count"]: round(row["exposure_mean"], 2) for row in secrets},
        "extracted": {row["count"]: row["extraction_rate"] for row in secrets},
        "steps": {one["step"]: one["documents_in"] - one["documents_out"] for one in passport.steps if one.get("documents_in")},
    }


def table(figures: dict[str, dict]) -> str:
    """The figures of the arms side by side, in Markdown."""
    counts = (0, *CANARY_COUNTS)
    head = ["arm", "documents", "training tokens", "own test, bits per byte", "held-out novels", "benchmark"]
    head += [f"exposure, {count} copies" for count in counts] + [f"extracted, {count} copies" for count in CANARY_COUNTS]
    lines = ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1)]
    for name, one in figures.items():
        cells = [name, f"{one['documents_in']:,} -> {one['train_documents']:,}", f"{one['train_tokens']:,}"]
        cells += [f"{one[f'{text}_bits_per_byte']:.4f}" for text in ("test", "held_out", "benchmark")]
        cells += [f"{one['exposure'][count]:.2f}" for count in counts]
        cells += [f"{100 * one['extracted'][count]:.0f} %" for count in CANARY_COUNTS]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("runs/novels"))
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--max_steps", type=int, default=600)
    args = parser.parse_args()
    folder = args.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    make_raw(folder)
    figures = {}
    for name in args.arms:
        run_arm(name, folder, max_steps=args.max_steps)
        figures[name] = figures_of(name, folder)
        print(json.dumps({name: figures[name]}), flush=True)
    print(table(figures))


if __name__ == "__main__":
    main()
