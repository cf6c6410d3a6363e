"""The command after `next:` works when it is pasted, with the user's own text in it; and folders without a model."""

import io
import json
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from recipes_in_process import recipe, run_script

from hfgpt.arguments.generation import GenerateArguments
from hfgpt.arguments.parsing import parse_arguments
from hfgpt.artifacts import why_no_model
from hfgpt.errors import MissingFileError, UserError
from hfgpt.training.next_steps import classify_command, free_folder, generate_command, opening_words

TEXT = "".join(f"The lighthouse keeper's daughter counted {n * n} waves. She wrote {n} down and began again.\n" for n in range(200))
SMALL = ("--cpu_threads", "1", "--use_cpu", "true", "--precision", "fp32", "--max_steps", "2", "--per_device_train_batch_size", "2")


def next_of(stdout: str) -> str:
    """The command in the last line."""
    (line,) = [line for line in stdout.splitlines() if line.startswith("next: ")]
    return line.removeprefix("next: ").lstrip()


def pasted(command: str, *more: str):
    """Run it, split as a shell would, with settings that make it short."""
    program, script, *words = shlex.split(command)
    assert (program, Path(script).parent.name) == ("python", "recipes")
    done = run_script(Path(script).name, *words, *more)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_each_line_leads_to_the_next_from_a_text_to_its_model(tmp_path):
    folder = tmp_path / "it's my run"
    (tmp_path / "story.txt").write_text(TEXT)
    said = pasted(
        shlex.join(["python", "recipes/train_tokenizer.py", "--sources", str(tmp_path / "story.txt"), "--vocab_size", "300",
                    "--output_dir", str(folder / "tokenizer")])
    )  # fmt: skip
    said = pasted(next_of(said))
    assert (folder / "data" / "passport.json").is_file()
    said = pasted(next_of(said), *SMALL, "--depth", "1", "--eval_strategy", "no", "--save_strategy", "no")
    assert (folder / "base" / "config.json").is_file()
    words = shlex.split(next_of(said))
    assert words[:4] == ["python", "recipes/generate.py", str(folder / "base"), "--prompt"]
    assert len(words) == 5
    assert words[4] in TEXT.replace("\n", " ")  # the user's own words
    assert 1 <= len(words[4].split()) <= 4
    assert pasted(next_of(said), "--max_new_tokens", "4").startswith(words[4])
    # If the folder exists already, the next free name is suggested.
    assert free_folder(folder / "data", "base") == folder / "base-2"


def test_a_prompt_that_begins_like_a_key_stays_a_prompt():
    words = shlex.split(generate_command("runs/base", prompt="--- A title"))
    assert words == ["hfgpt", "generate", "runs/base", "--prompt=--- A title"]
    assert parse_arguments(GenerateArguments, words[2:]).prompt == ["--- A title"]


def test_a_classifiers_line_labels_one_of_its_own_texts(small_families, tmp_path):
    rows = [("good", "a lovely day; it's $HOME"), ("bad", "a dreadful `night`")] * 12
    (tmp_path / "rows.csv").write_text("text,label\n" + "".join(f'"{text} {n}",{label}\n' for n, (label, text) in enumerate(rows)))
    folder = tmp_path / "it's mine"
    done = run_script(
        "finetune_classification.py", "--model", small_families["book"], "--sources", tmp_path / "rows.csv", "--output_dir", folder,
        *SMALL, "--canaries", "false", "--poison_report", "false", "--decontaminate", "false", "--tfidf_baseline", "false",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    python, option, code = shlex.split(next_of(done.stdout))
    assert (python, option) == ("python", "-c")
    assert "'a lovely day;'" in code or "'a dreadful'" in code  # the words before a quote
    said: list = []
    exec(code.replace("print(", "said.append("), {"said": said})
    assert said[0][0]["label"] in ("good", "bad")


def test_an_assistants_line_opens_a_conversation(small_assistants, monkeypatch):
    report = (small_assistants["book"] / "report.txt").read_text()
    assert next_of(report) == shlex.join(["python", "recipes/generate.py", str(small_assistants["book"]), "--chat", "true"])
    monkeypatch.setattr("sys.stdin", io.StringIO())
    pasted(next_of(report))


def test_the_line_of_a_conversion_suits_what_was_converted(small_families, small_gpt2, tmp_path):
    said = run_script("convert.py", small_families["book"], "--target", "native", "--output_dir", tmp_path / "it's native").stdout
    assert next_of(said) == shlex.join(["python", "recipes/generate.py", str(tmp_path / "it's native"), "--chat", "true"])
    bare = Path(shutil.copytree(small_gpt2, tmp_path / "bare", ignore=shutil.ignore_patterns("tokenizer*")))
    words = (bare, "--target", "native", "--dtype", "bfloat16", "--output_dir", tmp_path / "again")
    said = run_script("convert.py", *words).stdout.splitlines()[-1]
    again = shlex.split(said.partition(" of its tokenizer: ")[2])
    assert again[:3] == ["python", "recipes/convert.py", str(bare)]
    given = dict(zip(again[3::2], again[4::2], strict=True))
    chosen = {"--output_dir": str(tmp_path / "again"), "--target": "native", "--dtype": "bfloat16"}
    assert given == chosen | {"--tokenizer": "TOKENIZER", "--overwrite": "true"}
    said = pasted(shlex.join([str(small_gpt2) if word == "TOKENIZER" else word for word in again]))
    assert pasted(next_of(said), "--max_new_tokens", "3")


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        (["\n\n***\n  class Foo(Bar):\n    pass"], "class Foo(Bar):"),
        (["Größe und 東京\tsind weit entfernt"], "Größe und 東京 sind"),
        (["春" * 100], "春" * 40),
        (["", "\ufffd\ufffdr the rest of it all\x1b[31m"], "r the rest of"),
        (["incomprehensibilities electroencephalographically photosynthesis"], "incomprehensibilities"),
        (["...", " \n"], None),
        (["'When I ought to go, I went"], "When I ought to"),
        (["\u201cIt is late,\u201d he said. Then he went"], "It is"),
        (["The keeper's daughter", "and so it goes", "It is late again"], "It is late again"),
        (["don't", "word"], "word"),
        (["don't"], "don't"),
        ([], None),
    ],
)
def test_the_prompt_is_one_line_of_whole_words(texts, words):
    assert opening_words(texts) == words


def test_a_path_within_python_within_a_shell_stays_what_it_is():
    for path in ('runs/it\'s "mine"', "runs/$HOME `x`", "runs/a\\b"):
        code = "import sys; print(sys.argv[1])"
        command = classify_command(path, text='say "it\'s" $1').replace("python -c", f"python -c {shlex.quote(code)}")
        written = subprocess.run(command, shell=True, capture_output=True, text=True).stdout.rstrip("\n")
        assert f"pipeline('text-classification', {path!r})" in written


# Folders without a model


def unfinished(folder: Path, *checkpoints: tuple[str, int]) -> Path:
    folder.mkdir()
    (folder / "run.yaml").write_text("max_steps: 100\n")
    for name, step in checkpoints:
        place = folder / name / f"checkpoint-{step}"
        place.mkdir(parents=True)
        (place / "model.safetensors").write_bytes(b"")
        (place / "trainer_state.json").write_text(json.dumps({"global_step": step, "max_steps": 1200}))
    return folder


ATTEMPTS = {
    "generate": lambda folder: recipe("generate", model=str(folder), prompt=["a"]),
    "evaluate": lambda folder: recipe("evaluate", model=str(folder), text=["a.txt"]),
    "check": lambda folder: recipe("check", folder=str(folder)),
    "publish": lambda folder: recipe("publish", folder=str(folder), repo="me/x"),
    "convert": lambda folder: recipe("convert", source=str(folder), output_dir=f"{folder}-out"),
    "classify": lambda folder: run("finetune_classification", folder),
    "instruct": lambda folder: run("finetune_instructions", folder),
}


def run(name: str, folder: Path) -> None:
    rows = folder.parent / "rows.jsonl"
    rows.write_text("".join(json.dumps({"text": f"t{n}", "label": "ab"[n % 2], "instruction": f"q{n}", "output": "a"}) + "\n"
                            for n in range(40)))  # fmt: skip
    done = run_script(f"{name}.py", "--model", folder, "--sources", rows, "--output_dir", f"{folder}-out", "--use_cpu", "true")
    assert done.returncode == 1
    raise UserError(done.stderr)


@pytest.mark.parametrize("door", ATTEMPTS)
def test_a_run_in_progress_and_a_missing_folder_are_called_what_they_are(door, tmp_path):
    folder = unfinished(tmp_path / "run", ("", 40), ("", 200))
    with pytest.raises(UserError, match="contains a run that is still training or was stopped") as refusal:
        ATTEMPTS[door](folder)
    assert f"(step 200 of 1,200): use {folder / 'checkpoint-200'}, or start the same command again" in str(refusal.value)
    with pytest.raises(UserError, match="does not exist") as refusal:
        ATTEMPTS[door](tmp_path / "nowhere")
    assert f"{tmp_path / 'nowhere'} does not exist (looked from {Path.cwd()})" in str(refusal.value)
    with pytest.raises(UserError, match="is still training or was stopped before its first checkpoint"):
        ATTEMPTS[door](unfinished(tmp_path / "begun"))


def test_which_names_can_only_be_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    unfinished(Path("seeds"), ("seed-0", 7), ("seed-1", 3))
    assert "use seeds/seed-1/checkpoint-3" in why_no_model("seeds")
    for name in ("./x", "../x", "a/b/c", "/x", "seeds/x", "with space"):
        assert why_no_model(name).startswith(f"{name} does not exist (looked from {tmp_path})"), name
    for name in ("gpt2", "user/model", "user/model-1.0"):  # which may be on the Hub
        assert why_no_model(name) is None, name
    for file, sentence in (
        ("dataset_dict.json", "contains prepared data"),
        ("tokenizer.json", "contains a tokenizer"),
        ("x", "contains no model"),
    ):
        place = tmp_path / f"folder {file}"
        place.mkdir()
        (place / file).write_text("{}")
        assert sentence in why_no_model(place)
    assert why_no_model(tmp_path / "seeds" / "run.yaml").endswith("is a file; give the folder of a model.")
    model = Path("mine/base")  # what from-text leaves: its model is one folder further in
    model.mkdir(parents=True)
    for file in ("config.json", "model.safetensors"):
        (model / file).touch()
    assert why_no_model("mine") == "mine contains no model: there is no config.json; did you mean mine/base?"


def test_data_and_tokenizers_that_are_not_there_are_missing(small_tokenizer, tmp_path):
    missing = tmp_path / "nowhere"
    with pytest.raises(MissingFileError, match=f"{missing} does not exist"):
        recipe("prepare_data", sources=["python-docs"], tokenizer=str(missing), output_dir=str(tmp_path / "out"))
    done = run_script("pretrain.py", "--dataset", missing, "--output_dir", tmp_path / "out", "--use_cpu", "true")
    assert done.returncode == 1
    assert f"error: {missing} does not exist" in done.stderr
