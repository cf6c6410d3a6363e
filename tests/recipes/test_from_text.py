"""The one command that turns 50 KB of one's own text into a model: its files, its last screen, and a second start."""

import json
import shlex
import shutil

import pytest
import yaml
from recipes_in_process import RECIPES, run_script
from transformers import AutoModelForCausalLM, AutoTokenizer

from hfgpt.training.from_text import Steps


@pytest.fixture(scope="module")
def mine(small_corpus, tmp_path_factory):
    """The folder, and what was printed; the training's YAML has a token budget, so a busy machine is never too slow for it."""
    place = tmp_path_factory.mktemp("from text")
    shutil.copy(small_corpus, place / "notes.jsonl")
    steps = Steps.in_folder(place / "mine", asked={"sources": ["notes.jsonl"], "minutes": 3.0}, overwrite=False)
    steps.write("pretrain", dataset="mine/data", token_budget=10_000.0, sample_tokens=4, output_dir="mine/base")
    done = run_script("from_text.py", "notes.jsonl", "--minutes", "3", "--output_dir", "mine", cwd=place)
    assert done.returncode == 0, done.stdout + done.stderr
    return place / "mine", done.stdout


def test_it_leaves_a_model_and_the_yaml_of_each_step(mine):
    folder, _ = mine
    assert {path.name for path in folder.iterdir()} == {
        *("from_text.json", "tokenizer.yaml", "data.yaml", "pretrain.yaml", "tokenizer", "data", "base"),
    }
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder / "base"), AutoTokenizer.from_pretrained(folder / "base")
    assert model.config.vocab_size == len(tokenizer)
    settings = {name: yaml.safe_load((folder / f"{name}.yaml").read_text()) for name in ("tokenizer", "data", "pretrain")}
    assert settings["tokenizer"]["sources"] == ["notes.jsonl"]
    assert settings["data"]["context_length"] == 64
    assert (
        (folder / "tokenizer.yaml").read_text().startswith("# python recipes/train_tokenizer.py mine/tokenizer.yaml --output_dir ")
    )
    head = (folder / "pretrain.yaml").read_text().splitlines()  # written by the fixture, which is somebody's Python program
    plan, anew = shlex.quote(str(folder / "base" / "run.yaml")), shlex.quote(str(folder / "pretrain.yaml"))
    assert head[0] == f"# hfgpt pretrain {plan} --output_dir ANOTHER repeats this training exactly."
    assert head[1] == f"# This file plans anew: hfgpt pretrain {anew} --output_dir ANOTHER"
    assert yaml.safe_load((folder / "base" / "run.yaml").read_text())["plan"]["asked"] == {"token_budget": 10_000.0}


def test_it_says_why_before_it_begins_and_what_was_made_in_eight_lines(mine):
    folder, said = mine
    assert said.startswith("from-text: ")
    for part in ("vocabulary: at most ", "context: rows of 64 tokens", "held out: 10.0 %", "small: ", "plan for 10,000 tokens"):
        assert part in said
    assert "next: " not in said  # the last screen has the commands
    assert said.count(f"python {RECIPES / 'generate.py'} ") == 1
    last = said.rstrip().rpartition("\n\n")[2].splitlines()
    assert len(last) == 8
    assert last[0].startswith("made: mine/base, a GPT of ")
    metrics = json.loads((folder / "base" / "metrics.json").read_text())
    assert f"how good: {metrics['test_bits_per_byte']:.3f} bits per byte" in last[1]
    assert " lzma, which needs " in last[1]
    assert [line.split()[1] for line in last[5:]] == [str(RECIPES / f"{name}.py") for name in ("generate", "evaluate", "from_text")]


def test_the_same_command_again_says_that_all_is_done_and_another_one_is_refused(mine):
    folder, said = mine
    before = (folder / "base" / "model.safetensors").stat().st_mtime_ns
    run = folder / "base" / "run.yaml"
    assert run.read_text().startswith("# python recipes/pretrain.py run.yaml ")
    run.write_text(run.read_text().replace("# python recipes/pretrain.py ", "# hfgpt pretrain "))  # the same run all the same
    again = run_script("from_text.py", "notes.jsonl", "--minutes", "3", "--output_dir", "mine", cwd=folder.parent)
    assert again.returncode == 0, again.stdout + again.stderr
    assert again.stdout.count("already done") == 3
    assert again.stdout.rstrip().rpartition("\n\n")[2] == said.rstrip().rpartition("\n\n")[2]
    assert (folder / "base" / "model.safetensors").stat().st_mtime_ns == before
    other = run_script("from_text.py", "notes.jsonl", "--minutes", "4", "--output_dir", "mine", cwd=folder.parent)
    assert other.returncode == 1
    assert "minutes was 3.0, is now 4.0" in other.stderr


def test_the_command_that_reads_the_rest_of_a_folder_keeps_all_keys(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "README.md").write_text("# mine\n")
    (tmp_path / "texts" / "a.py").write_text("print()\n" * 1000)
    words = ("--text_documents=---", "--personal_data", "mask", "--card", "{license: mit}", "--output_dir", "o")
    done = run_script("from_text.py", "texts", *words)
    assert done.returncode == 1
    command = shlex.split(done.stderr.strip().rpartition(": python ")[2])
    assert command[1] == "texts/**/*.py"
    assert {"--text_documents=---", "--personal_data", "mask", "--card", '{"license": "mit"}'} <= set(command)


def test_texts_are_the_first_words_and_minutes_too_few_are_refused(tmp_path):
    missing = run_script("from_text.py", "--output_dir", tmp_path / "mine")
    assert "sources are missing; give your texts" in missing.stderr
    short = run_script("from_text.py", "a.txt", "b.txt", "--minutes", "0.1", "--output_dir", tmp_path / "mine")
    assert "minutes is 0.1; it must be at least 1" in short.stderr
    assert not (tmp_path / "mine").exists()
