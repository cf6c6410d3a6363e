"""What a model answers to a few fixed texts, written beside its weights, so that whoever loads it can see that it is the same.

Taken from the model in memory, before anything was read back: a tensor that saving lost, a tokenizer that reloads otherwise or a
class that computes something else shows in the difference. recipes/check.py compares.
"""

import hashlib
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
import transformers
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase, initialization

from hfgpt.errors import UserError
from hfgpt.files import sha256_of_file, write_json
from hfgpt.inference import evaluating

FINGERPRINT_NAME = "fingerprint.json"
TEXTS = (
    "The quick brown fox jumps over the lazy dog.",
    "def add(a, b):\n    return a + b  # 12,345 times",
    "naïve café, 東京 🙂 and\ttabs",
)
POSITIONS = 24  # most tokens of a text whose logits are kept
COLUMNS = 16  # ids whose logits are kept, spread over the vocabulary
NEW_TOKENS = 16
# Shares of the largest logit (of 1 at least). Of the record: a GPU adds in another order than the CPU that checks; 1e-5 was seen
# between them. Of two float32 implementations of one function in one process: they differ by less, in whatever order they add.
RECORD_TOLERANCE, TWIN_TOLERANCE = 1e-4, 1e-5


def record_fingerprint(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase | None,
    folder: Path,
    *,
    recorded: str = "when it was saved",
    sha256: str | None = None,
) -> Path:
    """Write `fingerprint.json` into the folder that holds the saved `model`.

    Args:
        model: as it is in memory, with its adapter beside the weights where it has one. It is measured in float32 and as it was
            when this returns. One that is spread over several processes is read back from the folder.
        tokenizer: None where the folder has none; random ids take the place of texts then.
        folder: its weight files are hashed, so they have to be there. A GGUF file holds the same function, rounded.
        recorded: when that was; check says so where it was not at training.
        sha256: `weights_sha256` of the model, where it is known already.
    Cost: a second and a copy of a model that is not in float32; about a second for each 250 million parameters to hash.
    """
    adapted = isinstance(model, PeftModel)
    # What PEFT put its layers into: around it, accelerate has training compute in bfloat16.
    body = cast(PreTrainedModel, model.get_base_model()) if isinstance(model, PeftModel) else model
    if any(hasattr(parameter, "full_tensor") for parameter in body.parameters()):
        body = type(body).from_pretrained(folder, dtype=torch.float32)
    elif not adapted and any(parameter.dtype in (torch.bfloat16, torch.float16) for parameter in body.parameters()):
        body = _in_float32(body)
    with evaluating(body), _exact_products():
        content = _measured(body, tokenizer)
    weights = [*folder.glob("*.safetensors"), *folder.glob("*.gguf")]
    if adapted:
        weights = [path for path in weights if path.name.startswith("adapter_model")]  # the base may lie there as well
    fingerprint = {
        "format": 1,
        "recorded": recorded,
        "class": type(body).__name__,
        # Of an adapter its file alone is hashed: its base has a fingerprint of its own.
        "weights_sha256": None if adapted else sha256 or weights_sha256(body),
        "files": {path.name: sha256_of_file(path) for path in sorted(weights)},
        "dtype": "float32",
        **content,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
    }
    path = folder / FINGERPRINT_NAME
    # A link may lie there, the one that an adapter's folder has of its base's files; a new file takes its place.
    write_json(path, fingerprint, ensure_ascii=False, indent=None)
    return path


def _in_float32(model: PreTrainedModel) -> PreTrainedModel:
    """The same weights in a new model. Casting back is not enough: rotary frequencies are rounded by then, and are not saved."""
    with initialization.no_init_weights():
        other = type(model)._from_config(model.config, dtype=torch.float32)
    other.load_state_dict({name: tensor.float().cpu() for name, tensor in model.state_dict().items()})
    other.tie_weights()  # which no_init_weights leaves out
    return other


@contextmanager
def _exact_products() -> Iterator[None]:
    """Matrix products in float32 proper; a run with `tf32: true` has three digits fewer."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _measured(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None) -> dict:
    context_length = getattr(model.config, "max_position_embeddings", None) or POSITIONS
    context_length = getattr(model.config, "max_text_length", None) or context_length  # of a classifier
    if tokenizer is None:
        texts = [{"text": None, "ids": row[0].tolist()} for row in probe_rows(model)]
    else:
        texts = [{"text": text, "ids": tokenizer(text).input_ids} for text in TEXTS]
    generates = model.can_generate()
    largest = 1.0
    columns: list[int] | None = None
    for entry in texts:
        ids = entry["ids"][: min(POSITIONS, context_length)]
        logits = _logits(model, ids)  # (T, V), of a classifier (1, labels)
        if generates and columns is None:
            last = logits.shape[-1] - 1
            columns = sorted({round(number * last / (COLUMNS - 1)) for number in range(COLUMNS)})
        kept = logits[:, columns] if columns else logits
        largest = max(largest, logits.abs().max().item())
        entry |= {
            "positions": len(ids),
            "logits": [[_rounded(value) for value in row] for row in kept.tolist()],
            "logsumexp": [_rounded(value) for value in logits.logsumexp(-1).tolist()],
            "argmax": logits.argmax(-1).tolist(),
        }
    result = {
        "task": "text-generation" if generates else "text-classification",
        "tolerance": _rounded(RECORD_TOLERANCE * largest),
        "columns": columns,
        "texts": texts,
    }
    if generates:
        result["continuation"] = _continuation(model, texts[0]["ids"], context_length)
    return result


def _logits(model: PreTrainedModel, ids: list[int]) -> torch.Tensor:
    # By its class: accelerate hangs a forward on the model itself that computes in bfloat16 where the run does.
    logits = type(model).forward(model, input_ids=torch.tensor([ids], device=model.device)).logits
    return logits.float().cpu().reshape(-1, logits.shape[-1])


def _continuation(model: PreTrainedModel, ids: list[int], context_length: int) -> dict:
    """Greedy and without a cache, token by token: what `generate` with its cache has to say, too.

    `margins` is how far the first token is before the second; where that is less than rounding, another machine may choose the
    other one and go on differently.
    """
    prompt = ids[: max(1, min(POSITIONS, context_length - NEW_TOKENS))]
    ids, new, margins = list(prompt), [], []
    for _ in range(min(NEW_TOKENS, context_length - len(prompt))):
        (first, second), likeliest = (part.tolist() for part in _logits(model, ids)[-1].topk(2))
        new.append(likeliest[0])
        margins.append(_rounded(first - second))
        ids.append(likeliest[0])
    return {"prompt": prompt, "ids": new, "margins": margins}


def _rounded(value: float) -> float:
    return float(f"{value:.7g}")  # float32 knows no more digits


def probe_rows(model: PreTrainedModel, *, seed: int = 0) -> list[torch.Tensor]:
    """Three rows (1, T) of random token ids that the model takes; one by one, so that no padding is needed."""
    generator = torch.Generator().manual_seed(seed)
    # A classifier of ours reads no more than max_text_length, its twin what it is given.
    longest = min(64, getattr(model.config, "max_text_length", None) or model.config.max_position_embeddings)
    rows = [torch.randint(model.config.vocab_size, (1, T), generator=generator) for T in (longest, max(1, longest // 2), 1)]
    # No text holds the padding, and where one did, classifiers would not agree on its end.
    pad = model.config.pad_token_id
    return [row.masked_fill(row == pad, pad - 1 if pad else 1) for row in rows] if pad is not None else rows


def logits_of(model: PreTrainedModel | PeftModel, rows: list[torch.Tensor]) -> list[torch.Tensor]:
    """The logits of each row, without dropout; the model's mode is as before when this returns."""
    with evaluating(model):
        return [model(row.to(model.device)).logits.float().cpu() for row in rows]


def check_equal(first: list[torch.Tensor], second: list[torch.Tensor], *, what: str) -> float:
    """The largest difference of the logits of two float32 models over the same rows.

    Raises: ValueError where it is more than rounding; `what` says who was compared.
    """
    difference = max((ours - theirs).abs().max().item() for ours, theirs in zip(first, second))
    largest = max(theirs.abs().max().item() for theirs in second)
    allowed = TWIN_TOLERANCE * max(1.0, largest)
    if not difference <= allowed:  # refuses nan as well
        raise UserError(
            f"the logits of {what} differ by up to {difference:.3g}; {allowed:.3g} is allowed, because both compute the same "
            f"function in float32 (largest logit {largest:.3g}). Nothing was written; please report it."
        )
    return difference


def tensor_sha256(tensor: torch.Tensor) -> str:
    """SHA-256 of a tensor's bytes as they are stored."""
    return hashlib.sha256(cast(Any, tensor.detach().contiguous().cpu().view(torch.uint8).numpy())).hexdigest()


def weights_sha256(model: PreTrainedModel) -> str:
    """SHA-256 of a model's body in float32: the same for a language model and for a classifier made of it, whatever the files.

    An adapter says by it which weights it was trained on. Cost: about a second for each 250 million parameters.
    """
    digest = hashlib.sha256()
    for name, parameter in sorted(model.base_model.named_parameters()):
        digest.update(f"{name} {tuple(parameter.shape)} {tensor_sha256(parameter.float())}\n".encode())
    return digest.hexdigest()
