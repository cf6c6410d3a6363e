"""An adapter's folder works wherever it is: copied, renamed, opened from elsewhere, its first location gone or reused."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from conftest import run_python
from gate_folders import change_json, good_model, replace
from peft import AutoPeftModelForCausalLM, AutoPeftModelForSequenceClassification, LoraConfig, get_peft_model
from recipes_in_process import recipe, run_script
from safetensors.torch import load_file, save_file
from small_adapter import write_adapter
from transformers import AutoModelForSequenceClassification, AutoTokenizer, set_seed

from hfgpt.artifacts import base_beside, name_base_beside, stale_base
from hfgpt.data.passport import Passport
from hfgpt.evaluation.loading import load
from hfgpt.hub.gate.check import check_folder
from hfgpt.hub.gate.report import CheckReport

IDS = torch.tensor([[0, 5, 6, 7]])


def logits_of(model) -> torch.Tensor:
    """Logits on the CPU, because two models that are compared may be on different devices."""
    return model.cpu()(IDS).logits


@pytest.fixture(scope="module")
def moved(small_tokenizer, tmp_path_factory):
    """The folders of a chat adapter and a classifier adapter, copied to a new location; the original location is gone."""
    place = tmp_path_factory.mktemp("first")
    model = good_model(place / "model", small_tokenizer)
    write_adapter(model, place / "chat")
    write_classifier(model, place / "labels")
    target = tmp_path_factory.mktemp("a new place")
    shutil.copytree(place, target, dirs_exist_ok=True)
    shutil.rmtree(place)
    return target


def write_classifier(base: Path, folder: Path) -> None:
    """Write an adapter as recipes/finetune_classification.py leaves it, without training."""
    from hfgpt.training.finetuning import Base, identify_base, save_base, save_finetuned

    tokenizer = AutoTokenizer.from_pretrained(base)
    set_seed(0)
    labels = {"id2label": {0: "bad", 1: "good"}, "label2id": {"bad": 0, "good": 1}}
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=2, **labels)
    folder.mkdir()
    passport = Passport(inputs=[{"name": "rows.csv", "kind": "csv", "sha256": "0" * 64}])
    passport.base = identify_base(Base(str(base), str(base), tokenizer), model)
    save_base(model, tokenizer, folder)
    settings = LoraConfig(task_type="SEQ_CLS", r=4, target_modules=["q_proj"], init_lora_weights=False)
    save_finetuned(get_peft_model(model, settings), tokenizer, folder, probe=[[5, 9, 11]])
    passport.save(folder)


def copied(folder: Path, target: Path) -> Path:
    return Path(shutil.copytree(folder, target))


DOORS = """
import sys, torch
{first_line}
from peft import AutoPeftModelForCausalLM, AutoPeftModelForSequenceClassification, PeftModel
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, pipeline
place, ids = sys.argv[1], torch.tensor([[0, 5, 6, 7]])
for name, through_peft, through_transformers in (
    ("chat", AutoPeftModelForCausalLM, AutoModelForCausalLM),
    ("labels", AutoPeftModelForSequenceClassification, AutoModelForSequenceClassification),
):
    folder = place + "/" + name
    models = [
        through_peft.from_pretrained(folder, **{options}),
        through_transformers.from_pretrained(folder, **{options}),
        PeftModel.from_pretrained(through_transformers.from_pretrained(folder + "/base", **{options}), folder),
    ]
    with torch.no_grad():
        logits = [model.eval()(ids).logits for model in models]
    assert all(torch.allclose(logits[0], other, atol=1e-5) for other in logits[1:])
    print(name, logits[0].flatten()[:4].tolist())
assert len(pipeline("text-generation", model=place + "/chat", **{options})("a", max_new_tokens=4)) == 1
print(pipeline("text-classification", model=place + "/labels", **{options})("a text")[0]["label"])
"""


def test_every_door_of_a_moved_adapter_opens_in_another_process(moved, tmp_path, stranger, without_hqq):
    """At once with hfgpt; for strangers, whose PEFT only reads the file, once the gate has written the new location."""
    copied(moved, tmp_path / "again")
    told = {folder: json.loads((tmp_path / "again" / folder / "adapter_config.json").read_text()) for folder in ("chat", "labels")}
    assert not any(Path(settings["base_model_name_or_path"]).exists() for settings in told.values())
    (tmp_path / "ours.py").write_text(DOORS.format(first_line="import hfgpt", options={}))
    (tmp_path / "strangers.py").write_text(DOORS.format(first_line="", options={"trust_remote_code": True}))
    environment = {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
    ours = run_python("-S", tmp_path / "ours.py", tmp_path / "again", cwd=tmp_path, env=environment | without_hqq)
    assert ours.returncode == 0, ours.stderr
    assert {stale_base(tmp_path / "again" / folder) for folder in told} != {None}  # nothing was written by loading
    for folder in told:
        assert name_base_beside(tmp_path / "again" / folder) == told[folder]["base_model_name_or_path"]
    strangers = run_python("-S", tmp_path / "strangers.py", tmp_path / "again", cwd=tmp_path, env=environment | stranger)
    assert strangers.returncode == 0, strangers.stderr
    assert strangers.stdout == ours.stdout


def test_the_base_beside_it_is_taken_though_another_lies_at_its_first_place(moved, tmp_path):
    """A copy whose original was trained again; and the name base/, relative to the working directory."""
    folder = copied(moved / "chat", tmp_path / "copy")
    first = copied(moved / "chat", tmp_path / "first")
    tensors = load_file(first / "base" / "model.safetensors")
    tensors["model.layers.0.mlp.up_proj.weight"] += 1
    (first / "base" / "model.safetensors").unlink()
    save_file(tensors, first / "base" / "model.safetensors", metadata={"format": "pt"})
    with torch.no_grad():
        expected = logits_of(load(str(moved / "chat")).model)
        for named in (str(first / "base"), "base", "", str(tmp_path / "gone")):
            change_json(folder / "adapter_config.json", base_model_name_or_path=named)
            found = logits_of(AutoPeftModelForCausalLM.from_pretrained(folder).eval())
            assert torch.allclose(found, expected, atol=1e-5), named
    assert base_beside(folder) == folder / "base"


def test_an_adapter_that_names_a_base_on_the_hub_keeps_it(moved, tmp_path):
    folder = copied(moved / "chat", tmp_path / "adapter")
    change_json(folder / "adapter_config.json", base_model_name_or_path="user/model-base", revision="a" * 40)
    assert name_base_beside(folder) is None
    from peft import PeftConfig

    assert PeftConfig.from_pretrained(str(folder)).base_model_name_or_path == "user/model-base"
    shutil.rmtree(folder / "base")  # like a foreign adapter, which comes without its base
    change_json(folder / "adapter_config.json", base_model_name_or_path=str(tmp_path / "gone"))
    assert PeftConfig.from_pretrained(str(folder)).base_model_name_or_path == str(tmp_path / "gone")


def test_our_recipes_open_it_and_the_gate_says_and_mends_it(moved, tmp_path, monkeypatch):
    folder = copied(moved / "labels", tmp_path / "labels")
    (tmp_path / "test.csv").write_text("text,label\n" + "".join(f"a text {n},{('good', 'bad')[n % 2]}\n" for n in range(6)))
    recipe("evaluate", model=str(folder), test_sources=[str(tmp_path / "test.csv")])
    (warning,) = [one for one in without_doors(folder, monkeypatch).results if one.name == "place of the base"]
    assert warning.status == "warn"
    assert warning.cure.startswith(f"python recipes/check.py {folder} ")
    with monkeypatch.context() as patched:
        patched.setattr("hfgpt.hub.gate.check.open_as_stranger", lambda *args, **kwargs: [])
        done = run_script("check.py", folder, "--parts", "false", "--details", "true")
    assert f"base: {folder / 'adapter_config.json'} said" in done.stdout
    settings = json.loads((folder / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == str((folder / "base").resolve())
    assert "adapter_config.json names its actual location" in done.stdout
    assert AutoPeftModelForSequenceClassification.from_pretrained(folder).config.id2label == {0: "bad", 1: "good"}

    chat = copied(moved / "chat", tmp_path / "chat")
    assert recipe("generate", model=str(chat), prompt=["a"], temperature=0.0, max_new_tokens=4)
    recipe("convert", source=str(chat / "base"), adapter=str(chat), output_dir=str(tmp_path / "merged"))
    monkeypatch.chdir(chat.parent)  # a relative name, from another folder
    assert recipe("generate", model="chat", prompt=["a"], temperature=0.0, max_new_tokens=4)


def without_doors(folder: Path, monkeypatch) -> CheckReport:
    """The gate's report without the process that opens the doors."""
    with monkeypatch.context() as patched:
        patched.setattr("hfgpt.hub.gate.check.open_as_stranger", lambda *args, **kwargs: [])
        return check_folder(folder)


def test_a_folder_that_only_may_be_read_opens_all_the_same(moved, tmp_path):
    folder = copied(moved / "chat", tmp_path / "mounted")
    for path in folder.rglob("*"):
        path.chmod(0o555 if path.is_dir() else 0o444)
    folder.chmod(0o555)
    try:
        assert AutoPeftModelForCausalLM.from_pretrained(folder).eval()(IDS).logits.isfinite().all()
        assert load(str(folder)).task == "text-generation"
    finally:
        for path in (folder, *folder.rglob("*")):
            path.chmod(0o755)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "auto"])
def test_no_door_of_ours_puts_an_adapter_on_other_weights(moved, tmp_path, dtype):
    assert load(str(moved / "chat"), dtype=dtype).model.dtype == (torch.bfloat16 if dtype == "bfloat16" else torch.float32)
    folder = copied(moved / "chat", tmp_path / "chat")
    tensors = load_file(folder / "base" / "model.safetensors")
    tensors["model.layers.0.mlp.up_proj.weight"][0, 0] += 1
    (folder / "base" / "model.safetensors").unlink()
    save_file(tensors, folder / "base" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="was trained on .*, whose weights have the SHA-256 .* Use its own base"):
        load(str(folder), dtype=dtype)


def test_every_recipe_that_loads_an_adapter_refuses_other_weights(moved, tmp_path):
    folder = copied(moved / "labels", tmp_path / "labels")
    chat = copied(moved / "chat", tmp_path / "chat")
    for one in (folder, chat):
        passport = json.loads((one / "passport.json").read_text())
        passport["base"]["sha256"] = "0" * 64
        replace(one / "passport.json", json.dumps(passport))
    (tmp_path / "test.csv").write_text("text,label\na text,good\n")
    attempts = (
        lambda: recipe("evaluate", model=str(folder), test_sources=[str(tmp_path / "test.csv")]),
        lambda: recipe("generate", model=str(chat), prompt=["a"]),
        lambda: recipe("convert", source=str(chat / "base"), adapter=str(chat), output_dir=str(tmp_path / "merged")),
        lambda: recipe("check", folder=str(chat), record=True),
    )
    for attempt in attempts:
        with pytest.raises(ValueError, match=f"whose weights have the SHA-256 {'0' * 64}"):
            attempt()


def test_a_checkpoint_of_a_run_finds_its_base_in_the_runs_folder(moved, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(moved / "chat" / "base", run / "base")
    shutil.copyfile(moved / "chat" / "passport.json", run / "passport.json")
    for checkpoint in (run / "checkpoint-40", run / "seed-1" / "checkpoint-7"):
        checkpoint.mkdir(parents=True)
        for name in ("adapter_config.json", "adapter_model.safetensors", "tokenizer.json", "tokenizer_config.json"):
            shutil.copyfile(moved / "chat" / name, checkpoint / name)
        assert base_beside(checkpoint).resolve() == (run / "base").resolve()
        found = load(os.path.relpath(checkpoint))
        with torch.no_grad():
            assert torch.equal(logits_of(found.model), logits_of(load(str(moved / "chat")).model))
