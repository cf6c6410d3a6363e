"""The lm-evaluation-harness command, on our own offline task, with remote code and with hfgpt imported."""

import json
import sys

import pytest
import torch
from conftest import run_python
from transformers import AutoModelForCausalLM, AutoTokenizer

import hfgpt  # noqa: F401  registers the classes

pytest.importorskip("lm_eval", minversion="0.4.9", reason="needs the package lm_eval[hf]")

ROWS = [
    {"question": "The class of the", "choices": ["object", "zq9"], "answer": 0},
    {"question": "Return the", "choices": ["zzz 1", "value"], "answer": 1},
    {"question": "What is math?", "choices": ["files", "numbers"], "answer": 1},
]
TASK = """
task: small_task
dataset_path: json
dataset_kwargs: {data_files: {test: DATA}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: answer
metric_list:
  - metric: acc
"""


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    folder = tmp_path_factory.mktemp("task")
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (folder / "small_task.yaml").write_text(TASK.replace("DATA", str(folder / "rows.jsonl")))
    return folder


@torch.no_grad()
def nats(model, tokenizer, question: str, choice: str) -> float:
    """The log-likelihood of ` choice` after the question, computed by ourselves."""
    start = len(tokenizer(question).input_ids)
    ids = tokenizer(f"{question} {choice}", return_tensors="pt").input_ids
    return -model(ids, labels=ids.masked_fill(torch.arange(ids.shape[1]) < start, -100)).loss.item() * (ids.shape[1] - start)


@pytest.mark.slow
@pytest.mark.parametrize(("family", "door"), [("book", "remote code"), ("modern", "imported")])
def test_the_harness_finds_our_own_log_likelihoods(small_families, task, without_hqq, tmp_path, family, door, monkeypatch, capsys):
    folder = small_families[family]
    words = ["--model", "hf", "--device", "cpu", "--batch_size", "2", "--tasks", "small_task", "--include_path", str(task)]
    words += ["--output_path", str(tmp_path), "--log_samples", "--model_args"]
    if door == "remote code":
        environment = without_hqq | {"HF_HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1"}
        done = run_python(
            "-S", "-m", "lm_eval", *words, f"pretrained={folder},trust_remote_code=True", cwd=tmp_path, env=environment
        )
        assert done.returncode == 0, done.stderr[-3000:]
        said = done.stdout
    else:  # the command knows hfgpt only if it is imported first, as it is here
        from lm_eval.__main__ import cli_evaluate

        monkeypatch.setattr(sys, "argv", ["lm_eval", *words, f"pretrained={folder}"])
        cli_evaluate()
        said = capsys.readouterr().out
    assert "|small_task|" in said

    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    samples = [json.loads(line) for line in next(tmp_path.rglob("samples_small_task*.jsonl")).read_text().splitlines()]
    assert len(samples) == len(ROWS)
    right = 0
    for sample in samples:
        row = sample["doc"]
        expected = [nats(model, tokenizer, row["question"], choice) for choice in row["choices"]]
        got = [float(answer[0][0]) for answer in sample["resps"]]
        assert got == pytest.approx(expected, abs=1e-3)
        right += int(expected[row["answer"]] == max(expected))
    results = json.loads(next(tmp_path.rglob("results_*.json")).read_text())
    assert results["results"]["small_task"]["acc,none"] == pytest.approx(right / len(ROWS))
