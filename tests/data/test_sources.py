import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from hfgpt.data.passport import Passport
from hfgpt.data.reading import Record, SourceKind, texts_of
from hfgpt.data.records import RecordOptions, identities, read_records
from hfgpt.data.row_errors import RowErrors
from hfgpt.data.sources import SOURCES, ReadingOptions, find_sources, load_documents, read_documents
from hfgpt.data.splitting import Split
from hfgpt.errors import UserError


def read(*names, **options):
    return list(read_documents(find_sources(map(str, names)), ReadingOptions(**options)))


def texts(*names, **options):
    return [document["text"] for document in read(*names, **options)]


def test_a_text_file_is_one_document_with_its_line_breaks(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeffone\r\ntwo\n\n  three\r".encode())
    assert read(path) == [{"text": "one\r\ntwo\n\n  three\r", "source": str(path), "row_id": "1"}]


def test_a_text_file_can_hold_a_document_a_paragraph_a_line_or_between_separators(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("one\ntwo\n\n \nthree\n<|endoftext|>\nfour")
    assert texts(path, text_documents="paragraph") == ["one\ntwo\n", "three\n<|endoftext|>\nfour"]
    assert texts(path, text_documents="line")[:2] == ["one\n", "two\n"]
    assert texts(path, text_documents="<|endoftext|>") == ["one\ntwo\n\n \nthree\n", "four"]
    assert [document["row_id"] for document in read(path, text_documents="paragraph")] == ["1", "5"]


def test_patterns_and_several_kinds_are_read_in_order_and_once(tmp_path, monkeypatch):
    import pyarrow
    import pyarrow.parquet

    monkeypatch.chdir(tmp_path)
    (tmp_path / "b.txt").write_text("B")
    (tmp_path / "a.txt").write_text("A")
    (tmp_path / "c.jsonl").write_text('{"text": "C\\n1", "n": 1}\n\n{"text": "D"}\n')
    (tmp_path / "e.json").write_text('[{"text": "E"}]')
    pyarrow.parquet.write_table(pyarrow.table({"text": ["F\nf"], "other": [1]}), tmp_path / "f.parquet")
    documents = read("*.txt", "a.txt", "c.jsonl", "e.json", "f.parquet")
    assert [document["text"] for document in documents] == ["A", "B", "C\n1", "D", "E", "F\nf"]
    assert [(document["source"], document["row_id"]) for document in documents[2:]] == [
        ("c.jsonl", "1"), ("c.jsonl", "3"), ("e.json", "0"), ("f.parquet", "0"),
    ]  # fmt: skip


def test_max_documents_stops_the_reading(tmp_path):
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": str(n)}) + "\n" for n in range(5)))
    assert texts(tmp_path / "a.jsonl", max_documents=2) == ["0", "1"]


def test_python_docs_are_two_megabytes_of_distinct_places():
    documents = read("python-docs")
    size = sum(len(document["text"].encode()) for document in documents)
    assert 1_800_000 < size < 3_500_000
    places = {document["row_id"]: document["text"] for document in documents}
    assert places["textwrap:dedent"].startswith("textwrap.dedent(text)\n\nRemove any common leading whitespace")
    assert places["topic:with"].startswith('The "with" statement\n')
    assert "\n\n" in places["textwrap:TextWrapper"]
    assert {document["source"] for document in documents} == {"python-docs"}


def test_python_docs_import_nothing_of_what_they_read():
    import subprocess
    import sys

    code = (
        "import sys; from hfgpt.data.python_docs import read_python_docs; before = set(sys.modules); read_python_docs();"
        "print({'antigravity', 'turtle', 'tkinter', 'this', 'pydoc_data'} & (set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("missing.txt", r"^missing\.txt does not exist \(looked from"),
        ("nowhere/*.jsonl", r"^nowhere/\*\.jsonl: the folder 'nowhere' does not exist"),
        ("./missing", r"^\./missing does not exist \(looked from"),
    ],
)
def test_missing_files_and_patterns_without_a_match_are_named(name, sentence):
    with pytest.raises(FileNotFoundError, match=sentence):
        find_sources([name])


def test_no_sources_at_all_are_refused():
    with pytest.raises(ValueError, match="no sources given"):
        find_sources([])


def test_invalid_utf8_is_named_by_file_line_and_byte(tmp_path):
    path = tmp_path / "latin.txt"
    path.write_bytes(b"good\nna\xefve\n")
    with pytest.raises(ValueError, match=r"latin.txt, line 2, byte 8 of the file: 0xef is not valid UTF-8"):
        read(path)


def test_all_files_that_need_the_same_conversion_are_named_at_once_with_a_command_for_them(tmp_path):
    """Old texts are rarely alone, and one file per run would take a user hours."""
    old, other = "Grüße aus dem schönen Süden, wo alles besser schmeckt.\n" * 20, "Das „Café“ ist schön.\n" * 20
    for name, text, codec in (("a b", old, "latin1"), ("c", old, "utf-8"), ("d", old, "latin1"), ("e", other, "cp1252")):
        (tmp_path / f"{name}.txt").write_bytes(text.encode(codec))
    with pytest.raises(UserError) as refused:
        read(tmp_path, text_documents="line")
    message = str(refused.value)
    assert "a b.txt, line 1, byte 3 of the file: 0xfc is not valid UTF-8 (invalid start byte); it looks like latin1 (western " \
           f"languages), as does {tmp_path / 'd.txt'}; convert them with: for file in " in message  # fmt: skip
    subprocess.run(["bash", "-c", message.partition("with: ")[2]], check=True)
    assert (tmp_path / "a b.txt").read_text(encoding="utf-8") == (tmp_path / "d.txt").read_text(encoding="utf-8") == old
    assert (tmp_path / "d.txt.bak").read_bytes() == old.encode("latin1")
    with pytest.raises(UserError, match=r"e.txt, line 1, .* it looks like windows-1252 \(western languages\)"):
        read(tmp_path)
    (tmp_path / "e.txt").unlink()
    assert texts(f"{tmp_path}/*") == [old] * 3  # not the backups, unless they are meant
    (tmp_path / "d.txt.bak").write_text("meant", encoding="utf-8")
    assert texts(f"{tmp_path}/d*.bak") == ["meant"]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ('{"text": "a"}\n{"text": "b"\n', r"rows.jsonl, line 2: not valid JSON"),
        ('{"text": "a"}\n{"body": "b", "id": 1}\n', r"rows.jsonl, line 2: the field 'text' is missing, found 'body', 'id'"),
        ('{"text": 7}\n', r"rows.jsonl, line 1: the field 'text' is a number, but must be a string"),
        ('{"text": null}\n', r"rows.jsonl, line 1: the field 'text' is a null"),
        ('{"text": ["a"]}\n', r"rows.jsonl, line 1: the field 'text' is a list"),
        ('"text"\n', r"rows.jsonl, line 1: found a JSON string, but an object"),
        ('{"text": "\\ud800"}\n', r"rows.jsonl, line 1: the field 'text' contains half a surrogate pair \(\\ud800"),
    ],
)
def test_broken_json_lines_are_named_by_file_line_field_and_type(tmp_path, content, sentence):
    path = tmp_path / "rows.jsonl"
    path.write_text(content)
    with pytest.raises(ValueError, match=sentence):
        read(path)


def test_broken_json_lists_are_named(tmp_path):
    path = tmp_path / "rows.json"
    path.write_text('{"text": "a"}')
    with pytest.raises(ValueError, match="contains a JSON object, but must be a list of objects"):
        read(path)


def test_parquet_columns_are_checked(tmp_path):
    import pyarrow
    import pyarrow.parquet

    path = tmp_path / "rows.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"body": ["a"], "n": [1]}), path)
    with pytest.raises(ValueError, match="rows.parquet has no column 'text', found 'body', 'n'"):
        read(path)
    with pytest.raises(ValueError, match="the column 'n' has the type int64, but must be a string"):
        read(path, text_field="n")
    assert texts(path, text_field="body") == ["a"]
    latin_1 = pyarrow.StringArray.from_buffers(1, pyarrow.py_buffer(b"\0\0\0\0\4\0\0\0"), pyarrow.py_buffer(b"caf\xe9"))
    pyarrow.parquet.write_table(pyarrow.table({"text": latin_1}), path)
    with pytest.raises(ValueError, match=r"rows.parquet, rows 0 to 0: a column declared as text is not valid UTF-8 .*b'\\xe9'"):
        read(path)
    path.write_bytes(b"no parquet")
    with pytest.raises(ValueError, match="rows.parquet is not a valid Parquet file"):
        read(path)


def test_lines_and_paragraphs_end_at_a_lone_cr_and_keep_their_line_breaks(tmp_path):
    path = tmp_path / "mac.txt"
    path.write_bytes(b"one\rtwo\r\rthree\r \rfour")
    assert texts(path, text_documents="paragraph") == ["one\rtwo\r", "three\r", "four"]
    assert texts(path, text_documents="line") == ["one\r", "two\r", "\r", "three\r", " \r", "four"]
    assert texts(path) == ["one\rtwo\r\rthree\r \rfour"]
    path.write_bytes(b"one\r\ntwo\r\n\r\nthree\r\n")
    assert texts(path, text_documents="paragraph") == ["one\r\ntwo\r\n", "three\r\n"]


def test_a_byte_order_mark_is_no_text(tmp_path):
    (tmp_path / "a.txt").write_bytes("ein Satz.\r\nnoch einer.\r\n".encode("utf-16"))
    (tmp_path / "b.jsonl").write_bytes('\ufeff{"text": "ähnlich"}\n'.encode("utf-16-le"))
    assert texts(tmp_path / "a.txt", tmp_path / "b.jsonl") == ["ein Satz.\r\nnoch einer.\r\n", "ähnlich"]


STORIES = "Once there was a boat.\n<|endoftext|>\nOnce there was a sea.\n<|endoftext|> \nThe end.\n"


def test_lines_that_look_like_separators_are_refused_with_the_key_that_reads_them(tmp_path):
    path = tmp_path / "stories.txt"
    path.write_text(STORIES)
    with pytest.raises(
        ValueError, match=r"stories.txt has 2 lines that consist only of '<\|endoftext\|>'.*--text_documents '<\|endo"
    ):
        read(path)
    assert texts(path, text_documents="<|endoftext|>") == ["Once there was a boat.\n", "Once there was a sea.\n", "The end.\n"]
    assert texts(path, text_documents="file") == [STORIES]  # an explicit choice is obeyed
    path.write_text("a line that names <|endoftext|>\n\n    <|endoftext|>\n\nin a text about tokenizers\n")
    assert len(read(path)) == 1


def test_markers_that_are_read_as_text_are_warned_about(tmp_path, caplog):
    path = tmp_path / f"{tmp_path.name}.txt"
    path.write_text(STORIES * 7)
    read(path, text_documents="paragraph")
    assert "warning: '<|endoftext|>' occurs 14 times in the text (1 document, 14 times on its own line)" in caplog.text
    path.with_suffix(".jsonl").write_text(json.dumps({"text": "<|im_start|>user\nHi<|im_end|>\n" * 21}) + "\n")
    read(path.with_suffix(".jsonl"))
    assert "'<|im_start|>' occurs 21 times in the text (1 document, 0 times on its own line). In rows it is " in caplog.text
    caplog.clear()
    path.write_text("Name <|endoftext|>, </s> or <|pad|> in a sentence.\n" * 9)
    read(path)
    assert caplog.text == ""


def test_json_lines_in_a_json_file_are_read_whatever_the_case_of_its_suffix(tmp_path):
    path = tmp_path / "lines.JSON"
    path.write_text('{"text": "a"}\n\n{"text": "b"}\n')
    assert [(document["text"], document["row_id"]) for document in read(path)] == [("a", "1"), ("b", "3")]
    path.write_text('[{"text": "a"},\n {"text": "b"}]')
    assert [(document["text"], document["row_id"]) for document in read(path)] == [("a", "0"), ("b", "1")]
    path.write_text('{"text": "a"}\n{"text": "b"\n')
    with pytest.raises(ValueError, match=r"lines.JSON, line 2: not valid JSON"):
        read(path)


def skipping(*names, **options):
    errors = RowErrors("skip")
    documents = list(read_documents(find_sources(map(str, names)), ReadingOptions(**options), errors))
    return [document["text"] for document in documents], dict(errors.counts)


def test_rows_that_are_no_documents_are_skipped_and_counted_where_that_is_asked_for(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(
        b'{"text": "a"}\nnot JSON\n{"text": 7}\n{"text": null}\n["text"]\n{"body": "b"}\n{"text": "\xff"}\n{"text": "z"}'
    )
    assert skipping(path) == (
        ["a", "z"],
        {"not valid JSON": 1, "the text is a number": 1, "the text is a null": 1, "no JSON object": 1, "no field 'text'": 1,
         "not valid UTF-8": 1},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("rule", "kept", "skipped"),
    [
        ("line", ["one\n", "two\n", "\n", "five\n", "six"], 1),
        ("paragraph", ["one\ntwo\n"], 1),  # a text with a line missing is not kept
        ("file", [], 1),
        ("two", ["one\n"], 1),
    ],
)
def test_a_document_with_an_invalid_line_is_skipped_whole(tmp_path, rule, kept, skipped):
    path = tmp_path / "a.txt"
    path.write_bytes(b"one\ntwo\n\nna\xefve\nfive\nsix")
    assert skipping(path, text_documents=rule) == (kept, {"not valid UTF-8": skipped})


def test_files_that_are_empty_blank_or_one_line_are_read_beside_others(tmp_path, caplog):
    for name, content in (("a", ""), ("b", " \n\n"), ("c", "one line"), ("d", "x" * 3_000_000), ("e", "\n")):
        (tmp_path / f"{name}.txt").write_text(content)
    assert [len(text) for text in texts(tmp_path)] == [3, 8, 3_000_000, 1]
    assert f"1 of the sources contains no document, such as {tmp_path / 'a.txt'}" in caplog.text
    assert texts(tmp_path / "c.txt", text_documents="line") == ["one line"]
    assert texts(tmp_path / "a.txt", text_documents="paragraph") == []


def test_a_source_from_outside_is_one_entry(monkeypatch):
    def read_poem(source, options, errors, column=None):
        for number, line in enumerate(["A boat.", "A sea.", None]):
            yield Record({"text": line, "label": "water"}, source.name, f"verse {number}", str(number))

    def identity_of_poem(source, options):
        return {"sha256": hashlib.sha256(source.name.encode()).hexdigest()}

    entry = SourceKind(read_poem, texts_of(read_poem), identity_of_poem, is_named=lambda name: name.startswith("poem:"))
    monkeypatch.setitem(SOURCES, "poem", entry)
    errors = RowErrors("skip")
    documents = list(read_documents(find_sources(["poem:sea"]), ReadingOptions(), errors))
    assert documents == [
        {"text": "A boat.", "source": "poem:sea", "row_id": "0"},
        {"text": "A sea.", "source": "poem:sea", "row_id": "1"},
    ]
    assert dict(errors.counts) == {"the text is a null": 1}
    records = list(read_records(["poem:sea"], RecordOptions(max_records=1)))
    assert [(record.values["label"], str(record)) for record in records] == [("water", "poem:sea, verse 0")]
    assert identities(["poem:sea"], RecordOptions()) == [
        {"name": "poem:sea", "kind": "poem", "license": None, "url": None, "sha256": hashlib.sha256(b"poem:sea").hexdigest()}
    ]


def test_a_kind_of_file_from_outside_is_known_by_its_suffix(tmp_path, monkeypatch):
    def read_shouted(source, options, errors):
        yield {"text": source.file.read_text().upper(), "source": source.name, "row_id": "0"}

    monkeypatch.setitem(SOURCES, "shout", SourceKind(documents=read_shouted, suffixes=(".shout",)))
    path = tmp_path / "a.SHOUT"
    path.write_text("ahoy")
    assert texts(path) == ["AHOY"]
    with pytest.raises(ValueError, match="a.SHOUT is not a table; rows are read from .csv"):
        list(read_records([str(path)], RecordOptions()))


def draws(tmp_path, *names, on_error="stop", **options):
    """The draw of each document by its text."""
    sources, draw = find_sources(map(str, names)), Split(by="group").draw
    documents = load_documents(
        sources, ReadingOptions(**options), Passport(), draw=draw, cache_dir=str(tmp_path), on_error=on_error
    )
    assert documents.column_names == ["text", "source", "row_id", "draw"]
    return dict(zip(documents["text"], documents["draw"], strict=True))


def test_documents_of_a_group_draw_one_place_whatever_kind_of_file_names_it(tmp_path):
    import pyarrow
    import pyarrow.parquet

    rows = [("a", "anna"), ("b", "ben"), ("c", "anna")]
    (tmp_path / "one.jsonl").write_text("".join(json.dumps({"text": text, "author": author}) + "\n" for text, author in rows))
    table = pyarrow.table({"author": ["ben", "anna"], "text": ["d", "e"], "more": [1, 2]})
    pyarrow.parquet.write_table(table, tmp_path / "two.parquet")
    found = draws(tmp_path, tmp_path / "one.jsonl", tmp_path / "two.parquet", group_field="author")
    anna, ben = Split().draw("anna"), Split().draw("ben")
    assert found == {"a": anna, "b": ben, "c": anna, "d": ben, "e": anna}


def test_every_file_can_be_a_group(tmp_path):
    for name in ("one", "two"):
        (tmp_path / f"{name}.txt").write_text(f"{name} a\n\n{name} b\n")
    found = draws(tmp_path, tmp_path, text_documents="paragraph", group_field="source")
    assert len(found) == 4
    assert found["one a\n"] == found["one b\n"] != found["two a\n"] == found["two b\n"]
    (tmp_path / "elsewhere").mkdir()
    shutil.copy(tmp_path / "one.txt", tmp_path / "elsewhere" / "other.txt")
    moved = draws(tmp_path, tmp_path / "elsewhere", text_documents="paragraph", group_field="source")
    assert moved["one a\n"] == found["one a\n"]


def test_a_file_whose_name_is_not_utf8_is_named(tmp_path):
    (Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.txt"))).write_text("a text")
    with pytest.raises(UserError, match=r"caf\\udce9.txt' has a name that is not UTF-8"):
        find_sources([str(tmp_path)])


def test_a_group_that_cannot_be_told_is_refused_or_skipped(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "a", "author": 7}\n{"text": "b"}\n{"text": "c", "author": null}\n')
    with pytest.raises(ValueError, match="line 2: the field 'author' is missing, found 'text'; give the group column"):
        draws(tmp_path, path, group_field="author")
    assert draws(tmp_path, path, group_field="author", on_error="skip") == {"a": Split().draw("7")}
    (tmp_path / "a.txt").write_text("a text")
    with pytest.raises(ValueError, match="group_field is 'author', but .*a.txt is a text, which has no columns; use --group_fi"):
        draws(tmp_path, tmp_path / "a.txt", group_field="author")


def test_python_docs_are_grouped_by_their_top_level_module(tmp_path):
    from hfgpt.data.python_docs import read_python_docs

    found = draws(tmp_path, "python-docs", group_field="module")
    of_email = [document["text"] for document in read_python_docs() if document["row_id"].startswith(("email:", "email."))]
    assert len(of_email) > 50
    assert {found[text] for text in of_email} == {Split().draw("email")}
    with pytest.raises(ValueError, match="group_field is 'author'; python-docs is grouped by 'module'"):
        draws(tmp_path, "python-docs", group_field="author")


def test_tables_are_read_by_their_column_of_text(tmp_path):
    table = tmp_path / "a.csv"
    table.write_text('label,text\nsea,"A boat, and\nanother."\n\nsky,"A ""bird""."\n')
    assert read(table) == [
        {"text": "A boat, and\nanother.", "source": str(table), "row_id": "2"},
        {"text": 'A "bird".', "source": str(table), "row_id": "5"},
    ]
    assert [document["group"] for document in read(table, group_field="label")] == ["sea", "sky"]
    tabs = tmp_path / "B.TSV"
    tabs.write_text("body\tlabel\nA cloud.\tsky\n")
    assert texts(tabs, text_field="body") == ["A cloud."]
    with pytest.raises(
        UserError, match=r"a.csv has no column 'body', found 'label', 'text'; give the right one with --text_field."
    ):
        texts(table, text_field="body")
    table.write_text("text,label\nA boat.,sea\nA,b,c\n")
    with pytest.raises(UserError, match="a.csv, line 3: 3 fields instead of 2"):
        texts(table)
    errors = RowErrors("skip")
    assert [one["text"] for one in read_documents(find_sources([str(table)]), ReadingOptions(), errors)] == ["A boat."]
    assert dict(errors.counts) == {"wrong number of fields": 1}


@pytest.mark.parametrize("name", ["page.html", "PAGE.HTM", "data.xml", "picture.svg", "notebook.ipynb"])
def test_markup_is_refused_by_its_name_with_a_cure(tmp_path, name):
    (tmp_path / name).write_text("<p>A boat.</p>")
    for given in (tmp_path / name, tmp_path / "*"):
        with pytest.raises(UserError, match=r" is markup, not plain text; extract its text first, .* rename it to end in .txt\."):
            find_sources([str(given)])


def test_markup_in_a_text_file_is_warned_of(tmp_path, caplog):
    (tmp_path / "a.txt").write_text("\n<!DOCTYPE html>\n<p>A boat.</p>\n")
    (tmp_path / "b.txt").write_text("Of <html> it speaks.\n")
    assert len(texts(tmp_path / "*.txt")) == 2
    said = f"warning: 1 of the sources look like web pages or XML, such as {tmp_path / 'a.txt'}, and their markup is read as text"
    assert said in caplog.text
