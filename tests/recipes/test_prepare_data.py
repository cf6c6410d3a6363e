import hashlib
import json
import shutil

import pytest
from datasets import load_from_disk
from killing import state_of
from recipes_in_process import recipe

from hfgpt.errors import UserError
from hfgpt.tokenization import load_tokenizer


@pytest.fixture
def rows_and_passport(small_rows):
    return load_from_disk(small_rows), json.loads((small_rows / "passport.json").read_text())


def documents_in(rows, tokenizer):
    """The decoded texts of rows of packed ids, whole documents only."""
    texts = []
    for ids, positions in zip(rows["input_ids"], rows["position_ids"], strict=True):
        segment = None
        for token, position in zip(ids, positions, strict=True):
            if token == tokenizer.eos_token_id:
                if segment:
                    texts.append(tokenizer.decode(segment))
                segment = []
            elif position == 0:
                segment = None  # padding, or the rest of a document that was cut
            elif segment is not None:
                segment.append(token)
    return texts


def test_every_document_is_in_exactly_one_split_and_comes_back_whole(small_corpus, small_tokenizer, tmp_path):
    counts = recipe("prepare_data", sources=[str(small_corpus)], tokenizer=str(small_tokenizer), context_length=512,
                    validation_share=0.1, test_share=0.1, output_dir=str(tmp_path / "rows"))  # fmt: skip
    rows, tokenizer = load_from_disk(tmp_path / "rows"), load_tokenizer(small_tokenizer)
    corpus = [json.loads(line)["text"] for line in small_corpus.read_text().splitlines()]
    texts = {name: documents_in(rows[name], tokenizer) for name in ("train", "validation", "test")}
    assert sorted(text for side in texts.values() for text in side) == sorted(corpus)
    assert {name: len(side) for name, side in texts.items()} == {name: counts[f"{name}_documents"] for name in texts}
    assert len(corpus) == 100


def test_the_passport_accounts_for_every_position(rows_and_passport):
    rows, passport = rows_and_passport
    for name, counts in passport["splits"].items():
        assert counts["rows"] == len(rows[name])
        assert counts["rows"] * 64 == counts["tokens"] + counts["separators"] + counts["repeated"] + counts["padding"]


def test_the_passport_names_inputs_and_tokenizer_by_hash(small_corpus, rows_and_passport, small_tokenizer):
    _, passport = rows_and_passport
    (entry,) = passport["inputs"]
    assert entry["sha256"] == hashlib.sha256(small_corpus.read_bytes()).hexdigest()
    assert entry["bytes"] == small_corpus.stat().st_size
    assert passport["tokenizer"]["vocab_size"] == 512
    from hfgpt.tokenization import tokenizer_sha256

    assert passport["tokenizer"]["sha256"] == tokenizer_sha256(load_tokenizer(small_tokenizer))


def test_the_same_data_is_prepared_the_same_way_twice(small_corpus, small_tokenizer, small_rows, tmp_path):
    recipe("prepare_data", sources=[str(small_corpus)], tokenizer=str(small_tokenizer), context_length=64,
           validation_share=0.1, test_share=0.1, output_dir=str(tmp_path / "again"))  # fmt: skip
    first, second = load_from_disk(small_rows), load_from_disk(tmp_path / "again")
    for name in first:
        assert first[name]["input_ids"][:] == second[name]["input_ids"][:]


def test_duplicates_and_blank_documents_are_dropped_and_counted(small_tokenizer, tmp_path):
    lines = [f"document number {n} has some words of its own\n" * 3 for n in range(60)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in [*lines, *lines[:7], " \n"]))
    recipe("prepare_data", sources=[str(tmp_path / "rows.jsonl")], tokenizer=str(small_tokenizer), context_length=32,
           validation_share=0.2, test_share=0.2, output_dir=str(tmp_path / "out"))  # fmt: skip
    steps = json.loads((tmp_path / "out" / "passport.json").read_text())["steps"]
    assert [(step["step"], step["documents_in"], step["documents_out"]) for step in steps] == [
        ("load", None, 68), ("drop blank", 68, 67), ("drop exact copies", 67, 60),
        ("drop near copies", 60, 60), ("split", 60, 60), ("drop leaks", 38, 38),  # of 22 held out
    ]  # fmt: skip


def test_sliding_windows_cut_training_text_and_leave_held_out_text_packed(small_tokenizer, tmp_path):
    text = "".join(f"line {n} of one long text\n" for n in range(400))
    (tmp_path / "book.txt").write_text(text)
    recipe("prepare_data", sources=[str(tmp_path / "book.txt")], tokenizer=str(small_tokenizer), window=16, stride=8,
           split_by="position", validation_share=0.1, test_share=0.1, output_dir=str(tmp_path / "out"))  # fmt: skip
    rows = load_from_disk(tmp_path / "out")
    first, second = rows["train"][0]["input_ids"], rows["train"][1]["input_ids"]
    assert first[8:] == second[:8]
    passport = json.loads((tmp_path / "out" / "passport.json").read_text())
    assert passport["splits"]["train"]["repeated"] > 0.8 * passport["splits"]["train"]["tokens"]
    held_out = passport["splits"]["validation"]
    assert held_out["repeated"] == held_out["rows"] - 1  # only where a row continues another


def test_a_tokenizer_that_has_seen_the_held_out_text_is_warned_about(small_corpus, small_tokenizer, tmp_path, caplog):
    recipe("prepare_data", sources=[str(small_corpus)], tokenizer=str(small_tokenizer), context_length=64,
           validation_share=0.2, test_share=0.2, output_dir=str(tmp_path / "out"))  # fmt: skip
    assert "the tokenizer was trained with test_share 0.05, but here it is 0.2" in caplog.text


def test_a_folder_of_another_kind_is_neither_taken_for_the_data_nor_replaced(small_corpus, small_tokenizer, small_rows, tmp_path):
    words = dict(
        sources=[str(small_corpus)], tokenizer=str(small_tokenizer), context_length=64, validation_share=0.1, test_share=0.1
    )
    model, tokenizer = tmp_path / "model", tmp_path / "tokenizer"
    recipe("prepare_data", **words, output_dir=str(model))
    (model / "run.yaml").touch()  # a model's folder has the passport of its data
    shutil.copytree(small_tokenizer, tokenizer)
    for folder, what in ((model, "a model"), (tokenizer, r"the result of another command \(hfgpt tokenizer\)")):
        for overwrite in (False, True):
            before = state_of(folder)
            with pytest.raises(UserError, match=f"holds {what}, which is never replaced by this one; give another --output_dir"):
                recipe("prepare_data", **words, output_dir=str(folder), overwrite=overwrite)
            assert state_of(folder) == before


def test_an_interrupted_replacement_keeps_the_old_data(small_corpus, small_tokenizer, small_rows, tmp_path):
    out = tmp_path / "rows"
    shutil.copytree(small_rows, out)
    before = (out / "passport.json").read_bytes()
    (tmp_path / "bad.jsonl").write_text('{"text": "a"}\n' * 50 + "broken")
    with pytest.raises(ValueError, match="line 51"):
        recipe("prepare_data", sources=[str(small_corpus), str(tmp_path / "bad.jsonl")], tokenizer=str(small_tokenizer),
               output_dir=str(out), overwrite=True)  # fmt: skip
    assert (out / "passport.json").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.jsonl", "rows"]


def test_text_of_a_benchmark_is_not_trained_on_and_its_file_is_named_with_its_hash(small_corpus, small_tokenizer, tmp_path):
    corpus = [json.loads(line)["text"] for line in small_corpus.read_text().splitlines()]
    question = max(corpus, key=len)
    (tmp_path / "quiz.jsonl").write_text(json.dumps({"question": question, "answer": "no"}) + "\n")
    settings = dict(sources=[str(small_corpus)], tokenizer=str(small_tokenizer), context_length=64, validation_share=0.0)
    settings |= dict(test_share=0.0, output_dir=str(tmp_path / "rows"), decontaminate_against=[str(tmp_path / "quiz.jsonl")])
    counts = recipe("prepare_data", **settings)
    assert counts["train_documents"] == 99
    passport = json.loads((tmp_path / "rows" / "passport.json").read_text())
    step = passport["steps"][-1]
    assert (step["step"], step["documents_in"], step["documents_out"]) == ("drop benchmark text", 100, 99)
    assert step["shared_with"][str(tmp_path / "quiz.jsonl")]["exact"] == 1
    (entry,) = passport["settings"]["asked"]["decontaminate_against"]
    assert entry["sha256"] == hashlib.sha256((tmp_path / "quiz.jsonl").read_bytes()).hexdigest()
    (tmp_path / "quiz.jsonl").write_text('{"question": "another one, which is as good"}\n')
    changed = "holds a result made with other settings .decontaminate_against is .*quiz.jsonl as before, but its contents differ.;"
    with pytest.raises(ValueError, match=changed):
        recipe("prepare_data", **settings)
    with pytest.raises(ValueError, match=r"other settings \(decontaminate_against was \S*quiz.jsonl, is now none\);"):
        recipe("prepare_data", **{**settings, "decontaminate_against": []})


def test_tokenizer_and_rows_know_the_same_groups_and_cut_the_same_passages(small_tokenizer, tmp_path):
    rows = [{"text": f"{author} wrote letter {n}, about " + f"{author[::-1]} and {n * n} boats " * 20, "author": author}
            for author in (f"author{number}" for number in range(40)) for n in range(5)]  # fmt: skip
    licence = "This text may be read by everybody who has the time to read it, " * 2 + "and by nobody who has not. " + "x y z " * 30
    for row in rows:
        row["text"] += licence
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    counts = recipe("train_tokenizer", sources=[str(tmp_path / "rows.jsonl")], group_field="author", repeated_passage_bytes=200,
                    validation_share=0.1, test_share=0.1, vocab_size=300, output_dir=str(tmp_path / "tokenizer"))  # fmt: skip
    prepared = recipe("prepare_data", tokenizer=str(tmp_path / "tokenizer"), context_length=64, leaks="count",
                      output_dir=str(tmp_path / "rows"))  # fmt: skip
    assert prepared["train_documents"] == counts["documents"]
    tokenizer, splits = load_tokenizer(tmp_path / "tokenizer"), load_from_disk(tmp_path / "rows")
    authors = {name: {text.split(" ")[0] for text in documents_in(part, tokenizer)} - {""} for name, part in splits.items()}
    authors = {name: {author for author in found if author.startswith("author")} for name, found in authors.items()}
    assert len(set.union(*authors.values())) == sum(map(len, authors.values())) > 30
    assert sum("nobody who has not" in text for part in splits.values() for text in documents_in(part, tokenizer)) <= 1
    passport = json.loads((tmp_path / "rows" / "passport.json").read_text())
    assert next(step for step in passport["steps"] if step["step"] == "cut repeated passages")["passages"] > 190
    assert (passport["settings"]["split_by"], passport["settings"]["group_field"]) == ("group", "author")
