"""Files that nobody writes on purpose: each is read, left out with a message, or refused in one sentence, in bounded memory."""

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from hfgpt.data.encoding import LINE_PART, LONGEST_LINE, decoded_lines
from hfgpt.data.passport import Passport
from hfgpt.data.row_errors import RowErrors
from hfgpt.data.sources import ReadingOptions, find_sources, load_documents, read_documents
from hfgpt.errors import UserError


def texts(*names, errors=None, **options):
    return [document["text"] for document in read_documents(find_sources(map(str, names)), ReadingOptions(**options), errors)]


@pytest.mark.parametrize("name", ["two words", "a [1]", "[a]*?", "it's", 'say "x"', "-dash", "line\nbreak", "~x", "ä", " "])
def test_a_file_of_any_name_is_read(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    Path(f"{name}.txt").write_text("its text\n")
    Path("other.txt").write_text("another text\n")
    assert texts(f"{name}.txt") == ["its text\n"]
    assert texts(tmp_path / f"{name}.txt") == ["its text\n"]
    assert sorted(texts(tmp_path)) == ["another text\n", "its text\n"]


def test_two_files_of_one_name_in_different_folders_are_two_sources(tmp_path):
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "same.txt").write_text(f"text {folder}\n")
    documents = list(read_documents(find_sources([str(tmp_path)]), ReadingOptions()))
    assert [document["text"] for document in documents] == ["text one\n", "text two\n"]
    assert len({document["source"] for document in documents}) == 2


def test_links_that_leave_a_folder_are_left_out_and_followed_where_they_are_named(tmp_path, caplog):
    folder, outside = tmp_path / "texts", tmp_path / "secret.txt"
    (folder / "deep").mkdir(parents=True)
    outside.write_text("not in the folder\n")
    (folder / "own.txt").write_text("in the folder\n")
    (folder / "link.txt").symlink_to(outside)
    (folder / "deep" / "inside.txt").symlink_to(folder / "own.txt")
    (folder / "elsewhere").symlink_to(tmp_path)
    (folder / "nowhere.txt").symlink_to(tmp_path / "gone.txt")
    with caplog.at_level("INFO", logger="hfgpt"):
        for name in (folder / "*.txt", folder / "**" / "*.txt", folder):
            if name == folder:
                (folder / "nowhere.txt").unlink()
            assert texts(name) == ["in the folder\n"]
    assert f"{folder}, leaving out 1 file reached through links that lead outside the folder" in caplog.text
    assert texts(folder / "link.txt") == texts(folder / "elsewhere" / "secret.txt") == ["not in the folder\n"]


def test_a_file_that_grows_while_it_is_read_is_refused(tmp_path):
    path = tmp_path / "log.txt"
    path.write_text("one line\n" * 10)

    def draw(text):
        with path.open("a") as file:
            file.write("one more\n")
        return 0.5

    (tmp_path / "cache").mkdir()
    with pytest.raises(UserError, match=r"log.txt changed while it was being read; wait until nothing writes to it"):
        load_documents(find_sources([str(path)]), ReadingOptions(), Passport(), draw=draw, cache_dir=tmp_path / "cache")


@pytest.mark.parametrize("name", ["bomb.txt.gz", "bomb.jsonl.gz", "bomb.txt"])
def test_a_compressed_file_is_refused_before_a_byte_of_it_is_unpacked(tmp_path, name):
    content = gzip.compress(bytes(50_000_000))
    assert len(content) < 100_000
    for part in (content, content[: len(content) // 2]):
        (tmp_path / name).write_bytes(part)
        with pytest.raises(UserError, match="is compressed with gzip, not plain text; unpack it .gunzip"):
            texts(tmp_path / name)
    (tmp_path / name).write_bytes(b"\x28\xb5\x2f\xfd" + bytes(10))
    with pytest.raises(UserError, match="is compressed with Zstandard"):
        texts(tmp_path / name)


def test_a_cut_parquet_file_is_refused_in_a_sentence(tmp_path):
    whole, cut = tmp_path / "whole.parquet", tmp_path / "cut.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": [f"text {number}" for number in range(1000)]}), whole)
    assert len(texts(whole)) == 1000
    content = whole.read_bytes()
    for part in (content[: len(content) // 2], content[:-4], b"PAR1", content[:100] + bytes(200) + content[300:]):
        cut.write_bytes(part)
        with pytest.raises(UserError, match="cut.parquet is not a valid Parquet file"):
            texts(cut)


HUGE = """
import sys
from hfgpt.data.sources import ReadingOptions, find_sources, read_documents
try:
    for _ in read_documents(find_sources([sys.argv[1]]), ReadingOptions()):
        pass
except ValueError as error:
    print(error)
(peak,) = [line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")]
print(int(peak) // 1024)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of a process is read from Linux")
@pytest.mark.parametrize(
    ("name", "most_mib", "sentence"),
    [
        ("one_line.jsonl", 400, "one_line.jsonl, line 1: longer than 16,777,216 characters"),
        ("one_line.txt", 1000, "one_line.txt: the document that begins in line 1 has more than 268,435,456 characters"),
        ("one_value.json", 400, "one_value.json is a single JSON value of 2,147,483,648 bytes, but the limit is 134,217,728"),
    ],
)
def test_two_gigabytes_in_one_line_are_refused_in_bounded_memory(tmp_path, name, most_mib, sentence):
    with (tmp_path / name).open("wb") as file:
        file.write(b"[" if name.endswith("json") else b"x")
        file.truncate(2**31)  # takes up no disk space
    done = subprocess.run([sys.executable, "-c", HUGE, str(tmp_path / name)], capture_output=True, text=True, timeout=300)
    *said, peak = done.stdout.splitlines()
    assert sentence in said[0], done.stderr
    assert 0 < int(peak) < most_mib


def test_a_line_that_is_too_long_can_be_skipped_and_is_counted(tmp_path):
    path = tmp_path / "rows.jsonl"
    rows = [{"text": "a"}, {"text": "x" * LONGEST_LINE}, {"text": "b"}, {"text": "é" * (LONGEST_LINE // 2)}]
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    errors = RowErrors("skip")
    assert [len(text) for text in texts(path, errors=errors)] == [1, 1, LONGEST_LINE // 2]
    assert dict(errors.counts) == {"a line of more than 16,777,216 characters": 1}
    with pytest.raises(UserError, match=r"rows.jsonl, line 2: longer than 16,777,216 characters.*on_error skip"):
        texts(path, errors=RowErrors())


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r", ""])
@pytest.mark.parametrize("length", [LINE_PART - 2, LINE_PART - 1, LINE_PART, 3 * LINE_PART + 1])
def test_a_long_line_in_parts_is_the_line(tmp_path, ending, length):
    path = tmp_path / "a.txt"
    content = "x" * (length - 1) + "é" + ending + "next" + ending + "\n" + "x" * LINE_PART + "\r" * 3
    path.write_bytes(content.encode())
    lines = {}
    for number, part in decoded_lines(path, in_parts=True):
        lines[number] = lines.get(number, "") + part
    assert list(lines.items()) == list(decoded_lines(path))
    assert "".join(lines.values()) == content
    assert texts(path) == [content]
    assert "".join(texts(path, text_documents="line")) == content


def test_the_byte_is_named_where_a_long_line_goes_wrong_and_the_line_is_left_out_whole(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"one\n" + b"x" * (2 * LINE_PART) + b"\xff" + b"x" * LINE_PART + b"\nthree\n\xfffour\nfive\n")
    with pytest.raises(UserError, match=rf"a.txt, line 2, byte {4 + 2 * LINE_PART + 1} of the file: 0xff is not valid UTF-8"):
        texts(path)
    errors = RowErrors("skip")
    assert texts(path, errors=errors, text_documents="line") == ["one\n", "three\n", "five\n"]
    assert dict(errors.counts) == {"not valid UTF-8": 2}


def test_a_file_of_bad_lines_is_skipped_in_time_that_grows_with_it_alone(tmp_path):
    path = tmp_path / "latin.txt"
    path.write_bytes(b"na\xefve, and a few words more\nfine\n" * 3_000)
    errors = RowErrors("skip")
    start = os.times().user
    assert texts(path, errors=errors, text_documents="line") == ["fine\n"] * 3_000
    assert errors.skipped == 3_000
    assert os.times().user - start < 5  # an earlier version reread the file from its start for each of them
