"""Folders for the gate, written by the same code as the recipes use, with models too small to need training."""

import json
import os
import shutil
from pathlib import Path

import torch
from transformers import AutoTokenizer, set_seed

from hfgpt import HfGptConfig, HfGptForCausalLM
from hfgpt.chat_templates import set_prompt_style, stop_token_ids
from hfgpt.evaluation.generation import generation_settings
from hfgpt.fingerprint import record_fingerprint
from hfgpt.hub.card.rendering import write_card


def new_model(tokenizer, **fields) -> HfGptForCausalLM:
    """Two layers with large random weights: the scores of next tokens are clearly apart, as in a trained model."""
    set_seed(0)
    shape = dict(vocab_size=len(tokenizer), num_hidden_layers=2, hidden_size=32, num_attention_heads=4, max_position_embeddings=64)
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("pad", "bos", "eos")}
    model = HfGptForCausalLM(HfGptConfig.gpt2("124M", **{**shape, **ids, **fields})).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(8)
    model.generation_config = generation_settings(tokenizer, do_sample=True, temperature=0.8, top_k=50)
    return model


def good_model(folder: Path, tokenizer_folder: Path) -> Path:
    """A chat model with everything that the gate requires."""
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    set_prompt_style(tokenizer, "chat")
    tokenizer.model_max_length = 64
    model = new_model(tokenizer)
    model.generation_config.eos_token_id = stop_token_ids(tokenizer)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    record_fingerprint(model, tokenizer, folder)
    (folder / "card.yaml").write_text("license: apache-2.0\nlanguage: en\n")
    write_card(folder)
    return folder


def good_adapter(folder: Path, model_folder: Path) -> Path:
    """A LoRA adapter with base and merged twin, saved by the functions that the recipes call."""
    from peft import LoraConfig, get_peft_model

    from hfgpt.training.finetuning import save_base, save_finetuned

    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    model = HfGptForCausalLM.from_pretrained(model_folder)
    folder.mkdir(parents=True)
    save_base(model, tokenizer, folder)
    set_seed(0)
    tuned = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear", init_lora_weights=False))
    save_finetuned(tuned, tokenizer, folder, probe=[[0, 5, 6, 7]])
    (folder / "card.yaml").write_text("license: apache-2.0\n")
    write_card(folder)
    return folder


def copy_of(folder: Path, target: Path) -> Path:
    """A copy whose files are hard links; replace a file (with `replace`), never write into it."""
    return Path(shutil.copytree(folder, target, copy_function=os.link))


def replace(path: Path, content: str | bytes) -> None:
    """Write a new file at `path`, whatever was there."""
    path.unlink(missing_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def change_json(path: Path, **fields: object) -> None:
    """Set fields of a JSON file; None removes one."""
    content = json.loads(path.read_text()) | fields
    replace(path, json.dumps({key: value for key, value in content.items() if value is not None}))
