"""Hub datasets are read by name, from a local Hub server."""

import json
import subprocess
import sys
import threading
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from hub_server import HubServer

pytestmark = pytest.mark.slow

RECIPES = Path(__file__).resolve().parents[2] / "recipes"

# Sources and options as JSON lines in; a line with the documents, or with the last line of a traceback, out.
READ = """
import json, sys, traceback
from hfgpt.data.sources import ReadingOptions, find_sources, read_documents
for line in sys.stdin:
    sources, options = json.loads(line)
    try:
        answer = list(read_documents(find_sources(sources), ReadingOptions(**options)))
    except Exception as error:
        answer = traceback.format_exception_only(error)[-1].splitlines()[-1]
    print(json.dumps(answer), flush=True)
"""


class Hub:
    """A Hub with its files, and one process that reads from no other, in an empty folder and at first with empty caches."""

    def __init__(self, server: HubServer, folder: Path):
        self.server = server
        self.home = folder / "home"
        self.folder = folder / "elsewhere"
        self.folder.mkdir()
        self.reader = self.start("-c", READ, stdin=subprocess.PIPE)

    def file(self, name: str) -> Path:
        """Where to write a file of a dataset; its folders are created."""
        path = self.server.root / "datasets" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def start(self, *words: str | Path, **pipes: int) -> subprocess.Popen:
        command = [sys.executable, *map(str, words)]
        environment = self.server.environment(home=self.home)
        return subprocess.Popen(command, env=environment, cwd=self.folder, stdout=subprocess.PIPE, text=True, **pipes)

    def documents(self, *sources: str, **options: object) -> list[dict[str, str]] | str:
        """What is read, or the exception that reading raises: its type and message, the last line of the traceback."""
        self.reader.stdin.write(json.dumps([sources, options]) + "\n")
        self.reader.stdin.flush()
        hangs = threading.Timer(120, self.reader.kill)
        hangs.start()
        try:
            return json.loads(self.reader.stdout.readline())
        finally:
            hangs.cancel()


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub_sources")
    with HubServer(folder / "hub") as server:
        hub = Hub(server, folder)
        yield hub
        with hub.reader:
            hub.reader.kill()


FABLES = '{"text": "A fox.\\n\\nA raven.\\r\\n"}\n{"text": "Füchse\\tund Raben"}\n'
FABLE_DOCUMENTS = [
    {"text": "A fox.\n\nA raven.\r\n", "source": "ann/fables", "row_id": "0"},
    {"text": "Füchse\tund Raben", "source": "ann/fables", "row_id": "1"},
]


def test_a_dataset_of_json_lines_is_read_by_name(hub):
    hub.file("ann/fables/train.jsonl").write_text(FABLES, encoding="utf-8")
    assert hub.documents("ann/fables") == FABLE_DOCUMENTS
    assert list(hub.home.rglob("*.arrow"))


def test_streaming_reads_the_same_documents_and_stores_none(hub):
    before = list(hub.home.rglob("*.arrow"))
    hub.file("bob/fables/train.jsonl").write_text(FABLES, encoding="utf-8")
    expected = [document | {"source": "bob/fables"} for document in FABLE_DOCUMENTS]
    assert hub.documents("bob/fables", streaming=True) == expected
    assert list(hub.home.rglob("*.arrow")) == before


@pytest.mark.parametrize("streaming", [False, True])
def test_a_parquet_dataset_is_read_by_its_own_columns_of_texts_and_groups(hub, streaming):
    table = pyarrow.table({"year": [1694, 1838], "body": ["One line.\nAnother.", "No line break"]})
    pyarrow.parquet.write_table(table, hub.file("ann/letters/data/train-00000-of-00001.parquet"))
    assert hub.documents("ann/letters", text_field="body", group_field="year", streaming=streaming) == [
        {"text": "One line.\nAnother.", "source": "ann/letters", "row_id": "0", "group": "1694"},
        {"text": "No line break", "source": "ann/letters", "row_id": "1", "group": "1838"},
    ]


def test_a_name_with_a_colon_picks_a_configuration(hub):
    hub.file("ann/greetings/README.md").write_text(
        "---\nconfigs:\n- config_name: english\n  data_files: en.jsonl\n- config_name: german\n  data_files: de.jsonl\n---\n"
    )
    hub.file("ann/greetings/en.jsonl").write_text('{"text": "Hello"}\n')
    hub.file("ann/greetings/de.jsonl").write_text('{"text": "Hallo"}\n')
    assert hub.documents("ann/greetings:german", "ann/greetings:english") == [
        {"text": "Hallo", "source": "ann/greetings:german", "row_id": "0"},
        {"text": "Hello", "source": "ann/greetings:english", "row_id": "0"},
    ]


def test_hub_split_picks_a_split(hub):
    hub.file("ann/riddles/train/a/part.jsonl").write_text('{"text": "What walks on four legs?"}\n')
    hub.file("ann/riddles/test/part.jsonl").write_text('{"text": "What has roots?"}\n')
    assert hub.documents("ann/riddles", hub_split="test") == [{"text": "What has roots?", "source": "ann/riddles", "row_id": "0"}]


@pytest.mark.parametrize("streaming", [False, True])
def test_a_missing_text_column_is_named_with_those_found(hub, streaming):
    hub.file("ann/pairs/train.jsonl").write_text('{"question": "Why?", "answer": "Because."}\n')
    assert hub.documents("ann/pairs", streaming=streaming) == (
        "hfgpt.errors.UserError: the Hub dataset ann/pairs has no column 'text', found 'question', 'answer'; "
        "give the right one with --text_field."
    )


def test_an_unknown_name_is_named(hub):
    mistake = hub.documents("nobody/nothing")
    assert mistake.startswith("hfgpt.errors.MissingFileError: 'nobody/nothing' is not a local file, and the Hub has no such")
    assert "doesn't exist on the Hub" in mistake  # the server was asked; an unreachable Hub would give another reason


def test_an_unknown_revision_is_a_missing_file(hub):
    hub.file("ann/fables/train.jsonl").write_text(FABLES, encoding="utf-8")
    mistake = hub.documents("ann/fables", hub_revision="second-edition")
    assert mistake.startswith("hfgpt.errors.MissingFileError: 'ann/fables'")
    assert "Revision 'second-edition' doesn't exist" in mistake


def test_a_recipe_answers_an_unknown_name_with_one_sentence(hub):
    output = hub.folder / "tokenizer"
    recipe = RECIPES / "train_tokenizer.py"
    words = ("--sources", "nobody/nothing", "--vocab_size", "300", "--output_dir", output)
    process = hub.start(recipe, *words, stderr=subprocess.PIPE)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 1
    errors = [line for line in said.splitlines() if line.startswith("error:")]
    assert len(errors) == 1
    assert "'nobody/nothing' is not a local file, and the Hub has no such dataset" in errors[0]
    assert "Traceback" not in said
    assert not output.exists()
