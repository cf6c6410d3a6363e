"""Benchmarks of lm-evaluation-harness on the user's files: asked as the harness asks them, offline, and checked row by row."""

import json
import sys

import pytest
import torch

from hfgpt.evaluation.benchmarks import LOCAL_TASKS, Benchmark, LocalTask, _results, check_rows, definition_of, run_benchmarks
from hfgpt.evaluation.loading import load

HELLASWAG = [
    {"activity_label": "Files", "ctx_a": "Open the file.", "ctx_b": "then", "endings": ["read [x] it.", "zq zq", "qqq", "zzz"],
     "label": "0"},
    {"activity_label": "Paths", "ctx_a": "Join the paths.", "ctx_b": "", "endings": ["zq", "return the path"], "label": 1},
]  # fmt: skip
LAMBADA = [{"text": "Return the name of the file"}, {"text": "Return a list of the path"}]
ARC = [
    {"question": "What does it return?", "choices": {"text": ["a string", "zq9"], "label": ["A", "B"]}, "answerKey": "A"},
    {"question": "Which module?", "choices": {"text": ["zzq zz", "the os module"], "label": ["1", "2"]}, "answerKey": "1"},
]
ROWS = {"hellaswag": HELLASWAG, "lambada": LAMBADA, "arc": ARC}


def write(path, rows):
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), encoding="utf-8")
    return path


@torch.no_grad()
def nats(loaded, context: str, continuation: str) -> float:
    """The negative log-likelihood of a continuation, computed here."""
    start = len(loaded.tokenizer(context).input_ids)
    ids = loaded.tokenizer(context + continuation, return_tensors="pt").input_ids.to(loaded.model.device)
    labels = ids.masked_fill(torch.arange(ids.shape[1], device=ids.device) < start, -100)
    return loaded.model(ids, labels=labels).loss.double().item() * (ids.shape[1] - start)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["book", "modern"])
def test_local_rows_are_asked_and_scored_as_the_harness_does(small_families, tmp_path, family):
    pytest.importorskip("lm_eval", minversion="0.4.9", reason="needs the package lm_eval[hf]")
    loaded = load(str(small_families[family]))
    benchmarks = [Benchmark(task, write(tmp_path / f"{task} [1].jsonl", rows)) for task, rows in ROWS.items()]
    results = {result.settings["task"]: result for result in run_benchmarks(loaded, benchmarks, num_fewshot=0, batch_size=2)}
    assert list(results) == ["hellaswag", "lambada", "arc"]
    assert [result.counts["num_examples"] for result in results.values()] == [2, 2, 2]
    assert all(len(result.sha256) == 64 and result.dataset_id is None for result in results.values())
    # ARC is asked as "Question: ...\nAnswer:", each answer after a space.
    right, right_by_length = 0, 0
    for row in ARC:
        costs = [nats(loaded, f"Question: {row['question']}\nAnswer:", f" {text}") for text in row["choices"]["text"]]
        by_length = [cost / len(text) for cost, text in zip(costs, row["choices"]["text"], strict=True)]
        answer = row["choices"]["label"].index(row["answerKey"])
        right += costs[answer] == min(costs)
        right_by_length += by_length[answer] == min(by_length)
    assert results["arc"].metrics["acc"] == right / 2
    assert results["arc"].metrics["acc_norm"] == right_by_length / 2
    assert right == 1  # one of the two rows has its answers swapped
    # LAMBADA counts the cost of the last word only.
    costs = [nats(loaded, *text.rsplit(" ", 1)[:1], " " + text.rsplit(" ", 1)[1]) for text in (row["text"] for row in LAMBADA)]
    expected = torch.tensor(costs).mean().exp().item()
    assert results["lambada"].metrics["perplexity"] == pytest.approx(expected, rel=1e-4)
    # HellaSwag's own clean-up removed "[x]": the harness's own definition was used, not a similar one.
    right = 0
    for row, asked in zip(HELLASWAG, ("Files: Open the file. Then", "Paths: Join the paths."), strict=True):
        costs = [nats(loaded, asked, " " + text.replace("[x] ", "")) for text in row["endings"]]
        right += costs[int(row["label"])] == min(costs)
    assert results["hellaswag"].metrics["acc"] == right / 2
    assert "acc_stderr" in results["hellaswag"].metrics
    few = run_benchmarks(loaded, benchmarks[2:], num_fewshot=1, limit=1, batch_size=2)[0]
    assert (few.counts["num_examples"], few.settings["num_fewshot"], few.settings["limit"]) == (1, 1, 1)


@pytest.mark.parametrize(
    ("task", "rows", "sentence"),
    [
        ("arc", [ARC[0], "{"], r"rows.jsonl, line 2: not valid JSON"),
        ("arc", [ARC[0], "[1]"], r"rows.jsonl, line 2: found a JSON list, but an object is needed"),
        ("arc", [{**ARC[0], "answerKey": "C"}], r"line 1: the answerKey is 'C', but must be one of \['A', 'B'\]"),
        ("arc", [{**ARC[0], "choices": {"text": ["a"], "label": []}}], r"line 1: choices need 'label' and 'text'"),
        ("arc", [{"question": "?"}], r"line 1: 'choices' is missing; arc needs 'question', 'choices', 'answerKey' in every row"),
        ("hellaswag", [HELLASWAG[0], {**HELLASWAG[1], "label": 2}], r"line 2: the label is 2, but there are 2 endings"),
        ("hellaswag", [{**HELLASWAG[0], "endings": "one"}], r"line 1: 'endings' is string; hellaswag needs"),
        ("lambada", [LAMBADA[0], {"text": " "}], r"line 2: 'text' is string; lambada needs 'text'"),
        ("lambada", [{"text": "word"}], r"line 1: the text is one word"),
        ("lambada", [], r"rows.jsonl is empty; it must have one question per line"),
    ],
)
def test_a_row_that_cannot_be_asked_is_named_with_file_and_line(tmp_path, task, rows, sentence):
    with pytest.raises(ValueError, match=sentence):
        check_rows(task, write(tmp_path / "rows.jsonl", rows))


def test_figures_of_several_filters_and_of_groups_are_all_kept():
    values = {"exact_match,strict-match": 0.1, "exact_match_stderr,strict-match": 0.01, "exact_match,flexible-extract": 0.9}
    found = {
        "results": {"gsm8k": values, "mmlu": {"acc,none": 0.25, "alias": "mmlu"}},
        "configs": {"gsm8k": {"test_split": "test"}},
        **{"versions": {"gsm8k": 3}, "n-shot": {"gsm8k": 5}, "n-samples": {"gsm8k": {"effective": 7}}},
    }
    one, group = _results(found, Benchmark("gsm8k"), "model", limit=None)
    assert one.metrics == {"exact_match (strict-match)": 0.1, "exact_match (strict-match)_stderr": 0.01,
                           "exact_match (flexible-extract)": 0.9}  # fmt: skip
    assert "exact_match (strict-match) 0.1000 +- 0.0100" in one.line()
    assert (group.dataset, group.metrics) == ("mmlu", {"acc": 0.25})


def test_what_is_right_passes(tmp_path):
    for task, rows in ROWS.items():
        assert check_rows(task, write(tmp_path / "rows.jsonl", rows)) == rows


def test_another_package_adds_a_task_with_rows_of_its_own_kind(tmp_path, monkeypatch):
    (tmp_path / "riddles.yaml").write_text("task: riddles")

    def problem(row: dict) -> str | None:
        return None if "?" in row["riddle"] else "no riddle."

    toy = LocalTask(str(tmp_path / "riddles.yaml"), {"riddle": str}, problem=problem)
    monkeypatch.setitem(LOCAL_TASKS, "riddles", toy)
    assert check_rows("riddles", write(tmp_path / "rows.jsonl", [{"riddle": "Who?"}])) == [{"riddle": "Who?"}]
    for row, sentence in (({}, "'riddle' is missing; riddles needs 'riddle'"), ({"riddle": "Me."}, "line 1: no riddle.")):
        with pytest.raises(ValueError, match=sentence):
            check_rows("riddles", write(tmp_path / "rows.jsonl", [row]))
    pytest.importorskip("lm_eval.tasks", reason="needs the package lm_eval[hf]")
    assert definition_of("riddles", pytest.fail) == tmp_path / "riddles.yaml"


def test_a_task_is_named_alone_or_behind_its_file(tmp_path):
    path = write(tmp_path / "rows.jsonl", ARC)
    assert Benchmark.parse("arc_easy") == Benchmark("arc_easy")
    assert Benchmark.parse(f"{path}:arc") == Benchmark("arc", path)
    with pytest.raises(ValueError, match=r"has no task; write .*rows.jsonl:hellaswag"):
        Benchmark.parse(str(path))
    with pytest.raises(FileNotFoundError, match=r"no.jsonl does not exist"):
        Benchmark.parse("no.jsonl:arc")


def test_without_the_harness_the_command_that_installs_it_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(ValueError, match=r"lm_eval is not installed; pip install 'hfgpt\[benchmarks\]'"):
        run_benchmarks(None, [Benchmark("arc")])


@pytest.mark.slow
def test_any_task_that_the_harness_finds_can_be_asked_of_a_file_and_no_other(tmp_path):
    tasks = pytest.importorskip("lm_eval.tasks", reason="needs the package lm_eval[hf]")
    (tmp_path / "mine.yaml").write_text("task: mine\ndataset_path: json\noutput_type: loglikelihood\n")
    known = tasks.TaskManager(include_path=str(tmp_path), include_defaults=False)  # loading all of them would take half a minute
    assert definition_of("mine", lambda: known) == tmp_path / "mine.yaml"
    assert definition_of("arc", pytest.fail).name == "arc_easy.yaml"
    with pytest.raises(ValueError, match="lm_eval has no single task 'arc_hardest'"):
        definition_of("arc_hardest", lambda: known)
