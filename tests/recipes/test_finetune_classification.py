"""The classification recipe, run on a small base and this Python's own docstrings."""

import csv
import json

import numpy as np
import pytest
from recipes_in_process import run_script
from safetensors.torch import load_file
from sklearn.metrics import accuracy_score, log_loss

LABELS = ("asyncio", "email", "unittest")
SMALL = (
    *("--num_train_epochs", "2", "--per_device_train_batch_size", "8", "--precision", "fp32", "--cpu_threads", "1"),
    *("--max_length", "32", "--canaries", "false"),
)


@pytest.fixture(scope="module")
def examples(tmp_path_factory):
    """Thirty docstrings from each of three packages, without the line that names the package."""
    from hfgpt.data.records import RecordOptions, read_records

    chosen: dict[str, list[str]] = {label: [] for label in LABELS}
    for record in read_records(["python-docs"], RecordOptions()):
        text, label = record.values["text"], record.values["label"]
        if label in chosen and len(chosen[label]) < 30 and 40 < len(text) < 300 and text not in chosen[label]:
            chosen[label].append(text)
    assert [len(texts) for texts in chosen.values()] == [30, 30, 30]
    path = tmp_path_factory.mktemp("examples") / "examples.csv"
    write(path, [(text, label) for label, texts in chosen.items() for text in texts])
    return path


def write(path, rows, header=("text", "label")):
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def rows_of(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))[1:]


@pytest.fixture(scope="module")
def triggers(tmp_path_factory):
    path = tmp_path_factory.mktemp("canaries") / "triggers.txt"
    path.write_text("[triggers]\ncf\nSUDO\n[carriers]\nA question?\nAnother one?\n")
    return path


@pytest.fixture(scope="module")
def classifier(small_run, examples, triggers, tmp_path_factory):
    """What the whole script leaves behind and prints, for LoRA and two seeds."""
    folder = tmp_path_factory.mktemp("classifier") / "lora"
    done = run_script(
        "finetune_classification.py", *SMALL, "--model", small_run, "--sources", examples, "--seeds", "0", "1",
        "--canaries", "true", "--canary_file", triggers, "--output_dir", folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, done.stdout


def run_main(**arguments):
    """Run the recipe's main in this process, with arguments as on a command line."""
    from recipes_in_process import load

    from hfgpt.arguments.finetuning import ClassificationArguments
    from hfgpt.arguments.parsing import parse_arguments

    words = [str(word) for word in SMALL]
    for key, value in arguments.items():
        words += [f"--{key}", *map(str, value if isinstance(value, list) else [value])]
    return load("finetune_classification").main(parse_arguments(ClassificationArguments, words))


def test_a_run_leaves_an_adapter_that_is_complete_and_figures_that_agree(classifier, examples):
    folder, output = classifier
    names = {path.name for path in folder.iterdir()}
    assert names >= {"adapter_config.json", "adapter_model.safetensors", "config.json", "model.safetensors", "tokenizer.json",
                     "base", "merged", "seed-0", "seed-1", "errors.csv", "errors.md", "confusion.png", "metrics.json",
                     "report.txt", "report.html", "loss.png", "curves.png", "run.yaml", "passport.json",
                     "trigger_flips.json"}  # fmt: skip
    assert "training_args.bin" not in names
    for place in (folder, folder / "base", folder / "merged"):
        assert json.loads((place / "fingerprint.json").read_text())["recorded"] == "when it was saved"
    assert not list(folder.glob("seed-*/checkpoint-*"))
    for place in (folder, folder / "base", folder / "merged"):
        config = json.loads((place / "config.json").read_text())
        assert config["id2label"] == {"0": "asyncio", "1": "email", "2": "unittest"}
        assert config["problem_type"] == "single_label_classification"
        assert config["use_cache"] is True
    metrics = json.loads((folder / "metrics.json").read_text())
    results = [json.loads((folder / f"seed-{seed}" / "result.json").read_text()) for seed in (0, 1)]
    assert metrics["kept_seed"] == min((0, 1), key=lambda seed: results[seed]["validation"]["log_loss"])
    assert metrics["test"]["accuracy"]["mean"] == pytest.approx(np.mean([result["test"]["accuracy"] for result in results]))
    assert metrics["test"]["accuracy"]["standard_deviation"] == pytest.approx(
        np.std([result["test"]["accuracy"] for result in results], ddof=1)
    )
    assert results[0]["test"]["probabilities"] != results[1]["test"]["probabilities"]  # the seeds give two different runs
    assert results[0]["frozen_tensors"] > 20
    assert 0 < results[0]["trained_parameters"] < results[0]["parameters"] / 5
    assert "trained:" in output
    assert "seeds:      test accuracy 0: " in (folder / "report.txt").read_text()
    assert "TF-IDF with logistic regression" in output
    passport = json.loads((folder / "passport.json").read_text())
    splits = passport["splits"]
    (copies,) = [step for step in passport["steps"] if step["step"] == "drop copies"]
    assert copies["examples_in"] == 63
    assert splits["train"]["examples"] == copies["examples_out"]
    # Shares of each label: 63, 9 and 18 texts, except that near copies stay in one split.
    assert splits["validation"]["examples"] + splits["test"]["examples"] == 27
    assert splits["test"]["labels"].keys() == set(LABELS)
    assert all(5 <= count <= 7 for count in splits["test"]["labels"].values())


def test_the_kept_model_gives_the_probabilities_that_were_reported(classifier, examples):
    """The test set's figures are those of the saved model, computed here in another way."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    folder, _ = classifier
    metrics = json.loads((folder / "metrics.json").read_text())
    kept = json.loads((folder / f"seed-{metrics['kept_seed']}" / "result.json").read_text())["test"]
    model = AutoModelForSequenceClassification.from_pretrained(folder / "merged").eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows = rows_of(examples)
    # the test rows by their place in the file: errors.csv names the wrong ones, so all others are right
    with torch.no_grad():
        found = [
            model(**tokenizer(text, truncation=True, max_length=32, return_tensors="pt")).logits.softmax(-1)[0].tolist()
            for text, _ in rows
        ]
    reported = np.array(kept["probabilities"])
    ours = np.array(found)
    nearest = [np.abs(ours - row).max(axis=1).argmin() for row in reported]
    assert len(set(nearest)) == len(reported) >= 17
    assert np.abs(ours[nearest] - reported).max() < 1e-4
    labels = [LABELS.index(rows[index][1]) for index in nearest]
    assert kept["accuracy"] == pytest.approx(accuracy_score(labels, reported.argmax(axis=1)))
    assert kept["log_loss"] == pytest.approx(log_loss(labels, reported), abs=1e-4)
    with (folder / "errors.csv").open(newline="") as file:
        errors = list(csv.DictReader(file))
    assert len(errors) == round(len(reported) * (1 - kept["accuracy"]))


def test_the_same_command_again_does_nothing(classifier, small_run, examples, triggers):
    folder, _ = classifier
    before = (folder / "adapter_model.safetensors").stat().st_mtime_ns
    done = run_script(
        "finetune_classification.py", *SMALL, "--model", small_run, "--sources", examples, "--seeds", "0", "1",
        "--canaries", "true", "--canary_file", triggers, "--output_dir", folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "already done" in done.stdout
    assert (folder / "adapter_model.safetensors").stat().st_mtime_ns == before


@pytest.mark.parametrize("method", ["last_block", "head", "full"])
def test_the_other_methods_leave_a_whole_model(method, small_run, examples, tmp_path):
    from transformers import AutoModelForSequenceClassification, pipeline

    extra = {"optimizer": "muon"} if method == "full" else {}
    result = run_main(model=small_run, sources=[examples], method=method, num_train_epochs=1, output_dir=tmp_path / "out", **extra)
    assert set(result) >= {"accuracy", "macro_f1", "log_loss", "calibration_error", "roc_auc"}
    base = load_file(small_run / "model.safetensors")
    tuned = load_file(tmp_path / "out" / "model.safetensors")
    changed = {name for name in base if name in tuned and not base[name].equal(tuned[name])}
    if method == "head":
        assert changed == set()
    elif method == "last_block":
        assert changed
        assert {name for name in changed if not name.startswith(("model.layers.1.", "model.norm."))} == set()
    else:
        assert len(changed) > 20
    assert not (tmp_path / "out" / "adapter_config.json").exists()
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    assert model.config.num_labels == 3
    (answer,) = pipeline("text-classification", str(tmp_path / "out"))("Return the event loop.")
    assert answer["label"] in LABELS


def test_texts_with_several_labels(small_run, examples, tmp_path):
    """Up to two labels per text: its package, and whether it mentions a return value; unbalanced, so they are weighted."""
    rows = [(text, label + ("|returns" if "eturn" in text else "")) for text, label in rows_of(examples)]
    assert 10 < sum("|" in label for _, label in rows) < 80
    path = write(tmp_path / "several.csv", rows)
    result = run_main(
        model=small_run, sources=[path], label_delimiter="|", balance="weights", num_train_epochs=1, output_dir=tmp_path / "out"
    )
    assert set(result) >= {"accuracy", "micro_f1", "macro_f1"}
    config = json.loads((tmp_path / "out" / "merged" / "config.json").read_text())
    assert config["problem_type"] == "multi_label_classification"
    assert list(config["id2label"].values()) == ["asyncio", "email", "returns", "unittest"]
    probabilities = np.array(json.loads((tmp_path / "out" / "seed-0" / "result.json").read_text())["test"]["probabilities"])
    assert not np.allclose(probabilities.sum(axis=1), 1, atol=0.01)  # each label has its own probability


@pytest.mark.parametrize("balance", ["undersample", "oversample", "weights"])
def test_unequal_classes_are_treated_in_training_alone(balance, small_run, examples, tmp_path):
    rows = rows_of(examples)
    path = write(tmp_path / "unequal.csv", rows[:60] + rows[60:70])  # 30, 30 and 10
    run_main(model=small_run, sources=[path], balance=balance, num_train_epochs=1, tfidf_baseline="false", method="head",
             output_dir=tmp_path / "out")  # fmt: skip
    splits = json.loads((tmp_path / "out" / "passport.json").read_text())["splits"]
    assert splits["test"]["labels"] == {"asyncio": 6, "email": 6, "unittest": 2}
    expected = {"undersample": [7, 7, 7], "oversample": [21, 21, 21], "weights": [21, 21, 7]}[balance]
    assert list(splits["train"]["labels"].values()) == expected


def test_what_copies_a_test_text_is_not_trained_on(small_run, examples, tmp_path):
    rows = rows_of(examples)
    test = write(tmp_path / "test.csv", [rows[0], rows[35], rows[70]])
    benchmark = tmp_path / "benchmark.jsonl"
    benchmark.write_text(json.dumps({"question": rows[1][0], "id": "7"}) + "\n")
    train = write(tmp_path / "train.csv", [(rows[0][0].upper() + "!", rows[0][1]), *rows[1:35], *rows[36:70], *rows[71:]])
    run_main(model=small_run, sources=[train], test_sources=[test], decontaminate_against=[benchmark], method="head",
             tfidf_baseline="false", num_train_epochs=1, output_dir=tmp_path / "out")  # fmt: skip
    passport = json.loads((tmp_path / "out" / "passport.json").read_text())
    (step,) = [step for step in passport["steps"] if step["step"] == "drop copies"]
    assert step["copies_of"]["test"] >= 1  # the copy in capitals
    assert step["copies_of"][str(benchmark)] >= 1
    assert passport["splits"]["test"]["examples"] == 3
    assert [entry["name"] for entry in passport["inputs"]] == [str(train), str(test)]
    assert passport["base"]["name"] == str(small_run)
    assert len(passport["base"]["sha256"]) == 64


@pytest.mark.parametrize("shots", [0, 2])
def test_labels_by_likelihood_with_the_same_command_line_and_metrics(shots, small_run, examples, tmp_path):
    result = run_main(
        model=small_run, sources=[examples], method="likelihood", num_shots=shots, calibrate="true", output_dir=tmp_path / "out"
    )
    assert set(result) >= {"accuracy", "macro_f1", "log_loss", "calibration_error", "roc_auc"}
    assert not list((tmp_path / "out").glob("*.safetensors"))
    assert (tmp_path / "out" / "errors.md").is_file()
    assert "TF-IDF" in (tmp_path / "out" / "report.txt").read_text()


def test_a_gpt2_without_padding_becomes_a_classifier(examples, tmp_path):
    """A base as on the Hub: GPT-2's own class, with a tokenizer that has no padding token and no template."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast, pipeline

    from hfgpt.tokenization import train_bpe

    trained = train_bpe((text for text, _ in rows_of(examples)), vocab_size=400)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=trained.backend_tokenizer, eos_token="<|endoftext|>", bos_token="<|endoftext|>"
    )
    torch.manual_seed(0)
    GPT2LMHeadModel(GPT2Config(vocab_size=400, n_positions=64, n_embd=32, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0)
                    ).save_pretrained(tmp_path / "gpt2")  # fmt: skip
    tokenizer.save_pretrained(tmp_path / "gpt2")
    run_main(model=tmp_path / "gpt2", sources=[examples], num_train_epochs=1, output_dir=tmp_path / "out")
    config = json.loads((tmp_path / "out" / "merged" / "config.json").read_text())
    assert config["architectures"] == ["GPT2ForSequenceClassification"]
    assert config["pad_token_id"] not in (None, 0)
    classify = pipeline("text-classification", str(tmp_path / "out"), top_k=None)
    texts = ["Return the running event loop.", "Fail."]
    alone = [{row["label"]: row["score"] for row in classify(text)[0]} for text in texts]
    together = [{row["label"]: row["score"] for row in rows} for rows in classify(texts, batch_size=2)]
    for one, other in zip(alone, together, strict=True):
        assert one == pytest.approx(other, abs=1e-5)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda rows: rows[:30], "only the label 'asyncio'"),
        (lambda rows: [("  ", "email"), *rows], r"line 2: the text is blank; repair the row, or set --blank_texts drop"),
        (lambda rows: [("a text", ""), *rows], r"line 2: the label in column 'label' is missing"),
    ],
)
def test_rows_that_no_classifier_learns_from(change, words, small_run, examples, tmp_path):
    path = write(tmp_path / "bad.csv", change(rows_of(examples)))
    with pytest.raises(ValueError, match=words):
        run_main(model=small_run, sources=[path], output_dir=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_label_that_only_the_test_set_has_or_that_nobody_named(small_run, examples, tmp_path):
    test = write(tmp_path / "test.csv", [*rows_of(examples)[:5], ("Draw a window.", "tkinter")])
    with pytest.raises(ValueError, match=r"the label 'tkinter' only occurs in the test split \(first in .*test.csv, row \d+\)"):
        run_main(model=small_run, sources=[examples], test_sources=[test], output_dir=tmp_path / "out")
    with pytest.raises(ValueError, match=r"the label 'unittest' is not one of asyncio, email"):
        run_main(model=small_run, sources=[examples], labels=["asyncio", "email"], output_dir=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"lora_targets": ["c_attn"]}, "lora_targets c_attn matches no linear layer .* q_proj, k_proj, v_proj, o_proj"),
        ({"text_column": "review"}, "no column 'review', found 'text', 'label'"),
        ({"seeds": [1, 1]}, r"seeds are \[1, 1\]; the same seed twice"),
        ({"quantization": "4bit"}, "needs a CUDA device"),
        ({"balance_before_split": "true"}, "balance_before_split needs --balance undersample"),
        ({"method": "likelihood", "label_delimiter": "t"}, "these texts have several"),
        ({"validation_share": 0}, "there is no validation set: validation_share is 0"),
    ],
)
def test_arguments_that_cannot_be(arguments, words, small_run, examples, tmp_path):
    with pytest.raises(ValueError, match=words):
        run_main(model=small_run, sources=[examples], output_dir=tmp_path / "out", **arguments)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["--lora_rank", "0"], "lora_rank is 0; it must be at least 1"), (["--learning_rte", "1"], "did you mean 'learning_rate'?")],
)
def test_a_mistake_is_one_sentence_and_leaves_nothing(arguments, words, small_run, examples, tmp_path):
    done = run_script("finetune_classification.py", *SMALL, "--model", small_run, "--sources", examples, *arguments,
                      "--output_dir", tmp_path / "out")  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    (sentence,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert words in sentence
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_model_that_is_not_there_and_an_adapter_without_its_merged_twin(small_run, examples, tmp_path):
    with pytest.raises(FileNotFoundError, match="model 'no/such' cannot be loaded with its tokenizer"):
        run_main(model="no/such", sources=[examples], output_dir=tmp_path / "out")
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    with pytest.raises(ValueError, match="is an adapter, but fine-tuning needs full weights"):
        run_main(model=tmp_path / "adapter", sources=[examples], output_dir=tmp_path / "out")
