"""hfgpt on a GPU, compared with the equivalent transformers classes: one command, tables in Markdown.

    python benchmarks/gpu.py --output_file gpu.md        # 124M in bfloat16, in less than 10 minutes
    python benchmarks/gpu.py --smallest                  # a few seconds on a CPU, to check that everything runs

Candidates alternate; a ratio is the median of the rounds' ratios, above 1 if hfgpt is faster. MFU is relative to the fastest matrix
product measured on this device (hfgpt/training/flops.py). Anything that cannot run here has a row that says why, and anything left
out for lack of time is listed.
"""

import argparse
import contextlib
import functools
import gc
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
import transformers
from measure import peak_bytes, seconds_in_turns
from models import SIZES, pairs
from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedModel

from hfgpt.model.loss_hfgpt import LinearCrossEntropy
from hfgpt.training.flops import ModelFlops, measured_ceiling

ROOT = Path(__file__).resolve().parents[1]
PROMPT_TOKENS = 32
WHO = ("hfgpt", "theirs")


@dataclass(frozen=True)
class Scale:
    """How large everything is: the model, rows and tokens of a step, new tokens, rounds; and beside which classes."""

    size: str
    beside: tuple[str, ...]
    rows: int
    tokens: int
    new_tokens: int
    rounds: int
    dtype: torch.dtype
    compiler: str


CLASSES = ("GPT2LMHeadModel", "Qwen3ForCausalLM", "LlamaForCausalLM")
FULL = Scale("124M", CLASSES, rows=16, tokens=1024, new_tokens=64, rounds=5, dtype=torch.bfloat16, compiler="inductor")
SMALLEST = Scale("tiny", CLASSES[1:2], rows=2, tokens=32, new_tokens=4, rounds=1, dtype=torch.float32, compiler="eager")
Rows = Iterator[tuple[str, ...]]


def model_step(scale: Scale, device: str) -> Rows:
    yield "beside", "attention", "hfgpt", "theirs", "ratio", "MFU", "MFU of theirs", "peak", "peak of theirs"
    ceiling = measured_ceiling(torch.device(device), scale.dtype)
    ids = torch.randint(0, SIZES[scale.size][3], (scale.rows, scale.tokens), device=device)
    for name, models in pairs_of(scale, device):
        flops = [ModelFlops.of(model).per_token(scale.tokens) for model in models]
        for attention, compiled, kernels in (
            ("eager", False, ()),
            ("sdpa", False, ()),
            ("sdpa", False, (SDPBackend.FLASH_ATTENTION,)),
            ("sdpa", True, ()),
            ("flash_attention_2", False, ()),
        ):
            row = (name, attention + (", compiled" if compiled else "") + (", its flash kernel" if kernels else ""))
            if attention.startswith("flash") and not (find_spec("flash_attn") and device == "cuda"):
                yield *row, "needs flash-attn and CUDA"
                continue
            torch._dynamo.reset()  # otherwise, the recompilation limit leaves later pairs in eager mode
            for model in models:
                model.train().set_attn_implementation(attention)
            called = [torch.compile(model, backend=scale.compiler) if compiled else model for model in models]
            steps = {who: functools.partial(step, one, ids) for who, one in zip(WHO, called, strict=True)}
            with sdpa_kernel(list(kernels)) if kernels else contextlib.nullcontext():
                speeds, ratio = compared(steps, scale, work=ids.numel())
                peaks = [mebibytes(peak_bytes(one)) for one in steps.values()]
            mfus = [f"{speed * each / ceiling:.1%}" for speed, each in zip(speeds, flops, strict=True)]
            yield *row, *map(per_second, speeds), ratio, *mfus, *peaks


def pairs_of(scale: Scale, device: str) -> Iterator[tuple[str, tuple[PreTrainedModel, PreTrainedModel]]]:
    """One pair at a time, alone on the device."""
    for name, models in pairs(scale.size, device="cpu", dtype=scale.dtype).items():
        if name in scale.beside:
            yield name, tuple(model.to(device) for model in models)
            for model in models:
                model.to("cpu")


def step(model: Callable, ids: torch.Tensor) -> None:
    """Forward and backward, with fresh gradients."""
    getattr(model, "_orig_mod", model).zero_grad(set_to_none=True)
    model(input_ids=ids, labels=ids, use_cache=False).loss.backward()


def generation(scale: Scale, device: str) -> Rows:
    yield "beside", "batch", "cache", "hfgpt", "theirs", "ratio"
    for name, models in pairs_of(scale, device):
        for batch, cache, compiled in ((1, "dynamic", False), (8, "dynamic", False), (1, "static", False), (1, "static", True)):
            row = (name, str(batch), cache + (", compiled" if compiled else ""))
            if compiled and device != "cuda":
                yield *row, "generate compiles on CUDA"
                continue
            options = {} if cache == "dynamic" else {"cache_implementation": cache, "disable_compile": not compiled}
            ids = torch.randint(1, SIZES[scale.size][3], (batch, PROMPT_TOKENS), device=device)
            calls = {who: functools.partial(generate, model, ids, scale, **options) for who, model in zip(WHO, models, strict=True)}
            speeds, ratio = compared(calls, scale, work=batch * scale.new_tokens)
            yield *row, *map(per_second, speeds), ratio


@torch.no_grad()
def generate(model: torch.nn.Module, ids: torch.Tensor, scale: Scale, **options: object) -> None:
    """Greedily, always the same number of tokens."""
    length = dict(max_new_tokens=scale.new_tokens, min_new_tokens=scale.new_tokens)
    model.eval().generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, **length, **options)


def caches(scale: Scale, device: str) -> Rows:
    """Caches offloaded to main memory, for what does not fit on the GPU."""
    yield "cache", "tokens per second", "peak"
    model = pairs(scale.size, device=device, dtype=scale.dtype)["Qwen3ForCausalLM"][0]
    ids = torch.randint(1, SIZES[scale.size][3], (8, PROMPT_TOKENS), device=device)
    for cache in ("dynamic", "offloaded", "offloaded_static"):
        if cache != "dynamic" and device != "cuda":
            yield cache, "needs CUDA"
            continue
        options = {} if cache == "dynamic" else {"cache_implementation": cache, "disable_compile": True}
        call = functools.partial(generate, model, ids, scale, **options)
        seconds = statistics.median(seconds_in_turns({cache: call}, rounds=scale.rounds)[cache])
        yield cache, per_second(8 * scale.new_tokens / seconds), mebibytes(peak_bytes(call))


def head_and_loss(scale: Scale, device: str) -> Rows:
    """The head's product, the loss and both gradients."""
    yield "way", "tokens per second", "peak", "loss"
    _, width, _, vocab_size = SIZES[scale.size]
    tokens = scale.rows * scale.tokens
    hidden = torch.randn(tokens, width, device=device, dtype=scale.dtype, requires_grad=True)
    weight = (0.02 * torch.randn(vocab_size, width, device=device)).to(scale.dtype).requires_grad_()
    labels = torch.randint(0, vocab_size, (tokens,), device=device)
    functional = torch.nn.functional
    ways: dict[str, Callable[[], torch.Tensor]] = {
        "hfgpt": lambda: LinearCrossEntropy.apply(hidden, weight, labels)[0] / tokens,
        "logits, then the loss": lambda: functional.cross_entropy(functional.linear(hidden, weight).float(), labels),
    }
    if chunks := getattr(torch.nn, "LinearCrossEntropyOptions", None):  # since torch 2.13
        ways["torch's linear_cross_entropy, in chunks"] = lambda: functional.linear_cross_entropy(
            hidden, weight, labels, options=chunks()
        )
    losses: dict[str, float] = {}

    def run(name: str) -> None:
        hidden.grad = weight.grad = None
        loss = ways[name]()
        loss.backward()
        losses[name] = loss.item()

    calls = {name: functools.partial(run, name) for name in ways}
    seconds = seconds_in_turns(calls, rounds=scale.rounds)
    for name, call in calls.items():
        peak = mebibytes(peak_bytes(call))
        yield name, per_second(tokens / statistics.median(seconds[name])), peak, f"{losses[name]:.4f}"


def qlora(scale: Scale, device: str) -> Rows:
    """A LoRA step on every matrix except the head, with the base in bfloat16 or 4 bits."""
    yield "base", "tokens per second", "peak", "base in memory"
    ids = torch.randint(0, SIZES[scale.size][3], (scale.rows, scale.tokens), device=device)
    ours = pairs(scale.size, device="cpu", dtype=scale.dtype)["Qwen3ForCausalLM"][0]
    for bits in (4, None):  # LoRA puts its layers into the model, so what is saved comes first
        if bits and not (find_spec("bitsandbytes") and device == "cuda"):
            yield "4 bits", "needs bitsandbytes and CUDA"
            continue
        if bits:
            how = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=scale.dtype)
            with tempfile.TemporaryDirectory() as folder:
                ours.save_pretrained(folder)
                base = AutoModelForCausalLM.from_pretrained(folder, quantization_config=how, device_map=device)
            base = prepare_model_for_kbit_training(base, use_gradient_checkpointing=False)
        else:
            base = ours.to(device)
        footprint = base.get_memory_footprint()
        model = get_peft_model(base, LoraConfig(r=16, target_modules="all-linear", task_type="CAUSAL_LM")).train()
        call = functools.partial(step, model, ids)
        seconds = statistics.median(seconds_in_turns({"step": call}, rounds=scale.rounds)["step"])
        name = "4 bits" if bits else name_of(scale.dtype)
        yield name, per_second(ids.numel() / seconds), mebibytes(peak_bytes(call)), mebibytes(footprint)


def marked_tests(scale: Scale, device: str) -> Rows:
    """Those that only a GPU can show."""
    yield "tests marked gpu", "outcome"
    files = [path for path in sorted((ROOT / "tests").rglob("test_*.py")) if "mark.gpu" in path.read_text(encoding="utf-8")]
    if device != "cuda":
        yield ", ".join(path.stem for path in files), "need CUDA"
        return
    for path in files:
        command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", str(path)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=180)
        yield path.stem, (done.stdout.strip().splitlines() or [done.stderr[-200:]])[-1].strip("= ")


# Tables that compile for minutes come last.
TABLES: dict[str, Callable[[Scale, str], Rows]] = {
    "Head and loss": head_and_loss,
    "QLoRA": qlora,
    "Offloaded caches": caches,
    "Tests": marked_tests,
    "Model step: forward and backward, tokens per second": model_step,
    "Generation: new tokens per second": generation,
}


def compared(calls: dict[str, Callable[[], object]], scale: Scale, *, work: int) -> tuple[list[float], str]:
    """Work per second of each of two, and the median of the rounds' ratios."""
    ours, theirs = seconds_in_turns(calls, rounds=scale.rounds).values()
    ratio = statistics.median(their / our for our, their in zip(ours, theirs, strict=True))
    return [work / statistics.median(seconds) for seconds in (ours, theirs)], f"{ratio:.2f}"


def per_second(value: float) -> str:
    return f"{value:,.0f}"


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def mebibytes(value: float) -> str:
    return f"{value / 2**20:,.0f} MiB"


def main(args: argparse.Namespace) -> str:
    """Fill the tables, printing each row as soon as it is done. Returns: all of it, in Markdown."""
    start = time.monotonic()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    scale = SMALLEST if args.smallest else FULL
    lines: list[str] = []

    def say(line: str) -> None:
        print(line, flush=True)
        lines.append(line)

    machine = torch.cuda.get_device_name() if device == "cuda" else f"a CPU, {torch.get_num_threads()} threads"
    say(f"{machine}, torch {torch.__version__}, transformers {transformers.__version__}, {name_of(scale.dtype)}, "
        f"model {scale.size}, {scale.rows} x {scale.tokens:,} tokens per step, {scale.new_tokens} new tokens")  # fmt: skip
    for title, fill in TABLES.items():
        if time.monotonic() - start > 60 * args.minutes:
            say(f"\n## {title}\n\nleft out: {args.minutes:g} minutes are up")
            continue
        say(f"\n## {title}\n")
        columns = 0
        try:
            for row in fill(scale, device):
                if not columns:
                    columns = len(row)
                    say(f"| {' | '.join(row)} |\n|{'---|' * columns}")
                elif time.monotonic() - start > 60 * args.minutes:
                    say(f"\nleft out because {args.minutes:g} minutes are up: all rows after this one")
                    break
                else:
                    say(f"| {' | '.join(row + ('',) * (columns - len(row)))} |")
        except Exception as error:  # the other tables are still useful
            say(f"\nfailed: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")
        gc.collect()
        if device == "cuda":
            torch.cuda.empty_cache()
    say(f"\n{math.ceil(time.monotonic() - start)} s")
    if args.output_file:
        Path(args.output_file).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smallest", action="store_true", help="a tiny model, one round: checks that everything runs")
    parser.add_argument("--minutes", type=float, default=9, help="after which nothing new is started")
    parser.add_argument("--output_file", default="")
    main(parser.parse_args())
