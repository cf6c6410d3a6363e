"""Remote code without hfgpt: adapters, quantization and caches give the same results as with hfgpt imported."""

import json

import pytest
from conftest import run_python

pytest.importorskip("peft", reason="adapters need the package peft")
pytest.importorskip("torchao", reason="quantization needs the package torchao")

PROBE = """
import json, pathlib, sys, torch
from peft import AutoPeftModelForCausalLM, LoraConfig, get_peft_model
from torchao.quantization import Int8WeightOnlyConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, TorchAoConfig, set_seed
{first_line}
options, results = {options}, {{}}
for folder in sys.argv[2:]:
    load = lambda **settings: AutoModelForCausalLM.from_pretrained(folder, **options, **settings).eval()
    ids = AutoTokenizer.from_pretrained(folder)("The class of the object", return_tensors="pt").input_ids
    settings = dict(max_new_tokens=10, do_sample=False, eos_token_id=-1)
    set_seed(0)
    model = get_peft_model(load(), LoraConfig(task_type="CAUSAL_LM", r=2, target_modules="all-linear"))
    optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], lr=1e-2)
    for _ in range(8):
        loss = model(ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(sys.argv[1])
    with torch.no_grad():
        tuned = AutoPeftModelForCausalLM.from_pretrained(sys.argv[1], **options).eval()(ids).logits
        quantized = load(quantization_config=TorchAoConfig(Int8WeightOnlyConfig()), device_map="cpu")(ids).logits
    results[folder] = dict(
        loss=loss.item(), tuned=tuned.tolist(), quantized=quantized.tolist(), module=type(load()).__module__,
        static=load().generate(ids, cache_implementation="static", **settings).tolist(),
        beams=load().generate(ids, num_beams=3, **settings).tolist(),
        assisted=load().generate(ids, assistant_model=load(), **settings).tolist(),
    )
pathlib.Path(sys.argv[1] + '.json').write_text(json.dumps(results))  # libraries print to stdout, too
"""


@pytest.mark.slow
def test_adapters_quantization_and_caches_are_the_same_through_both_doors(small_families, stranger, without_hqq, tmp_path):
    answers = {}
    for door, first_line, options in (("imported", "import hfgpt", {}), ("remote", "", {"trust_remote_code": True})):
        script = tmp_path / f"{door}.py"
        script.write_text(PROBE.format(first_line=first_line, options=options))
        environment = {"HF_HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1"}
        environment |= without_hqq if door == "imported" else stranger
        words = [tmp_path / f"{door} adapter", *small_families.values()]
        done = run_python("-S", script, *words, cwd=tmp_path, env=environment)
        assert done.returncode == 0, done.stderr
        answers[door] = json.loads((tmp_path / f"{door} adapter.json").read_text())
    for folder in map(str, small_families.values()):
        ours, theirs = answers["imported"][folder], answers["remote"][folder]
        assert ours.pop("module") == "hfgpt.model.modeling_hfgpt"
        assert theirs.pop("module").startswith("transformers_modules.")
        assert ours["loss"] < 4
        assert ours == theirs
