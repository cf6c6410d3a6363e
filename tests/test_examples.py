"""The examples of docs/tasks/serve.md's "In other people's hands", word for word: each in its own process, on small models."""

import inspect
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from conftest import ROOT, run_python
from recipes_in_process import load
from safetensors.torch import load_file
from transformers import AutoTokenizer

from hfgpt import HfGptForCausalLM
from hfgpt.arguments.finetuning import ClassificationArguments, InstructionArguments
from hfgpt.arguments.parsing import parse_arguments

pytestmark = pytest.mark.slow

PAGE = (ROOT / "docs" / "tasks" / "serve.md").read_text(encoding="utf-8")
SECTION = re.search(r"## In other people's hands\n(.*?)\n## ", PAGE, flags=re.DOTALL)[1]
PARTS = re.split(r"^\*\*(.+?)\*\*", SECTION, flags=re.MULTILINE)[1:]
# The blocks of each example, as (language, text), by the bold words at its start.
EXAMPLES = {
    title: re.findall(r"```(\w+)\n(.*?)```", text, flags=re.DOTALL) for title, text in zip(PARTS[::2], PARTS[1::2], strict=True)
}
LABELS = ("asyncio", "email")
QUESTION = "What does os.getcwd do?"
NUM_PAIRS = 120
# Runs after the search example: for how many first sentences is the rest of the docstring among the first ten results?
RETRIEVAL = """
import json
pairs = json.load(open("pairs.json"))
queries, rests = (torch.cat([embed(part[at : at + 30]) for at in range(0, len(part), 30)]) for part in zip(*pairs))
scores = queries @ rests.T
ranks = lambda own: (scores > own[:, None]).sum(1)
print(json.dumps([(ranks(own) < 10).sum().item() for own in (scores.diag(), scores.roll(1, 1).diag())]))
"""


def blocks(title: str, *languages: str) -> list[str]:
    """The blocks of one example, in exactly these languages."""
    assert [language for language, _ in EXAMPLES[title]] == list(languages)
    return [text for _, text in EXAMPLES[title]]


@pytest.fixture(scope="module")
def docstrings() -> list[dict]:
    """This Python's docstrings as records: text, label (the package), name."""
    from hfgpt.data.records import RecordOptions, read_records

    return [record.values for record in read_records(["python-docs"], RecordOptions())]


@pytest.fixture(scope="module")
def place(small_families, docstrings, tmp_path_factory) -> Path:
    """A folder with a small version of what `make quickstart` leaves in runs/quickstart: base, classifier, assistant."""
    place = tmp_path_factory.mktemp("examples")
    runs = place / "runs" / "quickstart"
    runs.mkdir(parents=True)
    shutil.copytree(small_families["modern"], runs / "base")
    (place / "recipes").symlink_to(ROOT / "recipes")
    texts = {label: [] for label in LABELS}
    for record in docstrings:
        if record["label"] in texts and 30 < len(record["text"]) < 200 and len(texts[record["label"]]) < 60:
            texts[record["label"]].append(record["text"])
    rows = [{"text": text, "label": label} for label in LABELS for text in texts[label]]
    (place / "labels.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    functions = {name: inspect.getdoc(getattr(os, name)) for name in ("getcwd", "remove", "listdir", "fsencode", "putenv")}
    answers = {f"What does os.{name} do?": text.splitlines()[0] for name, text in functions.items()}
    rows = [{"instruction": question, "output": answer} for question, answer in answers.items()] * 3
    (place / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    shared = ("--model", runs / "base", "--per_device_train_batch_size", "8", "--learning_rate", "5e-3", "--lora_rank", "8",
              "--cpu_threads", "1", "--use_cpu", "true", "--canaries", "false", "--poison_report", "false",
              "--decontaminate", "false")  # fmt: skip
    run_main("finetune_classification", ClassificationArguments, *shared, "--sources", place / "labels.jsonl",
             "--output_dir", runs / "classifier", "--num_train_epochs", "3", "--tfidf_baseline", "false")  # fmt: skip
    run_main("finetune_instructions", InstructionArguments, *shared, "--sources", place / "answers.jsonl",
             "--output_dir", runs / "assistant", "--max_steps", "60", "--eval_strategy", "no",
             "--save_strategy", "no", "--keep", "last", "--split_method", "order", "--answers_before", "false",
             "--max_answers", "1", "--max_new_tokens", "8")  # fmt: skip
    return place


def run_main(name: str, arguments_class: type, *words) -> None:
    """Run the recipe's main in this process, with arguments as on a command line."""
    load(name).main(parse_arguments(arguments_class, list(map(str, words))))


@pytest.fixture
def run(place, tmp_path):
    """Run a block's code in a fresh process, in the folder that contains runs/quickstart, and return what it prints."""

    def run_block(code: str, *options: str, **environment: str) -> str:
        environment = {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", **environment}
        done = run_python(*options, "-c", code, cwd=place, env=environment)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    return run_block


def test_every_example_is_run_by_a_test_here():
    words = inspect.getsource(sys.modules[__name__])
    tested = {title for title in EXAMPLES if f'blocks("{title}"' in words}
    assert set(EXAMPLES) - tested == {"Published"}  # needs the Hub; tests/hub has one
    assert EXAMPLES["Published"] == []
    assert sum(language == "python" for _, found in EXAMPLES.items() for language, _ in found) == 6


def test_somebody_without_hfgpt_loads_a_base_in_six_lines(run, place, stranger):
    (code,) = blocks("Somebody without hfgpt", "python")
    assert len(code.splitlines()) == 6
    text = run(code, "-S", **stranger)
    base = place / "runs/quickstart/base"
    tokenizer = AutoTokenizer.from_pretrained(base)
    ids = HfGptForCausalLM.from_pretrained(base).generate(**tokenizer("class ", return_tensors="pt"), max_new_tokens=40)[0]
    assert text == tokenizer.decode(ids, skip_special_tokens=True) + "\n"
    assert text.startswith("class ")
    assert len(ids) > 30


def test_pipelines_write_and_label(run, without_hqq):
    (code,) = blocks("Pipelines", "python")
    text, _, labels = run(code, "-S", **without_hqq).rstrip("\n").rpartition("\n")
    assert text.startswith("os.path.join(")
    assert len(text) > len("os.path.join(")
    # the label that the comment names
    assert labels.startswith(re.search(r"# (\[\{'label': '\w+', 'score': )[\d.]+\}\]", code)[1])


def test_trl_fine_tunes_it_with_lora(run, place):
    (code,) = blocks("TRL", "python")
    pytest.importorskip("trl", reason="fine-tuning needs TRL, an extra")
    before = (place / "runs/quickstart/base/model.safetensors").read_bytes()
    losses = [float(loss) for loss in re.findall(r"'loss': '?([\d.]+)", run(code))]
    assert len(losses) == 4
    assert losses[-1] < losses[0] - 0.1
    assert len(re.search(r"# loss (.*)", code)[1].split(", ")) == len(losses)
    adapter = load_file(place / "runs/quickstart/trl/adapter_model.safetensors")
    assert max(tensor.abs().max() for name, tensor in adapter.items() if "lora_B" in name) > 1e-3  # they begin as zeros
    assert (place / "runs/quickstart/base/model.safetensors").read_bytes() == before


def test_an_openai_client_asks_the_server_of_transformers(run, place, tmp_path):
    command, code = blocks("An OpenAI server", "console", "python")
    pytest.importorskip("openai", reason="needs the package openai")
    pytest.importorskip("uvicorn", reason="serving needs transformers[serving]")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    assert command.count("8000") == code.count("8000") == 1
    words = shlex.split(command.removeprefix("$ ").replace("8000", port))
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "HF_HOME": str(tmp_path),
                   "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}  # fmt: skip
    with (tmp_path / "log.txt").open("w") as log:
        server = subprocess.Popen(words, cwd=place, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + 180
            while not is_up(f"http://localhost:{port}/health"):
                assert server.poll() is None, (tmp_path / "log.txt").read_text()[-2000:]
                assert time.monotonic() < deadline, "the server did not come up in three minutes"
                time.sleep(0.2)
            said = run(code.replace("8000", port))
        finally:
            server.terminate()
            server.wait(timeout=30)
    assert said.strip() == inspect.getdoc(os.getcwd).splitlines()[0]
    assert QUESTION in code  # the question is one from its training


def is_up(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=5) as response:
            return response.status == 200
    except OSError:
        return False


def test_llama_cpp_reads_the_file_that_the_recipe_writes(run, place):
    command, code = blocks("llama.cpp", "bash", "python")
    pytest.importorskip("gguf", reason="needs the package gguf, an extra")
    pytest.importorskip("llama_cpp", reason="needs llama-cpp-python, an extra that takes minutes to build")
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    done = subprocess.run(command, shell=True, cwd=place, env={**os.environ, "PATH": path}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(run(code)) > 10  # tests/conversion/test_gguf.py compares the words


def test_a_text_finds_what_is_near_in_meaning_more_often_than_chance(run, place, without_hqq, small_corpus, docstrings):
    code, shown = blocks("Search by meaning", "python", "text")
    trained_on = small_corpus.read_text(encoding="utf-8")
    pairs = []
    for record in docstrings:
        first, _, rest = record["text"].partition(". ")
        if len(first) > 25 and len(rest) > 60 and json.dumps(first)[1:-1] not in trained_on:
            pairs.append((f"{first}.", rest[:400]))
    pairs = pairs[:: len(pairs) // NUM_PAIRS][:NUM_PAIRS]  # from all modules
    assert len({rest for _, rest in pairs}) > 0.9 * NUM_PAIRS
    (place / "pairs.json").write_text(json.dumps(pairs))
    *lines, found = run(code + RETRIEVAL, "-S", **without_hqq).splitlines()
    # The same four texts as on the page, but in another order and with other scores, because the model is another one.
    assert {line.split("  ")[1] for line in lines} == {line.split("  ")[1] for line in shown.splitlines()}
    scores = [float(line.split()[0]) for line in lines]
    assert scores == sorted(scores, reverse=True)
    assert -1 <= scores[-1] < scores[0] <= 1
    hits, hits_of_another = json.loads(found)
    print(f"among the first ten of {NUM_PAIRS}: its own rest for {hits}, another one's for {hits_of_another}")
    assert hits > 20 > hits_of_another  # by chance 10
