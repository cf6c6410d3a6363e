"""A model's outputs for a few fixed texts, stored beside its weights, so that anyone who loads it can verify that it is the same.

Taken from the model in memory, before anything is read back: a tensor lost in saving, a tokenizer that reloads differently or a
class that computes something else shows as a difference. recipes/check.py compares them.
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

from hfgpt.artifacts import FINGERPRINT_FILE
from hfgpt.errors import UserError
from hfgpt.files import sha256_of_file, write_json
from hfgpt.inference import evaluating, longest_input

TEXTS = (
    "The quick brown fox jumps over the lazy dog.",
    "def add(a, b):\n    return a + b  # 12,345 times",
    "naïve café, 東京 🙂 and\ttabs",
)
POSITIONS = 24  # maximum tokens of a text whose logits are stored
COLUMNS = 16  # ids whose logits are stored, spread over the vocabulary
NEW_TOKENS = 16
# Tolerances relative to the largest logit (at least 1). For the record: a GPU adds in a different order than the checking CPU;
# differences of 1e-5 were observed. For two float32 implementations of one function in one process: smaller, whatever the order of
# summation.
RECORD_TOLERANCE, TWIN_TOLERANCE = 1e-4, 1e-5


def record_fingerprint(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase | None,
    folder: Path,
    *,
    recorded: str = "when it was saved",
    sha256: str | None = None,
) -> Path:
    """Write `fingerprint.json` to the folder of the saved `model`.

    Args:
        model: the model in memory, with its unmerged adapter if it has one. It is measured in float32 and left unchanged. A model
            sharded over several processes is read back from the folder.
        tokenizer: None if the folder has none; random ids are then used instead of texts.
        folder: its weight files are hashed, so they must exist. A GGUF file contains the same function, rounded.
        recorded: when it was recorded; check reports it if that was not at training.
        sha256: `weights_sha256` of the model, if already known.
    Cost: a second, and a copy of a model that is not in float32; hashing takes about a second per 250 million parameters.
    """
    adapted = isinstance(model, PeftModel)
    # The model inside PEFT's wrapper: the outer one computes in bfloat16, as accelerate set it for training.
    body = cast(PreTrainedModel, model.get_base_model()) if isinstance(model, PeftModel) else model
    if any(hasattr(parameter, "full_tensor") for parameter in body.parameters()):
        body = type(body).from_pretrained(folder, dtype=torch.float32)
    elif not adapted and any(parameter.dtype in (torch.bfloat16, torch.float16) for parameter in body.parameters()):
        body = _in_float32(body)
    with evaluating(body), _exact_products():
        content = _measured(body, tokenizer)
    weights = [*folder.glob("*.safetensors"), *folder.glob("*.gguf")]
    if adapted:
        weights = [path for path in weights if path.name.startswith("adapter_model")]  # the base may be there as well
    fingerprint = {
        "format": 1,
        "recorded": recorded,
        "class": type(body).__name__,
        # For an adapter, only its file is hashed: its base has its own fingerprint.
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
    path = folder / FINGERPRINT_FILE
    # There may be a link to the base's file in an adapter's folder; a new file replaces it.
    write_json(path, fingerprint, ensure_ascii=False, indent=None)
    return path


def _in_float32(model: PreTrainedModel) -> PreTrainedModel:
    """The same weights in a new model. Casting back is not enough: rotary frequencies would stay rounded, and are not saved."""
    with initialization.no_init_weights():
        other = type(model)._from_config(model.config, dtype=torch.float32)
    other.load_state_dict({name: tensor.float().cpu() for name, tensor in model.state_dict().items()})
    other.tie_weights()  # no_init_weights skips this
    return other


@contextmanager
def _exact_products() -> Iterator[None]:
    """Matrix products in true float32; a run with `tf32: true` has three digits fewer."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _longest_input(model: PreTrainedModel) -> int:
    # Our classifiers read at most max_text_length tokens, while their twins read everything.
    return getattr(model.config, "max_text_length", None) or longest_input(model.config) or POSITIONS


def _measured(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None) -> dict:
    context_length = _longest_input(model)
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
    # Called through the class: accelerate attaches a forward to the model itself that computes in the run's bfloat16.
    logits = type(model).forward(model, input_ids=torch.tensor([ids], device=model.device)).logits
    return logits.float().cpu().reshape(-1, logits.shape[-1])


def _continuation(model: PreTrainedModel, ids: list[int], context_length: int) -> dict:
    """Greedy and without a cache, token by token: the reference for `generate` with its cache.

    `margins` is the gap between the best and the second token; if it is smaller than rounding, another machine may choose the other
    one and continue differently.
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
    return float(f"{value:.7g}")  # float32 has no more digits


def probe_rows(model: PreTrainedModel) -> list[torch.Tensor]:
    """Three rows (1, T) of random token ids that the model accepts; run one by one, so that no padding is needed."""
    generator = torch.Generator().manual_seed(0)
    longest = min(64, _longest_input(model))
    rows = [torch.randint(model.config.vocab_size, (1, T), generator=generator) for T in (longest, max(1, longest // 2), 1)]
    # Text never contains the padding token; if it did, classifiers would disagree about its end.
    pad = model.config.pad_token_id
    return [row.masked_fill(row == pad, pad - 1 if pad else 1) for row in rows] if pad is not None else rows


def logits_of(model: PreTrainedModel | PeftModel, rows: list[torch.Tensor]) -> list[torch.Tensor]:
    """The logits of each row, without dropout; the model's mode is restored."""
    with evaluating(model):
        return [model(row.to(model.device)).logits.float().cpu() for row in rows]


def check_equal(first: list[torch.Tensor], second: list[torch.Tensor], *, what: str) -> float:
    """The largest difference between the logits of two float32 models on the same rows.

    Raises: ValueError if it is more than rounding; `what` describes the two models.
    """
    difference = max((ours - theirs).abs().max().item() for ours, theirs in zip(first, second))
    largest = max(theirs.abs().max().item() for theirs in second)
    allowed = TWIN_TOLERANCE * max(1.0, largest)
    if not difference <= allowed:  # also refuses nan
        raise UserError(
            f"the logits of {what} differ by up to {difference:.3g}, but only {allowed:.3g} is allowed, because both compute the "
            f"same function in float32 (largest logit {largest:.3g}). Nothing was written; please report it."
        )
    return difference


def tensor_sha256(tensor: torch.Tensor) -> str:
    """SHA-256 of a tensor's bytes as stored."""
    return hashlib.sha256(cast(Any, tensor.detach().contiguous().cpu().view(torch.uint8).numpy())).hexdigest()


def weights_sha256(model: PreTrainedModel) -> str:
    """SHA-256 of a model's body in float32: the same for a language model and a classifier made from it, whatever the files.

    It identifies the weights an adapter was trained on. Cost: about a second per 250 million parameters.
    """
    digest = hashlib.sha256()
    for name, parameter in sorted(model.base_model.named_parameters()):
        digest.update(f"{name} {tuple(parameter.shape)} {tensor_sha256(parameter.float())}\n".encode())
    return digest.hexdigest()
