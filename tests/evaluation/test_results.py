"""evaluation.json, the Hub's .eval_results and the model-index agree."""

import json
import math
import sys

import pytest
import yaml
from huggingface_hub import ModelCard, ModelCardData, parse_eval_result_entries
from huggingface_hub.repocard_data import eval_results_to_model_index

from hfgpt.arguments.commands import RECIPES
from hfgpt.arguments.evaluation import EvaluateArguments, public_name
from hfgpt.errors import UserError
from hfgpt.evaluation.results import (
    Result,
    figures_of,
    headline_of,
    model_index,
    read_evaluation,
    record_results,
    refuse_others_results,
)

TEXT = dict(task="language-modeling", dataset="test.txt", sha256="ab" * 32)


def text_result(loss: float, **more) -> Result:
    return Result(**{**TEXT, "metrics": {"loss": loss, "perplexity": math.exp(loss), "bits_per_byte": loss / 2}, **more})


def benchmark_result(task: str, acc: float, dataset: str = "rows.jsonl") -> Result:
    return Result("benchmark", dataset, {"acc": acc, "acc_stderr": 0.1}, settings={"task": task}, counts={"num_examples": 3})


def test_the_same_thing_measured_again_takes_the_place_of_the_earlier_result(tmp_path):
    record_results(tmp_path, [text_result(2.0, split="test"), text_result(3.0, split="validation")], model="base")
    record_results(tmp_path, [text_result(1.0, split="test", counts={"num_tokens": 7}), benchmark_result("arc", 0.5)], model="base")
    record_results(tmp_path, [benchmark_result("hellaswag", 0.25)], model="base")  # another task on the same file
    evaluation = json.loads((tmp_path / "evaluation.json").read_text())
    assert evaluation == read_evaluation(tmp_path)
    assert (evaluation["format"], evaluation["model"]) == (1, "base")
    found = [(entry["task"], entry.get("split"), next(iter(entry["metrics"].values()))) for entry in evaluation["results"]]
    assert found == [("language-modeling", "validation", 3.0), ("language-modeling", "test", 1.0),
                     ("benchmark", None, 0.5), ("benchmark", None, 0.25)]  # fmt: skip
    assert evaluation["results"][1]["num_tokens"] == 7
    assert {"sha256", "date"} <= evaluation["results"][1].keys()
    assert sorted(path.name for path in tmp_path.iterdir()) == [".eval_results", "evaluation.json"]


def test_results_of_another_model_are_neither_relabelled_nor_replaced(tmp_path):
    record_results(tmp_path, [text_result(2.0)], model="base")
    refuse_others_results(tmp_path, model="base")
    with pytest.raises(UserError, match="holds results of base, not of assistant; give each model its own --output_dir"):
        refuse_others_results(tmp_path, model="assistant")


MANY_FILES = ", ".join(f"chapter-{number:02}.txt" for number in range(12))


@pytest.mark.parametrize(
    "two",
    [
        (text_result(1.0, dataset=MANY_FILES, split="validation"), text_result(2.0, dataset=MANY_FILES, split="test")),
        (text_result(1.0, dataset="війна.txt"), text_result(2.0, dataset="мир.txt")),
        (text_result(1.0, dataset="a b.txt"), text_result(2.0, dataset="a-b.txt")),
        (text_result(1.0), text_result(2.0, sha256="cd" * 32)),  # en/test.txt and de/test.txt
        (benchmark_result("arc", 1.0), benchmark_result("hellaswag", 2.0)),
        tuple(text_result(loss, dataset=f"user/x:{name}", dataset_id="user/x") for loss, name in ((1.0, "en"), (2.0, "de"))),
    ],
    ids=["many files", "no ASCII", "spaces", "folders", "benchmarks", "configurations"],
)  # fmt: skip
def test_results_with_alike_names_stay_apart(two, tmp_path):
    assert len(figures_of(two)) == sum(len(result.metrics) for result in two)
    headlines = []
    for result in (*two, *two):  # the second time, each replaces its own
        evaluation = record_results(tmp_path, [result], model="base")
        files = [yaml.safe_load(path.read_text(encoding="utf-8")) for path in (tmp_path / ".eval_results").iterdir()]
        headlines.append(sorted(entry["value"] for (entry,) in files))
    first, second = (result.metrics[headline_of(result.metrics)] for result in two)
    assert headlines == [[first], *[[first, second]] * 3]
    assert [entry["metrics"] for entry in evaluation["results"]] == [result.metrics for result in two]
    (index,) = eval_results_to_model_index("base", model_index(evaluation))
    assert [one["dataset"]["name"] for one in index["results"]] == [result.dataset for result in two]


def test_figures_are_called_by_their_data_and_by_their_task_too_where_that_is_not_enough():
    results = [benchmark_result("arc", 1.0), benchmark_result("hellaswag", 0.5), text_result(2.0, metrics={"loss": 2.0})]
    figures = {name: value for name, value in figures_of(results).items() if not name.endswith("stderr")}
    assert figures == {"arc, rows.jsonl: acc": 1.0, "hellaswag, rows.jsonl: acc": 0.5, "test.txt: loss": 2.0}


def test_figures_of_an_alike_name_survive_that_a_seen_text_has_none(tmp_path):
    new, seen = text_result(1.0), text_result(2.0, sha256="cd" * 32, seen_in_training=True)
    for order in ([new, seen], [seen], [new]):
        record_results(tmp_path, order, model="base")
        (path,) = (tmp_path / ".eval_results").iterdir()
        assert yaml.safe_load(path.read_text())[0]["value"] == 0.5


def test_a_result_whose_text_has_no_hash_is_replaced_by_one_that_has(tmp_path):
    record_results(tmp_path, [text_result(1.0, sha256=None)], model="base")  # of an earlier hfgpt, for several files
    evaluation = record_results(tmp_path, [text_result(2.0)], model="base")
    assert [entry["metrics"]["loss"] for entry in evaluation["results"]] == [2.0]


def test_the_hubs_files_hold_one_headline_each_and_parse_as_the_hub_does(tmp_path):
    record_results(tmp_path, [text_result(2.0, split="test", dataset_id="user/texts"), benchmark_result("arc", 0.5)], model="base")
    files = sorted((tmp_path / ".eval_results").iterdir())
    assert [path.name for path in files] == ["benchmark-arc-rows.jsonl.yaml", "language-modeling-test.txt-test.yaml"]
    benchmark, text = (parse_eval_result_entries(yaml.safe_load(path.read_text()))[0] for path in files)
    assert (text.dataset_id, text.task_id, text.value) == ("user/texts", "language-modeling", 1.0)
    assert text.notes.startswith("bits_per_byte; loss 2; perplexity 7.38906; sha256 abab")
    assert (benchmark.dataset_id, benchmark.task_id, benchmark.value) == ("rows.jsonl", "arc", 0.5)


def test_a_number_that_is_none_is_left_out_of_every_file(tmp_path):
    evaluation = record_results(tmp_path, [text_result(2.0, metrics={"loss": 2.0, "perplexity": math.inf}),
                                           text_result(1.0, metrics={"loss": math.nan}, split="x")], model="base")  # fmt: skip
    assert [entry["metrics"] for entry in evaluation["results"]] == [{"loss": 2.0}, {}]
    json.loads((tmp_path / "evaluation.json").read_text(), parse_constant=pytest.fail)
    assert len(list((tmp_path / ".eval_results").iterdir())) == 1
    assert [result.metric_type for result in model_index(evaluation)] == ["loss"]


def test_the_headline_compares_across_models():
    assert headline_of({"loss": 1, "perplexity": 2, "bits_per_byte": 3}) == "bits_per_byte"
    assert headline_of({"perplexity": 2, "acc": 3}) == "acc"
    assert headline_of({"perplexity": 2, "loss": 1}) == "perplexity"
    assert headline_of({"odd": 1}) == "odd"


def test_names_of_any_kind_come_back_out_of_the_card_and_the_files(tmp_path):
    hostile = "a'b\"\n---\n{{ x }}<script>: | \\ ü.txt"
    evaluation = record_results(tmp_path, [text_result(2.0, dataset=hostile), benchmark_result("arc", 0.5)], model="base")
    (path,) = (tmp_path / ".eval_results").glob("language*")
    (entry,) = parse_eval_result_entries(yaml.safe_load(path.read_text(encoding="utf-8")))
    assert entry.dataset_id == hostile
    data = ModelCardData(model_name="base", eval_results=model_index(evaluation))
    card = ModelCard(f"---\n{data.to_yaml()}\n---\n# A card")
    found = {(one.dataset_name, one.metric_type): one.metric_value for one in card.data.eval_results}
    assert found == {
        (hostile, "loss"): 2.0, (hostile, "perplexity"): math.exp(2), (hostile, "bits_per_byte"): 1.0, ("rows.jsonl", "acc"): 0.5,
    }  # fmt: skip
    assert card.text.strip() == "# A card"


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"format": 2, "results": []}', '{"format": 1, "results": [{"task": "x"}]}', "\xff"]
)
def test_another_file_of_this_name_is_never_overwritten(tmp_path, content):
    (tmp_path / "evaluation.json").write_text(content, encoding="latin-1")
    with pytest.raises(ValueError, match=r"evaluation\.json (is not|contains a list)"):
        record_results(tmp_path, [text_result(1.0)], model="base")
    assert (tmp_path / "evaluation.json").read_text(encoding="latin-1") == content


def test_no_path_of_this_machine_is_in_the_command(tmp_path, monkeypatch):
    (tmp_path / "my model").mkdir()
    (tmp_path / "test.txt").write_text("text")
    args = EvaluateArguments(
        model=str(tmp_path / "my model"), text=[str(tmp_path / "test.txt"), str(tmp_path / "*.md"), "user/data:en"], stride=4,
        context_length=8, tasks=[f"{tmp_path / 'test.txt'}:arc"], num_fewshot=0, output_dir=str(tmp_path / "out"), limit=2,
    )  # fmt: skip
    text, tasks = args.command("text"), args.command("tasks")
    assert str(tmp_path) not in text + tasks
    assert text == (
        "hfgpt evaluate 'my model' --text test.txt '*.md' user/data:en --context_length 8 --stride 4"
    )  # fmt: skip
    assert tasks == "hfgpt evaluate 'my model' --tasks test.txt:arc --num_fewshot 0 --limit 2"
    monkeypatch.setattr(sys, "argv", [str(RECIPES / "evaluate.py")])  # in the form that was used
    assert args.command("tasks") == tasks.replace("hfgpt evaluate", "python recipes/evaluate.py")
    assert public_name("openai-community/gpt2") == "openai-community/gpt2"
    assert public_name("/home/me/x/base") == "base"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (dict(), "model is missing"),
        (dict(model="."), "there is no evaluation data, and no run.yaml beside . that"),
        (dict(model="user/model", text=["a.txt"]), "model 'user/model' is not a folder here .* --output_dir"),
        (dict(model=".", text=["a.txt"], stride=0), "stride is 0, context_length not given; the stride must be between 1"),
        (dict(model=".", text=["a.txt"], stride=9, context_length=8), "stride is 9, context_length 8"),
        (dict(model=".", text=["a.txt"], batch_size=0), "batch_size is 0; it must be at least 1"),
        (dict(model=".", tasks=["arc"], num_fewshot=-1), "num_fewshot is -1"),
        (dict(model=".", text=["a.txt"], memorization=True), "memorization is true, but dataset is missing"),
    ],
)
def test_arguments_that_cannot_be_are_refused_before_anything_is_loaded(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        EvaluateArguments(**arguments)
