"""GPT-2 124M on FineWeb-Edu: the files work on a small corpus, and the arithmetic in their comments is right."""

import json
import re

import pytest
import torch
import yaml
from conftest import ROOT
from recipes_in_process import run_script

from hfgpt import HfGptConfig, HfGptForCausalLM
from hfgpt.training.flops import ModelFlops

CONFIGS = ROOT / "recipes" / "configs" / "gpt2-124m"
TOKENS = 10e9
GPUS = {"pretrain.yaml": 1, "pretrain_8gpu.yaml": 8}


def test_the_files_go_through_on_a_small_corpus(small_corpus, tmp_path):
    """All their settings except the source, the sizes and the number of steps."""
    tiny = {"num_hidden_layers": 1, "hidden_size": 32, "num_attention_heads": 2}
    local = ("--streaming", "false", "--validation_share", "0.1", "--test_share", "0.1")
    steps = ("--max_steps", "4", "--warmup_steps", "2", "--per_device_train_batch_size", "2", "--gradient_accumulation_steps", "2",
             "--eval_steps", "2", "--save_steps", "2", "--config_overrides", json.dumps(tiny), "--sample_tokens", "4",
             "--cpu_threads", "1")  # fmt: skip
    for done in (
        run_script("train_tokenizer.py", CONFIGS / "tokenizer.yaml", "--sources", small_corpus, "--vocab_size", "512", *local,
                   "--output_dir", "tok", cwd=tmp_path),
        run_script("prepare_data.py", CONFIGS / "data.yaml", "--tokenizer", "tok", "--context_length", "64", "--output_dir", "rows",
                   cwd=tmp_path),
        *(run_script("pretrain.py", CONFIGS / name, "--dataset", "rows", "--output_dir", name, *steps, cwd=tmp_path)
          for name in GPUS),
    ):  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
    for name in GPUS:
        folder = tmp_path / name
        config = json.loads((folder / "config.json").read_text())
        assert config["position_embedding_type"] == "learned"
        assert (folder / "finished.json").is_file()


@pytest.mark.parametrize("name", GPUS)
def test_a_step_has_half_a_million_tokens(name):
    text = (CONFIGS / name).read_text()
    keys = yaml.safe_load(text)
    context_length = yaml.safe_load((CONFIGS / "data.yaml").read_text())["context_length"]
    rows = keys["per_device_train_batch_size"] * keys["gradient_accumulation_steps"] * GPUS[name]
    assert rows * context_length == 2**19
    assert f"{2**19:,} tokens per step" in text
    assert 0.95 < keys["warmup_steps"] * 2**19 / 375e6 < 1.05


def test_both_files_take_the_same_steps():
    one, eight = (yaml.safe_load((CONFIGS / name).read_text()) for name in GPUS)
    assert {key for key in one if one[key] != eight[key]} == {"gradient_accumulation_steps", "save_steps"}


def test_the_derived_figures_are_what_their_formulas_give():
    one, eight = ((CONFIGS / name).read_text() for name in GPUS)
    with torch.device("meta"):
        model = HfGptForCausalLM(HfGptConfig())
    flops = ModelFlops.of(model)
    assert f"{flops.matrices // 6:,}" in one
    assert flops.attention * 1024 == 12 * 12 * 768 * 1024
    total = flops.per_token(1024) * TOKENS
    assert f"{total:.1e}".replace("+", "") in one
    hours = {peak: total / (0.40 * peak * 1e12) / 3600 for peak in (989, 312)}
    assert f"{hours[989]:.1f} hours on one H100" in one
    assert f"{hours[312]:.0f} hours on one A100" in one
    assert f"{hours[989] * 60 * 0.40 / 0.35 / 8:.0f} minutes on eight H100" in eight
    assert f"eight A100 (312 TFLOP/s): {hours[312] * 0.40 / 0.35 / 8:.1f} hours" in eight
    loss = 1.69 + 406.4 / model.num_parameters() ** 0.34 + 410.7 / TOKENS**0.28
    assert f"is {loss:.2f}" in one
    assert re.search(rf"\b{TOKENS // 2**19:,.0f} steps", one)
