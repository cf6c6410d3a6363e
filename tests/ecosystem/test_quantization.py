"""Weights of 8 and 4 bits through torchao, on a CPU: really quantized, near the exact logits, and the same after saving."""

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, TorchAoConfig

import hfgpt  # noqa: F401  registers the classes

pytest.importorskip("torchao", minversion="0.15", reason="quantization needs the package torchao")
from torchao.quantization import (
    Int8DynamicActivationInt8WeightConfig,
    Int8WeightOnlyConfig,
    IntxWeightOnlyConfig,
    PerGroup,
)

# Levels a weight can have, and how far a logit may move: twice what was measured, for logits that differ by 2.
SCHEMES = {
    "int8 weights": (Int8WeightOnlyConfig(), 256, 0.15),
    "int8 weights and activations": (Int8DynamicActivationInt8WeightConfig(), 256, 0.2),
    # Int4WeightOnlyConfig has no layout for a CPU (it asks for mslk, XPU or CUDA); this one has the same 16 levels.
    "int4 weights in groups of 32": (IntxWeightOnlyConfig(weight_dtype=torch.int4, granularity=PerGroup(32)), 16, 2.0),
}


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("family", ["book", "modern"])
def test_quantized_weights_stay_near_and_survive_saving(small_families, tmp_path, family, scheme):
    settings, levels, bound = SCHEMES[scheme]
    folder = small_families[family]
    ids = AutoTokenizer.from_pretrained(folder)("The class of the object is called when", return_tensors="pt").input_ids
    exact = AutoModelForCausalLM.from_pretrained(folder).eval()
    model = AutoModelForCausalLM.from_pretrained(folder, quantization_config=TorchAoConfig(settings), device_map="cpu").eval()

    linear = [module for module in model.model.modules() if isinstance(module, torch.nn.Linear)]
    assert len(linear) == {"book": 12, "modern": 14}[family]
    for module in linear:
        assert module.weight.qdata.dtype == torch.int8
        assert 8 < module.weight.qdata.unique().numel() <= levels
    assert model.lm_head.weight is model.model.embed_tokens.weight  # tied, and therefore exact
    with torch.no_grad():
        logits = model(ids).logits
        difference = (logits - exact(ids).logits).abs().max()
    assert 0.001 < difference < bound
    assert model.generate(ids, max_new_tokens=5, do_sample=False, eos_token_id=-1).shape[1] == ids.shape[1] + 5

    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path, device_map="cpu").eval()
    assert type(again.model.layers[0].mlp.up_proj.weight) is type(linear[0].weight)
    with torch.no_grad():
        assert torch.equal(again(ids).logits, logits)
    assert (tmp_path / "model.safetensors").stat().st_size < 0.6 * (folder / "model.safetensors").stat().st_size
