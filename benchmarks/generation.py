"""Greedy generation with hfgpt and with the equivalent transformers classes, with and without a cache.

    python benchmarks/generation.py [--size small|124M] [--dtype float32] [--rounds 5]

A ratio above 1 means that hfgpt is faster; it is the median of the ratios of the rounds, in each of which both run once.
"""

import argparse
import statistics

import torch
from measure import seconds_in_turns
from models import SIZES, pairs

PROMPT_TOKENS = 32


@torch.no_grad()
def main(args: argparse.Namespace) -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    print(f"{device}, {args.dtype}, {torch.get_num_threads()} threads, {args.size}, {PROMPT_TOKENS} tokens of prompt")
    print(f"{'':<18}{'row':<36}{'hfgpt':>12}{'theirs':>12}{'ratio':>8}")
    for name, models in pairs(args.size, device=device, dtype=getattr(torch, args.dtype)).items():
        for batch, cache, new_tokens in ((1, "dynamic", 64), (8, "dynamic", 64), (1, "static", 64), (1, None, 16)):
            ids = torch.randint(1, SIZES[args.size][3], (batch, PROMPT_TOKENS), device=device)
            options = dict(do_sample=False, max_new_tokens=new_tokens, min_new_tokens=new_tokens, use_cache=cache is not None)
            if cache == "static":
                options["cache_implementation"] = "static"
                options["disable_compile"] = True

            def generate(index: int, models=models, ids=ids, options=options) -> None:
                models[index].eval().generate(ids, attention_mask=torch.ones_like(ids), **options)

            actions = {who: lambda index=index, generate=generate: generate(index) for index, who in enumerate(("hfgpt", "theirs"))}
            seconds = seconds_in_turns(actions, rounds=args.rounds)
            speed = {who: batch * new_tokens / statistics.median(values) for who, values in seconds.items()}
            ratio = statistics.median(theirs / ours for ours, theirs in zip(seconds["hfgpt"], seconds["theirs"], strict=True))
            row = f"batch {batch}, {cache or 'no'} cache, {new_tokens} new tokens"
            print(f"{name:<18}{row:<36}{speed['hfgpt']:>8,.0f} t/s{speed['theirs']:>8,.0f} t/s{ratio:>8.2f}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", default="small", choices=SIZES)
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--rounds", type=int, default=5)
    main(parser.parse_args())
