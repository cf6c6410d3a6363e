"""Somebody without hfgpt can load what is pushed to a Hub, with equal logits; and it reveals nothing private."""

import ast
import getpass
import json
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import datasets
import pytest
import torch
from conftest import ROOT
from hub_server import HubServer
from small_adapter import write_adapter
from transformers import AutoModelForCausalLM, default_data_collator

from hfgpt import HfGptConfig, HfGptForCausalLM
from hfgpt.arguments.run import RunArguments
from hfgpt.artifacts import identify
from hfgpt.hub.export import export
from hfgpt.training.preference_losses import preference_classes
from hfgpt.training.trainer import HfGptTrainer

TOKEN = "hf_onlyAnnMayKnowThis0123456789abcd"
IDS = [[5, 9, 11, 3, 96, 40, 41, 7]]


def in_a_process(code: str, hub: HubServer, folder: Path, *words: str, token: str | None = TOKEN, **more: str):
    """Run Python that uses only this Hub, without hfgpt if `more` is a stranger's environment."""
    folder.mkdir(exist_ok=True)
    done = subprocess.run(
        [sys.executable, *(["-S"] if more else []), "-c", code, *words],
        env={**hub.environment(home=folder / "home", token=token), "OMP_NUM_THREADS": "1", **more},
        cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done


def names_holding(secret: str, folder: Path) -> list[str]:
    return [str(path) for path in folder.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()]


@pytest.fixture(scope="module")
def pushed(tmp_path_factory, small_rows):
    """A run of recipes/pretrain.py with `push_to_hub`, and the Hub that it pushed to."""
    place = tmp_path_factory.mktemp("pushed")
    with HubServer(place / "hub", tokens={TOKEN: "ann"}) as hub:
        words = ("--dataset", small_rows, "--output_dir", place / "run", "--push_to_hub", "true", "--hub_model_id", "ann/run",
                 "--depth", "2", "--max_steps", "4", "--save_steps", "2", "--eval_steps", "4", "--hub_always_push", "true",
                 "--per_device_train_batch_size", "4", "--precision", "fp32", "--cpu_threads", "1")  # fmt: skip
        command = [sys.executable, ROOT / "recipes" / "pretrain.py", *words]
        done = subprocess.run(
            list(map(str, command)), env={**hub.environment(home=place / "home", token=TOKEN), "OMP_NUM_THREADS": "1"}, cwd=place,
            capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        yield SimpleNamespace(hub=hub, run=place / "run", place=place, said=done.stdout + done.stderr)


@pytest.mark.slow
def test_push_to_hub_tells_the_token_to_nobody_but_the_hub(pushed):
    assert TOKEN not in pushed.said
    assert names_holding(TOKEN, pushed.place) == []  # output folder, checkpoints and caches
    received = pushed.hub.everything_received()
    assert len(received) > 8
    assert [name for name, content in received.items() if TOKEN.encode() in content] == []
    shown = [request for request in pushed.hub.requests if request.authorization is not None]
    assert {request.host for request in shown} == {pushed.hub.endpoint.removeprefix("http://")}
    assert {request.user for request in shown} == {"ann"}
    assert not any(TOKEN in request.path for request in pushed.hub.requests)


@pytest.mark.slow
def test_push_to_hub_pushes_what_may_be_published_and_makes_it_private(pushed):
    assert pushed.hub.is_private("ann/run")
    titles = [commit.title for commit in pushed.hub.repository("ann/run").history("main")]
    assert titles[0] == "End of training"
    assert "Training in progress, step 2" in titles
    files = pushed.hub.files("ann/run")
    assert {"model.safetensors", "config.json", "modeling_hfgpt.py", "tokenizer.json", "metrics.json"} <= set(files)
    assert set(files) <= {path.as_posix() for path in identify(pushed.run).files()}
    ever = {path for commit in pushed.hub.repository("ann/run").commits.values() for path in commit.files}
    assert [path for path in ever if path.endswith((".bin", ".pt", ".pkl", ".pth", ".yaml"))] == []
    assert list(pushed.run.rglob("training_args.bin")) == []
    assert list(pushed.run.glob("checkpoint-*/optimizer.safetensors"))  # so checkpoints were searched, too
    assert (pushed.run / "run.yaml").is_file()
    assert "hub_token" not in (pushed.run / "run.yaml").read_text()
    # A name that is a common word would be found in any text.
    private = [str(pushed.place), *(name for name in (getpass.getuser(), socket.gethostname()) if len(name) > 5)]
    received = pushed.hub.everything_received()
    assert [(word, name) for word in private for name, content in received.items() if word.encode() in content] == []
    assert [path.name for path in pushed.place.iterdir() if path.name.startswith(".")] == []  # no staged files are left


LOGITS = """
import json, sys
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
name, revision, ids = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
model = AutoModelForCausalLM.from_pretrained(name, revision=revision, trust_remote_code=True).eval()
tokenizer = AutoTokenizer.from_pretrained(name, revision=revision, trust_remote_code=True)
with torch.no_grad():
    logits = model(torch.tensor(ids)).logits
print(json.dumps({"logits": logits.tolist(), "class": type(model).__module__, "ids": tokenizer("import os").input_ids}))
"""


def logits_of(model) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(torch.tensor(IDS)).logits


@pytest.mark.slow
def test_an_adapter_finds_its_base_on_the_hub(pushed, stranger, tmp_path):
    folder = write_adapter(pushed.run, tmp_path / "adapter")
    base_revision = pushed.hub.repository("ann/run").resolve("main")
    export(identify(folder), tmp_path / "clean", base_repo_id="ann/run", base_revision=base_revision)
    push = """
import sys
from huggingface_hub import HfApi
HfApi().create_repo("ann/adapter")
HfApi().upload_folder(repo_id="ann/adapter", folder_path=sys.argv[1])
"""
    in_a_process(push, pushed.hub, tmp_path / "ann", str(tmp_path / "clean"))
    load = LOGITS.replace("from transformers import AutoModelForCausalLM, ", "from transformers import ").replace(
        "AutoModelForCausalLM", "AutoPeftModelForCausalLM"
    )
    load = load.replace("import torch\n", "import torch\nfrom peft import AutoPeftModelForCausalLM\n")
    done = in_a_process(load, pushed.hub, tmp_path / "friend", "ann/adapter", "main", json.dumps(IDS), **stranger)
    seen = json.loads(done.stdout.splitlines()[-1])
    expected = logits_of(AutoModelForCausalLM.from_pretrained(folder / "merged"))
    assert torch.allclose(torch.tensor(seen["logits"]), expected, atol=1e-5)
    plain = logits_of(AutoModelForCausalLM.from_pretrained(pushed.run))
    assert not torch.allclose(plain, expected, atol=1e-3)  # the adapter makes a difference


@pytest.mark.slow
def test_a_dataset_that_was_pushed_is_loaded_by_name(tmp_path):
    push = """
from datasets import Dataset, DatasetDict
rows = {"text": ["A fox.", "Ein Fuchs.\\n"], "label": [0, 1]}
DatasetDict(train=Dataset.from_dict(rows), test=Dataset.from_dict(rows).select([0])).push_to_hub("ann/fables", private=True)
"""
    load = """
import json
from datasets import load_dataset
print(json.dumps({name: split.to_list() for name, split in load_dataset("ann/fables").items()}))
"""
    with HubServer(tmp_path / "hub", tokens={TOKEN: "ann"}) as hub:
        in_a_process(push, hub, tmp_path / "ann")
        assert sorted(hub.files("ann/fables", repo_type="dataset")) == [
            "README.md", "data/test-00000-of-00001.parquet", "data/train-00000-of-00001.parquet",
        ]  # fmt: skip
        seen = json.loads(in_a_process(load, hub, tmp_path / "friend").stdout.splitlines()[-1])
    rows = [{"text": "A fox.", "label": 0}, {"text": "Ein Fuchs.\n", "label": 1}]
    assert seen == {"train": rows, "test": rows[:1]}


def test_a_token_is_no_argument(tmp_path):
    with pytest.raises(ValueError, match="HF_TOKEN or run `hf auth login` instead") as error:
        RunArguments(output_dir=str(tmp_path), hub_token=TOKEN)
    assert TOKEN not in str(error.value)
    for strategy in ("checkpoint", "all_checkpoints"):
        with pytest.raises(ValueError, match=f"hub_strategy is '{strategy}'"):
            RunArguments(output_dir=str(tmp_path), push_to_hub=True, hub_strategy=strategy)


def test_a_checkpoint_holds_no_token_and_no_arguments_and_can_be_resumed(tmp_path):
    model = HfGptForCausalLM(HfGptConfig.modern(1, vocab_size=64, max_position_embeddings=32))
    rows = datasets.Dataset.from_dict({"input_ids": [IDS[0][:4]] * 8, "labels": [IDS[0][:4]] * 8})
    args = RunArguments(
        output_dir=str(tmp_path),
        max_steps=2,
        save_steps=1,
        use_cpu=True,
        precision="fp32",
        save_total_limit=None,
        disable_tqdm=True,
    )
    args.hub_token = TOKEN  # bypasses the check, as code may do
    trainer = HfGptTrainer(model, args, train_dataset=rows, data_collator=default_data_collator)
    trainer.train()
    trainer.save_model()
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == ["checkpoint-1", "checkpoint-2"]
    assert names_holding(TOKEN, tmp_path) == []
    assert list(tmp_path.rglob("training_args.bin")) == []
    assert args.hub_token == TOKEN
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    trainer = HfGptTrainer(model, args, train_dataset=rows, data_collator=default_data_collator)
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


def test_every_trainer_of_ours_keeps_the_token_to_itself():
    for loss in ("dpo", "kto", "orpo"):
        order = preference_classes(loss)[0].mro()
        (first_of_theirs, *_) = [index for index, one in enumerate(order) if one.__module__.startswith("trl")]
        assert order.index(HfGptTrainer) < first_of_theirs
    calls = [
        node.func.id
        for path in [*(ROOT / "hfgpt").rglob("*.py"), *(ROOT / "recipes").rglob("*.py")]
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id.endswith("Trainer")
    ]
    assert set(calls) == {"HfGptTrainer", "LanguageModelTrainer"}
