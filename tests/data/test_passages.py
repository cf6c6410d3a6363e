import json
import random

import numpy as np
import pytest
from datasets import Dataset

from hfgpt.data.dropped import DroppedDocuments
from hfgpt.data.passages import SHORTEST_PIECE_BYTES, CutCounts, Windows, cut_out, cut_repeated_passages, joined, passages_of
from hfgpt.data.passport import Passport
from hfgpt.hygiene.overlap import longest_overlaps


def words(number, generator):
    return " ".join("".join(generator.choices("abcdefgäß", k=generator.randint(2, 9))) for _ in range(number))


def sharing_texts(*, shared_bytes, seed=0):
    """Return texts and others; two thirds of the texts share a run of about `shared_bytes` bytes with one of the others."""
    generator = random.Random(seed)
    others = [words(generator.randint(1, 60), generator) for _ in range(40)] + [words(3000, generator)]
    texts = []
    for number in range(60):
        other = others[-1]
        begin = generator.randrange(len(other) - shared_bytes)
        run = other[begin : begin + shared_bytes]
        texts.append(words(30, generator) + "\n" + (run if number % 3 else "") + "\n" + words(30, generator))
    return texts, others


def found_in(texts, others, shortest, **settings):
    windows = Windows(shortest, sum(map(len, others)), **settings)
    windows.add(joined([other.encode() for other in others])[0])
    return passages_of([text.encode() for text in texts], windows.find)


@pytest.mark.parametrize("stride", [1, 4])
def test_runs_of_the_length_are_found_as_the_suffix_array_finds_them(stride):
    pytest.importorskip("pydivsufsort")
    texts, others = sharing_texts(shared_bytes=80)
    exact = longest_overlaps(texts, others)
    long_enough = [length >= 80 for _, length in exact]
    assert 30 < sum(long_enough) <= 40
    found = found_in(texts, others, 80, stride=stride)
    for text, (start, length), is_long, passages in zip(texts, exact, long_enough, found, strict=True):
        assert len(passages) == is_long, text
        for first, after in passages:
            # with a stride, up to a stride less at either end; by chance a byte or two more
            assert abs(first - start) < stride + 4
            assert abs(after - start - length) < stride + 4


def test_a_run_of_exactly_that_length_is_found_wherever_it_stands():
    generator = random.Random(1)
    other = words(200, generator).encode()
    for stride in (1, 8):
        windows = Windows(200, len(other), stride=stride)
        windows.add(joined([other])[0])
        for begin in range(0, 300, 7):
            run = other[begin : begin + 200]
            text = b"x" * (begin % 11) + run + b"y"
            assert windows.find(np.frombuffer(text, dtype=np.uint8)), (stride, begin)
        assert not windows.find(np.frombuffer(b"#" + other[:120] + b"#" + other[300:420], dtype=np.uint8))


@pytest.mark.parametrize("stride", [1, 8])
def test_a_text_shorter_than_a_passage_has_none(stride):
    windows = Windows(50, 1000, stride=stride)
    windows.add(np.frombuffer(b"Hello\n" * 100, dtype=np.uint8))
    for length in range(50 - stride):  # with a stride, runs up to a stride shorter are found, too
        assert windows.find(np.frombuffer((b"Hello\n" * 10)[:length], dtype=np.uint8)) == []


def test_long_texts_are_looked_at_in_blocks_and_lose_nothing_at_their_borders(monkeypatch):
    texts, others = sharing_texts(shared_bytes=90)
    whole = found_in(texts, others, 60)
    monkeypatch.setattr("hfgpt.data.passages.BLOCK", 64)
    assert sum(map(len, whole)) >= 40
    assert found_in(texts, others, 60) == whole


def test_folded_text_is_found_in_other_white_space_and_case_and_its_place_is_exact():
    generator = random.Random(6)
    other = words(40, generator).replace("ä", "h").replace("ß", "k")
    start, end = "before it ", "; after it"
    for space in ("\n", "\r\n", "\n    ", " \t ", "   ", "\u00a0", "\u3000", " \u2028\n", "\u2003\u2003", "\x85"):
        found = start + other.upper().replace(" ", space) + end
        assert other not in found
        ((first, after),) = found_in([found], ["x; " + other + "!"], 100, folded=True)[0]
        assert found.encode()[first:after].decode().strip() == other.upper().replace(" ", space)
        assert found_in([found], [other], 100) == [[]]
        # a run of exactly the shortest length, in folded bytes, is found; a shorter one is not
        folded_bytes = len(other.encode())
        assert len(found_in([found], [other], folded_bytes, folded=True)[0]) == 1
        assert found_in([found], [other], folded_bytes + 3, folded=True) == [[]]
        assert len(found_in([other], [found], folded_bytes, folded=True)[0]) == 1


def test_a_folded_passage_that_ends_in_white_space_takes_all_of_it():
    text = "a" * 30 + "   " + "b" * 30
    assert found_in([text], ["a" * 30 + "\n" + "c" * 30], 20, folded=True) == [[(0, 33)]]
    assert found_in(["   ", text[:33], ""], ["a" * 30 + "\n"], 20, folded=True) == [[], [(0, 33)], []]


def test_every_white_space_of_unicode_is_folded_and_other_characters_are_not(monkeypatch):
    monkeypatch.setattr("hfgpt.data.passages.BLOCK", 64)  # a space may begin in one block and end in the next
    generator = random.Random(7)
    other = words(30, generator)
    for number in range(0x80, 0x3100):
        character = chr(number)
        if character.isspace() or number % 50 == 0:
            text = other.replace(" ", character)
            found = found_in([text], [other], 100, folded=True) != [[]]
            assert found == character.isspace(), hex(number)
    assert found_in(["\u3000" * 40, "一\u3000二"], ["\u3000" * 40, other], 20, folded=True) == [[], []]


def test_no_passage_goes_over_the_border_of_two_texts():
    one, other = words(8, random.Random(2)), words(8, random.Random(3))
    assert len(one) < 100 > len(other)
    assert found_in([one, other], [one, other], 100) == [[], []]
    assert found_in([one + other], [one, other], 100) == [[]]


def cut(text, *passages):
    counts = CutCounts()
    content = text.encode()
    spans = [(content.index(passage), content.index(passage) + len(passage)) for passage in map(str.encode, passages)]
    return [(one["text"], one["row_id"]) for one in cut_out({"text": text, "row_id": "7"}, content, spans, counts)], counts


def test_a_cut_takes_whole_words_and_leaves_pieces_that_are_worth_keeping():
    before, after = "Before it. " * 10, " After it." * 11
    pieces, counts = cut(before + "some quöted words here" + after, "e quö", "ted words her")
    assert pieces == [(before, "7:piece1"), (after, "7:piece2")]
    assert counts == CutCounts(passages=2, bytes=len("some quöted words here".encode()), documents_cut=1, pieces=2)
    pieces, counts = cut("Heading\n" + "word " * 30, "word " * 20)
    assert pieces == []  # a heading and ten words are shorter than the shortest piece
    assert counts.documents_dropped == 1
    assert len("word " * 10) < SHORTEST_PIECE_BYTES
    assert cut("untouched")[0] == [("untouched", "7")]


def test_a_cut_in_text_without_spaces_is_between_characters():
    text = "漢字仮名交じり文" * 40
    content = text.encode()
    ((first, _), (second, _)) = (
        (piece["text"], 0) for piece in cut_out({"text": text, "row_id": "1"}, content, [(301, 500)], CutCounts())
    )
    assert text.startswith(first)
    assert text.endswith(second)
    assert len(content) - len((first + second).encode()) < 210


def dataset(texts):
    rows = [{"text": text, "source": "s", "row_id": str(number), "draw": number / 100} for number, text in enumerate(texts)]
    return Dataset.from_list(rows)


def test_of_a_repeated_passage_the_first_stays_and_later_ones_are_cut_out(tmp_path, monkeypatch, caplog):
    generator = random.Random(4)
    passage = words(60, generator)
    texts = [words(50, generator) for _ in range(50)]
    texts[10] += "\n" + passage + "\n" + words(40, generator)
    texts[20] = words(40, generator) + "\n" + passage + "\n" + texts[20]
    texts[30] = passage
    texts[40] += "\n" + passage + "\n" + words(5, generator)
    ruled = words(30, generator) + "\n"
    texts.append(ruled + "-" * 5000)  # repeats only itself
    caplog.set_level("INFO")
    passport, dropped = Passport(), DroppedDocuments(tmp_path)
    kept = cut_repeated_passages(dataset(texts), passport, shortest=200, cache_dir=str(tmp_path), dropped=dropped)
    joined_text = "\n".join(kept["text"])
    assert joined_text.count(passage) == 1
    assert passage in kept["text"][10]
    assert kept["row_id"][19:23] == ["19", "20:piece1", "20:piece2", "21"]
    assert kept["draw"][20] == kept["draw"][21] == 0.2
    assert "30" not in kept["row_id"]
    assert kept["row_id"][-2:] == ["49", "50:piece1"]
    assert kept["text"][-1].startswith(ruled + "-" * 50)
    assert len(kept["text"][-1]) < len(ruled) + 200
    unchanged = [number for number in range(50) if number not in (20, 30, 40)]
    assert [kept["text"][kept["row_id"].index(str(number))] for number in unchanged] == [texts[number] for number in unchanged]
    (step,) = passport.steps
    assert (step["documents_in"], step["documents_out"]) == (51, 51)
    assert (step["passages"], step["documents_cut"], step["documents_dropped"]) == (4, 3, 1)
    assert step["bytes_cut"] == sum(len(text.encode()) for text in texts) - sum(len(text.encode()) for text in kept["text"])

    assert step["documents_out"] == 51 - step["documents_dropped"] - step["documents_cut"] + step["pieces"]
    assert "4 passages removed: 1 whole documents, parts of 3 others (4 pieces are kept); " in caplog.text
    dropped.move_into(tmp_path)
    (line,) = map(json.loads, (tmp_path / "dropped.jsonl").read_text(encoding="utf-8").splitlines())
    assert (line["step"], line["row_id"], line["text"]) == ("cut repeated passages", "30", passage)

    monkeypatch.setattr("hfgpt.data.on_disk.BATCH_DOCUMENTS", 3)  # the batch size makes no difference
    (tmp_path / "again").mkdir()
    again = cut_repeated_passages(dataset(texts), Passport(), shortest=200, cache_dir=str(tmp_path / "again"))
    assert again["row_id"] == kept["row_id"]


def test_without_repetitions_the_documents_are_the_same_object(tmp_path):
    documents = dataset([words(50, random.Random(number)) for number in range(20)])
    assert cut_repeated_passages(documents, Passport(), shortest=200, cache_dir=str(tmp_path)) is documents


def test_what_is_left_repeats_nothing_as_the_suffix_array_says(tmp_path):
    pydivsufsort = pytest.importorskip("pydivsufsort")
    generator = random.Random(5)
    phrases = [words(generator.randint(5, 60), generator) for _ in range(30)]
    texts = ["\n".join(generator.choices(phrases, k=6)) + "\n" + words(30, generator) for _ in range(80)]
    kept = cut_repeated_passages(dataset(texts), Passport(), shortest=200, cache_dir=str(tmp_path))

    def longest_repetition(texts):
        content = b"".join(text.encode() + bytes([0xFF]) + number.to_bytes(2, "big") for number, text in enumerate(texts))
        return int(pydivsufsort.kasai(content, pydivsufsort.divsufsort(content)).max())

    assert longest_repetition(texts) > 400
    assert longest_repetition(kept["text"]) < 200
    assert len("".join(kept["text"])) > 10_000
