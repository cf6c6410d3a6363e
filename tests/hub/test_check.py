"""The gate as a whole: a good folder passes everything, and each broken thing causes its own failures and no others.

Opening the doors takes a process that imports torch, so several unrelated things are broken at once.
"""

import json
import os
from pathlib import Path

import pytest
from gate_folders import change_json, copy_of, good_adapter, good_model, replace
from recipes_in_process import recipe
from safetensors.torch import load_file, save_file

from hfgpt.hub.gate.check import check_folder
from hfgpt.hub.gate.report import CheckReport, CheckResult
from hfgpt.hub.gate.stranger import NoHfgpt

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def good(tmp_path_factory, small_tokenizer) -> Path:
    return good_model(tmp_path_factory.mktemp("check") / "base", small_tokenizer)


@pytest.fixture(scope="module")
def report_of_good(good) -> CheckReport:
    return check_folder(good)


def named(report: CheckReport, status: str) -> set[str]:
    return {result.name for result in report.results if result.status == status}


DOORS = {"AutoConfig", "AutoTokenizer", "AutoModel", "AutoModelForCausalLM", "weights recorded", "sharded", "one tied matrix",
         "generate", "AutoModelForSequenceClassification", "AutoModelForTokenClassification", "AutoModelForQuestionAnswering",
         "apply_chat_template", "pipeline", "without network", "without hfgpt"}  # fmt: skip


def test_every_door_of_a_good_folder_opens(good, report_of_good):
    assert named(report_of_good, "fail") | named(report_of_good, "warn") == set()
    assert named(report_of_good, "pass") >= DOORS | {"export", "fingerprint", "chat template", "card", "licence"}
    details = {result.name: result.detail for result in report_of_good.results}
    assert "recorded when it was saved" in details["AutoModelForCausalLM"]
    assert details["sharded"].startswith("saved again in ")
    assert not details["sharded"].startswith("saved again in 1 ")
    assert details["generate"] == "greedy and with a cache, the 16 tokens recorded"
    assert details["AutoConfig"] == "HfGptConfig, transformers_modules"
    assert sorted(path.name for path in good.parent.iterdir()) == ["base"]
    assert report_of_good.passed
    assert report_of_good.table().splitlines()[-1].startswith("passed: ")
    assert json.loads(json.dumps(report_of_good.to_json()))["passed"] is True


HOSTILE = """
import json as _json, os as _os, socket as _socket
try:
    _socket.create_connection(("127.0.0.1", 9), timeout=1)
except OSError:
    pass
with open({place!r}, "a") as _file:
    _file.write(_json.dumps([_os.getpid(), dict(_os.environ)]) + "\\n")
"""


def test_each_broken_thing_fails_and_nothing_else(good, tmp_path, monkeypatch):
    """Broken: a weight, the tokenizer's ids, the template, the end of text, the card. Added: a path, a token, code that snoops."""
    folder = copy_of(good, tmp_path / "copy")
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.1.mlp.down_proj.weight"][3, 5] += 0.3
    (folder / "model.safetensors").unlink()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["model"]["merges"] = tokenizer["model"]["merges"][:20]
    replace(folder / "tokenizer.json", json.dumps(tokenizer))
    replace(folder / "chat_template.jinja", "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}")
    change_json(folder / "generation_config.json", eos_token_id=None)
    change_json(folder / "tokenizer_config.json", name_or_path="/home/alice/runs/base")
    change_json(folder / "config.json", token="hf_" + "Ab1" * 12)
    replace(folder / "README.md", "---\nlicense: [\n---\n")
    seen = tmp_path / "seen.jsonl"
    replace(folder / "norms_hfgpt.py", (folder / "norms_hfgpt.py").read_text() + HOSTILE.format(place=str(seen)))
    monkeypatch.setenv("HF_TOKEN", "hf_" + "Zz9" * 12)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-" + "Zz9" * 12)

    report = check_folder(folder)

    broken = {
        "weight": {"fingerprint", "AutoModelForCausalLM", "weights recorded", "sharded"},
        "tokenizer": {"AutoTokenizer"},
        "template": {"chat template"},
        "end": {"generation config"},
        "path": {"no path of this machine"},
        "token": {"no secret"},
        "card": {"card", "licence", "card's figures"},
        "code": {"without network"},
    }
    # A changed weight may leave the most likely tokens unchanged.
    assert named(report, "fail") - {"generate"} == set().union(*broken.values())
    assert named(report, "warn") == {"code as shipped"}
    assert all(result.cure for result in report.failures)
    details = {result.name: result.detail for result in report.results}
    assert "used more than 5 seconds of CPU time" in details["chat template"]
    assert named(report, "skip") >= {"apply_chat_template"}  # a template that hangs is not run again
    # The code ran in another process, without the token, offline, and with a home folder that is gone.
    visits = [json.loads(line) for line in seen.read_text().splitlines()]
    assert visits
    assert "('127.0.0.1', 9)" in details["without network"]
    for pid, environment in visits:
        assert pid != os.getpid()
        assert "Zz9" not in json.dumps(environment)
        assert environment["HF_HUB_OFFLINE"] == "1"
        assert environment["HOME"] != os.environ.get("HOME")
        assert not Path(environment["HOME"]).exists()
        assert not Path(environment["HF_HOME"]).is_relative_to(Path.home())


def test_a_stranger_has_no_hfgpt_whatever_is_installed():
    for name in ("hfgpt", "hfgpt.model.modeling_hfgpt"):
        with pytest.raises(ModuleNotFoundError, match="a stranger has none"):
            NoHfgpt.find_spec(name)
    assert NoHfgpt.find_spec("torch") is None  # the next finder is asked


def test_code_that_ends_the_process_or_lacks_a_file_is_a_failure_in_time(good, tmp_path):
    folder = copy_of(good, tmp_path / "copy")
    replace(folder / "norms_hfgpt.py", "import os\nos._exit(0)\n")
    report = check_folder(folder)
    assert named(report, "fail") == {"doors"}
    assert named(report, "pass").isdisjoint({"AutoModelForCausalLM", "without hfgpt"})
    replace(folder / "norms_hfgpt.py", "import time\ntime.sleep(600)\n")
    late = check_folder(folder, seconds=1)
    assert "it took more than 1 seconds" in {result.name: result.detail for result in late.results}["doors"]


def test_an_older_folder_is_told_how_to_record_its_fingerprint(good, tmp_path):
    folder = copy_of(good, tmp_path / "copy")
    (folder / "fingerprint.json").unlink()
    (result,) = [one for one in check_folder(folder, seconds=0.1).results if one.name == "fingerprint"]
    assert result.status == "fail"
    assert "--record true" in result.cure


def test_an_adapter_is_opened_with_its_base_and_compared_with_its_merged_twin(good, tmp_path):
    """The doors that use a broken part fail, and the others open."""
    folder = good_adapter(tmp_path / "lora", good)
    # Its config names a path of this machine; the published one does not.
    assert str(folder) in (folder / "adapter_config.json").read_text()
    tensors = load_file(folder / "merged" / "model.safetensors")
    tensors["model.layers.0.mlp.up_proj.weight"][0, 0] += 1
    (folder / "merged" / "model.safetensors").unlink()
    save_file(tensors, folder / "merged" / "model.safetensors", metadata={"format": "pt"})
    sha256 = json.loads((folder / "base" / "fingerprint.json").read_text())["weights_sha256"]
    assert sha256
    replace(folder / "passport.json", json.dumps({"base": {"sha256": "0" * 64, "class": "HfGptForCausalLM"}}))
    report = check_folder(folder)
    assert named(report, "fail") == {"merged", "base"}
    doors = {"AutoPeftModelForCausalLM", "AutoModelForCausalLM", "AutoTokenizer", "pipeline", "apply_chat_template"}
    assert named(report, "pass") >= doors | {"no path of this machine", "fingerprint", "adapter config", "card"}
    details = {result.name: result.detail for result in report.results}
    assert f"base/ has the SHA-256 {sha256[:16]}" in details["base"]
    assert "its logits differ" in details["merged"]


def test_a_gguf_file_is_read_without_us(good, tmp_path):
    pytest.importorskip("gguf")
    recipe("convert", source=str(good), target="gguf", output_dir=str(tmp_path / "gguf"))
    folder = tmp_path / "gguf"
    replace(folder / "README.md", "---\nlicense: mit\nlibrary_name: gguf\npipeline_tag: text-generation\n---\n")
    report = check_folder(folder)
    assert named(report, "fail") | named(report, "warn") == set()
    assert named(report, "pass") >= {"fingerprint", "GGUF header", "GGUF tokenizer", "Modelfile", "chat template", "without hfgpt"}
    change = json.loads((folder / "fingerprint.json").read_text())
    change["texts"][1]["ids"][2] += 1
    replace(folder / "fingerprint.json", json.dumps(change))
    replace(folder / "Modelfile", (folder / "Modelfile").read_text().replace("FROM ./gguf", "FROM ./other"))
    assert named(check_folder(folder), "fail") - {"llama.cpp"} == {"GGUF tokenizer", "Modelfile"}


def test_prepared_data_is_counted_by_a_stranger(small_rows, tmp_path):
    """The good case is in tests/recipes/test_check_recipe.py."""
    folder = copy_of(small_rows, tmp_path / "rows")
    replace(folder / "README.md", "---\nlicense: mit\n---\ndocuments.jsonl\n")
    passport = json.loads((folder / "passport.json").read_text())
    passport["splits"]["train"]["rows"] += 1
    passport["tokenizer"]["sha256"] = "0" * 64
    replace(folder / "passport.json", json.dumps(passport))
    report = check_folder(folder)
    assert named(report, "fail") == {"load_from_disk", "AutoTokenizer", "rows"}
    assert named(report, "pass") >= {"data named", "without hfgpt"}


def test_a_report_that_checked_nothing_has_not_passed_and_foreign_text_does_not_steer_the_terminal():
    assert not CheckReport("x", "model").passed
    assert not CheckReport("x", "model", [CheckResult("a", "skip")]).passed
    report = CheckReport("x", "model", [CheckResult("a", "pass", "x"), CheckResult("b", "fail", "red \x1b[31m\nline", "do so")])
    assert not report.passed
    assert "\x1b" not in report.table(details=True)
    end = ["fail  b  red  [31m line", "         cure: do so", report.summary()]
    assert report.table(details=True).splitlines()[1:] == ["pass  a  x", *end]
    assert report.table().splitlines()[1:] == ["pass  a", *end]
    assert report.summary() == "passed: 1, failed: 1, warnings: 0, skipped: 0"
