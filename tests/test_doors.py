"""Both ways to load a saved folder, each in a fresh process without a network: with hfgpt, and in an environment without it."""

import json
from pathlib import Path

import pytest
from conftest import run_python

pytestmark = pytest.mark.slow

PROBE = """
import json, sys
{first_line}
import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForQuestionAnswering
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline
folder, options = sys.argv[1], {options}
tokenizer = AutoTokenizer.from_pretrained(folder, **options)
model = AutoModelForCausalLM.from_pretrained(folder, **options).eval()
config = AutoConfig.from_pretrained(folder, **options)
ids = tokenizer("os.path.join(", return_tensors="pt").input_ids
with torch.no_grad():
    logits = model(ids).logits
    hidden = AutoModel.from_pretrained(folder, **options).eval()(ids).last_hidden_state
others = [auto.from_pretrained(folder, **options) for auto in (AutoModelForSequenceClassification, AutoModelForQuestionAnswering)]
generate = pipeline("text-generation", model=folder, **options)
text = generate("os.path.join(", max_new_tokens=8, do_sample=False)[0]["generated_text"]
print(json.dumps(dict(
    ids=ids.tolist(), logits=logits.double().tolist(), hidden=hidden.double().tolist(), text=text, config=type(config).__name__,
    module=type(model).__module__, imported="hfgpt" in sys.modules, parameters=model.num_parameters(), use_cache=config.use_cache,
    others=[type(one).__name__ for one in others],
)))
"""


@pytest.fixture(scope="module")
def through_the_door(small_run, stranger, without_hqq, tmp_path_factory):
    """Load the folder in one of the two ways, and return the results."""

    def load(*, with_hfgpt: bool) -> dict:
        code = PROBE.format(
            first_line="import hfgpt" if with_hfgpt else "",
            options={} if with_hfgpt else {"trust_remote_code": True},
        )
        script = tmp_path_factory.mktemp("door") / "probe.py"
        script.write_text(code)
        cache = {"HF_HOME": str(tmp_path_factory.mktemp("cache")), "HF_HUB_OFFLINE": "1"}
        environment = without_hqq if with_hfgpt else stranger
        done = run_python("-S", script, small_run, cwd=script.parent, env=cache | environment)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return load


def test_both_doors_give_equal_ids_logits_and_text(through_the_door):
    ours, theirs = through_the_door(with_hfgpt=True), through_the_door(with_hfgpt=False)
    assert ours["imported"]
    assert not theirs["imported"]
    assert ours["module"] == "hfgpt.model.modeling_hfgpt"
    assert theirs["module"].startswith("transformers_modules.")
    for name in ("ids", "logits", "hidden", "text", "config", "parameters", "use_cache", "others"):
        assert ours[name] == theirs[name], name
    assert ours["others"] == ["HfGptForSequenceClassification", "HfGptForQuestionAnswering"]
    assert len(ours["text"]) > len("os.path.join(")
    assert ours["use_cache"] is True


def test_without_hfgpt_and_without_trust_a_stranger_is_told_what_to_do(small_run, stranger, tmp_path):
    code = f"from transformers import AutoModelForCausalLM; AutoModelForCausalLM.from_pretrained({str(small_run)!r})"
    script = tmp_path / "probe.py"
    script.write_text(code)
    done = run_python("-S", script, cwd=tmp_path, env=stranger)
    assert done.returncode != 0
    assert "trust_remote_code" in done.stderr


def test_importing_hfgpt_loads_neither_torch_nor_transformers_models(tmp_path):
    code = "import sys, hfgpt; print([name for name in ('torch', 'datasets', 'transformers') if name in sys.modules])"
    assert run_python("-c", code, cwd=tmp_path).stdout.strip() == "[]"


# Each is a process in which only what takes most of the seconds, and does not know transformers, is imported already.
WHATEVER_IS_FIRST = """
import json, os, sys
import numpy, scipy, torch
assert "transformers" not in sys.modules
for first in json.loads(sys.argv[1]):
    if os.fork():
        os.wait()
        continue
    exec(first)
    from transformers import AutoConfig, AutoModelForQuestionAnswering
    config = AutoConfig.for_model("hfgpt", num_hidden_layers=1, hidden_size=16, num_attention_heads=2, vocab_size=20)
    print(json.dumps([first, type(AutoModelForQuestionAnswering.from_config(config)).__name__]), flush=True)
    os._exit(0)
"""


def test_the_classes_are_registered_whatever_is_imported_first_and_no_import_breaks(without_hqq, tmp_path):
    firsts = [
        "import hfgpt.model.modeling_hfgpt",
        "import hfgpt; hfgpt.HfGptForCausalLM",
        "from transformers import AutoModel; import hfgpt",
        "import hfgpt; from transformers import AutoModelForCausalLM as A, GPT2LMHeadModel; A._model_mapping[hfgpt.HfGptConfig]",
        "import hfgpt, importlib; importlib.reload(hfgpt)",
    ]
    done = run_python("-S", "-c", WHATEVER_IS_FIRST, json.dumps(firsts), cwd=tmp_path, env=without_hqq)
    found = dict(json.loads(line) for line in done.stdout.splitlines())
    assert found == dict.fromkeys(firsts, "HfGptForQuestionAnswering"), done.stderr


def test_the_files_that_travel_import_nothing_of_ours_but_each_other():
    import ast

    import hfgpt.model

    allowed = {"huggingface_hub", "transformers", "torch"}
    allowed |= {"math", "pathlib", "collections", "contextlib", "itertools", "sys", "typing"}
    files = sorted(Path(hfgpt.model.__file__).parent.glob("*_hfgpt.py"))
    assert len(files) == 5
    for path in files:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                assert node.level <= 1
                assert node.level == 1 or node.module.partition(".")[0] in allowed
            elif isinstance(node, ast.Import):
                assert {alias.name for alias in node.names} <= allowed
