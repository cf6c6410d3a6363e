"""The probe at the start of a run: packed documents do not see each other, or the run stops."""

import pytest
import torch
from datasets import Dataset

from hfgpt import HfGptConfig, HfGptForCausalLM
from hfgpt.model import modeling_hfgpt
from hfgpt.training.pretraining import check_isolation

SHAPE = dict(vocab_size=64, num_hidden_layers=2, hidden_size=32, num_attention_heads=2, max_position_embeddings=32, bos_token_id=0,
             eos_token_id=0, pad_token_id=1)  # fmt: skip


def new_model(family, attention):
    """An untrained model of this shape, as at the start of a run."""
    shape = SHAPE if family == "gpt2" else {**SHAPE, "num_key_value_heads": 1, "head_dim": 16, "intermediate_size": 48}
    config = HfGptConfig.gpt2("124M", **shape) if family == "gpt2" else HfGptConfig.modern(2, **shape)
    torch.manual_seed(0)
    return HfGptForCausalLM._from_config(config, attn_implementation=attention)


def rows(*positions):
    return Dataset.from_list([{"input_ids": [2 + (7 * n) % 60 for n in range(16)], "position_ids": list(one)} for one in positions])


PACKED = [*range(9), *range(7)]
ONE_DOCUMENT = range(16)


@pytest.mark.parametrize("positions", [PACKED, ONE_DOCUMENT], ids=["packed rows", "one document in every row"])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("family", ["gpt2", "modern"])
def test_the_probe_passes_a_new_model_and_stops_one_that_leaks(family, attention, positions, monkeypatch):
    model = new_model(family, attention)
    assert model.config._attn_implementation == attention
    check_isolation(model, rows(positions, positions))
    # Like a backend that does not know about the restarting positions: its attention treats a row as one document.
    real = modeling_hfgpt.create_causal_mask
    monkeypatch.setattr(modeling_hfgpt, "create_causal_mask", lambda **given: real(**{**given, "position_ids": None}))
    with pytest.raises(RuntimeError, match=f"packed documents see each other.*attn_implementation '{attention}'"):
        check_isolation(model, rows(positions, positions))


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_a_mask_of_ones_leaks_and_is_noticed(attention):
    """transformers separates packed documents by their positions only if no mask is given."""
    model = new_model("modern", attention)
    forward = model.forward
    model.forward = lambda input_ids, **given: forward(input_ids, attention_mask=torch.ones_like(input_ids), **given)
    with pytest.raises(RuntimeError, match="packed documents see each other"):
        check_isolation(model, rows(PACKED))
