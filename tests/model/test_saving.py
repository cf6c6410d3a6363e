"""Whatever class torch or a user gave a model, its folder contains the code that it names, and loads without hfgpt."""

import importlib
import json
import logging
import sys
from pathlib import Path

import pytest
import torch
from conftest import run_python
from twins import book_model, modern_model

from hfgpt import HfGptConfig, HfGptForCausalLM
from hfgpt.artifacts import identify
from hfgpt.errors import UserError
from hfgpt.hub.export import export
from hfgpt.hub.remote_code import check_code
from hfgpt.model.modeling_hfgpt import HfGptModel, HfGptPreTrainedModel

CODE = {"configuration_hfgpt.py", "layers_hfgpt.py", "loss_hfgpt.py", "modeling_hfgpt.py", "norms_hfgpt.py"}
WEIGHTS_AND_SETTINGS = {"config.json", "generation_config.json", "model.safetensors"}
USERS_FILE = """
from hfgpt import HfGptForCausalLM


class InAModule(HfGptForCausalLM):
    def forward(self, *args, **kwargs):
        outputs = super().forward(*args, **kwargs)
        outputs.logits = 2 * outputs.logits
        return outputs


class Registered(InAModule):
    pass


Registered.register_for_auto_class("AutoModelForCausalLM")
"""
# As in a copy of a model's folder: it is beside our files and imports only them.
TRAVELLING_FILE = USERS_FILE.replace("from hfgpt import", "from .modeling_hfgpt import")
LOAD = """
import json, pathlib, sys, torch
from transformers import AutoModel, AutoModelForCausalLM, Trainer, TrainingArguments
from transformers.trainer_pt_utils import LabelSmoother
found = {}
settings = TrainingArguments("trainer", label_smoothing_factor=0.1, use_cpu=True)
for folder in sys.argv[1:]:
    auto_class = AutoModel if folder.endswith("own_head") else AutoModelForCausalLM
    model = auto_class.from_pretrained(folder, trust_remote_code=True).eval()
    with torch.no_grad():
        output = model(torch.arange(9).unsqueeze(0))
    found[folder] = [type(model).__name__, output[0].tolist()]
    if auto_class is AutoModelForCausalLM:
        ids = torch.arange(20).view(2, 10)
        smoothed = Trainer(model, settings).compute_loss(model, {"input_ids": ids, "labels": ids})
        expected = LabelSmoother(0.1)(model(ids), ids, shift_labels=True)
        torch.testing.assert_close(smoothed, expected)
pathlib.Path("found.json").write_text(json.dumps(found))
"""


class InMain(HfGptForCausalLM):
    pass


InMain.__module__ = "__main__"


class OwnConfig(HfGptConfig):
    pass


class WithOwnConfig(HfGptForCausalLM):
    config_class = OwnConfig


class OwnHead(HfGptPreTrainedModel):
    def __init__(self, config):
        super().__init__(config)
        self.model = HfGptModel(config)
        self.top = torch.nn.Linear(config.hidden_size, 3)
        self.post_init()


def fully_sharded(model):
    """Shard the model with FSDP2, and return its weights, gathered as Trainer gathers them."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
    from torch.distributed.fsdp import fully_shard

    for layer in model.model.layers:
        fully_shard(layer)
    fully_shard(model)
    return get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))


@pytest.fixture(scope="module")
def users_modules(tmp_path_factory):
    """A user's file beside an installed hfgpt, and one in a package with a copy of our files."""
    folder = tmp_path_factory.mktemp("users")
    (folder / "users_gpt.py").write_text(USERS_FILE)
    package = folder / "users_package"
    book_model().save_pretrained(package)
    (package / "__init__.py").touch()
    (package / "users_gpt.py").write_text(TRAVELLING_FILE)
    sys.path.insert(0, str(folder))
    yield importlib.import_module("users_gpt"), importlib.import_module("users_package.users_gpt")
    sys.path.remove(str(folder))


@pytest.fixture(scope="module")
def saved(users_modules, tmp_path_factory) -> dict[str, tuple[Path, torch.Tensor]]:
    """A folder of each kind, and the logits (for the custom head: the hidden states) of the saved model."""
    beside, travelling = users_modules
    base = modern_model()
    models = {
        "plain": base,
        "in_main": InMain(base.config),
        "in_a_module": beside.InAModule(base.config),
        "registered": beside.Registered(base.config),
        "travelling": travelling.Registered(travelling.Registered.config_class.from_dict(base.config.to_dict())),
        "own_config": WithOwnConfig(OwnConfig.from_dict(base.config.to_dict())),
        "own_head": OwnHead(base.config),
        "fsdp2": modern_model(),
        "fsdp2_in_a_module": beside.InAModule(base.config),
    }
    store = tmp_path_factory.mktemp("group") / "store"
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=0, world_size=1)
    folders = {}
    try:
        for name, model in models.items():
            own_class = type(model)
            state_dict = model.state_dict()
            if name.startswith("fsdp2"):
                state_dict = fully_sharded(model)
                own_class = type(model)
                assert own_class.__module__.startswith("torch.")
            folder = tmp_path_factory.mktemp("saved") / name
            model.save_pretrained(folder, state_dict=state_dict)
            assert type(model) is own_class
            again = (HfGptModel if name == "own_head" else HfGptForCausalLM).from_pretrained(folder).eval()
            with torch.no_grad():
                folders[name] = folder, again(torch.arange(9).unsqueeze(0))[0]
    finally:
        torch.distributed.destroy_process_group()
    return folders


def test_every_folder_holds_our_code_and_names_what_it_holds(saved):
    for name, (folder, _) in saved.items():
        files = {path.name for path in folder.iterdir()}
        more = {"users_gpt.py"} if name == "travelling" else set()
        assert files == CODE | more | WEIGHTS_AND_SETTINGS - ({"generation_config.json"} if name == "own_head" else set()), name
        check_code(folder)
        config = json.loads((folder / "config.json").read_text())
        expected = {"travelling": "Registered", "own_head": "HfGptModel"}.get(name, "HfGptForCausalLM")
        assert config["architectures"] == [expected], name
        assert config["model_type"] == "hfgpt"
        assert config["auto_map"]["AutoModel"] == "modeling_hfgpt.HfGptModel"


def test_a_stranger_loads_every_folder_and_trains_it_with_smoothed_labels(saved, stranger, tmp_path):
    (tmp_path / "load.py").write_text(LOAD)
    environment = {**stranger, "HF_HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1"}
    done = run_python("-S", "load.py", *(folder for folder, _ in saved.values()), cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    for name, (folder, expected) in saved.items():
        class_name, output = found[str(folder)]
        assert class_name == {"travelling": "Registered", "own_head": "HfGptModel"}.get(name, "HfGptForCausalLM")
        # A class that its author registered is saved with its changes.
        torch.testing.assert_close(torch.tensor(output), (2 if name == "travelling" else 1) * expected)


def test_what_is_left_behind_is_said(users_modules, tmp_path, monkeypatch):
    from transformers.utils import logging as of_transformers

    said = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())
    logger = of_transformers.get_logger("hfgpt.model.configuration_hfgpt")
    logger.addHandler(handler)
    of_transformers.warning_once.cache_clear()
    try:
        modern_model().save_pretrained(tmp_path / "plain")
        assert said == []
        for _ in range(2):
            users_modules[0].InAModule(modern_model().config).save_pretrained(tmp_path / "in_a_module")
    finally:
        logger.removeHandler(handler)
    assert len(said) == 1
    assert said[0].startswith("InAModule is saved as HfGptForCausalLM, because its code, in users_gpt, cannot be saved with it")


def test_a_configuration_alone_names_code_that_is_there(tmp_path):
    OwnConfig.from_dict(modern_model().config.to_dict()).save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "configuration_hfgpt.py"}
    check_code(tmp_path)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda folder: (folder / "modeling_hfgpt.py").unlink(), "there is no modeling_hfgpt.py beside it"),
        (lambda folder: (folder / "modeling_hfgpt.py").write_text("class Other: pass\n"), "does not define HfGptModel"),
    ],
)
def test_a_folder_without_the_code_that_it_names_is_not_exported(tmp_path, change, reason):
    folder = tmp_path / "model"
    modern_model().save_pretrained(folder)
    export(identify(folder), tmp_path / "whole")
    change(folder)
    with pytest.raises(UserError, match=reason):
        export(identify(folder), tmp_path / "broken")
