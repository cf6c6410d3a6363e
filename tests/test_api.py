"""The functions of `from hfgpt import ...`: they do what the recipes do, in this process, and leave it unchanged."""

import ast
import contextlib
import inspect
import io
import json
import logging
import os
import re
import signal
import subprocess
import sys
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import get_args, get_type_hints

import pytest
from conftest import ROOT

import hfgpt
from hfgpt.api.calls import left_as_found, load_recipe, make_arguments
from hfgpt.api.wording import in_python
from hfgpt.data.passport import PASSPORT_NAME

PAGE = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
# Each function with its recipe; those of hfgpt.api.texts have none.
RECIPE_OF = {
    "from_text": "from_text",
    "train_tokenizer": "train_tokenizer",
    "prepare_data": "prepare_data",
    "pretrain": "pretrain",
    "finetune_classifier": "finetune_classification",
    "finetune_assistant": "finetune_instructions",
    "align": "align_preferences",
    "evaluate": "evaluate",
    "generate": "generate",
    "convert": "convert",
    "check": "check",
    "publish": "publish",
}
QUICK = dict(max_steps=4, depth=1, cpu_threads=1, sample_tokens=2, precision="fp32", per_device_train_batch_size=8)


def state_of_process() -> dict:
    """What a recipe changes for its process."""
    import datasets
    import torch

    logger = logging.getLogger("hfgpt")
    return {
        "threads": torch.get_num_threads(),
        "handlers": [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)],
        "caching": datasets.is_caching_enabled(),
        "logger": (logger.handlers[:], logger.level, logger.propagate),
        "root": logging.getLogger().handlers[:],
        "folder": Path.cwd(),
        "arguments": sys.argv[:],
        "precision": os.environ.get("ACCELERATE_MIXED_PRECISION"),
    }


# The page of the documentation, run once; the tests check its variables


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> SimpleNamespace:
    """The variables after the examples of docs/python.md have run, and what each block printed."""
    folder, here = tmp_path_factory.mktemp("page"), Path.cwd()
    names: dict = {}
    printed = []
    import datasets

    datasets.enable_caching()  # a script that ran earlier in this process turned it off
    before = state_of_process()
    os.chdir(folder)
    try:
        for code in re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL):
            if "hfgpt.align(" in code and find_spec("trl") is None:
                code = code.partition("aligned = ")[0]
            # Tests run side by side, one core each; what the page shows does not depend on the number of steps.
            code = code.replace("max_steps=60", "max_steps=16").replace("max_steps=", "cpu_threads=1, max_steps=")
            with contextlib.redirect_stdout(io.StringIO()) as output:
                exec(compile(code, "docs/python.md", "exec"), names)
            printed.append(output.getvalue())
        after = state_of_process() | {"folder": here}
    finally:
        os.chdir(here)
    absolute = {name: value for name, value in names.items() if not name.startswith("__")}
    return SimpleNamespace(**absolute, root=folder, printed=printed, before=before, after=after)


pytestmark = pytest.mark.slow


def test_the_examples_print_what_the_page_shows(page):
    shown = re.findall(r"```python\n.*?```\n+```text\n(.*?)```", PAGE, flags=re.DOTALL)
    assert len(shown) == 3
    for text in shown:
        assert any(output.endswith(text) for output in page.printed), text


@pytest.mark.parametrize("name", ["base", "classifier", "assistant"])
def test_a_trainings_result_is_what_its_folder_holds(page, name):
    result = getattr(page, name)
    folder = page.root / result.folder
    assert result.metrics == json.loads((folder / "metrics.json").read_text())
    assert result.report == (folder / "report.txt").read_text()
    figure = {"base": "validation", "classifier": "validation", "assistant": "test"}[name]
    assert f"{figure}: " in result.report


def test_preferences_are_learned_too(page):
    pytest.importorskip("trl", reason="preferences need TRL, an extra")
    assert page.aligned.metrics == json.loads((page.root / "runs/aligned/metrics.json").read_text())


def test_results_of_the_data_are_what_the_passports_say(page):
    passport = json.loads((page.root / "runs/tokenizer/passport.json").read_text())
    train = passport["splits"]["train"]
    assert (page.tokenizer.documents, page.tokenizer.num_bytes) == (train["documents"], train["bytes"])
    assert page.tokenizer.vocab_size == passport["tokenizer"]["vocab_size"] == len(page.words)
    prepared = json.loads((page.root / "runs/data/passport.json").read_text())
    assert {name: vars(counts) for name, counts in page.data.splits.items()} == prepared["splits"]
    assert page.data.context_length == prepared["settings"]["context_length"] == 64


def test_the_evaluation_is_that_of_the_training(page):
    (loss,) = (value for name, value in page.measured.metrics.items() if name.endswith(": loss"))
    assert loss == pytest.approx(page.base.metrics["test_loss"], rel=1e-5)
    recorded = json.loads((page.root / "runs/base/evaluation.json").read_text())["results"][0]["metrics"]
    assert {name.rpartition(": ")[2]: value for name, value in page.measured.metrics.items()} == pytest.approx(recorded)


def test_texts_come_in_the_order_of_the_prompts_and_again_with_the_same_seed(page):
    from transformers import AutoModelForCausalLM

    assert len(page.several) == 4
    assert page.several != page.several[2:] + page.several[:2]
    again = hfgpt.generate(page.loaded, "re.", num_samples=2, temperature=1.0, top_p=0.9, max_new_tokens=12)
    assert again == page.several[2:]
    # Greedy text depends only on the model.
    model = AutoModelForCausalLM.from_pretrained(page.root / "runs/base").to(page.loaded.model.device)
    import torch

    ids = torch.tensor([[page.words.eos_token_id, *hfgpt.encode_texts(page.words, ["import "])[0]]], device=model.device)
    made = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=12)
    assert page.greedy == [page.words.decode(made[0, ids.shape[1] :], skip_special_tokens=True)]


def test_the_twin_the_gate_and_the_rehearsal_report_what_they_found(page):
    assert page.native.parameters == page.base.metrics["parameters"]
    assert page.native.differences["difference_of_twin"] < 1e-4
    assert page.report.passed
    assert page.report.kind == "model"
    assert page.rehearsal.sent == 0
    assert page.rehearsal.files > 5
    assert page.rehearsal.num_bytes > (page.root / "runs/base/model.safetensors").stat().st_size


def test_nothing_is_left_behind_in_the_process(page):
    assert page.after == page.before
    assert page.before["caching"]  # otherwise the test shows nothing


def test_the_functions_run_what_the_recipes_run(page, tmp_path):
    """The same arguments through the recipe itself: the same tokenizer, the same rows, the same weights."""
    from recipes_in_process import recipe

    recipe(
        "pretrain", dataset=str(page.root / "runs/data"), output_dir=str(tmp_path / "base"), depth=1, max_steps=4,
        learning_rate=1e-3, cpu_threads=1,
    )  # fmt: skip
    weights = (tmp_path / "base" / "model.safetensors").read_bytes()
    assert weights == (page.root / "runs/rate-0.001/model.safetensors").read_bytes()


def test_called_again_a_job_returns_what_it_made_and_another_one_is_refused(page, monkeypatch):
    monkeypatch.chdir(page.root)
    settings = dict(depth=1, max_steps=4, learning_rate=1e-3, cpu_threads=1)
    files = {path: path.stat().st_mtime_ns for path in Path("runs/rate-0.001").glob("*.safetensors")}
    again = hfgpt.pretrain(page.data.folder, output_dir="runs/rate-0.001", **settings)
    assert again.metrics["validation_loss"] == page.losses[1e-3]
    assert files == {path: path.stat().st_mtime_ns for path in Path("runs/rate-0.001").glob("*.safetensors")}
    with pytest.raises(hfgpt.UserError, match="max_steps was 4, is now 5"):
        hfgpt.pretrain(page.data.folder, output_dir="runs/rate-0.001", **settings | {"max_steps": 5})
    again = hfgpt.train_tokenizer(
        "python-docs", output_dir="runs/tokenizer", vocab_size=512, max_documents=400, validation_share=0.02
    )
    assert again == page.tokenizer
    assert hfgpt.prepare_data("runs/tokenizer", output_dir="runs/data", context_length=64) == page.data


@pytest.fixture(scope="module")
def quick_run(small_rows, tmp_path_factory) -> Path:
    """Four uninterrupted steps in float32."""
    folder = tmp_path_factory.mktemp("quick") / "base"
    hfgpt.pretrain(small_rows, output_dir=folder, **QUICK)
    return folder


def test_precision_is_that_of_each_call(small_rows, quick_run, tmp_path):
    """One call in bfloat16 does not affect a later one."""
    for name, precision in (("half", "bf16"), ("again", "fp32")):
        hfgpt.pretrain(small_rows, output_dir=tmp_path / name, **QUICK | {"precision": precision})
    weights = [(folder / "model.safetensors").read_bytes() for folder in (quick_run, tmp_path / "again", tmp_path / "half")]
    assert weights[0] == weights[1] != weights[2]


# Ctrl-C


def test_an_interrupted_training_writes_a_checkpoint_and_the_same_call_goes_on(small_rows, quick_run, tmp_path):
    from transformers import TrainerCallback, trainer

    class Interrupt(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            if state.global_step == 1:
                signal.raise_signal(signal.SIGINT)

    def train() -> hfgpt.TrainingResult:
        return hfgpt.pretrain(small_rows, output_dir=tmp_path / "base", **QUICK)

    before = state_of_process()
    defaults = trainer.DEFAULT_CALLBACKS
    trainer.DEFAULT_CALLBACKS = [*defaults, Interrupt]
    try:
        with pytest.raises(KeyboardInterrupt) as stopped:
            train()
    finally:
        trainer.DEFAULT_CALLBACKS = defaults
    assert isinstance(stopped.value, hfgpt.RunStopped)
    assert not isinstance(stopped.value, Exception)  # so a loop over several runs ends too
    assert (tmp_path / "base" / "checkpoint-2").is_dir()
    assert state_of_process() == before
    done = train()
    assert done.metrics["steps_timed"] < done.metrics["steps"] == 4
    assert (done.folder / "model.safetensors").read_bytes() == (quick_run / "model.safetensors").read_bytes()


def test_an_error_in_the_middle_of_training_leaves_no_handlers(small_rows, tmp_path, monkeypatch):
    from transformers import Trainer

    def fail(*_args, **_kwargs):
        raise RuntimeError("in the middle")

    monkeypatch.setattr(Trainer, "training_step", fail)
    before = state_of_process()
    with pytest.raises(RuntimeError, match="in the middle"):
        hfgpt.pretrain(small_rows, output_dir=tmp_path / "base", **QUICK)
    assert state_of_process() == before


# Progress


@pytest.mark.parametrize("wanted", ["nothing said", "a level", "a handler", "a root logger at INFO"])
def test_progress_is_printed_unless_the_program_has_said_what_it_wants(wanted, small_corpus, small_tokenizer, tmp_path, capsys):
    logger, root = logging.getLogger("hfgpt"), logging.getLogger()
    levels, heard = (logger.level, root.level), io.StringIO()
    handler = logging.StreamHandler(heard)
    handlers, root.handlers = root.handlers, []  # pytest's own handlers are on the root logger
    try:
        if wanted == "a level":
            logger.setLevel(logging.WARNING)
        elif wanted == "a handler":
            logger.addHandler(handler)
        elif wanted == "a root logger at INFO":
            root.addHandler(handler)
            root.setLevel(logging.INFO)
        else:
            root.setLevel(logging.WARNING)
        hfgpt.prepare_data(small_tokenizer, sources=small_corpus, output_dir=tmp_path / "rows", context_length=64)
    finally:
        root.handlers = handlers
        logger.removeHandler(handler)
        logger.setLevel(levels[0])
        root.setLevel(levels[1])
    assert ("data: saved in" in capsys.readouterr().out) == (wanted == "nothing said")
    assert ("data: saved in" in heard.getvalue()) == (wanted == "a root logger at INFO")


# Mistakes


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: hfgpt.pretrain("rows", output_dir="o", dept=2), r"unknown key 'dept' in pretrain\(\); did you mean 'depth'\?"),
        (lambda: hfgpt.pretrain("rows", output_dir="o", no_overwrite=True), r"unknown key 'no_overwrite' in pretrain\(\)\."),
        (lambda: hfgpt.pretrain("rows", output_dir="o", family="moden"), "family is 'moden'; allowed: 'modern', 'gpt2'"),
        (lambda: hfgpt.pretrain("rows", output_dir="o", optimizer="mun"), "optimizer is 'mun'; allowed: muon, adamw. Did"),
        (lambda: hfgpt.pretrain("rows", output_dir="o", depth="2"), "depth is '2', a str; it must be int"),
        (lambda: hfgpt.pretrain("rows", output_dir="o", depth=True), "depth is True, a bool; it must be int"),
        (lambda: hfgpt.pretrain("rows", output_dir="o", eval_steps="x"), "eval_steps is 'x', a str; it must be float or None"),
        (lambda: hfgpt.pretrain("rows", output_dir="o", sample_prompts=[1]), "sample_prompts is 1, a int; it must be str"),
        (lambda: hfgpt.pretrain("rows", output_dir="o", max_grad_norm=-1.0), "max_grad_norm is -1.0"),
        (lambda: hfgpt.prepare_data("nowhere/t", output_dir="o", window=4, stride=5), "stride is 5 and window is 4"),
        (lambda: hfgpt.generate("nowhere/at/all"), "nowhere/at/all does not exist"),
        (lambda: hfgpt.read_documents(["missing.txt"]), "missing.txt does not exist"),
        (lambda: hfgpt.train_tokenizer("a text\n" * 100, output_dir="out"), "is too long for the name of a file"),
        (lambda: hfgpt.verify_data("nowhere"), "hfgpt data writes one"),
        (lambda: hfgpt.load_model(None), "model is None, a NoneType; give a folder or a Hub id"),
        (lambda: hfgpt.load_model("nowhere/at/all", dtype="int8"), "dtype is 'int8'; allowed: auto, float32"),
        (lambda: hfgpt.load_model("nowhere/at/all", task="answers"), "task is 'answers'; allowed: text-generation"),
        (lambda: hfgpt.load_model("~/nowhere/at/all"), f"{Path.home()}/nowhere/at/all does not exist"),
        (lambda: hfgpt.generate("a/b", seed=2**70), "seed is 1180591620717411303424; it must be below"),
        (lambda: hfgpt.generate("a/b", temperature=1e-40), "temperature is 1e-40; it must be 0, which is greedy, or at least"),
        (lambda: hfgpt.check("nowhere/at/all"), "nowhere/at/all does not exist"),
        (lambda: hfgpt.publish("nowhere", repo="a/b", token="hf_secret"), "a token is given"),
        (lambda: hfgpt.pack_rows([[1]], context_length=2, separator=0, pad=1), "context_length is 2"),
        (lambda: hfgpt.pack_rows([[1]], context_length=9, separator=1, pad=1), "separator and pad are both 1"),
    ],
)  # fmt: skip
def test_a_mistake_is_a_user_error_before_anything_is_written(call, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(hfgpt.UserError, match=said):
        call()
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("message", "said"),
    [
        (
            "give another output_dir, or --overwrite true to replace it.",
            "give another output_dir, or overwrite=True to replace it.",
        ),
        ("give --resume auto to continue it", "give resume='auto' to continue it"),
        ("give --allow_change learning_rate, or", "give allow_change='learning_rate', or"),
        (
            "give --allow_change learning_rate max_steps, or --overwrite true",
            "give allow_change=['learning_rate', 'max_steps'], or overwrite=True",
        ),
        ("prepare it with --context_length 1,024 or less.", "prepare it with context_length=1_024 or less."),
        ("give --text for a language model (recipes/evaluate.py)", "give text for a language model (hfgpt evaluate)"),
        ("or train everything with --method full.", "or train everything with method='full'."),
        ("Give --resume runs/a/checkpoint-3.", "Give resume='runs/a/checkpoint-3'."),
        ("next: hfgpt generate base --prompt 'a; --b c'", "next: hfgpt generate base --prompt 'a; --b c'"),
        (
            "merge it: python recipes/convert.py A --adapter B; or --loss dpo",
            "merge it: hfgpt convert A --adapter B; or loss='dpo'",
        ),
    ],
)
def test_messages_speak_python_and_commands_stay_commands(message, said):
    assert in_python(message, {"method": ["full", "lora"], "loss": ["dpo"]}) == said


def test_errors_while_reading_and_generating_name_keys_as_python_does(small_run, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "a"}\n')
    with pytest.raises(hfgpt.UserError, match="on_error='skip'"):
        list(hfgpt.read_conversations(path, format="prompt_completion"))
    with pytest.raises(hfgpt.UserError, match=f"{path} is a file; give a folder that hfgpt data made of it"):
        hfgpt.pretrain(path, output_dir=tmp_path / "out")
    with pytest.raises(hfgpt.UserError, match="^the prompt is not text: character 4 comes from bytes that are not UTF-8"):
        hfgpt.generate(small_run, "caf\udce9")
    with pytest.raises(hfgpt.UserError, match=f"{small_run} is not a classifier; give one"):
        hfgpt.load_model(small_run, task="text-classification")
    with pytest.raises(hfgpt.UserError, match="texts is a single text; give a list"):
        hfgpt.encode_texts(hfgpt.load_tokenizer(small_run), "hello")
    (tmp_path / "data" / "tokenizer").mkdir(parents=True)
    with pytest.raises(hfgpt.UserError, match=f"has no tokenizer .*give {tmp_path / 'data' / 'tokenizer'}"):
        hfgpt.prepare_data(tmp_path / "data", sources=path, output_dir=tmp_path / "out")


def test_a_handler_that_a_library_adds_to_the_root_logger_is_removed():
    with left_as_found():
        logging.getLogger().addHandler(added := logging.NullHandler())
    assert added not in logging.getLogger().handlers


def test_an_error_in_python_offers_what_python_takes(tmp_path):
    with pytest.raises(hfgpt.UserError, match="overwrite=True to replace it") as refused:
        hfgpt.train_tokenizer("python-docs", output_dir=_full(tmp_path / "full"))
    assert "--" not in str(refused.value)


def _full(folder: Path) -> Path:
    """A folder as an earlier run of the same recipe left it."""
    folder.mkdir()
    (folder / PASSPORT_NAME).write_text("{}")
    return folder


def test_paths_and_single_values_are_taken_for_what_the_command_line_has():
    arguments_class = load_recipe("train_tokenizer").main.__annotations__["args"]
    made = make_arguments(arguments_class, {"sources": Path("a.txt"), "output_dir": Path("out")}, where="it")
    assert (made.sources, made.output_dir) == (["a.txt"], "out")
    made = make_arguments(arguments_class, {"sources": ("a.txt", Path("b.txt")), "output_dir": "out", "test_share": 0}, where="it")
    assert made.sources == ["a.txt", "b.txt"]
    assert isinstance(made.test_share, float)


# Signatures and names


@pytest.mark.parametrize("name", RECIPE_OF)
def test_a_signature_repeats_the_recipes_keys_types_and_defaults(name):
    function = getattr(hfgpt, name)
    arguments_class = load_recipe(RECIPE_OF[name]).main.__annotations__["args"]
    known = {one.name: one for one in fields(arguments_class)}
    hints = get_type_hints(arguments_class)
    parameters = inspect.signature(function).parameters
    renamed = {"prompts": "prompt"} if name == "generate" else {}
    assert len(parameters) > 3
    for parameter in parameters.values():
        if parameter.kind is parameter.VAR_KEYWORD:
            continue
        key = renamed.get(parameter.name, parameter.name)
        assert key in known, parameter
        if parameter.default is not parameter.empty:
            one = known[key]
            default = one.default_factory() if callable(one.default_factory) else one.default
            given = list(parameter.default) if isinstance(parameter.default, tuple) else parameter.default
            assert ([given] if isinstance(default, list) and not isinstance(given, list) else given) == default, parameter
        if "Literal" in str(hints[key]):
            assert get_args(parameter.annotation) == get_args(hints[key]), parameter


def test_what_editors_see_is_what_there_is():
    tree = ast.parse((ROOT / "hfgpt" / "__init__.py").read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    seen = {alias.asname: node.module for node in block.body for alias in node.names}
    assert seen == hfgpt._MODULE_OF
    assert set(hfgpt.__all__) == {"__version__", *seen} <= set(dir(hfgpt))
    for name in hfgpt.__all__:
        assert getattr(hfgpt, name) is not None
        assert name == "__version__" or getattr(hfgpt, name).__doc__
    assert (ROOT / "hfgpt" / "py.typed").is_file()


def test_the_page_names_every_function():
    functions = {name for name in hfgpt.__all__ if inspect.isfunction(getattr(hfgpt, name))}
    assert functions > set(RECIPE_OF)
    assert not {name for name in functions if not re.search(rf"\bhfgpt\.{name}\(", PAGE)} - {"load_tokenizer"}


def test_importing_the_names_costs_nothing_until_they_are_used():
    code = "import sys, hfgpt; dir(hfgpt); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    imported = set(done.stdout.split())
    assert "hfgpt" in imported
    assert not {name for name in imported if name.startswith("hfgpt.")}
    assert not imported & {"torch", "transformers", "datasets", "numpy", "pyarrow"}


def test_rows_that_are_skipped_are_counted_and_a_source_of_none_but_such_is_refused(tmp_path, caplog):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "a"}\n{"text": 7}\n{"other": "b"}\n')
    with caplog.at_level("INFO", logger="hfgpt"):
        assert len(list(hfgpt.read_documents(path, on_error="skip"))) == 1
    assert caplog.text.count("skipped 1 row (") == 2
    path.write_text('{"text": 7}\n')
    with pytest.raises(hfgpt.UserError, match="all 1 rows of .*rows.jsonl were skipped"):
        list(hfgpt.read_documents(path, on_error="skip"))
