"""Files are written whole or not at all."""

import os

import pytest

from hfgpt.files import read_json, write_json, write_whole


def test_what_cannot_be_written_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "report.txt"
    write_whole(path, "old\n")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_whole(path, "new\n")
    assert path.read_bytes() == b"old\n"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_is_linked_from_elsewhere_is_replaced_not_written_through(tmp_path):
    write_json(tmp_path / "a.json", {"length": 1})
    os.link(tmp_path / "a.json", tmp_path / "b.json")
    write_json(tmp_path / "a.json", {"length": 2})
    assert (read_json(tmp_path / "a.json"), read_json(tmp_path / "b.json")) == ({"length": 2}, {"length": 1})


def test_bytes_are_written_as_they_are(tmp_path):
    write_whole(tmp_path / "a.csv", b"a\r\n\xff")
    assert (tmp_path / "a.csv").read_bytes() == b"a\r\n\xff"
