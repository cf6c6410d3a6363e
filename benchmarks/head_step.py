"""One training step of the head (its product, the loss and both gradients): hfgpt compared with GPT2LMHeadModel.

python benchmarks/head_step.py [--vocab_size 50257] [--tokens 4096] [--hidden_size 768] [--dtype float32] [--rounds 5]
"""

import argparse
import statistics

import torch
from measure import peak_bytes, seconds_in_turns
from transformers import GPT2Config, GPT2LMHeadModel

from hfgpt import HfGptConfig, HfGptForCausalLM


def main(args: argparse.Namespace) -> dict[str, float]:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = getattr(torch, args.dtype)
    torch.manual_seed(0)
    shape = dict(vocab_size=args.vocab_size, tie_word_embeddings=False, loss_type="ForCausalLM")
    ours = HfGptForCausalLM(
        HfGptConfig(
            vocab_size=args.vocab_size,
            tie_word_embeddings=False,
            hidden_size=args.hidden_size,
            num_hidden_layers=1,
            num_attention_heads=1,
            embedding_dropout=0.0,
        )
    )
    theirs = GPT2LMHeadModel(GPT2Config(**shape, n_embd=args.hidden_size, n_layer=1, n_head=1, embd_pdrop=0.0))
    theirs.lm_head.load_state_dict(ours.lm_head.state_dict())
    # Only the head is left: no blocks, no positions, and the hidden states come in as embeddings.
    ours.model.layers, theirs.transformer.h = torch.nn.ModuleList(), torch.nn.ModuleList()
    torch.nn.init.zeros_(ours.model.embed_positions.weight)
    torch.nn.init.zeros_(theirs.transformer.wpe.weight)
    models = {"hfgpt": ours.to(device, dtype).train(), "GPT2LMHeadModel": theirs.to(device, dtype).train()}
    rows = (-(-args.tokens // 1024), min(args.tokens, 1024))
    embeddings = torch.randn(*rows, args.hidden_size, device=device, dtype=dtype, requires_grad=True)
    labels = torch.randint(0, args.vocab_size, rows, device=device)
    losses = {}

    def step_of(name: str):
        def step() -> None:
            models[name].zero_grad(set_to_none=True)
            embeddings.grad = None
            loss = models[name](inputs_embeds=embeddings, labels=labels, use_cache=False).loss
            loss.backward()
            losses[name] = loss.item(), embeddings.grad.clone()

        return step

    steps = {name: step_of(name) for name in models}
    seconds = {name: statistics.median(values) for name, values in seconds_in_turns(steps, rounds=args.rounds).items()}
    peaks = {name: peak_bytes(step) for name, step in steps.items()}
    (our_loss, our_gradient), (their_loss, their_gradient) = losses["hfgpt"], losses["GPT2LMHeadModel"]
    difference = ((our_gradient - their_gradient).norm() / their_gradient.norm()).item()

    print(
        f"{device}, {args.dtype}, {torch.get_num_threads()} threads, {rows[0] * rows[1]:,} tokens, vocabulary {args.vocab_size:,}"
    )
    print(f"{'':<18}{'peak MiB':>10}{'seconds':>10}")
    for name in models:
        print(f"{name:<18}{peaks[name] / 2**20:>10,.0f}{seconds[name]:>10.3f}")
    result = {
        "memory_ratio": peaks["hfgpt"] / peaks["GPT2LMHeadModel"],
        "time_ratio": seconds["hfgpt"] / seconds["GPT2LMHeadModel"],
        "loss_difference": abs(our_loss - their_loss) / their_loss,
        "gradient_difference": difference,
    }
    print("  ".join(f"{name} {value:.3g}" for name, value in result.items()))
    return result


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vocab_size", type=int, default=50257)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--hidden_size", type=int, default=768)
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--rounds", type=int, default=5)
    main(parser.parse_args())
