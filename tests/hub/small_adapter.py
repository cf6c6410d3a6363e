"""A LoRA adapter's folder as our recipes leave it, made without training: its matrices are random, and large enough to matter."""

from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

import hfgpt  # noqa: F401  registers the classes
from hfgpt.data.passport import Passport
from hfgpt.training.finetuning import Base, identify_base, save_base, save_finetuned


def write_adapter(base: Path, folder: Path) -> Path:
    """Write the adapter, base/ and merged/ to `folder` with the functions that write them after training."""
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = AutoModelForCausalLM.from_pretrained(base)
    folder.mkdir(parents=True)
    passport = Passport(inputs=[{"name": "rows.jsonl", "kind": "json", "sha256": "0" * 64}])
    passport.base = identify_base(Base(str(base), str(base), tokenizer), model)
    save_base(model, tokenizer, folder)
    torch.manual_seed(0)
    settings = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM", init_lora_weights=False)
    model = get_peft_model(model, settings)
    save_finetuned(model, tokenizer, folder, probe=[[5, 9, 11, 3, 96]])
    passport.save(folder)
    return folder
