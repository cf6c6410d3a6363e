import json
import random

import pytest
from datasets import Dataset, load_from_disk
from recipes_in_process import recipe

from hfgpt.data.dropped import DroppedDocuments
from hfgpt.data.passport import Passport
from hfgpt.hygiene.leaks import drop_benchmark_text, drop_leaks
from hfgpt.hygiene.memorization import documents_of
from hfgpt.hygiene.overlap import longest_overlaps
from hfgpt.tokenization import encode_texts, load_tokenizer

WORDS = ["the", "boat", "sea", "wind", "stone", "river", "night", "light", "house", "garden", "letter", "window", "road", "paper"]


def sentence(number, generator):
    return " ".join(generator.choices(WORDS, k=number)) + "."


def dataset(texts):
    return Dataset.from_list([{"text": text, "source": "s", "row_id": str(number)} for number, text in enumerate(texts)])


@pytest.fixture
def tokenizer(small_tokenizer):
    return load_tokenizer(small_tokenizer)


def tokens_of(tokenizer, text):
    return len(encode_texts(tokenizer, [text])[0])


@pytest.fixture
def texts():
    """Sixteen training texts and four held-out ones that share no long passage."""
    generator = random.Random(0)
    return [sentence(120, generator) for _ in range(16)], [sentence(120, generator) for _ in range(4)]


def step_of(passport):
    (step,) = passport.steps
    return step


def test_copies_go_whole_and_shared_passages_are_cut_out(texts, tokenizer, tmp_path):
    train, held_out = texts
    quote = held_out[0][100:400]
    train[1] = held_out[1].upper().replace(" ", "\n")
    train[2] = held_out[2] + " But that is not all of it."
    train[3] = train[3] + " " + quote + " " + train[4]
    train[5] = train[5] + " " + quote[:60]
    assert tokens_of(tokenizer, quote[:60]) < 40 < 60 < tokens_of(tokenizer, quote)
    passport = Passport()
    sides = {"validation": dataset(held_out[:1]), "test": dataset(held_out[1:])}
    kept = drop_leaks(dataset(train), sides, passport, tokenizer=tokenizer, cache_dir=str(tmp_path))
    assert kept["row_id"] == ["0", "3:piece1", "3:piece2", *map(str, range(4, 16))]
    assert kept["text"][1].startswith(train[3][:300])
    assert quote not in " ".join(kept["text"])
    assert kept["text"][4] == train[5]
    assert kept.column_names == ["text", "source", "row_id"]
    step = step_of(passport)
    assert (step["step"], step["documents_in"], step["documents_out"]) == ("drop leaks", 16, 15)
    longest = step["shared_with"]["validation"].pop("longest_tokens")
    assert step["shared_with"] == {
        "validation": {"exact": 0, "near": 0, "passages": 1},
        "test": {"exact": 1, "near": 1, "passages": 0, "longest_tokens": 0},
    }
    assert abs(longest - tokens_of(tokenizer, quote)) < 4
    assert {name: step["cut"][name] for name in ("documents_cut", "documents_dropped")} == {
        "documents_cut": 1,
        "documents_dropped": 2,
    }


@pytest.mark.parametrize("space", ["\r\n", "\n    ", "\t\t", "  ", "\u00a0", "\u3000\u2028"])
def test_held_out_and_benchmark_text_in_other_white_space_is_found(texts, tokenizer, tmp_path, space):
    train, held_out = texts
    quote = held_out[0][100:500]
    train[2] += " " + quote.replace(" ", space) + " " + train[3]
    train[5] = "More than that: " + held_out[1].replace(" ", space)
    settings = dict(tokenizer=tokenizer, cache_dir=str(tmp_path))
    leaks, benchmark = Passport(), Passport()
    without_leaks = drop_leaks(dataset(train), {"test": dataset(held_out)}, leaks, **settings)
    without_benchmark = drop_benchmark_text(dataset(train), {"quiz.jsonl": held_out}, benchmark, **settings)
    for kept, passport, name in ((without_leaks, leaks, "test"), (without_benchmark, benchmark, "quiz.jsonl")):
        assert kept["row_id"] == ["0", "1", "2:piece1", "2:piece2", "3", "4", *map(str, range(6, 16))]
        assert train[2].startswith(kept["text"][2])
        assert train[3].endswith(kept["text"][3].strip())
        assert len(kept["text"][3]) > len(train[3]) - 50
        assert " ".join(quote.split()[1:-1]) not in " ".join(" ".join(kept["text"]).split())
        shared = step_of(passport)["shared_with"][name]
        assert (shared["exact"], shared["near"], shared["passages"]) == (0, 1, 1)


def test_leaks_can_be_counted_only_or_ignored(texts, tokenizer, tmp_path, caplog):
    caplog.set_level("INFO")
    train, held_out = texts
    train[3] = held_out[0]
    settings = dict(tokenizer=tokenizer, cache_dir=str(tmp_path))
    documents, sides, passport = dataset(train), {"test": dataset(held_out)}, Passport()
    assert drop_leaks(documents, sides, passport, how="ignore", **settings) is documents
    assert passport.steps == []
    assert drop_leaks(documents, sides, passport, how="count", **settings) is documents
    assert step_of(passport)["shared_with"]["test"]["exact"] == 1
    assert "drop leaks: shared with test: 1 exact and 0 near copies\n" in caplog.text
    assert "drop leaks: left in: 1 whole documents; " in caplog.text
    assert step_of(passport)["settings"] == {"leak_tokens": 50, "only_counted": True}


def test_what_is_dropped_is_counted_once_and_written_aside_without_personal_data(texts, tokenizer, tmp_path, caplog):
    caplog.set_level("INFO")
    train, held_out = texts
    train[1] = held_out[1].upper()
    train[2] = held_out[2] + " Write to Ann."
    train[3] = "In short. " + held_out[3][:150] + " But no. " + held_out[3][200:350] + " The end."
    train[5] += " " + held_out[0][100:400] + " " + train[6]
    passport, dropped = Passport(), DroppedDocuments(tmp_path, conceal=lambda text: text.replace("Ann", "(name)"))
    settings = dict(tokenizer=tokenizer, leak_tokens=30, cache_dir=str(tmp_path), dropped=dropped)
    kept = drop_leaks(dataset(train), {"test": dataset(held_out)}, passport, **settings)
    step = step_of(passport)
    assert step["shared_with"] == {"test": {"exact": 1, "near": 1, "passages": 3, **longest(step, "test")}}
    assert step["reasons"] == {"exact copies of test": 1, "near copies of test": 1, "passages of test": 3}
    assert step["cut"] == {"bytes": step["bytes_in"] - step["bytes_out"], "documents_cut": 1, "pieces": 2, "documents_dropped": 3}
    assert len(kept) == 16 - 3 - 1 + 2
    assert step["settings"] == {"leak_tokens": 30}
    assert "drop leaks: removed: 3 whole documents, parts of 1 others (2 pieces are kept); " in caplog.text
    assert "warning" not in caplog.text
    dropped.move_into(tmp_path)
    lines = list(map(json.loads, (tmp_path / "dropped.jsonl").read_text(encoding="utf-8").splitlines()))
    assert [(line["step"], line["row_id"], line["reason"]) for line in lines] == [
        ("drop leaks", "1", "exact copy of text in test"),
        ("drop leaks", "2", "near copy of text in test"),
        ("drop leaks", "3", "passages of test"),
    ]
    assert lines[1]["text"].endswith(" Write to (name).")


def longest(step, name):
    return {"longest_tokens": step["shared_with"][name]["longest_tokens"]}


def test_training_text_of_which_most_goes_is_warned_of(texts, tokenizer, tmp_path, caplog):
    train, held_out = texts
    template = held_out[0]
    letters = [f"{train[number]} {template} Yours, number {number}" for number in range(8)]
    letters = [letter[len(train[0]) * 2 // 3 :] for letter in letters]
    settings = dict(tokenizer=tokenizer, cache_dir=str(tmp_path))
    drop_leaks(dataset(letters), {"test": dataset(held_out)}, Passport(), how="count", **settings)
    assert caplog.text == ""
    drop_leaks(dataset(letters), {"test": dataset(held_out)}, Passport(), **settings)
    assert "warning: drop leaks removed " in caplog.text
    assert "% of the training bytes, which also occur in test; keep it with --leaks count, if that is not " in caplog.text
    assert "If texts share a template, a larger --leak_tokens (the longest passage has " in caplog.text


def test_text_without_leaks_is_left_as_it_is(texts, tokenizer, tmp_path):
    train, held_out = map(dataset, texts)
    assert drop_leaks(train, {"test": held_out}, Passport(), tokenizer=tokenizer, cache_dir=str(tmp_path)) is train
    assert drop_leaks(train, {}, Passport(), tokenizer=tokenizer, cache_dir=str(tmp_path)) is train  # nothing is held out


def test_a_table_whose_rows_are_alike_is_no_copy_of_its_end(tokenizer, tmp_path):
    rows = [f"Row {number}: the boat goes to sea, and nobody in the town sees it leave in the night.\n" for number in range(200)]
    train, passport = dataset(["".join(rows[:180])]), Passport()
    assert (
        drop_leaks(train, {"test": dataset(["".join(rows[180:])])}, passport, tokenizer=tokenizer, cache_dir=str(tmp_path)) is train
    )
    assert step_of(passport)["shared_with"]["test"] == {"exact": 0, "near": 0, "passages": 0, "longest_tokens": 0}


def test_training_text_that_is_all_held_out_is_refused(texts, tokenizer, tmp_path):
    _, held_out = texts
    with pytest.raises(
        ValueError, match="nothing is left of the 4 training documents, because all of them also occur in test; .*--leaks count"
    ):
        drop_leaks(dataset(held_out), {"test": dataset(held_out)}, Passport(), tokenizer=tokenizer, cache_dir=str(tmp_path))


def test_questions_of_a_benchmark_are_found_as_a_whole_in_other_lines_and_case(texts, tokenizer, tmp_path):
    train, _ = texts
    questions = ["Which of the seven sisters bought the green bicycle on Tuesday?", "Is it 12 or 13?", "What colour has the sky?"]
    assert tokens_of(tokenizer, questions[0]) < 46
    train[1] += "\nwhich of the seven\nsisters bought the green bicycle on Tuesday? Nobody knows. " + train[2]
    train[4] += " Is it 12 or 13? What colour has the sky?"
    train[6] += " Which of the seven sisters bought the green apples?"  # three quarters of the question
    passport = Passport()
    settings = dict(tokenizer=tokenizer, cache_dir=str(tmp_path))
    benchmarks = {"quiz.jsonl": questions, "other.jsonl": ["A question that nobody asked in any of these documents, ever?"]}
    kept = drop_benchmark_text(dataset(train), benchmarks, passport, **settings)
    assert kept["row_id"] == ["0", "1:piece1", "1:piece2", *map(str, range(2, 16))]
    assert "bicycle" not in " ".join(kept["text"])
    assert kept["text"][2].endswith(train[2])
    counts = {name: found["passages"] for name, found in step_of(passport)["shared_with"].items()}
    assert counts == {"quiz.jsonl": 1, "other.jsonl": 0}


def longest_shared_tokens(folder):
    """The longest run of each held-out document that also occurs in the training rows, in tokens, longest first."""
    rows, tokenizer = load_from_disk(folder), load_tokenizer(folder / "tokenizer")
    held_out = [text for name in ("validation", "test") for text in documents_of(rows[name], tokenizer)]
    runs = longest_overlaps(held_out, documents_of(rows["train"], tokenizer))
    found = [text.encode()[start : start + size].decode(errors="ignore") for text, (start, size) in zip(held_out, runs)]
    return sorted(map(len, encode_texts(tokenizer, found)), reverse=True)


@pytest.mark.slow
def test_python_docs_share_no_run_of_50_tokens_across_their_split_as_the_suffix_array_says(tmp_path):
    pytest.importorskip("pydivsufsort")
    settings = dict(sources=["python-docs"], validation_share=0.02, test_share=0.05)
    recipe("train_tokenizer", vocab_size=4096, max_token_length=32, output_dir=str(tmp_path / "tokenizer"), **settings)
    counts = {}
    for leaks in ("count", "drop"):
        settings = dict(tokenizer=str(tmp_path / "tokenizer"), context_length=1024, leaks=leaks)
        counts[leaks] = recipe("prepare_data", output_dir=str(tmp_path / leaks), **settings)
    assert longest_shared_tokens(tmp_path / "count")[0] > 100
    assert longest_shared_tokens(tmp_path / "drop")[0] < 50
    cost = 1 - counts["drop"]["train_bytes"] / counts["count"]["train_bytes"]
    assert 0.001 < cost < 0.01
    assert counts["drop"]["test_bytes"] == counts["count"]["test_bytes"]


@pytest.mark.slow
def test_a_novel_cut_by_position_loses_next_to_nothing(shared_data, small_tokenizer, tmp_path):
    novels = (shared_data / "english_novels" / "train.txt").read_text(encoding="utf-8").split("<|endoftext|>")
    path = tmp_path / "novel.txt"
    path.write_text(novels[0], encoding="utf-8")
    assert len(novels[0]) > 500_000
    settings = dict(sources=[str(path)], tokenizer=str(small_tokenizer), split_by="position")
    counts = {
        leaks: recipe("prepare_data", leaks=leaks, output_dir=str(tmp_path / leaks), **settings) for leaks in ("ignore", "drop")
    }
    assert counts["drop"]["train_bytes"] > 0.999 * counts["ignore"]["train_bytes"]
