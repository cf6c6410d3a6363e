"""What `import hfgpt` costs, next to `import transformers`, each in fresh processes, in turn.

python benchmarks/import_time.py [--repeats 7]
"""

import argparse
import statistics
import subprocess
import sys
import time

STATEMENTS = (
    "pass",
    "import transformers",
    "import hfgpt",
    "import transformers, hfgpt",
    "from transformers import AutoModelForCausalLM",
    "import hfgpt; from transformers import AutoModelForCausalLM",
    "from transformers import AutoModelForCausalLM, Qwen3ForCausalLM",
    "import hfgpt; hfgpt.HfGptForCausalLM",
)


def main(repeats: int) -> None:
    seconds: dict[str, list[float]] = {statement: [] for statement in STATEMENTS}
    for _ in range(repeats):
        for statement in STATEMENTS:  # in turn, so that a slow moment of the machine falls on all of them
            start = time.perf_counter()
            subprocess.run([sys.executable, "-c", statement], check=True)
            seconds[statement].append(time.perf_counter() - start)
    reference = statistics.median(seconds["import transformers"])
    print(f"median of {repeats} | of `import transformers` | statement")
    for statement, times in seconds.items():
        median = statistics.median(times)
        print(f"{median:10.2f} s | {median / reference:23.2f} | {statement}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    main(parser.parse_args().repeats)
