"""Tokens per second of one process and of two, each with one thread on its own core, through recipes/pretrain.py.

    python benchmarks/processes.py --dataset runs/quickstart/data [--depth 4] [--rows 16] [--steps 30] [--rounds 3]

Each round runs every candidate once, one after the other, in rotating order; the figures are medians over the rounds, and a ratio
is the median of the rounds' ratios to one process. They include the optimizer but not evaluation and saving. "half the rows" takes
exactly the steps of one process, twice as fast at best; otherwise a step has twice the tokens. Needs two idle cores.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WORKER = "--in_a_process"


def candidates(rows: int) -> dict[str, tuple[str, int]]:
    """The candidates: the accelerate file and the rows per process."""
    return {
        "one process": ("cpu.yaml", rows),
        "two, whole copies": ("ddp.yaml", rows),
        "two, half the rows each": ("ddp.yaml", rows // 2),
        "two, shares (FSDP2)": ("fsdp2.yaml", rows),
    }


def tokens_per_second(file: str, rows: int, args: argparse.Namespace) -> float:
    with tempfile.TemporaryDirectory() as folder:
        words = ["--dataset", str(args.dataset), "--output_dir", f"{folder}/run", "--depth", str(args.depth), "--cpu_threads", "1",
                 "--max_steps", str(args.steps), "--per_device_train_batch_size", str(rows), "--optimizer", args.optimizer,
                 "--precision", args.precision, "--eval_strategy", "no", "--save_strategy", "no", "--sample_tokens", "1",
                 "--use_cpu", "true", "--disable_tqdm", "true"]  # fmt: skip
        launcher = [sys.executable, "-m", "accelerate.commands.launch", "--quiet"]
        launcher += ["--config_file", str(ROOT / "recipes" / "accelerate" / file)]
        launcher += [] if file == "cpu.yaml" else ["--main_process_port", "0"]  # any that is free
        command = [*launcher, __file__, WORKER, *words]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode:
            sys.exit(done.stdout + done.stderr)
        return json.loads(Path(folder, "run", "metrics.json").read_text())["tokens_per_second"]


def work(words: list[str]) -> None:
    """The recipe in one of the processes, on the core with its number."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[int(os.environ.get("LOCAL_RANK", 0)) % len(cores)]})
    sys.path.insert(0, str(ROOT / "recipes"))
    import pretrain

    from hfgpt.arguments.parsing import parse_arguments
    from hfgpt.arguments.pretraining import PretrainArguments

    pretrain.main(parse_arguments(PretrainArguments, words))


def main(args: argparse.Namespace) -> None:
    compared = candidates(args.rows)
    names = list(compared)
    speeds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(args.rounds):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            speeds[name].append(tokens_per_second(*compared[name], args))
    print(
        f"depth {args.depth}, {args.rows} rows per process, {args.optimizer}, {args.precision}, "
        f"{args.rounds} rounds of {args.steps} steps"
    )
    for name, values in speeds.items():
        ratio = statistics.median(ours / one for ours, one in zip(values, speeds["one process"]))
        print(f"{name:<26}{statistics.median(values):>10,.0f} tokens/s{ratio:>8.2f}")


if __name__ == "__main__":
    if sys.argv[1:2] == [WORKER]:
        work(sys.argv[2:])
    else:
        parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
        parser.add_argument("--dataset", type=Path, required=True, help="folder of prepared rows")
        parser.add_argument("--depth", type=int, default=4)
        parser.add_argument("--rows", type=int, default=16)
        parser.add_argument("--steps", type=int, default=30)
        parser.add_argument("--rounds", type=int, default=3)
        parser.add_argument("--optimizer", default="muon")
        parser.add_argument("--precision", default="auto")
        main(parser.parse_args())
