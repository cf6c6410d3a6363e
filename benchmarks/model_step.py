"""Forward, forward and backward, and peak memory of hfgpt and of the equivalent transformers classes.

    python benchmarks/model_step.py [--size small|124M] [--compile] [--dtype float32] [--rounds 9]

Tokens per second are the median over rounds in which every model runs once; the ratio is the median of the rounds' ratios, above 1
if hfgpt is faster. The dtype is that of the weights.
"""

import argparse
import statistics

import torch
from measure import peak_bytes, seconds_in_turns
from models import SIZES, pairs


def main(args: argparse.Namespace) -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = getattr(torch, args.dtype)
    ids = torch.randint(0, SIZES[args.size][3], (args.batch_size, args.tokens), device=device)
    print(f"{device}, {args.dtype}, {torch.get_num_threads()} threads, {args.size}, {args.batch_size} x {args.tokens} tokens, "
          f"{args.attention}{', compiled' if args.compile else ''}")  # fmt: skip
    print(f"{'':<18}{'row':<20}{'hfgpt':>12}{'theirs':>12}{'ratio':>8}")
    for name, models in pairs(args.size, device=device, dtype=dtype).items():
        torch._dynamo.reset()  # otherwise, the recompilation limit leaves later pairs in eager mode
        for model in models:
            model.set_attn_implementation(args.attention)
        called = [torch.compile(model) if args.compile else model for model in models]

        def forward(index: int, called=called) -> None:
            with torch.no_grad():
                called[index](ids, use_cache=False)

        def step(index: int, called=called, models=models) -> None:
            models[index].zero_grad(set_to_none=True)
            called[index](ids, labels=ids, use_cache=False).loss.backward()

        for row, action, training in (("forward", forward, False), ("forward + backward", step, True)):
            for model in models:
                model.train(training)
            actions = {who: lambda index=index, action=action: action(index) for index, who in enumerate(("hfgpt", "theirs"))}
            seconds = seconds_in_turns(actions, rounds=args.rounds)
            speed = {who: ids.numel() / statistics.median(values) for who, values in seconds.items()}
            ratio = statistics.median(theirs / ours for ours, theirs in zip(seconds["hfgpt"], seconds["theirs"], strict=True))
            print(f"{name:<18}{row:<20}{speed['hfgpt']:>8,.0f} t/s{speed['theirs']:>8,.0f} t/s{ratio:>8.2f}", flush=True)
            peak = {who: peak_bytes(each) for who, each in actions.items()}
            print(f"{name:<18}{'  peak memory':<20}{peak['hfgpt'] / 2**20:>8,.1f} MiB{peak['theirs'] / 2**20:>8,.1f} MiB"
                  f"{peak['theirs'] / peak['hfgpt']:>8.2f}", flush=True)  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", default="small", choices=SIZES)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--attention", default="sdpa", choices=("sdpa", "eager"))
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--rounds", type=int, default=9)
    main(parser.parse_args())
