"""The ways in which transformers and accelerate load a checkpoint: the logits are the same with each."""

import json

import pytest
import torch
from accelerate import init_empty_weights, load_checkpoint_and_dispatch
from transformers import AutoModelForCausalLM, AutoTokenizer

import hfgpt  # noqa: F401  registers the classes


@pytest.fixture(scope="module", params=["book", "modern"])
def folder(request, small_families):
    return small_families[request.param]


@pytest.fixture(scope="module")
def ids(folder) -> torch.Tensor:
    return AutoTokenizer.from_pretrained(folder)("The class of the object is called when", return_tensors="pt").input_ids


@torch.no_grad()
def logits_of(model, ids: torch.Tensor) -> torch.Tensor:
    return model.eval()(ids).logits.float()


@pytest.fixture(scope="module")
def expected(folder, ids) -> torch.Tensor:
    logits = logits_of(AutoModelForCausalLM.from_pretrained(folder), ids)
    assert logits.std() > 1
    return logits


def test_an_automatic_device_map_changes_nothing(folder, ids, expected):
    assert torch.equal(logits_of(AutoModelForCausalLM.from_pretrained(folder, device_map="auto").to("cpu"), ids), expected)


def test_bfloat16_has_half_the_bytes_and_nearly_the_logits(folder, ids, expected):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="bfloat16", device_map="cpu")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    difference = (logits_of(model, ids) - expected).abs().max()
    assert 0 < difference < 0.15  # measured: 0.05, for logits that differ by 2
    if model.model.rotary_emb is not None:
        assert model.model.rotary_emb.inv_freq.dtype == torch.float32


def test_shards_are_listed_in_an_index_and_load_equal(folder, ids, expected, tmp_path):
    AutoModelForCausalLM.from_pretrained(folder).save_pretrained(tmp_path, max_shard_size="100KB")
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) > 2
    assert "lm_head.weight" not in index["weight_map"]  # it is the embedding
    assert not (tmp_path / "model.safetensors").exists()
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert torch.equal(logits_of(model, ids), expected)


def test_a_model_begun_without_memory_is_whole_after_loading(folder, ids, expected):
    with init_empty_weights():
        model = AutoModelForCausalLM.from_config(AutoModelForCausalLM.from_pretrained(folder).config)
    assert model.device.type == "meta"
    model.tie_weights()
    model = load_checkpoint_and_dispatch(model, str(folder / "model.safetensors"), device_map={"": "cpu"})
    assert all(tensor.device.type == "cpu" for tensor in (*model.parameters(), *model.buffers()))
    assert torch.equal(logits_of(model, ids), expected)


def test_loading_computes_the_rotary_frequencies_anew(small_families):
    model = AutoModelForCausalLM.from_pretrained(small_families["modern"], device_map="cpu")
    rotary = model.model.rotary_emb
    assert "rotary" not in "".join(model.state_dict())
    expected = 10_000.0 ** (-torch.arange(0, 16, 2) / 16)
    torch.testing.assert_close(rotary.inv_freq, expected)
    torch.testing.assert_close(rotary.original_inv_freq, expected)


@pytest.mark.parametrize(
    "settings",
    [dict(device_map="auto", max_memory={"cpu": "150KB"}), "the last block"],
    ids=["whatever has no room", "the last block"],
)
def test_blocks_that_stay_on_the_disk_take_part_all_the_same(folder, ids, expected, tmp_path, settings):
    model = AutoModelForCausalLM.from_pretrained(folder)
    generated = model.generate(ids, max_new_tokens=10, do_sample=False)
    if settings == "the last block":
        places = {f"model.{name}": "cpu" for name, _ in model.model.named_children()} | {"lm_head": "cpu"}
        del places["model.layers"]
        settings = dict(device_map=places | {"model.layers.0": "cpu", "model.layers.1": "disk"})
    model = AutoModelForCausalLM.from_pretrained(folder, offload_folder=tmp_path, **settings)
    assert model.model.layers[1].mlp.up_proj.weight.device.type == "meta"
    assert torch.equal(logits_of(model, ids), expected)
    assert torch.equal(model.generate(ids, max_new_tokens=10, do_sample=False), generated)
