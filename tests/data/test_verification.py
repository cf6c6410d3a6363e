import json
import shutil
from pathlib import Path

import datasets
import pytest
from datasets import DatasetDict, load_from_disk

from hfgpt.data.passport import Passport
from hfgpt.data.verification import check_rows, check_tokenizer, report, verify_folder
from hfgpt.errors import UserError
from hfgpt.tokenization import load_tokenizer


@pytest.fixture
def folder(small_rows, tmp_path) -> Path:
    return Path(shutil.copytree(small_rows, tmp_path / "rows"))


def save_anew(folder: Path, **changed) -> None:
    """Save the rows again with some splits replaced."""
    rows = DatasetDict({name: changed.get(name, split) for name, split in load_from_disk(folder).items()})
    rows.save_to_disk(folder.parent / "anew")
    for name in rows:
        shutil.rmtree(folder / name)
        (folder.parent / "anew" / name).rename(folder / name)


def with_other_id(split: datasets.Dataset, row: int) -> datasets.Dataset:
    def change(one, index):
        return {"input_ids": [one["input_ids"][0] ^ 1, *one["input_ids"][1:]]} if index == row else one

    return split.map(change, with_indices=True)


def differing(folder: Path) -> list[str]:
    return [one.what for one in verify_folder(folder) if one.outcome == "differs"]


def test_what_was_prepared_matches_all_that_its_passport_says(small_rows, small_corpus, caplog):
    caplog.set_level("INFO", logger="hfgpt")
    findings = verify_folder(small_rows)
    assert [one.what for one in findings] == [
        "rows of train", "counts of train", "rows of validation", "counts of validation", "rows of test", "counts of test",
        "tokenizer", f"source {small_corpus}",
    ]  # fmt: skip
    assert {one.outcome for one in findings} == {"matches"}
    report(findings, small_rows)
    assert "everything matches" in caplog.text


def test_another_id_in_one_row_is_found_and_training_and_evaluation_refuse_it(folder):
    save_anew(folder, validation=with_other_id(load_from_disk(folder)["validation"], 3))
    findings = verify_folder(folder)
    assert differing(folder) == ["rows of validation"]
    last = Passport.load(folder).splits["validation"]["rows"] - 1
    assert any(f"one of rows 0 to {last}" in one.detail for one in findings)
    with pytest.raises(UserError, match="does not match its passport: rows of validation"):
        report(findings, folder)
    passport = Passport.load(folder)
    said = passport.rows["validation"]["sha256"][:16]
    with pytest.raises(UserError, match=rf"the validation rows .* the passport says {said}.*prepare the data again"):
        check_rows(folder, passport)
    check_rows(folder, passport, splits=["train", "test"])  # these splits are still as prepared


def test_rows_that_are_missing_are_counted(folder):
    train = load_from_disk(folder)["train"]
    save_anew(folder, train=train.select(range(len(train) - 1)))
    (found,) = [one for one in verify_folder(folder) if one.outcome == "differs"]
    assert found.what == "rows of train"
    assert f"{len(train) - 1:,} rows, but the passport says {len(train):,}" in found.detail


def test_a_split_or_a_file_that_is_gone_and_one_that_was_added_are_named(folder):
    shutil.rmtree(folder / "test")
    next((folder / "validation").glob("*.arrow")).unlink()
    (folder / "dataset_dict.json").write_text(json.dumps({"splits": ["train", "validation", "extra"]}))
    assert differing(folder) == ["rows of validation", "rows of test", "rows of extra"]


def test_another_tokenizer_is_found(folder):
    content = json.loads((folder / "tokenizer" / "tokenizer.json").read_text())
    content["model"]["merges"].pop()
    (folder / "tokenizer" / "tokenizer.json").write_text(json.dumps(content))
    assert differing(folder) == ["tokenizer"]
    with pytest.raises(UserError, match=r"not the one that made its rows \(SHA-256 .*, but the passport says "):
        check_tokenizer(load_tokenizer(folder / "tokenizer"), folder, Passport.load(folder))


def test_a_tokenizer_that_does_not_load_is_a_finding_like_the_others(folder):
    (folder / "tokenizer" / "tokenizer.json").write_text("{")
    assert differing(folder) == ["tokenizer"]
    shutil.rmtree(folder / "tokenizer")
    assert differing(folder) == ["tokenizer"]


def test_a_folder_of_something_else_is_refused(folder, tmp_path):
    (folder / "dataset_dict.json").unlink()  # like a model folder, which contains the passport of its data
    with pytest.raises(UserError, match="does not contain prepared data"):
        verify_folder(folder)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        verify_folder(tmp_path / "nowhere")


def test_counts_that_the_rows_do_not_have_are_found(folder):
    passport = Passport.load(folder)
    passport.splits["train"]["tokens"] += 10
    passport.splits["test"]["tokens"] += 1
    passport.splits["test"]["padding"] -= 1
    passport.save(folder)
    found = {one.what: one.detail for one in verify_folder(folder) if one.outcome == "differs"}
    assert found.keys() == {"counts of train", "counts of test"}
    assert "the passport accounts for" in found["counts of train"]
    assert "positions are padding, but the passport says" in found["counts of test"]


def test_sources_that_changed_are_found_and_those_that_are_gone_are_said(folder, tmp_path, caplog):
    caplog.set_level("INFO", logger="hfgpt")
    passport = Passport.load(folder)
    (tmp_path / "texts.jsonl").write_text('{"text": "other"}\n')
    (entry,) = passport.inputs
    passport.inputs = [entry | {"name": str(tmp_path / "texts.jsonl")}, entry | {"name": str(tmp_path / "gone.jsonl")}]
    passport.save(folder)
    outcomes = {one.what: one for one in verify_folder(folder) if one.what.startswith("source")}
    changed, gone = (outcomes[f"source {entry['name']}"] for entry in passport.inputs)
    assert (changed.outcome, gone.outcome) == ("differs", "missing")
    assert f"bytes 18, but the passport says {entry['bytes']:,}; sha256 " in changed.detail
    report([gone], folder)
    assert "everything matches; 1 source is not here and cannot be compared" in caplog.text


def test_data_without_hashes_of_its_rows_is_to_be_prepared_again(folder):
    passport = Passport.load(folder)
    passport.rows = {}
    passport.save(folder)
    for check in (lambda: verify_folder(folder), lambda: check_rows(folder, passport)):
        with pytest.raises(UserError, match=r"passport\.json has no SHA-256 of rows; prepare the data again"):
            check()
