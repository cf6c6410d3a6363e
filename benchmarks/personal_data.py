"""How well personal data and secrets are found, by type, and how fast a text without any is scanned.

    python benchmarks/personal_data.py [--size 500] [--seed 0] [--text ../shared/data/english_novels/train.txt] [--misses 3]

The set (personal_data_set.py) holds `size` true values and `size` look-alikes of each type, each within a text. A value counts as
found if exactly its characters are replaced by the placeholder of its type and nothing else in the text changes. `of it left`
counts true values that partly remain in the text; precision counts the placeholders of a type in all texts of the set.
"""

import argparse
import time
from collections import Counter, defaultdict
from pathlib import Path

from personal_data_set import Sample, make_set

from hfgpt.hygiene.masking import Found, joined
from hfgpt.hygiene.personal_data import PersonalData
from hfgpt.hygiene.secrets import Secrets, find_secrets

PERSONAL_DATA = PersonalData("mask")


def find(text: str) -> list[Found]:
    """As in a run with both masked: secrets first, then personal data in the rest."""
    secrets = joined(find_secrets(text))
    hidden = list(text)
    for one in secrets:
        hidden[one.start : one.end] = "\x00" * (one.end - one.start)
    return joined([*secrets, *PERSONAL_DATA.find("".join(hidden))])


def judge(samples: list[Sample]) -> tuple[dict[str, Counter], dict[tuple[str, str], list[Sample]]]:
    """Counts by type, and the samples that went wrong by (what, form).

    Counts: true, found (exactly, with its type), left (partly remaining), look_alikes, right and wrong.
    """
    counts: dict[str, Counter] = defaultdict(Counter)
    wrong: dict[tuple[str, str], list[Sample]] = defaultdict(list)
    for sample in samples:
        found = find(sample.text)
        if sample.value is None:
            counts[sample.type]["look_alikes"] += 1
            counts[sample.type]["taken"] += bool(found)
            if found:
                wrong[f"{sample.type}: taken for {found[0].type}", sample.form].append(sample)
            for one in found:
                counts[one.type]["wrong"] += 1
            continue
        start = sample.text.index(sample.value)
        place = (start, start + len(sample.value), sample.type)
        exact = [one for one in found if one[:3] == place]
        covered = sum(max(0, min(one.end, place[1]) - max(one.start, place[0])) for one in found)
        counts[sample.type]["true"] += 1
        counts[sample.type]["found"] += bool(exact)
        counts[sample.type]["left"] += covered < len(sample.value)
        for one in found:
            overlaps = one.start < place[1] and one.end > place[0]
            counts[one.type]["right" if one.type == sample.type and overlaps else "wrong"] += 1
        if not exact:
            whole = "more masked, or as another type" if covered else "missed"
            what = "partly found" if 0 < covered < len(sample.value) else whole
            wrong[f"{sample.type}: {what}", sample.form].append(sample)
    return counts, wrong


def measure_speed(path: Path, *, num_bytes: int) -> None:
    text = path.read_bytes()[:num_bytes].decode(errors="ignore")
    documents, megabytes = text.split("\n\n"), len(text.encode()) / 1e6
    print(f"\n{megabytes:.1f} MB of {path.name}, {len(documents):,} paragraphs, one thread\nMB per CPU second | finds | step")
    for step in (PERSONAL_DATA, Secrets("mask")):
        start = time.process_time()
        finds = sum((Counter(step(document).counts) for document in documents), Counter())
        print(f"{megabytes / (time.process_time() - start):17.1f} | {sum(finds.values()):5} | {step.name}: {dict(finds)}")


def main(args: argparse.Namespace) -> None:
    samples = make_set(size=args.size, seed=args.seed)
    start = time.perf_counter()
    counts, wrong = judge(samples)
    print(f"{len(samples):,} texts, seed {args.seed}, {time.perf_counter() - start:.1f} s\n")
    print("| type | true | found exactly | of it left | recall | look-alikes | taken | precision |")
    print("|---|---|---|---|---|---|---|---|")
    for kind, of in counts.items():
        recall, precision = 100 * of["found"] / of["true"], 100 * of["right"] / max(of["right"] + of["wrong"], 1)
        numbers = (of["true"], of["found"], of["left"], f"{recall:.1f} %", of["look_alikes"], of["taken"], f"{precision:.1f} %")
        print(f"| {' | '.join(map(str, (kind, *numbers)))} |")
    print("\nwhat went wrong")
    for (what, form), which in sorted(wrong.items(), key=lambda item: (item[0][0], -len(item[1]))):
        print(f"  {what}: {form}, {len(which)}")
        for sample in which[: args.misses]:
            print(f"      {sample.value or sample.text!r}")
    if Path(args.text).is_file():
        measure_speed(Path(args.text), num_bytes=args.megabytes * 1_000_000)
    else:
        print(f"\n{args.text} does not exist; give a text with --text to measure the speed")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=500, help="Number of true values and of look-alikes of each type.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--misses", type=int, default=0, help="Show this many of each kind of mistake; all values are made up.")
    parser.add_argument("--text", default="../shared/data/english_novels/train.txt")
    parser.add_argument("--megabytes", type=int, default=5, help="Maximum megabytes of the text to scan.")
    main(parser.parse_args())
