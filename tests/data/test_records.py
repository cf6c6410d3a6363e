import csv
import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pandas
import pyarrow
import pyarrow.parquet
import pytest
from hub_server import HubServer

import hfgpt
from hfgpt.data.records import RecordOptions, identities, read_records


def read(*names, **options):
    return list(read_records(map(str, names), RecordOptions(**options)))


def rows(*names, **options):
    return [(record.values, record.place, record.row_id) for record in read(*names, **options)]


def test_csv_fields_may_hold_commas_quotes_and_line_breaks_and_keep_their_line(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes('\ufefflabel,text\r\nham,"one, ""two""\r\nthree"\r\n\r\nspam,four\r\n'.encode())
    assert rows(path) == [
        ({"label": "ham", "text": 'one, "two"\r\nthree'}, "line 2", "2"),
        ({"label": "spam", "text": "four"}, "line 5", "5"),
    ]
    assert str(read(path)[1]) == f"{path}, line 5"


def test_csv_fields_may_be_longer_than_the_limit_of_the_csv_module(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("text\n" + "x" * 200_000 + "\n")
    assert [len(record.values["text"]) for record in read(path)] == [200_000]
    csv.field_size_limit(131_072)  # as in a new process
    path.write_text("x" * 200_000 + ",ham\n")
    assert len(read(path, header=False, columns=["text", "label"])[0].values["text"]) == 200_000


def test_a_quote_in_tsv_is_a_character_like_any_other(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_text('ham\t"quoted" here\nspam\t"never closed\nham\tlast', encoding="utf-8")
    assert rows(path, header=False, columns=["label", "text"]) == [
        ({"label": "ham", "text": '"quoted" here'}, "line 1", "1"),
        ({"label": "spam", "text": '"never closed'}, "line 2", "2"),
        ({"label": "ham", "text": "last"}, "line 3", "3"),
    ]


def test_json_lists_json_lines_and_parquet_keep_the_types_of_their_values(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.jsonl").write_text('{"text": "A", "label": [1, 2]}\n\n{"text": "B", "n": null}\n')
    (tmp_path / "b.json").write_text('[{"messages": [{"role": "user", "content": "C"}]}]')
    pyarrow.parquet.write_table(pyarrow.table({"text": ["D", "E"], "label": [0, 1]}), tmp_path / "c.parquet")
    records = read("*.jsonl", "b.json", "c.parquet")
    assert [(record.values, record.source, record.place) for record in records] == [
        ({"text": "A", "label": [1, 2]}, "a.jsonl", "line 1"),
        ({"text": "B", "n": None}, "a.jsonl", "line 3"),
        ({"messages": [{"role": "user", "content": "C"}]}, "b.json", "item 0"),
        ({"text": "D", "label": 0}, "c.parquet", "row 0"),
        ({"text": "E", "label": 1}, "c.parquet", "row 1"),
    ]
    assert len(read("*.jsonl", "c.parquet", max_records=3)) == 3


def test_python_docs_are_questions_on_the_library_with_their_answers():
    records = {record.row_id: record.values for record in read("python-docs")}
    assert len(records) > 5000
    assert not [row_id for row_id in records if row_id.startswith("topic:")]
    dedent = records["textwrap:dedent"]
    assert dedent["text"].startswith("Remove any common leading whitespace from every line in `text`.\n\nThis can be used")
    assert {**dedent, "text": ""} == {
        "text": "", "label": "textwrap", "name": "textwrap.dedent", "instruction": "What does textwrap.dedent do?",
        "output": "Remove any common leading whitespace from every line in `text`.",
    }  # fmt: skip
    assert records["email.message:Message.get_payload"]["label"] == "email"
    assert records["textwrap:"]["name"] == "textwrap"
    assert all(values["text"].strip() and "\n" not in values["output"] for values in records.values())


def test_identities_name_the_kind_and_the_hash_of_a_file(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("text\nA\n")
    digest = hashlib.sha256(b"text\nA\n").hexdigest()
    unknown = {"license": None, "url": None}
    assert identities([str(path)], RecordOptions()) == [{"name": str(path), "kind": "csv", **unknown, "bytes": 7, "sha256": digest}]


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.csv", "label,text\nham,a\nspam,b,c\n", r"a.csv, line 3: 3 fields instead of 2 \(label, text\), separated by comma"),
        ("a.csv", 'label,text\nham,"x\ny"\nspam\n', r"a.csv, line 4: 1 fields instead of 2"),
        ("a.csv", 'label,text\nham,a\nham,"b\nspam,c\n', r"a.csv, line 3: the row that begins here is not valid CSV"),
        ("a.csv", "text,text\na,b\n", r"a.csv, line 1: the column name 'text' occurs 2 times"),
        ("a.csv", "", r"a.csv is empty; it must begin with a line of column names"),
        ("a.tsv", "label\ttext\nham\ta\tb\n", r"a.tsv, line 2: 3 fields instead of 2 \(label, text\), separated by tab; quote"),
        ("a.jsonl", '{"a": 1}\n["b"]\n', r"a.jsonl, line 2: found a JSON list, but an object is needed"),
        ("a.jsonl", '{"a": ["\\ud800"]}\n', r"a.jsonl, line 1: the field 'a' contains half a surrogate pair \(\\ud800\)"),
        ("a.json", '[{"a": 1},\n{"b" 2}]', r"a.json, line 2: not valid JSON"),
        ("a.jsonl", '[{"a": 1}]', r"a.jsonl, line 1: found a JSON list, .* is one list, rename it to end in .json"),
        ("a.csv", "text,label\na\0,b\n", r"a.csv, line 2: a NUL character"),
        ("a.csv", "text\0,label\n", r"a.csv, line 1: a NUL character"),
        ("a.csv", "text,label,\na,b,c\n", r"a.csv, line 2: 3 fields instead of 2"),
        ("a.jsonl", '{"a": ' + "9" * 5000 + "}\n", r"a.jsonl, line 1: not valid JSON \(Exceeds the limit"),
        ("a.json", '[{"a": ' + "9" * 5000 + "}]", r"a.json: not valid JSON \(Exceeds the limit"),
        ("a.parquet", "no parquet", r"a.parquet is not a valid Parquet file"),
        ("a.txt", "text", r"a.txt is not a table; rows are read from .csv, .tsv"),
    ],
)
def test_what_cannot_be_read_is_named_by_file_and_line(tmp_path, name, content, sentence):
    path = tmp_path / name
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=sentence):
        read(path)


REVIEWS = [({"text": "a boat, broken", "label": "bad"}, "line 2"), ({"text": "a boat, bright", "label": "good"}, "line 3")]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("REVIEWS.CSV", b'text,label\n"a boat, broken",bad\n"a boat, bright",good\n'),
        ("semicolon.csv", b"text;label\r\na boat, broken;bad\r\na boat, bright;good\r\n"),
        ("tab.csv", b"text\tlabel\na boat, broken\tbad\na boat, bright\tgood\n"),
        ("comma.tsv", b'text,label\n"a boat, broken",bad\n"a boat, bright",good\n'),
        ("mac.csv", b'text,label\r"a boat, broken",bad\r"a boat, bright",good'),
        ("quoted.TSV", b'"text"\t"label"\n"a boat, broken"\t"bad"\n"a boat, bright"\t"good"\n'),
        ("excel unicode.tsv", "text\tlabel\r\na boat, broken\tbad\r\na boat, bright\tgood\r\n".encode("utf-16")),
        ("marked.csv", b'\xef\xbb\xbf"text";"label"\n"a boat, broken";"bad"\n"a boat, bright";"good"\n'),
        ("trailing.csv", b'text,label,,\n"a boat, broken",bad,,\n"a boat, bright",good,,\n,,,\n,,,\n'),
        ("spaced.csv", b'text, label\n"a boat, broken", "bad"\n"a boat, bright", "good"\n'),
    ],
)
def test_tables_are_read_as_spreadsheets_and_pandas_write_them(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    assert [(record.values, record.place) for record in read(path)] == REVIEWS


def test_suffixes_are_compared_without_case_everywhere():
    root = Path(hfgpt.__file__).parents[1]
    lines = [
        f"{path.relative_to(root)}:{number}"
        for folder in ("hfgpt", "recipes")
        for path in (root / folder).rglob("*.py")
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if re.search(r"\.suffix (in|not in|==|!=) ", line)
    ]
    assert lines == []


def test_a_first_line_that_names_the_separator_is_no_row_and_a_key_names_any_other(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("sep=;\ntext;label\na,b;x\n")
    assert rows(path) == [({"text": "a,b", "label": "x"}, "line 3", "3")]
    path.write_text("text|label\na,b|x\n")
    with pytest.raises(ValueError, match=r"line 2: 2 fields instead of 1 \(text\|label\), separated by comma; .* right separator"):
        read(path)
    assert rows(path, separator="|") == [({"text": "a,b", "label": "x"}, "line 2", "2")]
    path.write_text("ham;hello, you\nspam;win, now\n")
    assert rows(path, header=False, columns=["label", "text"], separator="semicolon")[0][0] == {
        "label": "ham",
        "text": "hello, you",
    }
    with pytest.raises(ValueError, match=r"separator is ';;'; allowed: comma, semicolon, tab and single characters"):
        RecordOptions(separator=";;")


def test_tsv_of_pandas_is_read_back_as_it_was(tmp_path):
    texts = ["line one\nline two", 'she said "hi"', "a\ttab", "plain", '"', ""]
    path = tmp_path / "a.tsv"
    pandas.DataFrame({"text": texts, "label": list("abcdef")}).to_csv(path, sep="\t", index=False)
    assert [record.values["text"] for record in read(path)] == texts


def test_quotes_that_would_swallow_whole_rows_of_a_tsv_file_are_characters(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_text('text\tlabel\n"hello\tham\nyou\tspam\nbye"\tham\n')
    assert [record.values["text"] for record in read(path)] == ['"hello', "you", 'bye"']


def test_an_index_column_without_a_name_does_no_harm(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text(",text,label\n0,a,x\n")
    assert rows(path) == [({"": "0", "text": "a", "label": "x"}, "line 2", "2")]


def test_json_lines_are_read_from_json_files(tmp_path):
    path = tmp_path / "lines.json"
    path.write_text('{"a": 1}\n{"a": 2}\n')
    assert rows(path) == [({"a": 1}, "line 1", "1"), ({"a": 2}, "line 2", "2")]


def test_invalid_utf8_is_named_by_file_line_and_byte(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b"text\nna\xefve\n")
    with pytest.raises(ValueError, match=r"a.csv, line 2, byte 8 of the file: 0xef is not valid UTF-8"):
        read(path)


@pytest.mark.parametrize("name", ["data/missing.csv", "missing.tsv", "nowhere/*.csv"])
def test_a_missing_table_is_a_missing_file_not_a_dataset_of_the_hub(name):
    with pytest.raises(FileNotFoundError, match=r"missing\..sv does not exist|the folder 'nowhere' does not exist"):
        read(name)


def test_a_parquet_file_that_names_a_column_twice_is_refused(tmp_path):
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table([["A"], ["B"]], names=["text", "text"]), path)
    with pytest.raises(ValueError, match="a.parquet: the column name 'text' occurs 2 times"):
        read(path)


def test_header_and_columns_that_contradict_each_other_are_refused():
    with pytest.raises(ValueError, match="header is true; a file whose first line"):
        RecordOptions(columns=["text"])
    with pytest.raises(ValueError, match="header is false, but no columns are given"):
        RecordOptions(header=False)
    with pytest.raises(ValueError, match="columns: the column name 'text' occurs 2 times"):
        RecordOptions(header=False, columns=["text", "text"])


READ = """
import json, sys
from hfgpt.data.records import RecordOptions, read_records
for record in read_records(sys.argv[1:], RecordOptions()):
    print(json.dumps([record.values, str(record)]))
"""


@pytest.mark.slow
def test_class_ids_of_a_hub_dataset_become_their_names(tmp_path):
    with HubServer(tmp_path / "hub") as hub:
        folder = hub.root / "datasets" / "ann" / "sms"
        folder.mkdir(parents=True)
        (folder / "README.md").write_text(
            "---\ndataset_info:\n  features:\n  - name: text\n    dtype: string\n  - name: label\n    dtype:\n      class_label:\n"
            "        names:\n          '0': ham\n          '1': spam\n---\n"
        )
        (folder / "train.jsonl").write_text('{"text": "Hello", "label": 0}\n{"text": "WIN", "label": 1}\n')
        done = subprocess.run(
            [sys.executable, "-c", READ, "ann/sms"], env=hub.environment(home=tmp_path / "home"), cwd=tmp_path,
            capture_output=True, text=True, timeout=120,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert [json.loads(line) for line in done.stdout.splitlines()] == [
        [{"text": "Hello", "label": "ham"}, "ann/sms, row 0"],
        [{"text": "WIN", "label": "spam"}, "ann/sms, row 1"],
    ]
