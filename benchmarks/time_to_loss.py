"""What pays off: runs that differ in one thing, for equal time or up to a given loss, with several seeds, as a Markdown table.

    python benchmarks/time_to_loss.py benchmarks/time_to_loss/quickstart.yaml
    python benchmarks/time_to_loss.py benchmarks/time_to_loss/shakespeare.yaml --arms hfgpt gpt2_2e-3 --seeds 0 1 2

A table of arms is a YAML file:
    tokenizer, data     keys of recipes/train_tokenizer.py and prepare_data.py, done once
    base                keys of recipes/pretrain.py that all arms share
    arms                name -> the keys in which it differs (`config_overrides` are merged, null removes a key); `program`
                        names another script in this folder (gpt2_trainer.py, the external baseline), with keys of its own;
                        `tokenizer` and `data` here, separate rows for the arm
    core_seconds        each arm gets as many steps as fit, including start and end of its process: the seconds of a step and of the
                        rest come from two short runs before its first seed. An arm can have its own `core_seconds`, or
                        `max_steps` instead.
    metric, target      the key of metrics.json to compare, and the value to reach
The seconds are CPU time (user and system) of whole single-threaded processes, one after the other, which other processes disturb
little. Every finished run is a line of FOLDER/results.jsonl and is not repeated; a run that misses the target is marked.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
SHORT_RUNS = (8, 24)  # steps of the two runs that measure the time per step


def words_of(keys: dict[str, Any]) -> list[str]:
    """Keys and values as on the command line."""
    words: list[str] = []
    for key, value in keys.items():
        many = value if isinstance(value, list) else [value]
        words += [f"--{key}", *(json.dumps(one) if isinstance(one, (dict, bool)) else str(one) for one in many)]
    return words


def run(script: Path, keys: dict[str, Any], log: Path) -> tuple[float, float]:
    """Core-seconds and seconds of a whole process with one thread. Raises: SystemExit, with the end of its log, if it fails."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    start = time.perf_counter()
    with log.open("a", encoding="utf-8") as file:
        process = subprocess.Popen(
            [sys.executable, str(script), *words_of(keys)], stdout=file, stderr=subprocess.STDOUT, cwd=ROOT, env=environment
        )
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{script.name} {' '.join(words_of(keys))} failed:\n" + log.read_text(encoding="utf-8")[-3000:])
    return used.ru_utime + used.ru_stime, time.perf_counter() - start


def prepared(table: dict, folder: Path) -> Path:
    """The rows of a table or of an arm, made if they do not exist yet."""
    if not (folder / "data" / "passport.json").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        for script, keys, name in (("train_tokenizer.py", "tokenizer", "tokenizer"), ("prepare_data.py", "data", "data")):
            given = dict(table[keys])
            if name == "data":
                given.setdefault("tokenizer", str(folder / "tokenizer"))
            run(ROOT / "recipes" / script, given | {"output_dir": str(folder / name), "overwrite": True}, folder / "log.txt")
    return folder / "data"


def keys_of(name: str, table: dict, folder: Path) -> tuple[Path, dict[str, Any]]:
    """The script and the keys of an arm."""
    arm = dict(table["arms"][name])
    own = {part: arm.pop(part) for part in ("tokenizer", "data") if part in arm}
    merged = {part: table[part] | own.get(part, {}) for part in ("tokenizer", "data")}
    rows = prepared(merged, folder / name if own else folder)
    if program := arm.pop("program", None):
        return ROOT / "benchmarks" / program, {"dataset": str(rows), **arm}
    base = dict(table.get("base", {}))
    overrides = base.pop("config_overrides", {}) | arm.pop("config_overrides", {})
    keys = {"dataset": str(rows), **base, "config_overrides": overrides, **arm}
    return ROOT / "recipes" / "pretrain.py", {key: value for key, value in keys.items() if value is not None}


def steps_within(seconds: float, script: Path, keys: dict[str, Any], log: Path) -> int:
    """How many steps a process of this arm takes in the given core-seconds."""
    used = []
    for steps in SHORT_RUNS:
        with tempfile.TemporaryDirectory() as folder:
            used.append(run(script, keys | {"max_steps": steps, "output_dir": f"{folder}/run"}, log)[0])
    of_a_step = (used[1] - used[0]) / (SHORT_RUNS[1] - SHORT_RUNS[0])
    return max(SHORT_RUNS[1], int((seconds - used[0]) / of_a_step) + SHORT_RUNS[0])


def known_steps(results: list[dict], name: str, keys: dict[str, Any], budget: float) -> int | None:
    """The steps of the same arm with another seed."""
    same = (
        one for one in results if one["arm"] == name and one["budget"] == budget and one["keys"] | {"seed": keys["seed"]} == keys
    )
    return next((one["steps"] for one in same), None)


def markdown(results: list[dict], table: dict) -> str:
    """Mean and spread of the seeds of each arm; ratios to the first arm."""
    metric, target = table["metric"], table.get("target")
    lines = [
        f"| arm | parameters | steps | core-seconds | of the first | {metric}, mean (spread) | less than the first | seeds |",
        "|---|" + "---:|" * 7,
    ]
    first: tuple[float, float] | None = None
    for name in table["arms"]:
        runs = [one for one in results if one["arm"] == name]
        if not runs:
            continue
        values, seconds = [one[metric] for one in runs], statistics.mean(one["core_seconds"] for one in runs)
        mean = statistics.mean(values)
        first = first or (seconds, mean)
        spread = f" ({statistics.stdev(values):.4f})" if len(values) > 1 else ""
        missed = f", above {target}" if target is not None and max(values) > target else ""
        lines.append(
            f"| {name} | {runs[0]['parameters']:,} | {runs[0]['steps']:,} | {seconds:,.0f} | {seconds / first[0]:.2f} | "
            f"{mean:.4f}{spread}{missed} | {first[1] - mean:+.4f} | {len(runs)} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path)
    parser.add_argument("--folder", type=Path, help="Default: runs/time_to_loss/NAME.")
    parser.add_argument("--arms", nargs="+")
    parser.add_argument("--seeds", nargs="+", type=int, default=[42])
    args = parser.parse_args()
    table = yaml.safe_load(args.table.read_text(encoding="utf-8"))
    if unknown := set(args.arms or ()) - set(table["arms"]):
        parser.error(f"{args.table} has no arm {', '.join(sorted(unknown))}; it has {', '.join(table['arms'])}.")
    folder = (args.folder or Path("runs/time_to_loss") / args.table.stem).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    lines = folder / "results.jsonl"
    results = [json.loads(line) for line in lines.read_text(encoding="utf-8").splitlines()] if lines.is_file() else []
    for seed in args.seeds:
        for name in args.arms or table["arms"]:
            script, keys = keys_of(name, table, folder)
            keys["seed"] = seed
            budget = keys.pop("core_seconds", table.get("core_seconds")) if "max_steps" not in keys else None
            if any(one["arm"] == name and one["keys"] == keys and one["budget"] == budget for one in results):
                continue
            log, output = folder / f"{name}.log", folder / f"{name}-{seed}"
            shutil.rmtree(output, ignore_errors=True)
            steps = {}
            if budget:
                steps["max_steps"] = known_steps(results, name, keys, budget) or steps_within(budget, script, keys, log)
            core_seconds, seconds = run(script, keys | steps | {"output_dir": str(output)}, log)
            metrics = json.loads((output / "metrics.json").read_text(encoding="utf-8"))
            figures = {"arm": name, "seed": seed, "core_seconds": round(core_seconds, 1), "seconds": round(seconds, 1)}
            results.append(figures | metrics | {"keys": keys, "budget": budget})
            with lines.open("a", encoding="utf-8") as file:
                file.write(json.dumps(results[-1]) + "\n")
            print(json.dumps(figures | {key: metrics[key] for key in ("parameters", "steps", table["metric"])}), flush=True)
    print(markdown(results, table))


if __name__ == "__main__":
    main()
