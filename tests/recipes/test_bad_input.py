"""Mistakes end in one clear sentence within seconds, exit code 1, and nothing half-written.

Each recipe is started once as a user would start it. The other mistakes run the same script in this process, to save its imports.
"""

import json
import os
from pathlib import Path

import pytest
from recipes_in_process import recipe, run_script

TOKENIZER = "train_tokenizer.py"
PREPARE = "prepare_data.py"


def refused(done, *words):
    assert done.returncode == 1, done.stdout + done.stderr
    (sentence,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    for word in words:
        assert word in sentence
    assert "Traceback" not in done.stderr


def left_behind(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_missing_file_and_a_pattern_without_a_match(tmp_path):
    out = tmp_path / "out"
    done = run_script(TOKENIZER, "--sources", "no/such.txt", "--vocab_size", 300, "--output_dir", out)
    refused(done, "no/such.txt does not exist")
    done = run_script(TOKENIZER, "--sources", "no/*.txt", "--vocab_size", 300, "--output_dir", out)
    refused(done, "the folder 'no' does not exist")
    assert left_behind(tmp_path) == []


def test_a_blank_corpus_says_how_many_tokens_it_has_and_needs(small_tokenizer, tmp_path):
    (tmp_path / "blank.txt").write_text(" \n\t\n")
    with pytest.raises(ValueError, match="the sources contain no text: 0 tokens, but one row needs 64"):
        recipe("prepare_data", sources=[str(tmp_path / "blank.txt")], tokenizer=str(small_tokenizer), context_length=64,
               output_dir=str(tmp_path / "out"))  # fmt: skip
    (tmp_path / "few.txt").write_text("few words\n" * 3)
    with pytest.raises(ValueError, match=r"the training documents have \d+ tokens, but one row needs 64"):
        recipe("prepare_data", sources=[str(tmp_path / "few.txt")], tokenizer=str(small_tokenizer), context_length=64,
               validation_share=0.0, test_share=0.0, output_dir=str(tmp_path / "out"))  # fmt: skip
    few = dict(sources=[str(tmp_path / "few.txt")], tokenizer=str(small_tokenizer), validation_share=0.0, test_share=0.0)
    with pytest.raises(ValueError, match=r"but one row needs 64; give more text, or --context_length (\d+)\.$") as refused_with:
        recipe("prepare_data", **few, context_length=64, output_dir=str(tmp_path / "out"))
    assert left_behind(tmp_path) == ["blank.txt", "few.txt"]
    works = int(str(refused_with.value).split()[-1].rstrip("."))
    assert recipe("prepare_data", **few, context_length=works, output_dir=str(tmp_path / "out"))["train_rows"] >= 1


def test_documents_that_are_all_dropped_name_the_step_and_its_key(small_tokenizer, tmp_path):
    (tmp_path / "mail.jsonl").write_text("".join(f'{{"text": "Write to ann{i}@example.org, please."}}\n' for i in range(9)))
    given = dict(sources=[str(tmp_path / "mail.jsonl")], personal_data="drop", output_dir=str(tmp_path / "out"))
    said = "no document is left: the step 'personal data' dropped 9 of 9 documents, because personal_data is drop; --personal"
    for name, key in (("prepare_data", {"tokenizer": str(small_tokenizer)}), ("train_tokenizer", {"vocab_size": 300})):
        with pytest.raises(ValueError, match=said):
            recipe(name, **given, **key)


def test_an_empty_corpus(small_tokenizer, tmp_path):
    (tmp_path / "empty.txt").write_text("")
    words = ("--sources", tmp_path / "empty.txt", "--output_dir", tmp_path / "out")
    refused(run_script(PREPARE, *words, "--tokenizer", small_tokenizer), "contain no text: 0 tokens, but one row needs 64")
    refused(run_script(TOKENIZER, *words, "--vocab_size", 300), "the sources contain no text; give files with text")
    assert left_behind(tmp_path) == ["empty.txt"]


def test_one_document_that_is_held_out_whole_is_answered_with_the_cure(tmp_path):
    (tmp_path / "one.txt").write_text("one document, and nothing but it\n" * 50)
    with pytest.raises(ValueError, match="no document is left to train on.*--split_by position"):
        recipe("train_tokenizer", sources=[str(tmp_path / "one.txt")], vocab_size=270, test_share=0.99, validation_share=0.0,
               split_by="document", output_dir=str(tmp_path / "out"))  # fmt: skip


def test_invalid_utf8_in_the_middle_leaves_nothing(small_tokenizer, tmp_path):
    (tmp_path / "latin.txt").write_bytes(b"fine\n" * 1000 + b"caf\xe9\n")
    done = run_script(
        PREPARE, "--sources", tmp_path / "latin.txt", "--tokenizer", small_tokenizer, "--output_dir", tmp_path / "out"
    )
    refused(done, "latin.txt, line 1001, byte 5004 of the file: 0xe9 is not valid UTF-8")
    assert left_behind(tmp_path) == ["latin.txt"]


def test_a_broken_json_line(small_tokenizer, tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"text": "a"}\n{"text": 3}\n')
    done = run_script(
        PREPARE, "--sources", tmp_path / "rows.jsonl", "--tokenizer", small_tokenizer, "--output_dir", tmp_path / "out"
    )
    refused(done, "rows.jsonl, line 2: the field 'text' is a number, but must be a string")
    assert left_behind(tmp_path) == ["rows.jsonl"]


def test_a_vocabulary_that_is_too_small_is_refused_before_reading(tmp_path):
    with pytest.raises(ValueError, match="vocab_size is 100, but must be at least 260"):
        recipe("train_tokenizer", sources=["no/such.txt"], vocab_size=100, output_dir=str(tmp_path / "out"))


def test_a_stride_above_the_window(small_tokenizer, small_corpus, tmp_path):
    done = run_script(PREPARE, "--sources", small_corpus, "--tokenizer", small_tokenizer, "--window", 8, "--stride", 9,
                      "--output_dir", tmp_path / "out")  # fmt: skip
    refused(done, "stride is 9 and window is 8")


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"num_attention_heads": 3}, ("hidden_size 128 is not divisible by num_attention_heads 3",)),
        ({"max_position_embeddings": 32}, ("the rows are 64 tokens long, but the model's max_position_embeddings is 32",)),
        ({"vocab_size": 300}, ("the tokenizer has 512 tokens, but the model's vocab_size is 300",)),
        ({"hidden_sice": 128}, ("unknown key 'hidden_sice' in config_overrides; did you mean 'hidden_size'?",)),
        ({"hidden_size": "wide"}, ("config_overrides: Field 'hidden_size' expected int, got str (value: 'wide')",)),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_model_that_does_not_fit_its_rows(run_recipe, small_rows, tmp_path, overrides, words):
    if "num_attention_heads" in overrides:
        overrides = {**overrides, "num_key_value_heads": 3, "head_dim": None}
    run = run_recipe if "hidden_size" in overrides else run_script
    done = run("pretrain.py", "--dataset", small_rows, "--depth", 2, "--config_overrides", json.dumps(overrides),
               "--output_dir", tmp_path / "out")  # fmt: skip
    refused(done, *words)
    assert left_behind(tmp_path) == []


def test_an_unknown_yaml_key(tmp_path):
    (tmp_path / "run.yaml").write_text("dataset: x\noutput_dir: y\nlerning_rate: 1.0\n")
    done = run_script("pretrain.py", tmp_path / "run.yaml")
    refused(done, "unknown key 'lerning_rate' in", "did you mean 'learning_rate'?")


@pytest.mark.skipif(os.geteuid() == 0 and not Path("/proc/self").exists(), reason="root may write anywhere but into /proc")
def test_an_output_folder_that_cannot_be_written(small_corpus, small_tokenizer, small_rows, tmp_path):
    out = "/proc/self/hfgpt" if os.geteuid() == 0 else str(tmp_path / "closed" / "out")
    (tmp_path / "closed").mkdir(mode=0o500)
    refused(run_script(TOKENIZER, "--sources", small_corpus, "--vocab_size", 300, "--output_dir", out), "cannot be written")
    refused(
        run_script(PREPARE, "--sources", small_corpus, "--tokenizer", small_tokenizer, "--output_dir", out), "cannot be written"
    )
    refused(run_script("pretrain.py", "--dataset", small_rows, "--output_dir", out), "cannot be written")


def test_a_folder_that_is_no_prepared_data_and_one_whose_rows_are_gone(small_rows, tmp_path):
    import shutil

    arguments = dict(depth=2, output_dir=str(tmp_path / "out"))
    with pytest.raises(FileNotFoundError, match="nothing does not exist"):
        recipe("pretrain", dataset=str(tmp_path / "nothing"), **arguments)
    with pytest.raises(FileNotFoundError, match="passport.json does not exist"):
        recipe("pretrain", dataset=str(tmp_path), **arguments)
    shutil.copytree(small_rows, tmp_path / "rows")
    passport = json.loads((tmp_path / "rows" / "passport.json").read_text())
    passport["splits"]["train"]["rows"] += 1
    (tmp_path / "rows" / "passport.json").write_text(json.dumps(passport))
    with pytest.raises(ValueError, match="the passport says .* train rows, but there are"):
        recipe("pretrain", dataset=str(tmp_path / "rows"), **arguments)


def test_the_tokenizer_of_other_rows_is_refused(small_rows, small_corpus, tmp_path):
    import shutil

    shutil.copytree(small_rows, tmp_path / "rows")
    shutil.rmtree(tmp_path / "rows" / "tokenizer")
    recipe("train_tokenizer", sources=[str(small_corpus)], vocab_size=400, output_dir=str(tmp_path / "rows" / "tokenizer"))
    with pytest.raises(ValueError, match="is not the one that made its rows"):
        recipe("pretrain", dataset=str(tmp_path / "rows"), output_dir=str(tmp_path / "out"))


def test_a_model_that_does_not_exist_cannot_generate(tmp_path):
    refused(run_script("generate.py", tmp_path / "nothing", "--prompt", "a"), "nothing does not exist")
