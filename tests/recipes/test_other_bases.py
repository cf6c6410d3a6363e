"""Causal language models of transformers whose code differs from ours: position limits, names of heads, packed rows."""

import json

import pytest
import torch
from recipes_in_process import recipe
from transformers import AutoModelForCausalLM, AutoTokenizer, BloomConfig, GPTNeoXConfig, MptConfig

from hfgpt.errors import UserError
from hfgpt.hub.gate.check import check_folder

pytestmark = pytest.mark.slow

MODELS = {
    "bloom": lambda V: BloomConfig(vocab_size=V, hidden_size=32, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0),
    "mpt": lambda V: MptConfig(vocab_size=V, d_model=32, n_layers=1, n_heads=2, max_seq_len=96),
    "gpt_neox": lambda V: GPTNeoXConfig(
        vocab_size=V,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        bos_token_id=0,
        eos_token_id=0,
    ),
}  # fmt: skip


@pytest.fixture
def base(request, small_gpt2, tmp_path):
    """A folder with a new model of this kind and a tokenizer without a limit."""
    tokenizer = AutoTokenizer.from_pretrained(small_gpt2)
    for part in (AutoModelForCausalLM.from_config(MODELS[request.param](len(tokenizer))), tokenizer):
        part.save_pretrained(tmp_path / request.param)
    return tmp_path / request.param


def settings(base, rows, name, **others):
    """For a short run on the CPU."""
    path, folder = base.parent / f"{name}.jsonl", base.parent / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = dict(model=str(base), sources=[str(path)], output_dir=str(folder), canaries=False, precision="fp32", cpu_threads=1)
    return {**given, "card": {"license": "mit"}, **others}


@pytest.mark.parametrize("base", ["bloom", "mpt"], indirect=True)
def test_a_base_that_takes_no_positions_becomes_an_assistant_without_packed_rows(base):
    """Bloom has no limit of positions, MPT has its own name for it."""
    numbers = ("one", "two", "three", "four", "five", "six", "seven", "eight")
    rows = [{"instruction": f"What comes {place} {one} and {other}?", "output": f"{other} {one}"}
            for place in ("before", "after") for one in numbers for other in numbers if one != other]  # fmt: skip
    given = settings(base, rows, "assistant", method="full", max_steps=2, max_new_tokens=4, max_answers=2)
    with pytest.raises(
        UserError, match="takes no position_ids, but packed documents are kept apart only by them; set --packing fals"
    ):
        recipe("finetune_instructions", **given)
    assert not (base.parent / "assistant").exists()
    recipe("finetune_instructions", **given, packing=False)
    tuned = AutoModelForCausalLM.from_pretrained(base.parent / "assistant")
    assert tuned.config.model_type == base.name
    begin = AutoModelForCausalLM.from_pretrained(base).get_input_embeddings().weight
    assert not torch.equal(tuned.get_input_embeddings().weight[: len(begin)], begin)
    assert json.loads((base.parent / "assistant" / "metrics.json").read_text())["steps"] == 2
    if base.name == "bloom":
        assert check_folder(base.parent / "assistant").failures == []


@pytest.mark.parametrize(("base", "method"), [("bloom", "likelihood"), ("gpt_neox", "full")], indirect=["base"])
def test_a_classifier_comes_out(base, method):
    """GPT-NeoX has its own name for the head."""
    rows = [{"text": f"{word} things {number}", "label": word} for word in ("good", "bad") for number in range(40)]
    steps = {"max_steps": 2} if method == "full" else {}
    recipe("finetune_classification", **settings(base, rows, "classifier", method=method, decontaminate=False, **steps))
    assert "accuracy" in json.loads((base.parent / "classifier" / "metrics.json").read_text())["test"]
    if method == "full":
        assert check_folder(base.parent / "classifier").failures == []
