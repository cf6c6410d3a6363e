import json
import re
import shutil
import subprocess
import sys

import pytest
import torch
import yaml
from conftest import ROOT, SMALL_RUN
from killing import kill
from recipes_in_process import recipe, run_script
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from hfgpt.training.states import load_state


def weights(folder):
    return load_file(folder / "model.safetensors")


def assert_same_weights(first, second):
    first, second = weights(first), weights(second)
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


@pytest.fixture(scope="module")
def again(small_run, tmp_path_factory):
    """The folder and the output of a run that was given only the run.yaml of `small_run`."""
    folder = tmp_path_factory.mktemp("again") / "again"
    done = run_script("pretrain.py", small_run / "run.yaml", "--output_dir", folder)
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


def test_a_run_leaves_all_that_a_model_needs_and_nothing_that_leaks(small_run):
    names = {path.name for path in small_run.iterdir()}
    assert names >= {
        *("config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"),
        *("configuration_hfgpt.py", "modeling_hfgpt.py"),
        *("README.md", "loss.png", "metrics.json", "passport.json", "report.txt", "run.yaml", "samples.md"),
        *("curves.png", "history.json", "report.html"),
    }
    assert "training_args.bin" not in names
    assert json.loads((small_run / "fingerprint.json").read_text())["recorded"] == "when it was saved"
    assert not [name for name in names if name.startswith(".")]
    config = json.loads((small_run / "config.json").read_text())
    assert config["use_cache"] is True
    assert config["eos_token_id"] == 0
    assert config["pad_token_id"] == 1
    generation = json.loads((small_run / "generation_config.json").read_text())
    assert (generation["eos_token_id"], generation["pad_token_id"]) == (0, 1)
    assert AutoTokenizer.from_pretrained(small_run).model_max_length == 64


def test_metrics_agree_with_each_other_and_with_the_model(small_run, small_rows):
    import math

    from hfgpt.evaluation.language_modeling import nats_and_tokens
    from hfgpt.training.pretraining import load_rows

    metrics = json.loads((small_run / "metrics.json").read_text())
    rows, passport = load_rows(str(small_rows))
    model = AutoModelForCausalLM.from_pretrained(small_run).eval()
    ids, positions = (torch.tensor(rows["test"][name][:]) for name in ("input_ids", "position_ids"))
    with torch.no_grad():
        nats, tokens = nats_and_tokens(
            model(ids, position_ids=positions, use_cache=False).logits, ids.masked_fill(ids == 1, -100)
        ).sum(0)
    counts = passport.splits["test"]
    assert tokens == counts["tokens"] + counts["documents"]  # every token once, and the end of every document
    assert metrics["test_loss"] == pytest.approx((nats / tokens).item(), rel=1e-5)
    assert metrics["test_perplexity"] == pytest.approx(math.exp(metrics["test_loss"]))
    assert metrics["test_bits_per_byte"] == pytest.approx(nats.item() / math.log(2) / counts["bytes"], rel=1e-5)
    assert metrics["steps"] == 12
    assert metrics["tokens_per_second"] > 0
    assert metrics["parameters"] == model.num_parameters()


def test_the_loss_falls_and_its_picture_is_a_picture(small_run):
    state = json.loads((small_run / "checkpoint-12" / "trainer_state.json").read_text())
    losses = [entry["loss"] for entry in state["log_history"] if "loss" in entry]
    assert losses[-1] < losses[0] - 0.3
    picture = (small_run / "loss.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert len(picture) > 10_000


def test_samples_are_written_once_at_each_evaluation(small_run):
    samples = (small_run / "samples.md").read_text()
    assert [line for line in samples.splitlines() if line.startswith("## ")] == ["## Step 6", "## Step 12"]
    assert samples.count("```text\nos.") == 2


def test_start_and_end_are_one_line_each(again):
    lines = again[1].splitlines()
    (start,) = [line for line in lines if line.startswith("start: ")]
    where = r"(eager attention, 1 x cpu|sdpa attention, 1 x cuda)"
    assert re.search(rf"tokens per step, 12 steps; muon, fp32 \(as requested\), {where}", start)
    (end,) = [line for line in lines if re.match("end: +12 steps in ", line)]
    assert "peak memory" in end
    assert re.match("next: +python recipes/generate.py ", lines[-1])


def test_a_finished_run_started_again_says_so_and_changes_nothing(small_run, small_rows):
    before = (small_run / "model.safetensors").stat().st_mtime_ns
    done = run_script("pretrain.py", *SMALL_RUN, "--dataset", small_rows, "--output_dir", small_run)
    assert done.returncode == 0, done.stderr
    assert "already done" in done.stdout
    assert (small_run / "model.safetensors").stat().st_mtime_ns == before


def test_the_same_rows_by_another_path_are_the_same_run_and_others_by_the_same_path_are_not(small_run, small_rows, tmp_path):
    shutil.copytree(small_run, tmp_path / "base")
    shutil.copytree(small_rows, tmp_path / "moved")
    words = (*SMALL_RUN, "--output_dir", tmp_path / "base", "--dataset")
    for place, cwd in (("rows", small_rows.parent), (small_rows, tmp_path), ("moved", tmp_path)):
        done = run_script("pretrain.py", *words, place, cwd=cwd)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "already done" in done.stdout
    passport = json.loads((tmp_path / "moved" / "passport.json").read_text())
    passport["inputs"][0]["sha256"] = "0" * 64
    (tmp_path / "moved" / "passport.json").write_text(json.dumps(passport))
    done = run_script("pretrain.py", *words, "moved", cwd=tmp_path)
    assert done.returncode == 1
    assert "the rows in moved are not the ones that the run in" in done.stderr


def test_another_run_in_the_same_folder_is_refused_with_what_differs(small_run, small_rows):
    done = run_script("pretrain.py", *SMALL_RUN, "--dataset", small_rows, "--output_dir", small_run, "--learning_rate", "0.1")
    assert done.returncode == 1
    assert "holds another run (learning_rate was 0.003, is now 0.1)" in done.stderr


def test_a_run_does_not_go_on_with_other_data(small_run, small_corpus, small_tokenizer, small_rows, tmp_path):
    shutil.copytree(small_run, tmp_path / "base")
    entries = yaml.safe_load((small_run / "run.yaml").read_text()) | {"dataset": str(tmp_path / "rows")}
    (tmp_path / "base" / "run.yaml").write_text(yaml.safe_dump(entries))
    recipe("prepare_data", sources=[str(small_corpus)], tokenizer=str(small_tokenizer), context_length=64,
           validation_share=0.1, test_share=0.1, split_seed=1, output_dir=str(tmp_path / "rows"))  # fmt: skip
    done = run_script("pretrain.py", tmp_path / "base" / "run.yaml", "--output_dir", tmp_path / "base")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "are not the ones that the run in" in done.stderr
    assert "Traceback" not in done.stderr


def test_run_yaml_alone_repeats_the_run(small_run, again):
    entries = yaml.safe_load((small_run / "run.yaml").read_text())
    assert entries["max_steps"] == 12
    assert entries["sample_prompts"] == ["os.", ""]
    assert_same_weights(small_run, again[0])


STOPPED = (
    *SMALL_RUN,
    *(
        "--max_steps",
        "30",
        "--save_steps",
        "10",
        "--eval_steps",
        "0.3333",
        "--logging_steps",
        "1",
        "--gradient_accumulation_steps",
        "2",
    ),
    *("--config_overrides", '{"residual_dropout": 0.1, "attention_dropout": 0.1, "tie_word_embeddings": true}'),
)


@pytest.fixture(scope="module")
def straight(small_rows, tmp_path_factory):
    """An uninterrupted run."""
    folder = tmp_path_factory.mktemp("straight") / "straight"
    done = run_script("pretrain.py", *STOPPED, "--dataset", small_rows, "--output_dir", folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
def test_a_killed_run_goes_on_under_another_launcher_to_the_very_same_weights(accelerate_launch, straight, small_rows, tmp_path):
    """With dropout and gradient accumulation; as in tests/reliability for every recipe, but resumed by the real launcher."""
    words = [*STOPPED, "--dataset", str(small_rows)]
    stopped = tmp_path / "stopped"
    kill("pretrain", [*words, "--output_dir", stopped], at="transformers.Trainer.training_step", call=25)  # two for each step
    assert [path.name for path in stopped.glob("checkpoint-*")] == ["checkpoint-10"]

    done = accelerate_launch("pretrain.py", *words, "--output_dir", stopped)
    assert done.returncode == 0, done.stderr
    assert "resume: from" in done.stdout
    for false_alarm in ("missing keys", "do not match", "arning:"):
        assert false_alarm not in done.stdout + done.stderr, done.stdout + done.stderr
    assert_same_weights(straight, stopped)
    final = [json.loads((folder / "metrics.json").read_text())["test_loss"] for folder in (straight, stopped)]
    assert final[0] == final[1]


@pytest.mark.slow
def test_adamw_alone_and_the_book_family_train_too(small_rows, tmp_path):
    overrides = {"num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 2}
    done = run_script(
        "pretrain.py", *SMALL_RUN[2:], "--dataset", small_rows, "--output_dir", tmp_path / "book", "--family", "gpt2",
        "--optimizer", "adamw", "--config_overrides", json.dumps(overrides),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    config = json.loads((tmp_path / "book" / "config.json").read_text())
    assert config["position_embedding_type"] == "learned"
    groups = load_state(tmp_path / "book" / "checkpoint-12" / "optimizer.safetensors")["param_groups"]
    assert not any("method" in group for group in groups)


@pytest.mark.slow
def test_two_processes_train_the_model_that_one_trains(small_run, small_rows, tmp_path):
    """With the same rows per step, only the order of the sums differs; tests/training/test_many_processes.py has the rest."""
    words = [*SMALL_RUN, "--dataset", small_rows, "--use_cpu", "true", "--output_dir", tmp_path / "two"]
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--quiet", "--main_process_port", "0"]
    launcher += ["--config_file", ROOT / "recipes" / "accelerate" / "fsdp2.yaml"]  # torchrun, as accelerate calls it
    command = [*launcher, ROOT / "recipes" / "pretrain.py", *words, "--per_device_train_batch_size", "4"]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    (start,) = [line for line in done.stdout.splitlines() if line.startswith("start: ")]
    assert "2 x cpu with FSDP2" in start
    assert sum(line.startswith("end: ") for line in done.stdout.splitlines()) == 1
    losses = [json.loads((folder / "metrics.json").read_text())["test_loss"] for folder in (small_run, tmp_path / "two")]
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)


def test_isolation_is_proven_or_the_run_stops(small_run, small_rows):
    from hfgpt.training.pretraining import check_isolation, load_rows

    rows, _ = load_rows(str(small_rows))
    model = AutoModelForCausalLM.from_pretrained(small_run)
    check_isolation(model, rows["train"])
    # like a backend that ignores restarting positions: every row is one document
    forward = model.model.forward
    model.model.forward = lambda *args, **kwargs: forward(*args, **{**kwargs, "position_ids": None})
    with pytest.raises(RuntimeError, match="packed documents see each other"):
        check_isolation(model, rows["train"])


@pytest.mark.slow
def test_the_books_tokenizer_windows_and_model_go_through_with_the_defaults(tmp_path):
    """A short context, unknown words in the held-out text, and no settings for the samples."""
    (tmp_path / "story.txt").write_text("".join(f"He said {n} words, and then -- silence! Who knows?\n" for n in range(300)))
    words = ("--sources", "story.txt", "--split_by", "position", "--validation_share", "0.2", "--test_share", "0")
    overrides = {"num_hidden_layers": 1, "hidden_size": 32, "num_attention_heads": 2}
    for done in (
        run_script("train_tokenizer.py", *words, "--algorithm", "wordlevel", "--output_dir", "tok", cwd=tmp_path),
        run_script("prepare_data.py", *words, "--tokenizer", "tok", "--window", "16", "--output_dir", "rows", cwd=tmp_path),
        run_script("pretrain.py", "--dataset", "rows", "--family", "gpt2", "--config_overrides", json.dumps(overrides),
                   "--max_steps", "5", "--output_dir", "base", cwd=tmp_path),
        run_script("generate.py", "base", "--prompt", "He said", "--temperature", "0", cwd=tmp_path),
    ):  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
    metrics = json.loads((tmp_path / "base" / "metrics.json").read_text())
    assert "validation_perplexity" in metrics
    assert "validation_bits_per_byte" not in metrics  # unknown words have no bytes
    assert "## Step 5" in (tmp_path / "base" / "samples.md").read_text()
