"""A model's own training texts are recognized by their hash, whatever their names; figures on them are kept apart."""

import json
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from recipes_in_process import recipe

from hfgpt.data.passport import Passport
from hfgpt.data.python_docs import read_python_docs
from hfgpt.data.records import RecordOptions, identities
from hfgpt.data.splitting import Split
from hfgpt.evaluation.held_out import described
from hfgpt.evaluation.loading import Loaded
from hfgpt.evaluation.results import Result, model_index, record_results
from hfgpt.evaluation.seen_texts import passport_of_run, seen_in_training, split_seen_in_training, trained_on

SPLITS = {"train": {"documents": 8, "bytes": 800}, "test": {"documents": 2, "bytes": 200}}


@pytest.fixture
def files(tmp_path) -> dict[str, Path]:
    """Files by what they are to the run: its training data, the same under another name, its own test file, and a new one."""
    texts = {"train.csv": "a", "copy.csv": "a", "test.csv": "b", "new.csv": "c"}
    for name, text in texts.items():
        (tmp_path / name).write_text(f"text,label\n{text},x\n")
    return {name: tmp_path / name for name in texts}


@pytest.fixture
def model(files, tmp_path) -> Path:
    """A folder with the passport of a run on the first file, tested on the third."""
    sources, test_sources = [str(files["train.csv"])], [str(files["test.csv"])]
    inputs = identities([*sources, *test_sources], RecordOptions())
    folder = tmp_path / "model"
    folder.mkdir()
    Passport(inputs=inputs, settings={"sources": sources, "test_sources": test_sources}, splits=SPLITS).save(folder)
    return folder


@pytest.mark.parametrize(("name", "is_seen"), [("train.csv", True), ("copy.csv", True), ("test.csv", False), ("new.csv", False)])
def test_training_files_are_recognized_and_the_runs_own_test_file_is_none(name, is_seen, model, files):
    path = str(files[name])
    assert seen_in_training(model, identities([path], RecordOptions())) == ([path] if is_seen else [])


def test_what_a_base_was_trained_on_its_successors_have_seen_but_not_what_it_held_out(files, model, tmp_path):
    base, rows = model, Passport.load(model)
    for number in range(2):  # continued, and then fine-tuned
        folder = tmp_path / f"next-{number}"
        folder.mkdir()
        Passport(inputs=identities([str(files["new.csv"])], RecordOptions()), base={"trained_on": trained_on(base)}).save(folder)
        for name, is_seen in (("train.csv", True), ("new.csv", True), ("test.csv", False)):
            assert bool(seen_in_training(folder, identities([str(files[name])], RecordOptions()))) is is_seen
        assert split_seen_in_training(folder, rows, "train")
        assert not split_seen_in_training(folder, rows, "test")
        base = folder


def test_several_files_have_a_hash_together(model, files, tmp_path):
    """Results are told apart by it, see `record_results`."""
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "new.csv").write_text("text,label\nd,x\n")
    both = [[str(files["test.csv"]), str(folder / "new.csv")] for folder in (tmp_path, tmp_path / "other", tmp_path)]
    one, other, again = (described(cast(Loaded, SimpleNamespace(name=str(model))), names, RecordOptions()) for names in both)
    assert one == again != other
    assert one | {"sha256": ""} == other | {"sha256": ""}


def test_a_merged_twin_was_trained_on_its_adapters_data_and_an_unknown_model_on_nothing(model, files):
    (model / "adapter_config.json").write_text("{}")
    (model / "merged").mkdir()
    inputs = identities([str(files["train.csv"])], RecordOptions())
    assert seen_in_training(model / "merged", inputs)
    assert passport_of_run("openai-community/gpt2") == Passport()
    assert seen_in_training("openai-community/gpt2", inputs) == []


def test_a_hub_dataset_counts_by_split_and_commit(tmp_path):
    one = {"name": "user/texts", "kind": "hub", "split": "train", "commit": "1" * 40}
    (tmp_path / "passport.json").write_text(json.dumps(asdict(Passport(inputs=[one]))))
    assert seen_in_training(tmp_path, [one]) == ["user/texts"]
    assert seen_in_training(tmp_path, [one | {"split": "test"}]) == []
    assert seen_in_training(tmp_path, [one | {"commit": "2" * 40}]) == []


QUICKSTART = dict(split_by="document", split_seed=0, validation_share=0.02, test_share=0.05)
USUAL = QUICKSTART | dict(validation_share=0.05)
ALL = ("", ":train", ":validation", ":test")


@pytest.mark.parametrize("kind", ["python-docs", "python-docs-questions"])
@pytest.mark.parametrize(
    ("part", "settings", "seen"),
    [
        ("", QUICKSTART, ("", ":train")),
        ("", USUAL, ("", ":train")),  # holds out more
        ("", USUAL | dict(validation_share=0.0), ("", ":train", ":validation")),
        ("", USUAL | dict(split_seed=1), ALL),
        ("", USUAL | dict(split_by="position"), ALL),
        ("", dict(validation_share=0.05, test_share=0.05, split_seed=0), ALL),  # fine-tuning, which draws in another way
        (":train", USUAL | dict(split_seed=1), ("", ":train")),
        (":test", {}, ("", ":test")),
    ],
)
def test_parts_of_pythons_documentation_are_recognized(kind, part, settings, seen, tmp_path):
    """The hash of a part is not that of the whole."""
    entries = {one: {"name": f"{kind}{one}", "kind": kind, "python": "3.11.7", "sha256": f"{one:x>64}"} for one in ALL}
    Passport(inputs=[entries[part]], settings=settings).save(tmp_path)
    evaluated = [entry | {"python": "3.12.1", "sha256": f"{name:y>64}"} for name, entry in entries.items()]
    assert seen_in_training(tmp_path, evaluated) == [f"{kind}{one}" for one in seen]
    others = [entry | {"kind": "text"} for entry in evaluated]
    assert seen_in_training(tmp_path, others) == []


@pytest.mark.parametrize(
    ("validation_share", "test_share", "held_out"),
    [(0.02, 0.05, ["validation", "test"]), (0.1, 0.0, ["validation", "test"]), (0.0, 0.06, ["test"])],
)
def test_the_parts_that_a_run_holds_out_are_those_of_pythons_documentation(validation_share, test_share, held_out):
    """With the same seed, a larger share holds out all that a smaller one does."""
    split = Split(validation_share=validation_share, test_share=test_share)
    trained_on = {one["text"] for side, one in split.assign(read_python_docs()) if side == "train"}
    parts = {part: {one["text"] for one in read_python_docs(f"python-docs:{part}")} for part in ("validation", "test")}
    assert [part for part, texts in parts.items() if not texts & trained_on] == held_out


def test_the_runs_own_held_out_rows_are_new_to_it_but_not_those_of_another_split(model):
    own = passport_of_run(model)
    assert split_seen_in_training(model, own, "test") == []
    assert split_seen_in_training(model, own, "train") != []
    again = Passport(inputs=own.inputs, splits=SPLITS | {"test": {"documents": 2, "bytes": 190}})  # another seed
    assert split_seen_in_training(model, again, "test") != []


@pytest.mark.slow
def test_evaluating_a_model_on_its_own_training_text_warns(small_run, small_rows, small_corpus, tmp_path, caplog):
    words = dict(model=str(small_run), output_dir=str(tmp_path))
    recipe("evaluate", dataset=str(small_rows), **words)
    assert "the model was trained on" not in caplog.text
    recipe("evaluate", dataset=str(small_rows), split="train", text=[str(small_corpus)], max_documents=2, **words)
    results = json.loads((tmp_path / "evaluation.json").read_text())["results"]
    assert [(one.get("split"), one.get("seen_in_training")) for one in results] == [("test", None), (None, True), ("train", True)]
    assert len(list((tmp_path / ".eval_results").iterdir())) == 1
    assert f"warning: the model was trained on {small_corpus.name}, or on part of it" in caplog.text


def test_a_figure_on_seen_texts_is_marked_and_kept_out_of_what_the_hub_shows(tmp_path):
    words = dict(task="instructions", dataset="a.jsonl", metrics={"token_f1": 0.5}, counts={"num_examples": 9, "num_answers": 3})
    new, seen = Result(**words), Result(**words, seen_in_training=True)
    evaluation = record_results(tmp_path, [new], model="base")
    assert "seen_in_training" not in evaluation["results"][0]
    assert len(model_index(evaluation)) == len(list((tmp_path / ".eval_results").iterdir())) == 1
    evaluation = record_results(tmp_path, [seen], model="base")
    assert evaluation["results"][0]["seen_in_training"] is True
    assert model_index(evaluation) == list((tmp_path / ".eval_results").iterdir()) == []
    assert new.line().startswith("instructions, a.jsonl (9 examples, 3 answered): ")
    assert seen.line().startswith("instructions, a.jsonl (9 examples, 3 answered; seen in training): ")
