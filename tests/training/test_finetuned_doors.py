"""The result of fine-tuning loads in every way, in a fresh process, without a network and without extra arguments.

The ways: PEFT's Auto classes, those of transformers, and pipelines; with `import hfgpt`, without hfgpt but with trust in the
folder's code, and, if the base is a GPT-2, with neither.
"""

import functools
import json
import shutil

import pytest
import torch
from conftest import run_python
from recipes_in_process import recipe
from transformers import AutoModelForCausalLM

from hfgpt.chat_templates import CHAT_STYLES

pytestmark = pytest.mark.slow

PROBE = """
import json, sys, warnings
door, cases, texts, separator = json.loads(sys.argv[1])
if door == "imported":
    import hfgpt
import torch
from peft import AutoPeftModelForCausalLM, AutoPeftModelForSequenceClassification
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, pipeline

def look_at(folder, options, chat):
    peft_class, auto_class, task = (
        (AutoPeftModelForCausalLM, AutoModelForCausalLM, "text-generation") if chat
        else (AutoPeftModelForSequenceClassification, AutoModelForSequenceClassification, "text-classification")
    )
    doors = dict(
        peft=lambda: peft_class.from_pretrained(folder, **options),
        auto=lambda: auto_class.from_pretrained(folder, **options),
        merged=lambda: auto_class.from_pretrained(folder + "/merged", **options),
        base=lambda: auto_class.from_pretrained(folder + "/base", **options),
    )
    report = dict(logits={}, batch={}, adapters={}, classes={}, pipelines={}, settings={}, templates={}, warnings=[])
    warnings.simplefilter("always")
    with warnings.catch_warnings(record=True) as caught, torch.no_grad():
        for name, load in doors.items():
            model = load().eval()
            tokenizer = AutoTokenizer.from_pretrained(folder, **options)
            rows = [tokenizer(text, return_tensors="pt").to(model.device) for text in texts]
            report["logits"][name] = [model(**row).logits[0].double().tolist() for row in rows]
            batch = tokenizer(texts, return_tensors="pt", padding=True)
            logits = model(**batch).logits.double()
            report["batch"][name] = [
                (row[mask.bool()] if chat else row).tolist() for row, mask in zip(logits, batch.attention_mask)
            ]
            layers = [module for module in model.modules() if hasattr(module, "lora_A")]
            report["adapters"][name] = sorted({len(layer.lora_A) for layer in layers})
            report["classes"][name] = type(model).__module__.partition(".")[0]
            config = model.config
            report["settings"][name] = dict(
                id2label=config.id2label, problem_type=config.problem_type, use_cache=getattr(config, "use_cache", None),
                stops=getattr(getattr(model, "generation_config", None), "eos_token_id", None), pad=config.pad_token_id,
            )
        for place in ("", "/merged"):
            pipe = pipeline(task, model=folder + place, device="cpu", **options)
            if chat:
                conversations = [[dict(role="user", content=text)] for text in texts]
                said = [
                    pipe(one, do_sample=False, max_new_tokens=24)[0]["generated_text"][-1]["content"] for one in conversations
                ]
            else:
                said = pipe(texts, top_k=None)
            report["pipelines"][place] = said
        for place in ("", "/merged", "/base"):
            report["templates"][place] = AutoTokenizer.from_pretrained(folder + place, **options).chat_template
        report["warnings"] = sorted({f"{one.category.__name__}: {one.message}" for one in caught})
    report["imported"] = "hfgpt" in sys.modules
    return report

reports = []
for assistant, classifier, options in cases:
    reports.append(
        dict(assistant=look_at(assistant, options, chat=True), classifier=look_at(classifier, options, chat=False))
    )
    print(separator, file=sys.stderr, flush=True)
print(json.dumps(reports))
"""
TEXTS = ["What is a list?", "Say os.", "Is it a very long path, with many words in it, and more?"]
TRUSTED = {"trust_remote_code": True}
DOORS = {  # a process each: which bases it loads, in this order, and how
    "imported": {"book": {}, "modern": {}},
    "stranger": {"gpt2": {}, "book": TRUSTED, "modern": TRUSTED},  # the GPT-2 before there is any code but that of transformers
}


@pytest.fixture(scope="module")
def through_the_door(stranger, without_hqq, small_assistants, classifiers, tmp_path_factory):
    """Load assistants and classifiers in a fresh offline process; each report includes its base's part of stderr."""

    @functools.cache
    def reports(door: str) -> dict[str, dict[str, dict]]:
        place, separator = tmp_path_factory.mktemp("door"), "--- the next base"
        (place / "probe.py").write_text(PROBE)
        cases = [(str(small_assistants[base]), str(classifiers[base]), options) for base, options in DOORS[door].items()]
        environment = {"HF_HOME": str(place), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        environment |= without_hqq if door == "imported" else stranger
        words = json.dumps([door, cases, TEXTS, separator])
        done = run_python("-S", place / "probe.py", words, cwd=place, env=environment)
        assert done.returncode == 0, done.stderr
        found, parts = json.loads(done.stdout.splitlines()[-1]), done.stderr.split(separator)[:-1]
        return {
            base: {name: report | {"stderr": part} for name, report in both.items()}
            for base, both, part in zip(DOORS[door], found, parts, strict=True)
        }

    def load(base: str, door: str) -> dict[str, dict]:
        found = reports(door)[base]
        assert [report["imported"] for report in found.values()] == [door == "imported"] * 2
        return found

    return load


@pytest.fixture(scope="module")
def classifiers(fine_tune):
    """LoRA classifiers on all three bases: with two labels, with several labels per text, with three labels."""
    words = ["list", "file", "path", "name", "key", "tuple", "set", "module", "function", "line", "string", "number", "class"]
    two = [{"text": f"the {word} is {kind}", "label": kind} for word in words for kind in ("good", "bad")]
    several = [
        {"text": f"the {word} {' '.join(kinds)}", "label": kinds}
        for word in words
        for kinds in (["red"], ["red", "round"], ["round", "soft"], ["soft"])
    ]
    three = [{"text": f"{word} {kind}", "label": kind} for word in words for kind in ("os", "re", "io")]
    settings = ("--num_train_epochs", "3", "--tfidf_baseline", "false", "--canaries", "false")
    rows = {"modern": two, "book": several, "gpt2": three}
    return {base: fine_tune("finetune_classification", base, rows[base], *settings) for base in rows}


LABELS = {"modern": ["bad", "good"], "book": ["red", "round", "soft"], "gpt2": ["io", "os", "re"]}
CASES = [(base, door) for door, bases in DOORS.items() for base in bases]


def largest_difference(first: list, second: list) -> float:
    return max((torch.tensor(one) - torch.tensor(other)).abs().max().item() for one, other in zip(first, second, strict=True))


def check_the_function_is_one(report: dict) -> None:
    """PEFT, transformers and the merged twin agree, in a batch and alone; the base alone gives other logits."""
    logits = report["logits"]
    for name in ("auto", "merged"):
        assert largest_difference(logits["peft"], logits[name]) < 1e-4, name
    for name in logits:
        assert largest_difference(logits[name], report["batch"][name]) < 1e-4, name
    assert largest_difference(logits["peft"], logits["base"]) > 0.1
    assert report["adapters"] == {"peft": [1], "auto": [1], "merged": [], "base": []}  # one in each layer, not two


def check_nothing_is_complained_about(report: dict) -> None:
    """No warning from PEFT or transformers, and no report of missing, unexpected or mismatched tensors."""
    known = "is_gradient_checkpointing"  # PEFT 0.21.2 uses this name, which is outdated in transformers 5.23
    assert [line for line in report["warnings"] if known not in line] == []
    assert "MISSING" not in report["stderr"]
    assert "UNEXPECTED" not in report["stderr"]


@pytest.mark.parametrize(("base", "door"), CASES)
def test_an_assistant_answers_alike_through_every_door(base, door, through_the_door):
    report = through_the_door(base, door)["assistant"]
    check_the_function_is_one(report)
    check_nothing_is_complained_about(report)
    assert report["pipelines"][""] == report["pipelines"]["/merged"]
    assert all(report["pipelines"][""][:2])  # the third question was not in the rows: an empty answer is allowed
    assert len(report["pipelines"][""][0]) < 40  # it stopped by itself
    (template,) = set(report["templates"].values())
    assert template == CHAT_STYLES["alpaca" if base == "modern" else "chat"].template
    stops = {"modern": [0], "book": [3, 0], "gpt2": [402, 0]}[base]
    for name, settings in report["settings"].items():
        assert settings["stops"] == stops, name
        assert settings["use_cache"] is True
        assert settings["pad"] == (400 if base == "gpt2" else 1)
    expected = "transformers" if base == "gpt2" else {"imported": "hfgpt", "stranger": "transformers_modules"}[door]
    assert report["classes"] == {"peft": "peft", "auto": expected, "merged": expected, "base": expected}


@pytest.mark.parametrize(("base", "door"), CASES)
def test_a_classifier_labels_alike_through_every_door(base, door, through_the_door):
    report = through_the_door(base, door)["classifier"]
    check_the_function_is_one(report)
    check_nothing_is_complained_about(report)
    several = base == "book"
    for name, settings in report["settings"].items():
        assert settings["id2label"] == {str(id): label for id, label in enumerate(LABELS[base])}, name
        assert settings["problem_type"] == ("multi_label_classification" if several else "single_label_classification")
    beside, merged = report["pipelines"][""], report["pipelines"]["/merged"]
    for first, second, logits in zip(beside, merged, report["logits"]["peft"], strict=True):
        scores = {one["label"]: one["score"] for one in first}
        assert sorted(scores) == LABELS[base]
        assert scores == pytest.approx({one["label"]: one["score"] for one in second}, abs=1e-4)
        values = torch.tensor(logits)
        expected = values.sigmoid() if several else values.softmax(-1)
        assert [scores[label] for label in LABELS[base]] == pytest.approx(expected.tolist(), abs=1e-4)


@pytest.mark.parametrize("base", ["book", "gpt2"])
def test_a_moved_folder_is_complete(base, small_assistants, tmp_path):
    """PEFT looks for the base at the path of the run; transformers finds it beside the adapter."""
    shutil.copytree(small_assistants[base], tmp_path / "moved")
    settings = json.loads((tmp_path / "moved" / "adapter_config.json").read_text())
    settings["base_model_name_or_path"] = "/no/such/folder"
    (tmp_path / "moved" / "adapter_config.json").write_text(json.dumps(settings))
    ids = torch.tensor([[0, 5, 6, 7]])
    with torch.no_grad():
        there, here = (
            AutoModelForCausalLM.from_pretrained(place).eval()(ids).logits for place in (small_assistants[base], tmp_path / "moved")
        )
    assert torch.equal(there, here)
    assert recipe("generate", model=str(tmp_path / "moved"), prompt=["Say list."], chat=True, temperature=0.0, max_new_tokens=9)


@pytest.mark.parametrize("base", ["book", "modern", "gpt2"])
def test_generate_and_convert_take_the_folder_as_it_is(base, small_assistants, tmp_path, capsys):
    folder = small_assistants[base]
    words = dict(prompt=TEXTS[:2], chat=True, temperature=0.0, max_new_tokens=24)
    answers = recipe("generate", model=str(folder), **words)
    assert recipe("generate", model=str(folder / "merged"), **words) == answers
    assert all(answer for texts in answers.values() for answer in texts)
    recipe("convert", source=str(folder), output_dir=str(tmp_path / "native"), target="native")
    assert (
        f"{folder.name} is an adapter; its merged model {folder.name}/merged was read"
        in (tmp_path / "native" / "conversion.json").read_text()
    )
    assert recipe("generate", model=str(tmp_path / "native"), **words) == answers
    stops = json.loads((folder / "merged" / "generation_config.json").read_text())["eos_token_id"]
    assert json.loads((tmp_path / "native" / "generation_config.json").read_text())["eos_token_id"] == stops
    if base != "gpt2":  # its adapter uses GPT-2's names for the matrices
        recipe("convert", source=str(folder / "base"), adapter=str(folder), output_dir=str(tmp_path / "again"))
        assert recipe("generate", model=str(tmp_path / "again"), **words) == answers
        with pytest.raises(ValueError, match="was trained on .*, whose weights have the SHA-256"):
            recipe("convert", source=str(folder / "merged"), adapter=str(folder), output_dir=str(tmp_path / "twice"))
