"""Merge a LoRA adapter into the weights, in float32, and measure the difference."""

import copy
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import peft
import torch
from transformers import PreTrainedModel

from hfgpt.artifacts import ADAPTER_CONFIG, BASE_FOLDER, METRICS_FILE, base_beside, run_folders
from hfgpt.conversion.checkpoints import check_tensors, read_folder
from hfgpt.conversion.weights_in import Model, empty_model, read_generation_config
from hfgpt.data.passport import PASSPORT_NAME, Passport
from hfgpt.errors import UserError, WrongTypeError
from hfgpt.files import read_json
from hfgpt.fingerprint import check_equal, logits_of, probe_rows, weights_sha256
from hfgpt.model.configuration_hfgpt import HfGptConfig
from hfgpt.model.modeling_hfgpt import HfGptForCausalLM, HfGptForSequenceClassification

# What a classifier's adapter says of its labels: adapters are published without config.json, with the figures of their test.
HEAD_FILES = ("config.json", METRICS_FILE)
WEIGHT_FILES = ("adapter_model.safetensors", "adapter_model.bin")


def merge_adapter(model: Model, folder: Path) -> tuple[Model, float]:
    """Add a PEFT adapter to the weights of its base model.

    Args:
        model: the base, in float32: in half precision each sum would be rounded, and the merged model would give different answers.
        folder: written by PEFT's `save_pretrained`. A classifier's adapter is merged into the language model it was trained on; its
            labels come from the files beside it, or are counted in its head. A generation_config.json beside it replaces
            the base's: an assistant stops where its answers end.
    Returns: the merged model, and the largest difference between its logits and those with the unmerged adapter.
    Raises: ValueError for an adapter of a different model (every tensor is named), and if merging changes the logits.
    """
    if model.dtype != torch.float32:
        raise WrongTypeError(
            f"the model is {model.dtype}; adapters are merged in float32, so cast the model first and back afterwards."
        )
    settings, tensors = read_json(folder / ADAPTER_CONFIG), read_folder(folder, WEIGHT_FILES)
    if settings.get("peft_type") != "LORA":
        raise UserError(f"{folder / ADAPTER_CONFIG}: peft_type is {settings.get('peft_type')!r}; only LORA can be merged.")
    check_adapter_base(folder, model)
    if settings.get("task_type") == "SEQ_CLS" and isinstance(model, HfGptForCausalLM):
        model = classifier_of(model, **_head(folder, tensors))
    config = peft.PeftConfig.from_pretrained(str(folder))
    config.inference_mode = True
    is_tied = model.config.tie_word_embeddings  # no longer true once an adapter is on one of the two
    try:
        adapted = peft.get_peft_model(model, config).eval()
    except ValueError as error:  # "Target modules {'c_attn'} not found in the base model."
        trained_on = settings.get("base_model_name_or_path")
        raise UserError(
            f"the adapter in {folder} does not fit: {str(error).splitlines()[0]} It was trained on {trained_on!r}; merge an "
            f"adapter for a GPT-2 layout there, before converting the weights."
        ) from None
    shapes = {name: tuple(tensor.shape) for name, tensor in peft.get_peft_model_state_dict(adapted).items()}
    # Single rows of the embedding (a token_adapter) are the exception: PEFT trains and merges them in both places.
    tied = [name for name in shapes if {"lm_head", "embed_tokens"} & set(name.split(".")) and "token_adapter" not in name]
    if tied and is_tied:
        raise UserError(
            f"the adapter in {folder} changes {', '.join(tied)}; here, head and embedding are one matrix, which would have to be "
            f"separated."
        )
    # Our recipes store such rows under two names for transformers: the embedding's and, with the adapter's name, the head's.
    tensors = {name: tensor for name, tensor in tensors.items() if not name.endswith(".trainable_tokens_delta.default")}
    check_tensors(tensors, shapes, source=str(folder), title=f"{type(model).__name__} and its {ADAPTER_CONFIG}")
    peft.set_peft_model_state_dict(adapted, tensors)
    rows = probe_rows(model)
    beside = logits_of(adapted, rows)
    merged = cast(Model, adapted.merge_and_unload(safe_merge=True))
    found = filter(None, map(read_generation_config, _folders(folder)))
    if (generation_config := next(found, None)) is not None:
        merged.generation_config = generation_config
    return merged, check_equal(logits_of(merged, rows), beside, what="the merged model and the model with the unmerged adapter")


def _folders(adapter: Path) -> list[Path]:
    """Where something is said of an adapter: its folder, those of its run, and its base, which was stored ready for training."""
    return [place for place in (*run_folders(adapter), base_beside(adapter)) if place is not None]


def check_adapter_base(folder: Path, model: PreTrainedModel) -> None:
    """Refuse an adapter that was trained on different weights with the same shapes.

    All our code that loads an adapter calls this. Our recipes store the weights' hash beside the adapter; without it, nothing is
    known, and nothing is refused.

    Raises: ValueError that names both hashes.
    """
    noted = next((place for place in run_folders(folder) if (place / PASSPORT_NAME).is_file()), None)
    if noted is None:
        return
    base = Passport.load(noted).base
    layouts = [re.split("For|LMHead", name)[0] for name in (base.get("class", type(model).__name__), type(model).__name__)]
    if layouts[0] != layouts[1]:
        return  # a GPT-2's tensors in our layout have another hash; where they are named otherwise, the adapter does not fit
    found = weights_sha256(model)
    if base.get("sha256") not in (None, found):
        raise UserError(
            f"the adapter in {folder} was trained on {base.get('name')!r}, whose weights have the SHA-256 {base['sha256']}; those "
            f"of this model have {found}, and with different weights it gives different answers. Use its own base, which its "
            f"recipe wrote to {noted / BASE_FOLDER}."
        )


def classifier_of(model: HfGptForCausalLM, **settings) -> HfGptForSequenceClassification:
    """A classifier on the body of a language model; its head is zero until an adapter provides one.

    Args: `settings` are values for the config, such as `id2label`.
    """
    fields = copy.deepcopy(model.config.to_dict()) | settings
    classifier = empty_model(HfGptForSequenceClassification, HfGptConfig.from_dict(fields))
    classifier.model.load_state_dict(model.model.state_dict(), strict=True)
    torch.nn.init.zeros_(classifier.score.weight)
    return classifier


def head_settings(files: Iterable[Path | None]) -> dict[str, Any]:
    """Fields of a config that a classifier's adapter adds to its base's: its labels, whether a text may have several, and how much
    of it is read.

    Args: `files` are those of `HEAD_FILES` beside an adapter; the first one that exists and names labels counts.
    """
    for file in files:
        facts = read_json(file) if file is not None and file.is_file() else {}
        if labels := facts.get("id2label") or dict(enumerate(facts.get("labels") or [])):
            id2label = {int(id): label for id, label in labels.items()}
            more = {key: facts[key] for key in ("problem_type", "max_text_length") if facts.get(key) is not None}
            return {"id2label": id2label, "label2id": {label: id for id, label in id2label.items()}} | more
    return {}


def _head(folder: Path, tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
    heads = [tensor for name, tensor in tensors.items() if name.endswith("score.weight")]
    if not heads:
        raise UserError(f"{folder} is a classifier's adapter without its head score.weight; train it with modules_to_save.")
    count = len(heads[0])
    settings = head_settings(place / file for place in _folders(folder) for file in HEAD_FILES)
    if not settings:
        return {"num_labels": count}
    if sorted(settings["id2label"]) != list(range(count)):
        raise UserError(f"{folder} names {len(settings['id2label'])} labels, but its head score.weight has {count} rows.")
    return settings
