"""The evaluation recipe: for every kind of model it finds the test metrics that the training run reported."""

import csv
import json
import shlex
import shutil
from pathlib import Path

import pytest
import yaml
from conftest import run_python
from datasets import Dataset
from huggingface_hub import ModelCard
from recipes_in_process import recipe, run_script

from hfgpt.data.passport import Passport
from hfgpt.data.sources import ReadingOptions, find_sources, read_documents
from hfgpt.errors import UserError
from hfgpt.evaluation.answer_rows import read_answers
from hfgpt.evaluation.held_out import with_known_labels

ARC = {"question": "What is it?", "choices": {"text": ["a string", "zq9"], "label": ["A", "B"]}, "answerKey": "A"}
pytestmark = pytest.mark.slow


def results_of(folder) -> dict:
    """The entries of evaluation.json by dataset."""
    return {entry["dataset"]: entry for entry in json.loads((folder / "evaluation.json").read_text())["results"]}


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "test.txt"
    documents = list(read_documents(find_sources(["python-docs"]), ReadingOptions(max_documents=20)))
    path.write_text("\n\n".join(document["text"] for document in documents)[:3000], encoding="utf-8")
    return path


def test_one_command_measures_rows_text_and_a_benchmark_and_writes_them_everywhere(small_run, small_rows, text, tmp_path):
    pytest.importorskip("lm_eval", minversion="0.4.9", reason="needs the package lm_eval[hf]")
    folder = tmp_path / "base"
    shutil.copytree(small_run, folder, ignore=shutil.ignore_patterns("checkpoint-*"))
    (tmp_path / "arc.jsonl").write_text(json.dumps(ARC) + "\n")
    done = run_script(
        "evaluate.py", folder, "--dataset", small_rows, "--text", text, "--stride", 16, "--tasks", f"{tmp_path}/arc.jsonl:arc",
        "--num_fewshot", 0,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "each document begins after <|endoftext|>; windows of 64 tokens, 16 scored in each" in done.stdout
    results = results_of(folder)
    assert set(results) == {"documents.jsonl", "test.txt", "arc.jsonl"}
    trained = json.loads((folder / "metrics.json").read_text())
    for name in ("loss", "perplexity", "bits_per_byte"):
        assert results["documents.jsonl"]["metrics"][name] == pytest.approx(trained[f"test_{name}"], rel=1e-6)
    assert results["test.txt"]["num_bytes"] == len(text.read_bytes())
    assert results["test.txt"]["settings"]["stride"] == 16
    assert results["arc.jsonl"]["settings"]["task"] == "arc"
    assert len(list((folder / ".eval_results").glob("*.yaml"))) == 3
    card = ModelCard.load(folder / "README.md")
    # File names stay private; the card, which is published, shows the beginning of their hash instead.
    names = {one.dataset_name for one in card.data.eval_results}
    assert not names & {"test.txt", "arc.jsonl", "documents.jsonl"}, names
    said = {(Path(one.dataset_name).suffix, one.metric_type): one.metric_value for one in card.data.eval_results}
    assert said[".txt", "bits_per_byte"] == results["test.txt"]["metrics"]["bits_per_byte"]
    assert said[".jsonl", "acc"] == results["arc.jsonl"]["metrics"]["acc"]
    for path in (folder / "evaluation.json", folder / "README.md", *(folder / ".eval_results").iterdir()):
        assert str(tmp_path) not in path.read_text(encoding="utf-8"), path

    # Again, with another stride: the entry is replaced, and the loss is another one.
    before = results["test.txt"]["metrics"]["loss"]
    recipe("evaluate", model=str(folder), text=[str(text)], stride=64)
    again = results_of(folder)
    assert set(again) == set(results)
    assert again["test.txt"]["settings"]["stride"] == 64
    assert again["test.txt"]["metrics"]["loss"] != before
    assert again["test.txt"]["sha256"] == results["test.txt"]["sha256"]


def test_rows_in_sliding_windows_have_no_bits_per_byte(small_run, small_corpus, small_tokenizer, tmp_path):
    """Their tokens are predicted several times, but their bytes are counted once."""
    rows = str(tmp_path / "rows")
    recipe(
        "prepare_data", sources=[str(small_corpus)], tokenizer=str(small_tokenizer), window=16, stride=4, validation_share=0.1,
        test_share=0.8, output_dir=rows,
    )  # fmt: skip
    for split in ("train", "test"):
        recipe("evaluate", model=str(small_run), dataset=rows, split=split, output_dir=str(tmp_path / split))
    train, test = (json.loads((tmp_path / split / "evaluation.json").read_text())["results"][0] for split in ("train", "test"))
    counts = Passport.load(Path(rows)).splits["train"]
    assert train["num_tokens"] > 2 * counts["tokens"]
    assert "bits_per_byte" not in train["metrics"]
    assert "num_bytes" not in train
    assert train["settings"]["rows"] == "sliding windows"
    assert "bits_per_byte" in test["metrics"]
    assert test["settings"]["rows"] == "packed"


def test_a_native_twin_and_a_hub_id_give_the_numbers_of_their_model(small_run, small_rows, text, tmp_path):
    recipe("convert", source=str(small_run), target="native", output_dir=str(tmp_path / "native"))
    ours = recipe("evaluate", model=str(small_run), dataset=str(small_rows), text=[str(text)], output_dir=str(tmp_path / "ours"))
    theirs = recipe("evaluate", model=str(tmp_path / "native"), dataset=str(small_rows), text=[str(text)],
                    output_dir=str(tmp_path / "theirs"))  # fmt: skip
    assert len(ours) == 7
    assert theirs == pytest.approx(ours, rel=1e-5)
    assert not (small_run / "evaluation.json").exists()
    assert sorted(path.name for path in (tmp_path / "ours").iterdir()) == [".eval_results", "evaluation.json"]


def test_joined_documents_are_one(small_run, small_corpus, tmp_path):
    words = dict(model=str(small_run), text=[str(small_corpus)], max_documents=4, output_dir=str(tmp_path / "out"))
    apart = recipe("evaluate", **words)
    (entry,) = results_of(tmp_path / "out").values()
    assert entry["num_documents"] == 4
    together = recipe("evaluate", **words, join_with="\n")
    (joined,) = results_of(tmp_path / "out").values()
    assert joined["num_documents"] == 1
    assert joined["num_bytes"] == entry["num_bytes"] + 3
    assert joined["sha256"] == entry["sha256"]
    assert "--join_with" in joined["command"]
    assert apart != together


@pytest.fixture(scope="module")
def classifier(fine_tune, tmp_path_factory):
    """A LoRA classifier, and the test set given to its training."""
    rows = [{"text": f"{word} the {thing}", "label": label} for label, word in (("read", "Return"), ("write", "Set"))
            for thing in ("name", "path", "file", "list", "key", "line", "string", "value", "class", "module")]  # fmt: skip
    test = tmp_path_factory.mktemp("test") / "test.csv"
    with test.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(
            [("text", "label"), ("Return a set", "read"), ("Set a list, then <|endoftext|>", "write"), ("Set it", "read")]
        )
    folder = fine_tune(
        "finetune_classification", "modern", rows, "--test_sources", test, "--num_train_epochs", "2", "--validation_share", "0.2",
        "--tfidf_baseline", "false", "--canaries", "false",
    )  # fmt: skip
    return folder, test


def test_a_classifier_has_the_figures_of_its_training(classifier):
    folder, test = classifier
    assert (folder / "adapter_config.json").is_file()
    found = recipe("evaluate", model=str(folder), test_sources=[str(test)], batch_size=2)
    (entry,) = results_of(folder).values()
    trained = json.loads((folder / "metrics.json").read_text())["test"]
    assert entry["num_examples"] == 3
    for name in ("accuracy", "macro_f1", "log_loss", "calibration_error"):
        assert entry["metrics"][name] == pytest.approx(trained[name]["mean"], abs=1e-5)
        assert found[f"test.csv: {name}"] == entry["metrics"][name]
    merged = recipe("evaluate", model=str(folder / "merged"), test_sources=[str(test)])
    assert merged["test.csv: log_loss"] == pytest.approx(entry["metrics"]["log_loss"], abs=1e-4)
    (hub_file,) = (folder / ".eval_results").iterdir()
    assert yaml.safe_load(hub_file.read_text())[0]["value"] == entry["metrics"]["accuracy"]


def test_without_data_a_model_is_measured_on_what_its_own_run_held_out(small_run, small_rows, fine_tune, classifier, tmp_path):
    """The figures of the run's report, from the same rows, texts and conversations."""

    def measured(folder) -> tuple[dict, dict, dict]:
        out = tmp_path / f"out-{len(list(tmp_path.iterdir()))}"
        recipe("evaluate", model=str(folder), output_dir=str(out))
        (entry,) = results_of(out).values()
        assert shlex.split(entry["command"])[-2:] == ["evaluate", folder.name]
        assert "seen_in_training" not in entry
        return entry, entry["metrics"], json.loads((folder / "metrics.json").read_text())

    entry, figures, trained = measured(small_run)
    assert (entry["dataset"], entry["split"]) == ("documents.jsonl", "test")
    for name in ("loss", "perplexity", "bits_per_byte"):
        assert figures[name] == pytest.approx(trained[f"test_{name}"], rel=1e-6)

    rows = [{"text": f"{word} the {thing} {number}", "label": label}
            for label, word in (("read", "Return"), ("write", "Set")) for number in range(4)
            for thing in ("name", "path", "file", "list", "key", "line", "string", "value", "class", "module")]  # fmt: skip
    rows.insert(3, {"text": " ", "label": "read"})
    quick = ("--max_steps", "2", "--canaries", "false", "--eval_strategy", "no", "--save_strategy", "no", "--keep", "last")
    folder = fine_tune("finetune_classification", "modern", rows, *quick, "--tfidf_baseline", "false", "--on_error", "skip")
    entry, figures, trained = measured(folder)
    assert (entry["split"], entry["num_examples"]) == ("test", Passport.load(folder).splits["test"]["examples"])
    for name in ("accuracy", "macro_f1", "log_loss"):
        assert figures[name] == pytest.approx(trained["test"][name]["mean"], abs=1e-5)
    entry, figures, trained = measured(classifier[0])  # with a test file of its own
    assert (entry["dataset"], entry["num_examples"]) == ("test.csv", 3)
    assert figures["log_loss"] == pytest.approx(trained["test"]["log_loss"]["mean"], abs=1e-5)

    (source,) = yaml.safe_load((folder / "run.yaml").read_text())["sources"]
    before = Path(source).read_text()
    Path(source).write_text(before + json.dumps({"text": "Return one more", "label": "read"}) + "\n")
    with pytest.raises(UserError, match="cannot be measured again: .* changed since then, so that another split would be drawn"):
        recipe("evaluate", model=str(folder), output_dir=str(tmp_path / "out"))
    Path(source).write_text(before)


def test_the_rows_of_a_run_may_be_named_from_the_home_folder(small_run, small_rows, tmp_path, monkeypatch):
    folder = shutil.copytree(small_run, tmp_path / "base", ignore=shutil.ignore_patterns("checkpoint-*"))
    written = (folder / "run.yaml").read_text()
    (folder / "run.yaml").write_text(written.replace(f"dataset: {small_rows}", f"dataset: ~/{small_rows.name}"))
    monkeypatch.setenv("HOME", str(small_rows.parent))
    assert recipe("evaluate", model=str(folder), output_dir=str(tmp_path / "out"))
    assert (folder / "run.yaml").read_text() != written


def test_an_assistant_is_measured_on_the_conversations_that_its_run_held_out(small_assistants, tmp_path):
    folder = small_assistants["modern"]
    trained = json.loads((folder / "metrics.json").read_text())
    for model in (folder, folder / "merged"):
        recipe("evaluate", model=str(model), output_dir=str(tmp_path / model.name))
        (entry,) = results_of(tmp_path / model.name).values()
        assert entry["split"] == "test"
        assert entry["metrics"]["loss"] == pytest.approx(trained["test_loss"], rel=1e-4)
        assert entry["metrics"]["token_f1"] == pytest.approx(trained["test_token_f1"], abs=1e-6)


def test_rows_that_cannot_be_used_are_skipped_where_that_is_asked_for_and_counted(classifier, tmp_path):
    folder, _ = classifier
    (tmp_path / "TEST.CSV").write_text("text;label\nReturn it;read\n ;read\nSet it;write;more\nSet it, now;write\n")
    words = dict(model=str(folder), test_sources=[str(tmp_path / "TEST.CSV")], output_dir=str(tmp_path / "out"))
    with pytest.raises(
        ValueError, match=r"TEST.CSV, line 3: the text is blank; .* To skip such rows, set --on_error skip"
    ) as refusal:
        recipe("evaluate", **words)
    assert "set --blank_texts drop" in str(refusal.value)
    with pytest.raises(ValueError, match="TEST.CSV, line 4"):  # that key is there, too
        recipe("evaluate", **words, blank_texts="drop")
    recipe("evaluate", **words, on_error="skip")
    (entry,) = results_of(tmp_path / "out").values()
    assert (entry["num_examples"], entry["skipped_rows"]) == (2, 2)
    assert "--on_error skip" in entry["command"]


def test_booleans_are_the_same_labels_in_json_and_in_csv():
    examples = Dataset.from_dict({"text": ["a", "b", "c"], "label": ["True", "False", "maybe"]})
    known, left_out = with_known_labels(examples, ["false", "true"])
    assert (known["label"], left_out) == (["true", "false"], 1)
    known, left_out = with_known_labels(Dataset.from_dict({"text": ["a"], "label": ["true"]}), ["False", "True"])
    assert (known["label"], left_out) == (["True"], 0)


def test_a_number_is_no_id_where_labels_are_numbers():
    known, left_out = with_known_labels(Dataset.from_dict({"text": ["a", "b"], "label": ["3", "4"]}), ["0", "1", "2", "4", "5"])
    assert (known["label"], left_out) == (["4"], 1)


def test_texts_of_labels_that_the_classifier_does_not_know_are_left_out_and_counted(classifier, tmp_path, caplog):
    folder, test = classifier
    rows = (
        test.read_text(encoding="utf-8")
        + "Delete it,delete\nRemove it,delete\nReturn a set,read\nDrop it,drop\nBoth,read\nBoth,write\n"
    )
    (tmp_path / "test.csv").write_text(rows, encoding="utf-8")
    recipe("evaluate", model=str(folder), test_sources=[str(tmp_path / "test.csv")], output_dir=str(tmp_path / "out"))
    (entry,) = results_of(tmp_path / "out").values()
    trained = json.loads((folder / "metrics.json").read_text())["test"]
    assert (entry["num_examples"], entry["unknown_labels"], entry["duplicates"]) == (3, 3, 3)
    assert entry["metrics"]["accuracy"] == trained["accuracy"]["mean"]
    assert "labels: 6 -> 3 texts; the model does not know 2 of their labels: 'delete' (2), 'drop' (1)" in caplog.text
    (tmp_path / "other.csv").write_text("text,label,kind\nReturn it,1,read\nDelete it,7,delete\n")
    words = dict(model=str(folder), test_sources=[str(tmp_path / "other.csv")], output_dir=str(tmp_path / "other"))
    recipe("evaluate", **words)  # 1 is the id of "write"
    (entry,) = results_of(tmp_path / "other").values()
    assert (entry["num_examples"], entry["unknown_labels"]) == (1, 1)
    with pytest.raises(ValueError, match=r"none of the 2 texts has a label that the model knows \(read, write\); the file has "
                       r"Return it, Delete it. Give another column with --label_column"):  # fmt: skip
        recipe("evaluate", **words, label_column="text", text_column="kind")
    with pytest.raises(ValueError, match=r"is a classifier, which does not predict text, but text is given"):
        recipe("evaluate", model=str(folder), text=["python-docs"])


def test_what_training_left_out_of_its_test_set_is_left_out_again(fine_tune, tmp_path):
    """As in the quickstart: files for each split, only the most frequent labels, columns with other names, repeated texts."""
    rows = [
        {"say": f"{label} {thing} {number}", "what": label}
        for label, count in (("read", 12), ("write", 10), ("delete", 3))
        for number in range(count)
        for thing in ("name", "path")
    ]
    test = [
        {"say": f"{label} a {thing}", "what": label} for label in ("read", "write", "delete") for thing in ("key", "line", "set")
    ]
    test += [test[0], {"say": "read and write", "what": "read"}, {"say": "read and write", "what": "write"}]
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in test))
    folder = fine_tune(
        "finetune_classification", "modern", rows, "--test_sources", tmp_path / "test.jsonl", "--text_column", "say",
        "--label_column", "what", "--max_labels", "2", "--num_train_epochs", "1", "--max_length", "5", "--tfidf_baseline", "false",
        "--canaries", "false",
    )  # fmt: skip
    recipe("evaluate", model=str(folder), test_sources=[str(tmp_path / "test.jsonl")])
    (entry,) = results_of(folder).values()
    trained = json.loads((folder / "metrics.json").read_text())["test"]
    assert (entry["num_examples"], entry["duplicates"], entry["unknown_labels"]) == (6, 3, 3)
    assert entry["settings"] == {"max_length": 5, "deduplicate": "exact", "dtype": "float32"}
    assert entry["texts_cut"] > 0
    for name in ("accuracy", "macro_f1", "log_loss"):
        assert entry["metrics"][name] == pytest.approx(trained[name]["mean"], abs=1e-6)
    assert "--text_column say --label_column what" in entry["command"]
    with pytest.raises(ValueError, match=r"max_length is 6, but the classifier reads at most 5 tokens of a text, as in its"):
        recipe("evaluate", model=str(folder), test_sources=[str(tmp_path / "test.jsonl")], max_length=6)


@pytest.mark.parametrize("base", ["book", "gpt2"])
def test_an_assistant_has_the_figures_of_its_training(small_assistants, tmp_path, base):
    folder = small_assistants[base]
    rows = [
        {"messages": [*row.messages, {"role": "assistant", "content": row.reference}]}
        for row in read_answers(folder / "answers.json")
    ]
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    # max_new_tokens (16) is taken from the run.
    recipe(
        "evaluate", model=str(folder), test_sources=[str(tmp_path / "test.jsonl")], batch_size=2, output_dir=str(tmp_path / "out")
    )
    (entry,) = results_of(tmp_path / "out").values()
    trained = json.loads((folder / "metrics.json").read_text())
    assert entry["task"] == "instructions"
    assert entry["num_examples"] == len(rows) > 1
    assert entry["settings"]["prompt_style"] == "chat"
    assert entry["settings"]["max_new_tokens"] == 16
    for name in ("loss", "perplexity", "exact_match", "token_f1", "rougeL", "stopped"):
        assert entry["metrics"][name] == pytest.approx(trained[f"test_{name}"], rel=1e-5), name


def test_what_cannot_be_measured_is_said_in_a_sentence(small_run, small_rows, small_families, text, tmp_path):
    model, out = str(small_run), str(tmp_path / "out")
    with pytest.raises(ValueError, match=r"has no split 'tests', only 'train', 'validation', 'test'"):
        recipe("evaluate", model=model, dataset=str(small_rows), split="tests", output_dir=out)
    with pytest.raises(ValueError, match=r"context_length is 65, but the model reads at most 64 tokens at once"):
        recipe("evaluate", model=model, text=[str(text)], context_length=65, output_dir=out)
    with pytest.raises(ValueError, match=r"the model has no chat template, so it is not an assistant"):
        recipe("evaluate", model=model, test_sources=[str(text)], output_dir=out)
    with pytest.raises(FileNotFoundError, match=r"passport.json does not exist"):
        recipe("evaluate", model=model, dataset=str(tmp_path), output_dir=out)
    shutil.copytree(small_rows, tmp_path / "damaged")
    (tmp_path / "damaged" / "test" / "state.json").write_text("{")
    with pytest.raises(UserError, match=r"damaged: the rows cannot be opened"):
        recipe("evaluate", model=model, dataset=str(tmp_path / "damaged"), output_dir=out)
    (tmp_path / "empty.txt").write_text("")
    done = run_script("evaluate.py", model, "--text", tmp_path / "empty.txt", "--output_dir", out)
    assert done.returncode == 1
    assert "error: the text has 0 tokens to score, in 0 documents; at least 2 are needed" in done.stderr
    assert "Traceback" not in done.stderr
    (tmp_path / "none").mkdir()
    with pytest.raises(FileNotFoundError, match=r"none contains no model"):
        recipe("evaluate", model=str(tmp_path / "none"), text=[str(text)])
    assert not (tmp_path / "out").exists()


def test_the_recipe_does_not_hide_the_library_of_its_name(tmp_path):
    """Fine-tuning imports the library `evaluate`, although a file of this name is next to its script."""
    (tmp_path / "recipe.py").write_text(
        "from dataclasses import dataclass\nfrom hfgpt.arguments.keys import RecipeArguments\n"
        "from hfgpt.arguments.launching import launch\n@dataclass\nclass Nothing(RecipeArguments):\n    x: int = 0\n"
        "def main(args):\n    import evaluate\n    print(evaluate.load)\nlaunch(main, Nothing)\n"
    )
    (tmp_path / "evaluate.py").write_text("raise RuntimeError('the file beside the script')\n")
    done = run_python(tmp_path / "recipe.py", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "<function load" in done.stdout
