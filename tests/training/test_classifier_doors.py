"""A classifier gives every text of its test set the same label, however it is loaded: the model keeps how texts are prepared.

The texts are longer than the classifier reads, and what is cut off points to another label; some contain special tokens,
some begin or end with white space.
"""

import json
import re
import textwrap

import numpy as np
import pytest
import torch
from conftest import run_python
from peft import AutoPeftModelForSequenceClassification
from recipes_in_process import recipe
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

from hfgpt.evaluation.classification import MULTI_LABEL_THRESHOLD, classify, text_ids
from hfgpt.evaluation.loading import load
from hfgpt.hub.card.rendering import write_card

pytestmark = pytest.mark.slow
LONGEST = 12
WORDS = ["list", "file", "path", "name", "key", "tuple", "set", "module", "function", "line", "string", "number", "class"]
TAIL = {"good": " the end of it is bad, bad and bad again", "bad": " the end of it is good, good and good again"}
ODD = ("{}", "  {}", "{}\n\n", "\t{} <|endoftext|> x", "<|endoftext|>{}", "{} <|pad|> <|im_start|>", "{} café 東京\n")
BASES = ("modern", "book", "gpt2")  # book has several labels per text


def texts_of(words: list[str]) -> list[tuple[str, str]]:
    return [
        (ODD[number % len(ODD)].format(f"{kind} {word}") + TAIL[kind] * (number % 3), kind)
        for number, (word, kind) in enumerate((word, kind) for word in words for kind in TAIL)
    ]


@pytest.fixture(scope="module")
def classifiers(fine_tune, tmp_path_factory):
    """For each base: the folder, the test set's file and its texts; modern was trained in bfloat16."""
    found = {}
    for base in BASES:

        def row(text: str, kind: str, several: bool = base == "book") -> dict:
            return {"text": text, "label": [kind, "word"] if several else kind}

        train = [row(f"{kind} {word}{TAIL[kind]}", kind) for word in WORDS for kind in TAIL]
        test = [row(text, kind) for text, kind in texts_of([f"{word}s" for word in WORDS])]
        if base == "book":
            train += [row(f"{word} alone", "neither") for word in WORDS]
        path = tmp_path_factory.mktemp("test") / "test.jsonl"
        path.write_text("".join(json.dumps(one) + "\n" for one in test), encoding="utf-8")
        folder = fine_tune(
            "finetune_classification", base, train, "--test_sources", path, "--max_length", str(LONGEST), "--num_train_epochs", "6",
            "--early_stopping_patience", "0",
            "--validation_share", "0.2", "--tfidf_baseline", "false", "--canaries", "false", "--deduplicate", "none",
            "--precision", "bf16" if base == "modern" else "fp32",
        )  # fmt: skip
        found[base] = folder, path, [one["text"] for one in test]
    return found


def labels_of(scores: list[dict], *, several: bool) -> list[str]:
    """The labels in the output of a pipeline with `top_k=None`."""
    if several:
        return sorted(one["label"] for one in scores if one["score"] >= MULTI_LABEL_THRESHOLD)
    return [max(scores, key=lambda one: one["score"])["label"]]


def reported(folder, *, several: bool) -> list[list[str]]:
    """The labels that the training run predicted for the test set."""
    result = json.loads((folder / "seed-0" / "result.json").read_text())
    names = json.loads((folder / "metrics.json").read_text())["labels"]
    rows = [[{"label": name, "score": score} for name, score in zip(names, row)] for row in result["test"]["probabilities"]]
    return [labels_of(row, several=several) for row in rows]


def of_logits(logits: np.ndarray, model) -> list[list[str]]:
    several = model.config.problem_type == "multi_label_classification"
    values = torch.as_tensor(logits)
    scores = (values.sigmoid() if several else values.softmax(-1)).tolist()
    return [
        labels_of([{"label": model.config.id2label[id], "score": score} for id, score in enumerate(row)], several=several)
        for row in scores
    ]


@torch.no_grad()
def by_hand(model, tokenizer, texts: list[str], **settings) -> list[list[str]]:
    logits = [model(**tokenizer(text, return_tensors="pt", **settings)).logits[0].tolist() for text in texts]
    return of_logits(np.array(logits), model)


@pytest.mark.parametrize("base", BASES)
def test_report_pipelines_and_evaluation_give_the_same_labels(base, classifiers, tmp_path):
    folder, path, texts = classifiers[base]
    several = base == "book"
    expected = reported(folder, several=several)
    # A pipeline reads whole texts by default, unless the model's class is ours.
    settings = [dict(truncation=True)] + [{}] * (base != "gpt2")
    found = {}
    for place in (folder, folder / "merged"):
        for options in settings:
            for size in (1, 5):
                pipe = pipeline("text-classification", model=str(place), device="cpu")
                scores = pipe(texts, top_k=None, batch_size=size, **options)
                found[(place.name, size, *options)] = [labels_of(one, several=several) for one in scores]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.model_max_length == LONGEST
    assert tokenizer.split_special_tokens
    doors = {"auto": AutoModelForSequenceClassification, "peft": AutoPeftModelForSequenceClassification}
    for name, auto_class in doors.items():
        model = auto_class.from_pretrained(folder).eval()
        for options in settings:
            found[(name, *options)] = by_hand(model, tokenizer, texts, **options)
    loaded = load(str(folder))
    ids, cut = text_ids(loaded.tokenizer, texts, max_length=loaded.longest_text(None))
    found["evaluate"] = of_logits(classify(loaded.model, loaded.tokenizer, ids, batch_size=4), loaded.model)
    assert {door: sum(a != b for a, b in zip(labels, expected, strict=True)) for door, labels in found.items()} == dict.fromkeys(
        found, 0
    )

    # The labels would differ without truncation, and the ids if text could become special tokens.
    assert cut > len(texts) / 2
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    if base != "gpt2":
        assert model.config.max_text_length == LONGEST
        model.config.max_text_length = None
    assert by_hand(model, tokenizer, texts) != expected
    tokenizer.split_special_tokens = False
    assert ids != tokenizer(texts, truncation=True).input_ids

    recipe("evaluate", model=str(folder), test_sources=[str(path)], output_dir=str(tmp_path / "out"))
    (entry,) = json.loads((tmp_path / "out" / "evaluation.json").read_text())["results"]
    figures = json.loads((folder / "metrics.json").read_text())["test"]
    assert entry["texts_cut"] == cut
    assert entry["metrics"]["accuracy"] == figures["accuracy"]["mean"]
    assert entry["metrics"]["log_loss"] == pytest.approx(figures["log_loss"]["mean"], abs=1e-6)


def test_a_native_twin_gives_the_same_labels(classifiers, tmp_path):
    folder, _, texts = classifiers["modern"]
    recipe("convert", source=str(folder), target="native", output_dir=str(tmp_path / "native"))
    pipe = pipeline("text-classification", model=str(tmp_path / "native"), device="cpu")
    assert type(pipe.model).__name__ == "Qwen3ForSequenceClassification"
    assert [[one["label"]] for one in pipe(texts, truncation=True)] == reported(folder, several=False)


STRANGER = """
import contextlib, io, json, sys
import torch
from peft import AutoPeftModelForSequenceClassification, PeftModel
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline
found = {}
options = dict(trust_remote_code=True)
for base, (folder, texts, cards) in json.loads(sys.argv[1]).items():
    own = {} if base != "gpt2" else dict(truncation=True)
    for place in ("", "/merged"):
        pipe = pipeline("text-classification", model=folder + place, device="cpu", **options)
        found[base + ", pipeline" + place] = pipe(texts, top_k=None, batch_size=3, **own)
    names = pipe.model.config.id2label
    several = pipe.model.config.problem_type == "multi_label_classification"

    def scores(model):
        tokenizer = AutoTokenizer.from_pretrained(folder, **options)
        with torch.no_grad():
            logits = [model(**tokenizer(text, return_tensors="pt", **own)).logits[0] for text in texts]
        rows = [(one.sigmoid() if several else one.softmax(-1)).tolist() for one in logits]
        return [[dict(label=names[id], score=score) for id, score in enumerate(row)] for row in rows]

    found[base + ", peft"] = scores(AutoPeftModelForSequenceClassification.from_pretrained(folder, **options).eval())
    model = AutoModelForSequenceClassification.from_pretrained(folder + "/base", **options)
    found[base + ", base with adapter"] = scores(PeftModel.from_pretrained(model, folder).eval())
    for place, card in cards.items():
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            exec(card, dict(TEXTS=texts))
        found[base + ", card" + place] = [eval(line) if line[0] in "[{" else line for line in said.getvalue().splitlines()]
print(json.dumps(dict(found=found, imported="hfgpt" in sys.modules)))
"""


def code_of_card(folder) -> str:
    """The example of a model card, unchanged, for this folder; it prints a result for each text of `TEXTS`."""
    write_card(folder)
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL)[:1]
    assert code.count('"A text to label."') == 1
    code = re.sub(r"^name = .*$", f"name = {str(folder)!r}", code, flags=re.MULTILINE).replace('"A text to label."', "TEXT")
    loading, again = re.split(r"^(?=with torch|print)", code, maxsplit=1, flags=re.MULTILINE)
    return f"{loading}\nfor TEXT in TEXTS:\n{textwrap.indent(again, '    ')}"


def test_a_stranger_gets_the_same_labels_with_the_examples_of_the_cards_too(classifiers, stranger, tmp_path):
    words = {
        base: (str(folder), texts, {place: code_of_card(folder / place) for place in (".", "merged")})
        for base, (folder, _, texts) in classifiers.items()
    }
    done = run_python(
        "-S", "-c", STRANGER, json.dumps(words), cwd=tmp_path, env={**stranger, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    assert answer["imported"] is False
    assert len(answer["found"]) == 6 * len(BASES)
    for door, rows in answer["found"].items():
        several = door.startswith("book")
        labels = [
            labels_of(row, several=several) if row and isinstance(row[0], dict) else sorted(row) if several else [row]
            for row in rows
        ]
        folder, _, _ = classifiers[door.partition(",")[0]]
        assert labels == reported(folder, several=several), door
