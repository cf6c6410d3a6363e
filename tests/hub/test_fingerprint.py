"""fingerprint.json records what a model computes, precisely enough to tell it from any other model."""

import json

import pytest
import torch
from gate_folders import new_model
from recipes_in_process import recipe
from transformers import AutoModelForCausalLM, AutoTokenizer

from hfgpt import HfGptConfig, HfGptForSequenceClassification
from hfgpt.fingerprint import TEXTS, record_fingerprint, weights_sha256
from hfgpt.hub.gate.recording import record_from_folder


@pytest.fixture(scope="module")
def tokenizer(small_tokenizer):
    return AutoTokenizer.from_pretrained(small_tokenizer)


def recorded(folder) -> dict:
    return json.loads((folder / "fingerprint.json").read_text(encoding="utf-8"))


def test_it_holds_the_ids_and_logits_that_the_reloaded_model_has(tokenizer, tmp_path):
    model = new_model(tokenizer)
    model.save_pretrained(tmp_path)
    model.train()
    record_fingerprint(model, tokenizer, tmp_path)
    assert model.training
    found = recorded(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert found["weights_sha256"] == weights_sha256(again)
    assert [entry["text"] for entry in found["texts"]] == list(TEXTS)
    assert found["tolerance"] >= 1e-4  # a GPU may add in another order
    for entry in found["texts"]:
        assert entry["ids"] == tokenizer(entry["text"]).input_ids
        with torch.no_grad():
            logits = again(torch.tensor([entry["ids"][: entry["positions"]]])).logits[0]
        assert torch.allclose(logits[:, found["columns"]], torch.tensor(entry["logits"]), atol=found["tolerance"] / 10)
        assert logits.argmax(-1).tolist() == entry["argmax"]
    new = again.generate(torch.tensor([found["continuation"]["prompt"]]), do_sample=False, max_new_tokens=16, eos_token_id=-1)
    assert new[0].tolist() == found["continuation"]["prompt"] + found["continuation"]["ids"]
    assert min(found["continuation"]["margins"]) > 10 * found["tolerance"]  # so that the comparison above means something
    assert (tmp_path / "fingerprint.json").stat().st_size < 50_000


def test_a_weight_that_moves_a_little_moves_the_record(tokenizer, tmp_path):
    model = new_model(tokenizer)
    record_fingerprint(model, tokenizer, tmp_path)
    before = recorded(tmp_path)
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight[3, 5] += 0.05
    record_fingerprint(model, tokenizer, tmp_path)
    after = recorded(tmp_path)
    assert before["weights_sha256"] != after["weights_sha256"]
    logits = [torch.tensor([row for entry in one["texts"] for row in entry["logits"]]) for one in (before, after)]
    assert (logits[0] - logits[1]).abs().max().item() > 2 * before["tolerance"]


def test_a_forward_that_accelerate_put_on_the_model_is_not_what_is_recorded(tokenizer, tmp_path):
    """With `bf16: true`, the model's own forward computes in bfloat16; the record is made from the weights in float32."""
    model = new_model(tokenizer)
    record_fingerprint(model, tokenizer, tmp_path)
    before = recorded(tmp_path)
    model.forward = lambda **inputs: pytest.fail("the patched forward was called")
    record_fingerprint(model, tokenizer, tmp_path)
    assert recorded(tmp_path) == before


def test_weights_in_bfloat16_are_recorded_as_they_load_in_float32(tokenizer, tmp_path):
    """Rotary frequencies are not weights: casting a model to bfloat16 rounds them, loading it in float32 does not."""
    shape = dict(num_attention_heads=4, num_key_value_heads=2, head_dim=8, intermediate_size=80, hidden_size=32)
    config = HfGptConfig.modern(2, vocab_size=len(tokenizer), max_position_embeddings=64, pad_token_id=1, **shape)
    torch.manual_seed(0)
    model = type(new_model(tokenizer))(config).to(torch.bfloat16)
    model.save_pretrained(tmp_path)
    record_fingerprint(model, tokenizer, tmp_path)
    assert model.dtype == torch.bfloat16
    found, entry = recorded(tmp_path), recorded(tmp_path)["texts"][0]
    again = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    with torch.no_grad():
        logits = again(torch.tensor([entry["ids"][: entry["positions"]]])).logits[0]
    assert torch.allclose(logits[:, found["columns"]], torch.tensor(entry["logits"]), atol=found["tolerance"] / 10)
    assert found["weights_sha256"] == weights_sha256(again)


def test_of_a_classifier_every_label_is_recorded(tokenizer, tmp_path):
    torch.manual_seed(0)
    config = new_model(tokenizer).config.to_dict() | {"id2label": {0: "a", 1: "b", 2: "c"}, "label2id": {"a": 0, "b": 1, "c": 2}}
    record_fingerprint(HfGptForSequenceClassification(HfGptConfig.from_dict(config)), tokenizer, tmp_path)
    found = recorded(tmp_path)
    assert (found["task"], found["columns"]) == ("text-classification", None)
    assert [[len(row) for row in entry["logits"]] for entry in found["texts"]] == [[3]] * len(TEXTS)
    assert "continuation" not in found


def test_a_record_on_demand_says_so_and_runs_no_code_of_the_folder(tokenizer, tmp_path):
    model = new_model(tokenizer)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    record_fingerprint(model, tokenizer, tmp_path)
    first = recorded(tmp_path)
    code = tmp_path / "modeling_hfgpt.py"
    code.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n" + code.read_text())
    record_from_folder(tmp_path)
    assert not (tmp_path / "ran").exists()
    assert recorded(tmp_path)["recorded"] == "on demand, after it was saved"
    assert recorded(tmp_path)["texts"] == first["texts"]
    (tmp_path / "config.json").unlink()
    with pytest.raises(ValueError, match="is a tokenizer; only models and adapters can be recorded"):
        record_from_folder(tmp_path)


@pytest.mark.parametrize("target", ["hfgpt", "native", "gguf"])
def test_what_is_converted_has_one(tokenizer, tmp_path, target):
    if target == "gguf":
        pytest.importorskip("gguf")
    new_model(tokenizer).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    recipe("convert", source=str(tmp_path / "base"), target=target, output_dir=str(tmp_path / "out"))
    found = recorded(tmp_path / "out")
    assert list(found["files"]) == ["out-f16.gguf" if target == "gguf" else "model.safetensors"]
    assert found["texts"][0]["ids"] == tokenizer(TEXTS[0]).input_ids
    assert found["class"] == ("GPT2LMHeadModel" if target == "native" else "HfGptForCausalLM")
