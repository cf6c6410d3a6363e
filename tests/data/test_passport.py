import json
import time

from hfgpt.counting import counted
from hfgpt.data.mixture import tokens_by_source
from hfgpt.data.passport import Passport, contents_of


def test_seconds_go_to_the_log_and_not_into_the_file(tmp_path, caplog):
    caplog.set_level("INFO", logger="hfgpt")
    passport, start = Passport(), time.perf_counter() - 10
    passport.record("drop blank", 10, 9, start + 4, bytes_in=100, bytes_out=80, reasons={"blank": 1})
    passport.record("drop copies", 2, 1, time.perf_counter())
    passport.took("save", start + 7)
    passport.took("save", start + 9)
    passport.log_shares(start)
    passport.save(tmp_path)
    assert "drop blank: 10 -> 9 documents (-10.0 %), 6.0 s" in caplog.text
    assert "drop copies: 2 -> 1 document (-50.0 %)" in caplog.text
    assert "time: 10.0 s, of which drop blank 60 %, save 40 %, everything else 0 %" in caplog.text
    content = json.loads((tmp_path / "passport.json").read_text())
    assert content["steps"] == [
        {"step": "drop blank", "documents_in": 10, "documents_out": 9, "bytes_in": 100, "bytes_out": 80, "reasons": {"blank": 1}},
        {"step": "drop copies", "documents_in": 2, "documents_out": 1},
    ]
    assert "seconds" not in (tmp_path / "passport.json").read_text()
    assert Passport.load(tmp_path) == passport


def test_inputs_are_the_same_by_what_they_hold_not_by_what_is_said_of_them():
    file = {"name": "a.txt", "kind": "text", "bytes": 3, "sha256": "ab", "license": None, "url": None}
    hub = {"name": "user/texts", "kind": "hub", "split": "train", "revision": None, "commit": "c0"}
    told = {"license": "mit", "url": "https://example.org", "documents": 2, "text_bytes": 3, "splits": {"train": {"tokens": 1}}}
    assert contents_of([file | told | {"name": "b.txt", "revision": "2"}, hub | told]) == contents_of([file, hub])
    assert contents_of([file | {"sha256": "cd"}]) != contents_of([file])
    assert contents_of([hub | {"revision": "v2"}]) != contents_of([hub])
    assert contents_of([hub | {"name": "user/other"}]) != contents_of([hub])


def test_one_of_something_is_in_the_singular():
    assert [counted(number, "near copies") for number in (0, 1, 2000)] == ["0 near copies", "1 near copy", "2,000 near copies"]
    assert counted(1, "bytes") == "1 byte"


def test_a_source_of_which_nothing_is_left_is_counted_as_that():
    passport = Passport(inputs=[{"name": "a.txt"}, {"name": "b.txt"}])
    found = {"documents": 2, "bytes": 30, "tokens": 7}
    for split in ("train", "test"):
        passport.count_rows(split, {"tokens": 7}, by_source={"b.txt": found}, lengths={})
    nothing = {"documents": 0, "bytes": 0, "tokens": 0}
    assert [one["splits"] for one in passport.inputs] == [dict.fromkeys(("train", "test"), one) for one in (nothing, found)]
    assert tokens_by_source(passport, "train") == {"b.txt": 7}


def test_a_step_that_cuts_documents_says_so_when_there_are_more_of_them(caplog):
    caplog.set_level("INFO")
    Passport().record("drop leaks", 27, 264, 0.0)
    Passport().record("drop leaks", 27, 20, 0.0)
    assert "drop leaks: 27 documents, cut into 264 pieces, " in caplog.text
    assert "drop leaks: 27 -> 20 documents (-25.9 %), " in caplog.text
