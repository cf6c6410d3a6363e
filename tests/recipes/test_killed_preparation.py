"""Killed at any moment and started again, preparing leaves the bytes of an uninterrupted run, and nothing else."""

import json
import random
import signal
import subprocess
import sys
import time

import pytest
from killing import CONTEXT, kill, run_main
from recipes_in_process import RECIPES, recipe

from hfgpt.files import sha256_of_file


def contents(folder):
    """The SHA-256 of every file; for a passport its content, without the times of its steps."""
    found = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        found[name] = sha256_of_file(path)
        if path.name == "passport.json":
            passport = json.loads(path.read_text())
            for step in passport["steps"]:
                step.pop("seconds", None)
            found[name] = passport
    assert len(found) > 3
    return found


def names(folder):
    return [path.name for path in folder.iterdir()]


def folders(tmp_path):
    """Two places for a result with the same name, because the card contains it."""
    places = [tmp_path / "straight" / "out", tmp_path / "killed" / "out"]
    for place in places:
        place.parent.mkdir()
    return places


@pytest.fixture(scope="module")
def words(small_corpus, small_tokenizer):
    return ["--sources", small_corpus, "--tokenizer", small_tokenizer, "--context_length", "64"]


MOMENTS = [
    ("hfgpt.data.sources.write_documents", 1),
    ("hfgpt.hygiene.documents.drop_document_copies", 1),
    ("hfgpt.data.preparation.write_rows", 2),  # of the validation split
    ("pathlib.Path.rename", 2),  # while the rows are moved
    ("hfgpt.data.passport.write_json", 1),
    ("pathlib.Path.rename", 4),  # of the whole folder
]


def test_rows_are_the_same_whenever_their_making_was_killed(words, tmp_path):
    straight, killed = folders(tmp_path)
    run_main("prepare_data", [*words, "--output_dir", straight])
    for at, call in MOMENTS:
        kill("prepare_data", [*words, "--output_dir", killed], at=at, call=call)
        assert not killed.exists()
        assert (killed.parent / ".hfgpt-out").is_dir()  # what the next start removes
    generator = random.Random(time.time_ns())
    for _ in range(2):
        process = CONTEXT.Process(target=run_main, args=("prepare_data", [*words, "--output_dir", killed, "--overwrite", "true"]))
        process.start()
        process.join(timeout=generator.uniform(0.1, 3))
        process.kill()
        process.join()
    run_main("prepare_data", [*words, "--output_dir", killed, "--overwrite", "true"])
    assert contents(killed) == contents(straight)
    assert names(killed.parent) == ["out"]


def test_a_tokenizer_is_the_same_whenever_its_making_was_killed(small_corpus, tmp_path):
    words = ["--sources", small_corpus, "--vocab_size", "300"]
    straight, killed = folders(tmp_path)
    run_main("train_tokenizer", [*words, "--output_dir", straight])
    for at, call in (("hfgpt.data.sources.write_documents", 1), ("hfgpt.data.passport.write_json", 1), ("pathlib.Path.rename", 1)):
        kill("train_tokenizer", [*words, "--output_dir", killed], at=at, call=call)
    run_main("train_tokenizer", [*words, "--output_dir", killed])
    assert contents(killed) == contents(straight)
    assert names(killed.parent) == ["out"]


def test_what_was_to_be_replaced_is_there_again_after_a_kill_between_the_two_renames(words, tmp_path):
    out = tmp_path / "out"
    run_main("prepare_data", [*words, "--output_dir", out])
    before = contents(out)
    kill("prepare_data", [*words, "--output_dir", out, "--overwrite", "true"], at="pathlib.Path.rename", call=5)
    assert not out.exists()
    run_main("prepare_data", [*words, "--output_dir", out, "--overwrite", "true"])
    assert contents(out) == before
    assert names(tmp_path) == ["out"]


WAITS = """
import sys, time
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from hfgpt.files import work_folder
with work_folder(Path(sys.argv[2])):
    print("begun", flush=True)
    time.sleep(600)
"""


def test_a_second_writer_is_refused_while_the_first_lives_and_not_after(words, small_corpus, small_tokenizer, tmp_path):
    out = tmp_path / "out"
    root = str(RECIPES.parent)
    with subprocess.Popen([sys.executable, "-c", WAITS, root, str(out)], stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout.readline() == "begun\n"
        with pytest.raises(ValueError, match=rf"out is being written by another process \(process {first.pid}\)"):
            recipe("prepare_data", sources=[str(small_corpus)], tokenizer=str(small_tokenizer), output_dir=str(out))
        assert names(tmp_path) == [".hfgpt-out"]
        first.send_signal(signal.SIGKILL)
    run_main("prepare_data", [*words, "--output_dir", out])
    assert names(tmp_path) == ["out"]


def test_the_number_of_processes_is_no_part_of_the_result(words, tmp_path):
    places = folders(tmp_path)
    for place, number in zip(places, (1, 3), strict=True):
        run_main("prepare_data", [*words, "--num_proc", number, "--output_dir", place])
    assert contents(places[0]) == contents(places[1])
