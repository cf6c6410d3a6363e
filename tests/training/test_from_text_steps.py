"""What the text and the minutes determine before anything is measured, pieces of a large text, and the last screen."""

import pytest

from hfgpt.data.passport import Passport
from hfgpt.data.sources import ReadingOptions, find_sources, read_documents
from hfgpt.data.text_pieces import read_in_pieces, size_of
from hfgpt.errors import UserError
from hfgpt.training.from_text import (
    Steps,
    choose_preparation,
    describe_preparation,
    improvement,
    last_screen,
    meaning,
)

LAPTOP, GPU = 2e11, 4e14


@pytest.mark.parametrize(
    ("num_bytes", "minutes", "speed", "vocab_size", "context_length", "held_out_share"),
    [
        (50_000, 10, LAPTOP, 1024, 64, 0.1),
        (1_000_000, 10, LAPTOP, 4096, 256, 0.05),
        (5_000_000, 10, LAPTOP, 4096, 256, 0.04),
        (20_000_000, 10, GPU, 8192, 512, 0.01),
    ],
)
def test_vocabulary_rows_and_held_out_text_follow_from_text_and_time(
    num_bytes, minutes, speed, vocab_size, context_length, held_out_share
):
    chosen = choose_preparation(num_bytes, seconds=60 * minutes, flops_per_second=speed)
    assert (chosen.vocab_size, chosen.context_length) == (vocab_size, context_length)
    assert chosen.held_out_share == pytest.approx(held_out_share, abs=0.001)
    assert chosen.read_bytes is None


def test_of_a_large_text_a_share_is_read_and_said():
    chosen = choose_preparation(300_000_000, seconds=600, flops_per_second=LAPTOP)
    assert chosen.read_bytes is not None
    assert 5e6 < chosen.read_bytes < 60e6
    said = "\n".join(describe_preparation(300_000_000, chosen, minutes=10))
    assert f"read: {chosen.read_bytes:,} bytes, " in said
    assert "% of the text, in pieces from all over it" in said


def test_a_small_text_is_told_what_it_is_too_small_for():
    chosen = choose_preparation(50_000, seconds=600, flops_per_second=LAPTOP)
    assert any("small: 50,000 bytes only teach spelling" in line for line in describe_preparation(50_000, chosen, minutes=10))
    assert not any("small:" in line for line in describe_preparation(2_000_000, chosen, minutes=10))


@pytest.fixture
def large(tmp_path):
    """A file of 3 MB with numbered lines, and a blank line after every tenth."""
    lines = (f"line {number} of a long text that goes on and on\n" + "\n" * (number % 10 == 9) for number in range(65_000))
    path = tmp_path / "large.txt"
    path.write_text("".join(lines))
    return path


@pytest.mark.parametrize("rule", [None, "line", "paragraph"])
def test_pieces_come_from_all_of_a_file_and_cut_no_document(large, tmp_path, rule):
    sources = find_sources([str(large)])
    names, reading = read_in_pieces(sources, tmp_path / "out", most=size_of(sources) // 8, reading={"text_documents": rule})
    pieces = find_sources(names)
    assert 0.10 < size_of(pieces) / size_of(sources) < 0.16
    documents = list(read_documents(pieces, ReadingOptions(**reading)))
    lines = [line for document in documents for line in document["text"].splitlines() if line]
    assert set(lines) <= set(large.read_text().splitlines())
    numbers = [int(line.split()[1]) for line in lines]
    assert numbers == sorted(set(numbers))
    assert numbers[0] < 5000
    assert numbers[-1] > 55_000
    if rule is None:
        assert len(documents) == 6  # each piece is one document
        assert reading == {"text_documents": "<|endoftext|>"}
    if rule == "paragraph":
        assert all(document["text"].count("line ") == 10 for document in documents[:-1])


def test_documents_that_are_longer_than_pieces_are_cut_at_lines(large, tmp_path):
    text = large.read_text()
    large.write_text(text[: len(text) // 2] + "<|endoftext|>\n" + text[len(text) // 2 :])
    sources, reading = find_sources([str(large)]), {"text_documents": "<|endoftext|>"}
    names, reading = read_in_pieces(sources, tmp_path / "out", most=size_of(sources) // 8, reading=reading)
    assert 0.11 < size_of(find_sources(names)) / size_of(sources) < 0.17
    assert len(list(read_documents(find_sources(names), ReadingOptions(**reading)))) > 4


def test_json_lines_stay_whole(tmp_path):
    path = tmp_path / "large.jsonl"
    path.write_text("".join(f'{{"text": "number {number}"}}\n' for number in range(100_000)))
    names, reading = read_in_pieces(find_sources([str(path)]), tmp_path / "out", most=300_000, reading={"text_field": None})
    documents = list(read_documents(find_sources(names), ReadingOptions(**{k: v for k, v in reading.items() if v})))
    assert len(documents) > 5000
    assert all(document["text"].startswith("number ") for document in documents)


def test_the_last_screen_has_eight_lines(tmp_path):
    passport = Passport()
    passport.splits = {"train": {"bytes": 900_000}}
    passport.lzma_bits_per_byte = {"alone": 2.7, "after_training": 1.9}
    metrics = {"parameters": 1_800_000, "test_bits_per_byte": 1.62, "epochs": 3.0}
    lines = last_screen(metrics, passport, folder=tmp_path, minutes=10, commands=["one", "two", "three"])
    assert len(lines) == 8
    assert "1.8 million parameters, from 900,000 bytes" in lines[0]
    assert lines[1].startswith("how good: 1.620 bits per byte on unseen text; lzma needs 1.900 after")
    assert "sentences that wander" in lines[2]
    assert "--minutes 40" in lines[3]


def test_what_would_help_follows_from_how_often_the_text_was_read():
    assert improvement(30, minutes=10).startswith("more text; this one was read 30 times")
    assert improvement(6, minutes=10).startswith("more text, and then more time")
    assert improvement(1, minutes=10).startswith("more time, such as --minutes 40")
    assert "gibberish is normal" in meaning(2.6)


def test_the_same_command_goes_on_and_another_one_is_refused(tmp_path):
    folder = tmp_path / "mine"
    steps = Steps.in_folder(folder, asked={"minutes": 5.0}, overwrite=False)
    assert not steps.has("tokenizer")
    steps.write_training(seconds=123.4, card=None)
    again = Steps.in_folder(folder, asked={"minutes": 5.0}, overwrite=False)
    again.write_training(seconds=99, card=None)
    assert again.settings("pretrain")["time_budget"] == 123.0
    (folder / "tokenizer").mkdir()  # before that, another command just replaces the first
    with pytest.raises(UserError, match=r"minutes was 5.0, is now the default"):
        Steps.in_folder(folder, asked={}, overwrite=False)
    assert not Steps.in_folder(folder, asked={}, overwrite=True).has("pretrain")
    with pytest.raises(UserError, match="training needs at least 15"):
        Steps.in_folder(folder, asked={}, overwrite=False).write_training(seconds=3, card=None)


def test_a_data_set_of_the_hub_counts_as_more_than_can_be_read(tmp_path):
    sources = find_sources(["somebody/texts"])
    chosen = choose_preparation(size_of(sources), seconds=600, flops_per_second=LAPTOP)
    names, reading = read_in_pieces(sources, tmp_path, most=chosen.read_bytes or 0, reading={})
    assert names == ["somebody/texts"]
    assert reading["streaming"] is True
    assert reading["max_documents"] == (chosen.read_bytes or 0) // 2000
    said = describe_preparation(size_of(sources), chosen, minutes=10)
    assert said[0] == "from-text: an unknown number of bytes of text, 10 minutes"


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="contains files that this recipe did not write"):
        Steps.in_folder(tmp_path, asked={}, overwrite=True)
