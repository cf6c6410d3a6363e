"""How much other busy programs slow training on a CPU: its threads spin while they wait for each other, or sleep at once.

    python benchmarks/busy_machine.py [--busy 0 1 2] [--seconds 10] [--rounds 3]

Forward and backward of the quickstart's model (8 rows of 256 tokens, float32) in separate processes, alternating, beside a given
number of busy loops. "As it comes" is GNU's OpenMP with its own count of spins, 300,000; docs/lab_notes.md has the figures.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time

WAYS = {
    "two threads, as it comes": (2, {}),
    "two threads, GOMP_SPINCOUNT=1000": (2, {"GOMP_SPINCOUNT": "1000"}),
    "two threads, OMP_WAIT_POLICY=PASSIVE": (2, {"OMP_WAIT_POLICY": "PASSIVE"}),
    "one thread": (1, {}),
}
BUSY = "while True: pass"
SHAPE = dict(hidden_size=128, num_attention_heads=2, num_key_value_heads=1, intermediate_size=352)


def train(threads: int, seconds: float) -> None:
    """Print tokens per second."""
    import torch

    from hfgpt import HfGptConfig, HfGptForCausalLM

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = HfGptForCausalLM(HfGptConfig.modern(4, vocab_size=4096, max_position_embeddings=256, **SHAPE))
    rows = torch.randint(0, 4096, (8, 256))
    steps, start = -1, time.perf_counter()
    while time.perf_counter() - start < seconds:
        model(input_ids=rows, labels=rows).loss.backward()
        model.zero_grad()
        steps += 1
        if not steps:
            start = time.perf_counter()  # the first one warms up
    print(steps * rows.numel() / (time.perf_counter() - start))


def measure(way: str, seconds: float) -> float:
    threads, settings = WAYS[way]
    command = [sys.executable, __file__, "--train", str(threads), "--seconds", str(seconds)]
    environment = {name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    result = subprocess.run(command, env=environment | settings, capture_output=True, text=True, check=True)
    return float(result.stdout.split()[-1])


def main(args: argparse.Namespace) -> None:
    print("busy processes | " + " | ".join(WAYS) + " (tokens per second, median)")
    for number in args.busy:
        others = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(number)]
        try:
            speeds = {way: [] for way in WAYS}
            for _ in range(args.rounds):
                for way in WAYS:
                    speeds[way].append(measure(way, args.seconds))
        finally:
            for process in others:
                process.kill()
        print(f"{number} | " + " | ".join(f"{statistics.median(one):,.0f}" for one in speeds.values()), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--busy", type=int, nargs="+", default=[0, 1, 2], help="How many other processes are busy.")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--train", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.train:
        train(arguments.train, arguments.seconds)
    else:
        main(arguments)
