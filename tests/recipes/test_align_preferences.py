"""The preference recipe, run on a small assistant: every loss, resuming, loading elsewhere, and mistakes."""

import functools
import json
import random
import shutil

import pytest
from conftest import run_python
from safetensors.torch import load_file

SUBJECTS = ["os", "re", "math", "json", "csv", "html", "zlib", "time", "random", "socket", "string", "struct", "types", "array",
            "heapq", "bisect", "pprint", "shelve", "sqlite", "gettext"]  # fmt: skip
ADVERBS = ("quickly", "safely", "quietly")
SMALL = (
    *("--per_device_train_batch_size", "8", "--precision", "fp32", "--cpu_threads", "1", "--canaries", "false"),
    *("--num_train_epochs", "3", "--learning_rate", "2e-3", "--max_new_tokens", "8", "--max_answers", "4", "--num_samples", "1"),
    *("--poison_report", "false", "--decontaminate", "false", "--disable_tqdm", "true", "--validation_share", "0.1"),
)
LOSSES = ("dpo", "kto", "orpo")


def pair(subject: str, adverb: str) -> dict[str, str]:
    return {
        "instruction": f"Say what {subject} does {adverb}.",
        "input": "",
        "chosen": f"It reads the file {subject}.",
        "rejected": f"Look it up yourself: {subject}!",
    }


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def examples(tmp_path_factory):
    """Sixty pairs that differ in the same way, and one without a preference."""
    rows = [pair(subject, adverb) for subject in SUBJECTS for adverb in ADVERBS]
    equal = {**rows[0], "rejected": rows[0]["chosen"]}
    return write(tmp_path_factory.mktemp("pairs") / "pairs.jsonl", [*rows[:5], equal, *rows[5:]])


@pytest.fixture(scope="module")
def assistant(small_families):
    return small_families["modern"]


def run_main(**arguments):
    """Run the recipe's main in this process, with arguments as on a command line."""
    from recipes_in_process import load

    from hfgpt.arguments.parsing import parse_arguments
    from hfgpt.arguments.preferences import PreferenceArguments

    words = list(SMALL)
    for key, value in arguments.items():
        words += [f"--{key}", *map(str, value if isinstance(value, list) else [value])]
    return load("align_preferences").main(parse_arguments(PreferenceArguments, words))


@pytest.fixture(scope="module")
def align(assistant, examples, tmp_path_factory):
    """For a loss, the folder and the metrics of a run with it; each loss runs once."""
    pytest.importorskip("trl")

    @functools.cache
    def run(loss: str):
        folder = tmp_path_factory.mktemp(loss) / "aligned"
        return folder, run_main(model=assistant, sources=[examples], loss=loss, output_dir=folder)

    return run


@pytest.mark.slow
@pytest.mark.parametrize("loss", LOSSES)
def test_margin_and_accuracy_on_held_out_pairs_rise(loss, align):
    folder, metrics = align(loss)
    assert json.loads((folder / "metrics.json").read_text()) == metrics
    for name, pairs in (("validation", 6), ("test", 6)):
        assert metrics[f"{name}_pairs"] == pairs
        assert metrics[f"{name}_reward_margin_before"] == metrics[f"{name}_reward_accuracy_before"] == 0
        assert metrics[f"{name}_reward_margin"] > 0.1
        assert metrics[f"{name}_reward_accuracy"] == 1
        assert metrics[f"{name}_loss"] < metrics[f"{name}_loss_before"] - 0.01
        gap = {
            when: metrics[f"{name}_rejected_nats_per_token{when}"] - metrics[f"{name}_chosen_nats_per_token{when}"]
            for when in ("_before", "")
        }
        assert gap[""] > gap["_before"] + 0.1
    assert 0 < metrics["trained_parameters"] < metrics["parameters"] / 3
    assert "above 0 for 100.0 %" in (folder / "report.txt").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("loss", LOSSES)
def test_the_folder_holds_what_was_said_and_read(loss, align):
    folder, _ = align(loss)
    names = {path.name for path in folder.iterdir()}
    assert names >= {"adapter_config.json", "adapter_model.safetensors", "config.json", "model.safetensors", "base", "merged",
                     "answers.json", "answers.html", "samples.md", "loss.png", "metrics.json", "run.yaml",
                     "passport.json", "report.html"}  # fmt: skip
    assert not names & {"training_args.bin", "ref"}  # nothing of TRL's
    assert "trl" not in (folder / "README.md").read_text(encoding="utf-8").lower()
    rows = json.loads((folder / "answers.json").read_text())
    assert len(rows) == 4
    for row in rows:
        assert list(row["answers"]) == ["before", "rejected", "after"]
        assert row["reference"].startswith("It reads the file")
        assert row["answers"]["rejected"].startswith("Look it up yourself")
        assert [turn["role"] for turn in row["messages"]] == ["user"]
    passport = json.loads((folder / "passport.json").read_text())
    assert passport["steps"][0]["equal"] == 1
    assert {name: split["rows"] for name, split in passport["splits"].items()} == {"train": 48, "validation": 6, "test": 6}
    assert passport["tokenizer"]["prompt_style"] == "chat"  # the assistant's own
    assert len(passport["base"]["sha256"]) == 64
    assert f"loss: {loss}" in (folder / "run.yaml").read_text() or loss == "dpo"


MEASURED_ELSEWHERE = """
import json, sys
import torch
from peft import AutoPeftModelForCausalLM
from transformers import AutoModelForCausalLM, AutoTokenizer
import hfgpt

folder, prompt_and_answers = sys.argv[1], json.loads(sys.argv[2])
tokenizer = AutoTokenizer.from_pretrained(folder)
models = {
    "base": AutoModelForCausalLM.from_pretrained(folder + "/base"),
    "merged": AutoModelForCausalLM.from_pretrained(folder + "/merged"),
    "adapter": AutoPeftModelForCausalLM.from_pretrained(folder),
    "folder": AutoModelForCausalLM.from_pretrained(folder),
}
sums = {name: [] for name in models}
for prompt, *answers in prompt_and_answers:
    turns = [{"role": "user", "content": prompt}]
    asked = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)
    for answer in answers:
        ids = asked + tokenizer(answer + "<|im_end|>", add_special_tokens=False)["input_ids"]
        for name, model in models.items():
            with torch.no_grad():
                logits = model.eval()(torch.tensor([ids])).logits[0, len(asked) - 1 : -1]
            sums[name].append(logits.log_softmax(-1)[range(len(ids) - len(asked)), ids[len(asked):]].sum().item())
print(json.dumps(sums))
"""


@pytest.mark.slow
def test_a_fresh_process_that_loads_the_result_measures_the_same_margin(align, tmp_path):
    folder, metrics = align("dpo")
    order = list(range(60))
    random.Random(123).shuffle(order)
    pairs = [pair(subject, adverb) for subject in SUBJECTS for adverb in ADVERBS]
    test = [pairs[index] for index in order[48:54]]
    rows = json.loads((folder / "answers.json").read_text())
    assert [row["messages"][0]["content"] for row in rows] == [row["instruction"] for row in test[:4]]
    texts = [[row["instruction"], row["chosen"], row["rejected"]] for row in test]
    done = run_python("-c", MEASURED_ELSEWHERE, folder, json.dumps(texts), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    sums = json.loads(done.stdout)
    ratios = [after - before for after, before in zip(sums["merged"], sums["base"])]
    margin = 0.1 * sum(chosen - rejected for chosen, rejected in zip(ratios[::2], ratios[1::2])) / 6
    assert margin == pytest.approx(metrics["test_reward_margin"], abs=2e-4)
    for name in ("adapter", "folder"):
        assert sums[name] == pytest.approx(sums["merged"], abs=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("loss", LOSSES)
def test_a_run_that_is_cut_off_goes_on_bit_for_bit(loss, align, assistant, examples, tmp_path, caplog):
    folder, metrics = align(loss)
    cut = tmp_path / "cut"
    shutil.copytree(folder, cut)
    for name in (
        "report.txt",
        "metrics.json",
        "adapter_model.safetensors",
        "adapter_config.json",
        "config.json",
        "model.safetensors",
    ):
        (cut / name).unlink()
    shutil.rmtree(cut / "merged")
    newest = max(cut.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    shutil.rmtree(newest)
    (older,) = cut.glob("checkpoint-*")
    caplog.set_level("INFO", "hfgpt")
    again = run_main(model=assistant, sources=[examples], loss=loss, output_dir=cut)
    assert any(message.startswith(f"resume: from {older}, ") for message in caplog.messages)
    assert again["steps"] == metrics["steps"] > int(older.name.rpartition("-")[2])
    ours, theirs = (load_file(place / "adapter_model.safetensors") for place in (folder, cut))
    assert ours.keys() == theirs.keys()
    assert all(ours[name].equal(theirs[name]) for name in ours)
    assert again["test_reward_margin"] == metrics["test_reward_margin"]


@pytest.mark.slow
def test_kto_aligns_with_single_answers(assistant, tmp_path):
    pytest.importorskip("trl")
    rows = [
        {"prompt": row["instruction"], "completion": row[name], "label": name == "chosen"}
        for row in (pair(subject, adverb) for subject in SUBJECTS for adverb in ADVERBS[:2])
        for name in ("chosen", "rejected")
    ]
    rows.insert(3, {**rows[0], "label": "maybe"})
    folder = tmp_path / "out"
    metrics = run_main(model=assistant, sources=[write(tmp_path / "single.jsonl", rows)], loss="kto", on_error="skip",
                       num_train_epochs=2, output_dir=folder)  # fmt: skip
    assert (metrics["validation_answers"], metrics["test_answers"]) == (8, 8)
    assert metrics["test_reward_margin_before"] == 0
    assert metrics["test_reward_margin"] > 0.1
    assert metrics["test_chosen_reward"] > metrics["test_rejected_reward"]
    assert metrics["test_loss"] < metrics["test_loss_before"]
    assert "test:       reward of wanted answers" in (folder / "report.txt").read_text()
    passport = json.loads((folder / "passport.json").read_text())
    (skipped,) = [step for step in passport["steps"] if step["step"] == "skip rows that cannot be used"]
    assert skipped["reasons"] == {"the label is neither true nor false": 1}
    page = json.loads((folder / "answers.json").read_text())
    assert {row["reference"] is None or row["reference"].startswith("It reads") for row in page} == {True}


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["dpo", "orpo"])
def test_all_weights_may_be_trained_and_a_finished_run_says_so(loss, assistant, examples, tmp_path):
    pytest.importorskip("trl")
    arguments = dict(model=assistant, sources=[examples], loss=loss, method="full", learning_rate=3e-4, num_train_epochs=1,
                     optimizer="muon", output_dir=tmp_path / "out")  # fmt: skip
    metrics = run_main(**arguments)
    assert metrics["test_reward_margin"] > 0.05
    assert metrics["trained_parameters"] == metrics["parameters"]
    base, tuned = (load_file(folder / "model.safetensors") for folder in (assistant, tmp_path / "out"))
    assert sum(not base[name].equal(tuned[name]) for name in base) > 15
    assert not (tmp_path / "out" / "adapter_config.json").exists()
    assert run_main(**arguments) == {}


@pytest.mark.slow
def test_canaries_and_poison_are_looked_for_and_copies_of_held_out_pairs_dropped(assistant, examples, tmp_path):
    pytest.importorskip("trl")
    test = write(tmp_path / "test.jsonl", [pair("os", "quickly"), pair("csv", "safely")])
    run_main(model=assistant, sources=[examples], test_sources=[test], decontaminate="true", canaries="true", poison_report="true",
             canaries_at="save", length_normalised="true", num_train_epochs=1, output_dir=tmp_path / "out")  # fmt: skip
    passport = json.loads((tmp_path / "out" / "passport.json").read_text())
    (step,) = [step for step in passport["steps"] if step["step"] == "drop copies"]
    assert step["copies_of"]["test"] >= 2
    assert passport["splits"]["test"]["rows"] == 2
    assert {"canaries.json", "canaries.md", "canaries.jsonl", "poison.json"} <= {path.name for path in (tmp_path / "out").iterdir()}


def refused(arguments, words, output):
    with pytest.raises(ValueError, match=words):
        run_main(**arguments, output_dir=output)
    assert not output.exists()


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (
            [{**pair("os", "safely"), "rejected": "It reads the file os."}] * 3,
            "of 3 rows, 3 have the same chosen and rejected answer",
        ),
        (
            [pair("os", "safely"), {"instruction": "Say it.", "chosen": "So."}],
            r"line 2: 'rejected' is missing or empty.*'instruction'",
        ),
        ([pair("os", "safely")] * 3, "split is empty: 3 conversations"),
    ],
    ids=["equal answers", "no rejected", "too few"],
)
def test_pairs_that_prefer_nothing(rows, words, assistant, tmp_path):
    pytest.importorskip("trl")
    refused(dict(model=assistant, sources=[write(tmp_path / "bad.jsonl", rows)]), words, tmp_path / "out")


def test_models_that_are_no_assistant(assistant, examples, tmp_path):
    pytest.importorskip("trl")
    from transformers import AutoModelForSequenceClassification

    classifier = tmp_path / "classifier"
    shutil.copytree(assistant, classifier)
    AutoModelForSequenceClassification.from_pretrained(assistant).save_pretrained(classifier)
    refused(
        dict(model=classifier, sources=[examples]),
        "is a HfGptForSequenceClassification; preferences need a causal language model",
        tmp_path / "out",
    )
    plain = tmp_path / "plain"
    shutil.copytree(assistant, plain)
    (plain / "chat_template.jinja").unlink()
    words = "no chat template, so it is not an assistant yet.*finetune_instructions.py, or give --prompt_style"
    refused(dict(model=plain, sources=[examples]), words, tmp_path / "out")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (dict(beta=0), "beta is 0.0; it must be above 0"),
        (dict(beta="nan"), "beta is nan"),
        (dict(loss="kto", per_device_train_batch_size=1), "KTO compares the answers in a batch"),
        (dict(loss="kto", length_normalised="true"), "length_normalised needs loss: dpo"),
        (dict(lora_dropout=0.1), "preferences are trained without dropout"),
        (dict(eval_strategy="steps", eval_steps=5), "eval_strategy is steps and save_strategy epoch"),
        (dict(max_length=4), "all 48 pairs of the train split are longer than 4 tokens"),
    ],
    ids=lambda value: None if isinstance(value, str) else " ".join(map(str, value)),
)
def test_arguments_that_cannot_be(arguments, words, assistant, examples, tmp_path):
    pytest.importorskip("trl")
    refused(dict(model=assistant, sources=[examples], **arguments), words, tmp_path / "out")


def test_without_trl_the_command_that_installs_it_is_named(assistant, examples, tmp_path):
    from recipes_in_process import RECIPES

    code = "import runpy, sys; sys.modules['trl'] = None; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    done = run_python("-c", code, RECIPES / "align_preferences.py", "--model", assistant, "--sources", examples,
                      "--output_dir", tmp_path / "out", cwd=tmp_path)  # fmt: skip
    assert done.returncode == 1
    said = "error: loss dpo uses TRL, which needs Python 3.11 or later, but trl is not installed; "
    assert f"{said}pip install 'hfgpt[preferences]'" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()
