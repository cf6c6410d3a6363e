"""When a base names foreign code, none of it is run and the network is not used."""

import json
import os
import shutil
import sys
from pathlib import Path

import lab
import pytest
from killing import CONTEXT

CLASS = "evil.EvilForCausalLM"
CHANGES = {
    "a file beside it": {"auto_map": {"AutoConfig": CLASS, "AutoModelForCausalLM": CLASS, "AutoTokenizer": [CLASS, CLASS]}},
    "a type of its own": {"model_type": "evil", "auto_map": {"AutoConfig": CLASS, "AutoModelForCausalLM": CLASS}},
    "another repository": {"auto_map": {"AutoConfig": f"other/repo--{CLASS}", "AutoModelForCausalLM": f"other/repo--{CLASS}"}},
    "a file above": {"auto_map": {"AutoConfig": f"../../{CLASS}", "AutoModelForCausalLM": f"../../{CLASS}"}},
    "trust in the configuration": {"model_type": "evil", "trust_remote_code": True, "auto_map": {"AutoConfig": CLASS}},
    "a kernel": {"attn_implementation": "evil/kernel", "_attn_implementation": "evil/kernel"},
    "an internal kernel": {"_attn_implementation_internal": "evil/kernel"},
}


def _run_watched(script: str, words: list[str], log: str, marker: str) -> None:
    """Record every address lookup and connection, with the Hub's client online."""
    from huggingface_hub import constants

    constants.HF_HUB_OFFLINE = False
    os.environ["HF_HUB_OFFLINE"] = "0"

    def note(event, args):
        if event in ("socket.connect", "socket.getaddrinfo"):
            Path(marker).touch()

    sys.addaudithook(note)
    lab._run_as_script(script, words, log, None, None, None, {"HF_HUB_OFFLINE": "0"})


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_base_that_names_foreign_code_runs_none_and_asks_no_network(change, materials, tmp_path):
    base, code, network = tmp_path / "a" / "b" / "base", tmp_path / "code", tmp_path / "network"
    shutil.copytree(materials / "base", base)
    for place in (base, base.parent.parent):
        (place / "evil.py").write_text(f"import os\nos.mkdir({str(code)!r})\n")
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | change))
    words = [
        *lab.words_of("finetune_instructions", materials),
        "--model",
        base,
        "--num_train_epochs",
        "0.3",
        "--output_dir",
        tmp_path / "out",
    ]
    log = tmp_path / "log"
    process = CONTEXT.Process(
        target=_run_watched, args=("finetune_instructions", [str(one) for one in words], str(log), str(network))
    )
    process.start()
    process.join(timeout=120)
    said = log.read_text()
    assert not code.exists(), said
    assert not network.exists(), said
    assert "Traceback" not in said
    assert process.exitcode in (0, 1)
    if process.exitcode:
        (sentence,) = [line for line in said.splitlines() if line.startswith("error: ")]
        assert "evil" in sentence or str(base) in sentence
        assert not (tmp_path / "out").exists()
