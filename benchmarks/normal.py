"""What is normal: the loss and a sample of small models by parameters and tokens, as a Markdown table.

    python benchmarks/normal.py --dataset runs/novels/data [--prompt 'He said']
    python benchmarks/normal.py --dataset runs/quickstart/data --prompt "Return the"

Each line is a run of its own, whose learning rates fall to 0 at its end. The rates are the quickstart's, at width 256 two thirds.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

RECIPE = Path(__file__).resolve().parents[1] / "recipes" / "pretrain.py"
TOKENS_PER_STEP = 2048
# layers, width, query and key/value heads, width of the MLP; steps
SHAPES = {
    (2, 64, 1, 1, 160): (50, 200, 800),
    (4, 128, 2, 1, 352): (50, 200, 800),
    (6, 256, 4, 2, 704): (50, 200),
}


def words_of(shape: tuple[int, int, int, int, int], *, steps: int, length: int, prompt: str) -> list[str]:
    depth, width, heads, kv_heads, inner = shape
    slower = 1.0 if width < 256 else 2 / 3
    overrides = dict(hidden_size=width, num_attention_heads=heads, num_key_value_heads=kv_heads, intermediate_size=inner)
    keys = {
        **dict(depth=depth, config_overrides=json.dumps(overrides), max_steps=steps, warmup_steps=0.1),
        **dict(per_device_train_batch_size=max(1, TOKENS_PER_STEP // length), per_device_eval_batch_size=16),
        **dict(learning_rate=6e-3 * slower, muon_learning_rate=0.03 * slower, embedding_learning_rate=0.3 * slower),
        **dict(eval_steps=steps, save_strategy="no", keep="last", sample_prompts=prompt, sample_tokens=30),
    }
    return [str(word) for key, value in keys.items() for word in (f"--{key}", value)]


def main(args: argparse.Namespace) -> None:
    passport = json.loads((args.dataset / "passport.json").read_text())
    length = passport["settings"]["context_length"]
    print("| parameters | tokens | passes | seconds | nats per token | bits per byte | a sample |")
    print("|---:|---:|---:|---:|---:|---:|---|")
    for shape, lengths in SHAPES.items():
        for steps in lengths:
            with tempfile.TemporaryDirectory() as folder:
                words = words_of(shape, steps=steps, length=length, prompt=args.prompt)
                command = [sys.executable, str(RECIPE), "--dataset", str(args.dataset), *words, "--output_dir", f"{folder}/base"]
                done = subprocess.run([*command, *args.more], capture_output=True, text=True)
                if done.returncode:
                    raise SystemExit(done.stdout + done.stderr)
                base = Path(folder) / "base"
                metrics = json.loads((base / "metrics.json").read_text())
                last = json.loads((base / "samples.jsonl").read_text().splitlines()[-1])["said"][0]
            sample = " ".join(f"{last['prompt']}{last['text']}".split()).replace("|", "\\|")
            cells = [f"{metrics['parameters']:,}", f"{steps * TOKENS_PER_STEP:,}", f"{metrics['epochs']:.1f}"]
            cells += [f"{metrics['training_seconds']:.0f}"]
            cells += [f"{metrics['test_loss']:.2f}", f"{metrics['test_bits_per_byte']:.3f}", sample]
            print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", type=Path, required=True)
    parser.add_argument("--prompt", default="He said")
    parser.add_argument("--more", nargs=argparse.REMAINDER, default=[], help="Further arguments for the recipe; must come last.")
    main(parser.parse_args())
