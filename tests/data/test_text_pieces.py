"""A share of large texts: pieces from all over the user's own files, with their names and line numbers, and no broken documents."""

import json

import pytest

from hfgpt.data.passport import Passport
from hfgpt.data.reading import evenly
from hfgpt.data.sources import ReadingOptions, find_sources, load_documents, read_documents
from hfgpt.data.splitting import Split
from hfgpt.data.text_pieces import bounds, size_of
from hfgpt.errors import UserError


@pytest.fixture
def large(tmp_path):
    """A file of 3 MB with numbered lines, and a blank line after every tenth."""
    lines = (f"line {number} of a long tèxt that goes on and on\n" + "\n" * (number % 10 == 9) for number in range(65_000))
    path = tmp_path / "large.txt"
    path.write_text("".join(lines), encoding="utf-8")
    return path


def read(path, share, **options):
    return list(read_documents(find_sources([str(path)]), ReadingOptions(read_share=share, **options)))


def num_bytes(documents):
    return sum(len(document["text"].encode()) for document in documents)


@pytest.mark.parametrize("rule", [None, "file", "line", "paragraph"])
def test_pieces_come_from_all_of_a_file_cut_no_document_and_keep_its_line_numbers(large, rule):
    documents = read(large, 0.125, text_documents=rule)
    assert num_bytes(documents) / large.stat().st_size == pytest.approx(0.125, abs=0.01)
    lines = large.read_text(encoding="utf-8").split("\n")
    for document in documents:
        begins = int(document["row_id"]) - 1
        text = document["text"].rstrip("\n").split("\n")
        assert text == lines[begins : begins + len(text)]
    assert int(documents[0]["row_id"]) == 1
    assert int(documents[-1]["row_id"]) > 55_000
    assert {document["source"] for document in documents} == {str(large)}
    if rule in (None, "file"):
        assert len(documents) == 6  # each piece is one document
    if rule == "paragraph":
        assert all(document["text"].count("line ") == 10 for document in documents[:-1])


def test_documents_that_are_longer_than_pieces_are_cut_at_lines(large):
    text = large.read_text(encoding="utf-8")
    large.write_text(text[: len(text) // 2] + "<|endoftext|>\n" + text[len(text) // 2 :], encoding="utf-8")
    documents = read(large, 0.125, text_documents="<|endoftext|>")
    assert num_bytes(documents) / large.stat().st_size == pytest.approx(0.125, abs=0.03)
    assert len(documents) > 4


def test_a_file_without_line_breaks_is_cut_between_characters(tmp_path):
    (tmp_path / "one.txt").write_text("äöü€" * 200_000, encoding="utf-8")
    documents = read(tmp_path / "one.txt", 0.2)
    assert len(documents) > 3
    assert num_bytes(documents) / (tmp_path / "one.txt").stat().st_size == pytest.approx(0.2, abs=0.03)
    assert set("".join(document["text"] for document in documents)) == set("äöü€")


def test_line_breaks_of_other_systems_are_counted_as_everywhere(tmp_path):
    path = tmp_path / "mixed.txt"
    path.write_bytes(("ä" * 70 + "\r\nx\r\n\n" + "y\r").encode() * 20_000)
    whole = {document["row_id"]: document["text"] for document in read_documents(find_sources([str(path)]), rules("line"))}
    documents = read(path, 0.2, text_documents="line")
    assert len(documents) > 5000
    assert all(whole[document["row_id"]] == document["text"] for document in documents)


def rules(rule):
    return ReadingOptions(text_documents=rule)


def test_a_byte_that_is_not_utf8_is_named_in_the_users_file_with_its_line(large):
    content = bytearray(large.read_bytes())
    content[-100] = 0xFC
    large.write_bytes(content)
    line = bytes(content[:-100]).count(b"\n") + 1
    with pytest.raises(UserError, match=rf"large.txt, line {line}, byte {len(content) - 99} of the file: 0xfc is not valid UTF-8"):
        read(large, 0.999)


def test_utf16_is_to_be_converted_first_with_a_command_that_can_be_copied(tmp_path):
    (tmp_path / "large.txt").write_text("hello\n" * 9000, encoding="utf-16")
    with pytest.raises(UserError, match=r"a share can only be read of a file in UTF-8, .*-f UTF-16 -t UTF-8 .* > \S+large.txt$"):
        read(tmp_path / "large.txt", 0.5)


def test_json_lines_stay_whole_however_long(tmp_path):
    path = tmp_path / "large.jsonl"
    texts = [f"number {number} " + "x" * (300_000 * (number % 50 == 0)) for number in range(1000)]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    documents = read(path, 0.3)
    assert num_bytes(documents) / size_of(find_sources([str(path)])) == pytest.approx(0.3, abs=0.06)
    assert all(texts[int(document["row_id"]) - 1] == document["text"] for document in documents)


def test_of_a_json_list_single_documents_are_read_evenly(tmp_path):
    path = tmp_path / "list.json"
    path.write_text(json.dumps([{"text": f"number {number}"} for number in range(1000)]))
    assert [document["row_id"] for document in read(path, 0.25)][:4] == ["0", "4", "8", "12"]
    assert len(read(path, 0.25)) == 250
    assert list(evenly("abc", 0.01)) == ["a"]
    assert list(evenly("abc", 1)) == ["a", "b", "c"]


def test_files_are_bounded_by_a_share_and_data_sets_of_the_hub_by_a_number(tmp_path):
    (tmp_path / "list.json").write_text("x" * 1000)
    files, on_hub = find_sources([str(tmp_path / "list.json")]), find_sources(["somebody/texts"])
    assert bounds(files, most=250) == {"read_share": 0.25}
    assert bounds(on_hub, most=4_000_000) == {"max_documents": 2000, "streaming": True}
    assert bounds([*files, *on_hub], most=1000) == {"read_share": 0.5, "max_documents": 1000, "streaming": True}


def test_the_passport_names_the_users_file_with_its_own_size_and_hash(large, tmp_path):
    passport = Passport()
    sources, options = find_sources([str(large)]), ReadingOptions(read_share=0.125)
    load_documents(sources, options, passport, draw=Split().draw, cache_dir=tmp_path)
    (entry,) = passport.inputs
    assert (entry["name"], entry["bytes"]) == (str(large), large.stat().st_size)
    assert 0.12 < entry["text_bytes"] / entry["bytes"] < 0.13


@pytest.mark.parametrize("share", [0.0, -0.1, 1.5])
def test_a_share_is_above_0_and_at_most_1(share):
    with pytest.raises(UserError, match="it must be above 0 and at most 1"):
        ReadingOptions(read_share=share)
