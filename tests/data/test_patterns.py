import logging
import os
from pathlib import Path

import pytest

from hfgpt.data.sources import find_sources


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(*names, text="text"):
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(text)


def found(*names, **options):
    return [source.name for source in find_sources(names, **options)]


def refusal(*names):
    with pytest.raises(ValueError) as error:  # noqa: PT011 (the tests compare the message)
        find_sources(names)
    return str(error.value)


def test_a_name_that_exists_comes_before_a_pattern():
    write("interview [final].txt", "interview f.txt", "what?.txt", "whats.txt", "a*b.txt", "ab.txt")
    assert found("interview [final].txt", "what?.txt", "a*b.txt") == ["interview [final].txt", "what?.txt", "a*b.txt"]


def test_below_a_folder_that_exists_only_the_rest_is_a_pattern():
    write("talks [v1]/a.txt", "talks [v1]/deep [x]/b.txt", "talks v/c.txt", "talks 1/d.txt")
    assert found("talks [v1]/*.txt") == ["talks [v1]/a.txt"]
    assert found("talks [v1]/deep [x]/*.txt") == ["talks [v1]/deep [x]/b.txt"]
    assert found("talks [v1]/**/*.txt") == ["talks [v1]/a.txt", "talks [v1]/deep [x]/b.txt"]
    assert found("talks [v1]") == found("talks [v1]/**/*.txt")
    assert found(str(Path("talks [v1]").resolve() / "*.txt")) == [str(Path("talks [v1]/a.txt").resolve())]
    assert found("talks [v1]*/*.txt") == ["talks 1/d.txt", "talks v/c.txt"]  # there is no such folder, so this is a pattern


@pytest.mark.parametrize(
    "name", ["with space.txt", 'it\'s "quoted".txt', "größer & ähnlich.txt", "日記.txt", "-dash.txt", "a\nb.txt"]
)
def test_names_of_any_characters_are_found(name):
    write(f"in here/{name}")
    assert found(f"in here/{name}") == found("in here/*.txt") == [f"in here/{name}"]


def test_suffixes_compare_without_case():
    write("A.TXT", "b.txt", "C.JsonL", "D.PARQUET", "e.Md")
    assert found("*.txt") == ["A.TXT", "b.txt"]
    kinds = {source.name: source.kind for source in find_sources(["*.jsonl", "*.PARQUET", "*.MD"])}
    assert kinds == {"C.JsonL": "json", "D.PARQUET": "parquet", "e.Md": "text"}
    assert "MISSING.TXT does not exist" in refusal("some/MISSING.TXT")  # not taken for a Hub name


def test_the_home_folder_is_written_with_a_tilde(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder))
    write("texts/a.txt", "texts/b.txt")
    sources = find_sources(["~/texts/*.txt", "~/texts/a.txt"])
    assert [source.name for source in sources] == ["~/texts/a.txt", "~/texts/b.txt"]
    assert [source.path for source in sources] == [folder / "texts/a.txt", folder / "texts/b.txt"]
    assert found("~/texts") == ["~/texts/a.txt", "~/texts/b.txt"]
    assert "~/text/a.txt does not exist" in refusal("~/text/a.txt")
    assert "there is no such user" in refusal("~nobody-of-this-name/a.txt")


def test_a_file_that_is_named_twice_is_read_once():
    write("texts/a.txt")
    Path("link.txt").symlink_to("texts/a.txt")
    absolute = str(Path("texts/a.txt").resolve())
    assert found("texts/a.txt", "./texts/a.txt", "texts/*.txt", "texts/../texts/a.txt", absolute, "link.txt") == ["texts/a.txt"]


def test_what_recipes_wrote_environments_and_hidden_folders_are_left_out_and_counted(caplog):
    caplog.set_level(logging.INFO)
    write("notes/a.md", "b.md", "runs/base/README.md", "runs/base/checkpoint-3/samples.md", "runs/data/README.md")
    write("runs/base/run.yaml", "runs/data/passport.json", text="{}")
    write("env/pyvenv.cfg", "env/lib/LICENSE.md", "web/node_modules/x/README.md", ".venv/y/README.md", ".git/z.md")
    assert found("**/*.md") == ["b.md", "notes/a.md"]
    assert "sources: **/*.md, leaving out 3 files written by hfgpt recipes and 2 files of installed packages" in caplog.text
    # a folder that is named explicitly is read
    assert found("runs/base/*.md") == ["runs/base/README.md"]
    assert found(".git/*.md") == [".git/z.md"]
    assert "all matches of 'runs/**/*.md' are left out: 3 files written by hfgpt recipes" in refusal("runs/**/*.md")


def test_of_a_folder_the_text_files_are_read_and_the_rest_is_said(caplog):
    caplog.set_level(logging.INFO)
    write("notes/b.txt", "notes/a/c.MD", "notes/code.py", "notes/package.json", "notes/.secret.txt", "notes/.git/x.txt")
    write("notes/runs/t/passport.json", "notes/runs/t/README.md")
    assert found("notes") == found("notes/") == ["notes/a/c.MD", "notes/b.txt"]
    assert "reading 1 .txt, 1 .md in the folder notes; not read: " in caplog.text
    assert "1 .py" in caplog.text


def test_links_to_nothing_and_pipes_in_a_folder_are_left_out_and_said(caplog):
    caplog.set_level(logging.INFO)
    write("notes/a.txt")
    Path("notes/b.txt").symlink_to("gone.txt")
    os.mkfifo("notes/c.txt")
    assert found("notes") == ["notes/a.txt"]
    assert "leaving out 2 files without text (a link to nothing, a pipe or a device), such as notes/" in caplog.text


def test_an_empty_name_is_not_the_current_folder():
    write("a.txt")
    assert refusal("").startswith("a source has an empty name (an unset shell variable?)")


def test_a_folder_without_texts_says_what_is_in_it():
    write("code/a.py", "code/b.py")
    assert refusal("code") == (
        "the folder 'code' has no .txt, .md, .rst, .text, .mbox, .eml file: 2 .py; select files in it with a pattern, such as "
        "'code/**/*.py'."
    )
    Path("empty").mkdir()
    assert refusal("empty") == "the folder 'empty' has no .txt, .md, .rst, .text, .mbox, .eml file: it is empty."
    write("runs/t/passport.json")
    assert "runs/t was written by an hfgpt recipe (it contains passport.json)" in refusal("runs/t")


def test_a_folder_that_is_missing_is_called_missing():
    here = Path.cwd()
    nowhere = f"does not exist (looked from {here}); check the spelling."
    assert refusal("my_texts/*.txt") == f"my_texts/*.txt: the folder 'my_texts' {nowhere}"
    assert refusal("my_texts/a.txt") == (
        f"my_texts/a.txt does not exist, nor does its folder 'my_texts' (looked from {here}); check the spelling."
    )
    assert refusal("my_texts/").startswith("my_texts/ does not exist")
    assert "'my_texts' is neither a file or folder" in refusal("my_texts")


def test_a_pattern_without_a_match_says_what_is_there():
    write("texts/a.md", "texts/b.md", "texts/c.pdf", "texts/more/d.md")
    here = Path.cwd()
    assert refusal("texts/*.txt") == (
        f"no file matches 'texts/*.txt' (looked from {here}); the folder 'texts' holds 2 .md, 1 .pdf, 1 folders."
    )
    Path("empty").mkdir()
    assert refusal("empty/*.txt").endswith("; the folder 'empty' is empty.")
    assert "this folder holds 2 folders" in refusal("*.txt")


def test_of_a_folder_of_tables_the_tables_are_read():
    write("tables/a.CSV", "tables/b.jsonl", "tables/notes.txt")
    assert found("tables", as_records=True) == ["tables/a.CSV", "tables/b.jsonl"]


def test_a_folder_without_texts_among_others_is_left_out_and_said(caplog):
    """A shell that expands texts/* itself gives the folders in it, too."""
    write("texts/a.txt", "texts/pictures/b.png")
    assert found("texts/a.txt", "texts/pictures") == ["texts/a.txt"]
    assert "sources: leaving out 1 folder without texts: texts/pictures" in caplog.text
    write("texts/more/c.png")
    assert "has no .txt" in refusal("texts/pictures", "texts/more")
    assert "has no .txt" in refusal("texts/pictures")


def test_a_folder_of_which_only_a_small_part_would_be_read_is_refused_with_patterns():
    write("repo/README.md", text="# mine\n")
    write("repo/a.py", "repo/in/b.py", text="print()\n" * 20)
    write("repo/big.json", text="[0]\n" * 1000)
    message = refusal("repo")
    assert "has 4,320 bytes of text in files that are not read (2 .py, 1 .json), but only 7 in its .md files" in message
    assert "such as 'repo/**/*.md' for those, or for the .py files: 'repo/**/*.py'" in message
    assert found("repo/**/*.md") == ["repo/README.md"]
    write("repo/notes.md", text="words\n" * 100)
    assert found("repo") == ["repo/README.md", "repo/notes.md"]
