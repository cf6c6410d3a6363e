"""The README's commands on what newcomers have: one small file, a folder of notes; only names have to be given."""

import json
import logging
import shutil

import pytest
from datasets import load_from_disk
from recipes_in_process import RECIPES, recipe, run_script

from hfgpt.tokenization import load_tokenizer


@pytest.fixture(scope="module")
def one_file(tmp_path_factory):
    """A folder with a file of 20 KB, and what the README's first two commands printed for it."""
    folder = tmp_path_factory.mktemp("one file")
    (folder / "my_texts").mkdir()
    colours = ("grey", "green", "old")
    lines = (f"Chapter {n % 9}: the {colours[n % 3]} boat number {n} goes to sea, and nobody sees it leave.\n" for n in range(270))
    (folder / "my_texts" / "story.txt").write_text("".join(lines))
    said = []
    for words in (
        ("train_tokenizer.py", "--sources", "my_texts/*.txt", "--output_dir", "runs/mine/tokenizer"),
        ("prepare_data.py", "--tokenizer", "runs/mine/tokenizer", "--output_dir", "runs/mine/data"),
    ):
        done = run_script(*words, cwd=folder)
        assert done.returncode == 0, done.stdout + done.stderr
        said.append(done.stdout)
    return folder, said


def test_the_first_command_chooses_the_vocabulary_and_the_split_and_says_so(one_file):
    _, (said, _) = one_file
    assert "split: there is 1 document, so it is cut by position: the first 90 % for training" in said
    assert "tokenizer: vocab_size 768, which suits 1" in said
    assert said.splitlines()[-1].startswith(
        f"next: python {RECIPES / 'prepare_data.py'} --tokenizer runs/mine/tokenizer --output_dir "
    )


def test_a_text_with_fewer_tokens_than_that_gives_a_smaller_vocabulary(one_file):
    folder, (said, _) = one_file
    size = len(load_tokenizer(folder / "runs/mine/tokenizer"))
    assert 260 < size < 768
    assert (
        f"tokenizer: the text only yields {size} distinct tokens, fewer than vocab_size 768, so the tokenizer is smaller." in said
    )


def test_the_second_command_takes_sources_and_split_from_the_tokenizer_and_a_context_that_gives_rows(one_file):
    folder, (_, said) = one_file
    assert (
        "data: same as for the tokenizer runs/mine/tokenizer: sources my_texts/*.txt, split_by position, validation_share" in said
    )
    assert "data: context_length 64, because" in said
    passport = json.loads((folder / "runs/mine/data/passport.json").read_text())
    settings = {key: passport["settings"][key] for key in ("sources", "split_by", "test_share", "context_length")}
    assert settings == {"sources": ["my_texts/*.txt"], "split_by": "position", "test_share": 0.05, "context_length": 64}
    rows = load_from_disk(folder / "runs/mine/data")
    assert {name: len(part) > 2 for name, part in rows.items()} == {"train": True, "validation": True, "test": True}
    tokenizer = json.loads((folder / "runs/mine/tokenizer/passport.json").read_text())
    assert passport["splits"]["train"]["bytes"] == tokenizer["splits"]["train"]["bytes"]  # it has seen only the training text


def test_the_third_command_trains_on_it(one_file):
    folder, _ = one_file
    small = ("--depth", 1, "--max_steps", 2, "--cpu_threads", 1, "--eval_strategy", "no", "--sample_tokens", 2)
    done = run_script("pretrain.py", "--dataset", "runs/mine/data", "--output_dir", "runs/mine/base", *small, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "bits per byte" in (folder / "runs/mine/base/report.txt").read_text()


def test_whoever_says_otherwise_is_obeyed_and_warned(one_file, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    folder, _ = one_file
    monkeypatch.chdir(folder)
    recipe("prepare_data", tokenizer="runs/mine/tokenizer", test_share=0.2, context_length=32, output_dir="runs/told/data")
    assert (
        "the tokenizer was trained with test_share 0.05, but here it is 0.2: it has seen documents that are now held out"
        in caplog.text
    )
    assert len(load_from_disk("runs/told/data")["train"][0]["input_ids"]) == 32
    with pytest.raises(ValueError, match=r"the validation split is empty: 1 document,.*split_by 'document'"):
        recipe("prepare_data", tokenizer="runs/mine/tokenizer", split_by="document", output_dir="runs/no/data")


def test_sources_that_changed_or_are_gone_since_are_named(one_file, monkeypatch, caplog, tmp_path):
    folder, _ = one_file
    shutil.copytree(folder, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    story = tmp_path / "copy" / "my_texts" / "story.txt"
    story.write_text(story.read_text() + "One more line.\n" * 50)
    recipe("prepare_data", tokenizer="runs/mine/tokenizer", output_dir="runs/again/data")
    assert "the sources have changed since the tokenizer was trained" in caplog.text
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        FileNotFoundError, match=r"'my_texts' does not exist.*This source comes from the passport of the tokenizer copy/runs"
    ):
        recipe("prepare_data", tokenizer="copy/runs/mine/tokenizer", output_dir="data")


def test_a_tokenizer_that_is_not_ours_names_no_sources(small_tokenizer, tmp_path):
    shutil.copytree(small_tokenizer, tmp_path / "t", ignore=shutil.ignore_patterns("passport.json"))
    with pytest.raises(
        ValueError, match="no sources given, and there is no passport beside the tokenizer .* that lists any; give --sources"
    ):
        recipe("prepare_data", tokenizer=str(tmp_path / "t"), output_dir=str(tmp_path / "data"))
    with pytest.raises(ValueError, match="beside the tokenizer nowhere .no such folder. that lists any"):
        recipe("prepare_data", tokenizer="nowhere", output_dir=str(tmp_path / "data"))


def test_a_folder_of_notes_is_read_and_what_the_recipes_wrote_in_it_is_not(tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.chdir(tmp_path)
    for n in range(300):
        (tmp_path / f"note {n}.md").write_text(f"# Note {n}\n\nOn day {n} I read about {n * 7} boats.\n" * 3)
    recipe("train_tokenizer", sources=["."], output_dir="runs/t")
    recipe("prepare_data", tokenizer="runs/t", output_dir="runs/d")
    passport = json.loads((tmp_path / "runs/d/passport.json").read_text())
    assert passport["settings"]["split_by"] == "document"
    assert sum(counts["documents"] for counts in passport["splits"].values()) == 300
    assert "sources: ., leaving out 2 files written by hfgpt recipes, such as runs/t/README.md" in caplog.text


def test_rows_that_cannot_be_used_are_counted_in_both_passports(tmp_path, small_tokenizer):
    lines = [json.dumps({"text": f"line {n} of a text with words in it\n" * 4}) for n in range(200)]
    lines[7], lines[90] = "not JSON", '{"text": null}'
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    sources = [str(tmp_path / "rows.jsonl")]
    with pytest.raises(ValueError, match=r"line 8: not valid JSON.*set --on_error skip"):
        recipe("train_tokenizer", sources=sources, output_dir=str(tmp_path / "t"))
    recipe("train_tokenizer", sources=sources, on_error="skip", output_dir=str(tmp_path / "t"))
    recipe("prepare_data", tokenizer=str(tmp_path / "t"), output_dir=str(tmp_path / "d"))  # takes on_error from there, too
    for folder in ("t", "d"):
        steps = json.loads((tmp_path / folder / "passport.json").read_text())["steps"]
        (skipped,) = [step for step in steps if step["step"] == "skip rows that cannot be used"]
        assert skipped["reasons"] == {"not valid JSON": 1, "the text is a null": 1}
