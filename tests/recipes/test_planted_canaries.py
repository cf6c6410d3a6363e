"""recipes/prepare_data.py with plant_canaries."""

import hashlib
import json
import re
import shutil
from collections import Counter

import pytest
from datasets import load_from_disk
from recipes_in_process import load, recipe

from hfgpt.arguments.documents import PrepareArguments
from hfgpt.arguments.parsing import parse_arguments
from hfgpt.artifacts import identify
from hfgpt.hygiene.memorization import documents_of
from hfgpt.hygiene.planted_secrets import PLANTED_NAME, read_canaries
from hfgpt.tokenization import load_tokenizer


@pytest.fixture(scope="module")
def prepare(small_corpus, small_tokenizer, tmp_path_factory):
    def run(**arguments):
        folder = tmp_path_factory.mktemp("planted") / "rows"
        shares = dict(validation_share=0.1, test_share=0.1)
        recipe("prepare_data", sources=[str(small_corpus)], tokenizer=str(small_tokenizer), context_length=64,
               output_dir=str(folder), **{**shares, **arguments})  # fmt: skip
        return folder

    return run


@pytest.fixture(scope="module")
def planted(prepare):
    return prepare(plant_canaries=True, canary_counts=[1, 5], canaries_per_count=2)


def counts_in(rows, tokenizer, canaries) -> Counter:
    texts = Counter(documents_of(rows, tokenizer))
    return Counter({canary.name: texts[canary.text] for canary in canaries})


def test_every_copy_stands_whole_in_the_training_rows_and_in_no_others(planted):
    canaries, tokenizer = read_canaries(planted), load_tokenizer(planted / "tokenizer")
    rows = load_from_disk(planted)
    assert sorted(Counter(canary.count for canary in canaries).items()) == [(0, 4), (1, 2), (5, 2)]
    assert counts_in(rows["train"], tokenizer, canaries) == Counter({canary.name: canary.count for canary in canaries})
    for name in ("validation", "test"):
        assert len(rows[name])
        assert counts_in(rows[name], tokenizer, canaries).total() == 0


def test_the_passport_names_the_step_and_accounts_for_the_copies(planted, small_rows):
    passport = json.loads((planted / "passport.json").read_text())
    (step,) = [step for step in passport["steps"] if step["step"] == "plant canaries"]
    assert step["sha256"] == hashlib.sha256((planted / PLANTED_NAME).read_bytes()).hexdigest()
    assert step["copies"] == 12 == step["documents_out"] - step["documents_in"]
    assert passport["settings"]["plant_canaries"] is True
    assert passport["settings"]["canary_counts"] == [1, 5]
    without = json.loads((small_rows / "passport.json").read_text())
    counts = passport["splits"]["train"]
    assert counts["documents"] == without["splits"]["train"]["documents"] + 12
    assert counts["rows"] * 64 == counts["tokens"] + counts["separators"] + counts["repeated"] + counts["padding"]
    assert passport["splits"]["test"] == without["splits"]["test"]  # what is held out does not change


def test_the_same_arguments_prepare_the_same_bytes_and_another_seed_others(planted, prepare):
    again = prepare(plant_canaries=True, canary_counts=[1, 5], canaries_per_count=2)
    assert (again / PLANTED_NAME).read_bytes() == (planted / PLANTED_NAME).read_bytes()
    assert load_from_disk(again)["train"][:] == load_from_disk(planted)["train"][:]
    other = prepare(plant_canaries=True, canary_counts=[1, 5], canaries_per_count=2, canary_seed=1)
    assert not {canary.secret for canary in read_canaries(other)} & {canary.secret for canary in read_canaries(planted)}


def test_windows_hold_every_copy_too(prepare):
    folder = prepare(plant_canaries=True, canary_counts=[3], canaries_per_count=1, window=64, stride=16)
    canaries, tokenizer = read_canaries(folder), load_tokenizer(folder / "tokenizer")
    found = counts_in(load_from_disk(folder)["train"], tokenizer, canaries)
    assert found == Counter({canary.name: canary.count for canary in canaries})


def test_evaluate_says_in_the_card_what_is_known_by_heart_and_the_quotations_stay_here(planted, small_run, tmp_path):
    pytest.importorskip("pydivsufsort", reason="needs the package pydivsufsort, an extra")
    folder = tmp_path / "base"
    shutil.copytree(small_run, folder, ignore=shutil.ignore_patterns("checkpoint-*"))
    recipe("evaluate", model=str(folder), dataset=str(planted), memorization=True, num_samples=4, sample_tokens=16)
    report = json.loads((folder / "memorization.json").read_text())
    assert [row["count"] for row in report["canaries"]["by_count"]] == [0, 1, 5]
    assert report["overlap"]["samples"]["num"] == 4
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "## Memorization" in card
    assert "| 5 times | 2 |" in card
    published = {path.name for path in identify(folder).files()}
    assert "memorization.png" in published
    assert not {"memorization.json", PLANTED_NAME} & published


def test_without_the_key_nothing_is_planted(small_rows):
    assert not (small_rows / PLANTED_NAME).exists()
    assert read_canaries(small_rows) == []
    texts = list(documents_of(load_from_disk(small_rows)["train"], load_tokenizer(small_rows / "tokenizer")))
    assert texts
    assert not [text for text in texts if "access code of" in text]


def test_counts_come_from_yaml_and_from_the_command_line(tmp_path):
    (tmp_path / "data.yaml").write_text("tokenizer: t\noutput_dir: o\nplant_canaries: true\ncanary_counts: [1, 3]\n")
    assert parse_arguments(PrepareArguments, [str(tmp_path / "data.yaml")]).canary_counts == [1, 3]
    arguments = parse_arguments(PrepareArguments, [str(tmp_path / "data.yaml"), "--canary_counts", "2", "7"])
    assert (arguments.plant_canaries, arguments.canary_counts) == (True, [2, 7])


@pytest.mark.parametrize(
    ("mistake", "sentence"),
    [
        ("--plant_canaries true --canary_counts 2 2", "canary_counts is [2, 2]; it must contain different numbers of copies"),
        ("--plant_canaries true --canaries_per_count 0", "canaries_per_count is 0; it must be at least 1"),
        ("--plant_canaries true --context_length 16", "but context_length is 16; it would be cut"),
    ],
)
def test_mistakes_are_answered_before_anything_is_written(mistake, sentence, small_corpus, small_tokenizer, tmp_path):
    words = ["--sources", str(small_corpus), "--tokenizer", str(small_tokenizer), "--output_dir", str(tmp_path / "out")]
    with pytest.raises(ValueError, match=re.escape(sentence)):
        load("prepare_data").main(parse_arguments(PrepareArguments, [*words, *mistake.split()]))
    assert list(tmp_path.iterdir()) == []
