"""A byte budget is drawn evenly from all sources and from all parts of each, and reproducibly."""

import pytest
from datasets import Dataset

from hfgpt.data.sampling import PIECE_CHARACTERS, Sample, texts_of_sides
from hfgpt.data.splitting import Split, split_documents

TEXTS = [("big", f"document {number} " + "x" * 80) for number in range(3_000)]
TEXTS += [("small", f"paper {number} " + "y" * 80) for number in range(1_000)]
TEXTS += [(f"note {number}", f"note {number} " + "z" * 80) for number in range(500)]


def drawn(texts=TEXTS, **settings) -> Sample:
    return Sample(lambda: iter(texts), **settings)


def test_what_fits_is_taken_whole_and_in_order():
    sample = drawn(max_bytes=10**9)
    assert sample.is_whole
    assert list(sample) == TEXTS
    assert sample.bytes == sample.all_bytes == sum(len(text) for _, text in TEXTS)
    assert sample.documents == len(TEXTS)


def test_each_source_gives_its_share_and_the_budget_is_kept():
    sample = drawn(max_bytes=40_000)
    assert not sample.is_whole
    taken = list(sample)
    assert 39_000 < sample.bytes == sum(len(text) for _, text in taken) <= 40_000
    assert sample.documents == len(taken)
    share = {
        name: sum(len(text) for source, text in taken if source.startswith(name)) / 40_000 for name in ("big", "small", "note")
    }
    # As in all texts: 3,000, 1,000 and 500 of similar length.
    assert share == pytest.approx({"big": 0.67, "small": 0.22, "note": 0.11}, abs=0.02)
    # From all parts: every tenth of the largest source contributes, not just the first.
    numbers = [int(text.split()[1]) for source, text in taken if source == "big"]
    parts = [sum(number // 300 == part for number in numbers) for part in range(10)]
    assert max(parts) - min(parts) <= 6  # of about 30 each
    assert numbers == sorted(numbers)  # in their original order


def test_the_same_seed_draws_the_same_and_another_one_others():
    first, again, other = (set(drawn(max_bytes=40_000, seed=seed)) for seed in (0, 0, 1))
    assert first == again
    assert len(first & other) < 0.5 * len(first)


def test_of_one_long_document_pieces_are_taken_from_all_of_it():
    text = " ".join(f"word{number:07}" for number in range(400_000))  # 4.8 MB
    sample = drawn([("book", text)], max_bytes=1_200_000)
    pieces = [piece for _, piece in sample]
    assert 1_000_000 < sample.bytes <= 1_200_000
    assert sample.documents == 1
    assert all(piece in text and len(piece) < 2 * PIECE_CHARACTERS for piece in pieces)
    assert all(piece.split()[0].startswith("word") and len(piece.split()[-1]) == 11 for piece in pieces)  # no word is cut
    starts = [text.index(piece) / len(text) for piece in pieces]
    assert {int(4 * start) for start in starts} == {0, 1, 2, 3}


def test_pieces_of_text_without_spaces_are_bounded():
    sample = drawn([("dna", "ACGT" * 300_000)], max_bytes=600_000)
    assert sample.bytes > 300_000
    assert max(len(piece) for _, piece in sample) == PIECE_CHARACTERS


def test_a_budget_below_every_document_takes_none():
    sample = drawn(max_bytes=10)
    assert (sample.documents, sample.bytes, list(sample)) == (0, 0, [])


@pytest.mark.parametrize("by", ["document", "position"])
def test_the_sides_are_those_of_the_split(by):
    split = Split(by=by, validation_share=0.2, test_share=0.2)
    texts = [f"one {number}\ntwo\nthree\nfour\nfive {number}\n" for number in range(200)]
    rows = [{"text": text, "source": "all", "row_id": "0", "draw": split.draw(text)} for text in texts]
    documents = Dataset.from_list(rows)
    train, rest = (list(texts_of_sides(documents, split, sides)) for sides in ({"train"}, {"validation", "test"}))
    assert [text for _, text in train] == split_documents(documents, split)["train"]["text"][:]
    assert len("".join(text for _, text in train + rest)) == len("".join(texts))
    assert min(len(train), len(rest)) > 20
