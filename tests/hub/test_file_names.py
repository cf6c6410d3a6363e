"""The names of a user's files are not published: cards and exports give kinds and sizes, unless card.yaml asks for names."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import yaml
from huggingface_hub import DatasetCard, ModelCard
from recipes_in_process import recipe

from hfgpt.artifacts import identify
from hfgpt.hub.card.data_facts import data_facts
from hfgpt.hub.card.rendering import render_card, write_card
from hfgpt.hub.export import export
from hfgpt.hub.file_names import _told, evaluation_without_names, published_passport, summed_up

SECRET = ("diagnosis", "anna", "payroll")


@pytest.fixture(scope="module")
def notes(tmp_path_factory, small_corpus) -> Path:
    """A folder of notes whose file names reveal what nobody should know."""
    folder = tmp_path_factory.mktemp("texts") / "notes"
    for number, line in enumerate(small_corpus.read_text(encoding="utf-8").splitlines()[:50]):
        path = folder / SECRET[number % 3] / f"{SECRET[number % 2]} of {number}.{'md' if number < 40 else 'txt'}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.loads(line)["text"], encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def rows(notes, small_tokenizer, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("rows") / "rows"
    recipe(
        "prepare_data", sources=[f"{notes}/**/*.md", f"{notes}/**/*.txt"], tokenizer=str(small_tokenizer), context_length=32,
        validation_share=0.1, test_share=0.1, output_dir=str(folder), card={"license": "mit"},
    )  # fmt: skip
    return folder


def told(folder: Path) -> list[tuple[str, str]]:
    """Where a word of SECRET occurs in a folder's files or their names, except in the rows, which are the text itself."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.suffix not in (".arrow", ".safetensors")]
    files = [path for path in files if path.name not in ("tokenizer.json", "vocab.json", "merges.txt")]
    texts = {path.relative_to(folder).as_posix(): path.read_bytes().decode(errors="replace").lower() for path in files}
    return [(name, word) for name, text in texts.items() for word in SECRET if word in name.lower() or word in text]


def test_what_is_published_of_a_folder_of_files_names_none_of_them(rows, tmp_path):
    assert ("passport.json", "diagnosis") in told(rows)  # here they are named
    assert export(identify(rows), tmp_path / "out")
    assert told(tmp_path / "out") == []
    passport = json.loads((tmp_path / "out" / "passport.json").read_text())
    assert len(passport["inputs"]) == 50
    ours = json.loads((rows / "passport.json").read_text())
    for one, other in zip(passport["inputs"], ours["inputs"], strict=True):
        assert (one["sha256"], one["bytes"]) == (other["sha256"], other["bytes"])
        assert one["name"] == f"file-{one['sha256'][:8]}{Path(other['name']).suffix}"
    assert passport["settings"]["sources"] == ["*.md", "*.txt"]
    card = (rows / "README.md").read_text()
    size = sum(entry["bytes"] for entry in ours["inputs"]) / 1000
    assert f"| 50 text files (.md 40, .txt 10) | text | {size:.1f} kB |" in card
    DatasetCard(card)


def test_whoever_asks_for_them_gets_them(rows, tmp_path):
    folder = Path(shutil.copytree(rows, tmp_path / "rows"))
    (folder / "card.yaml").write_text("license: mit\nfile_names: true\n")
    write_card(folder)
    export(identify(folder), tmp_path / "out")
    assert {name for name, _ in told(tmp_path / "out")} == {"README.md", "passport.json"}
    assert (tmp_path / "out" / "README.md").read_text().count("| text |") == 50
    (folder / "card.yaml").write_text("file_names: some\n")
    with pytest.raises(ValueError, match="file_names in .* is 'some'; it must be true or false"):
        write_card(folder)


def test_the_card_and_the_evaluation_of_a_model_name_none_either(notes, rows, small_run, tmp_path):
    folder = Path(shutil.copytree(small_run, tmp_path / "model", ignore=shutil.ignore_patterns("checkpoint-*")))
    passport = json.loads((rows / "passport.json").read_text())
    for source in passport["inputs"]:  # of other texts than those below, or the figures would be marked and left out
        source["sha256"] = hashlib.sha256(source["sha256"].encode()).hexdigest()
    (folder / "passport.json").write_text(json.dumps(passport))
    (secret,) = notes.glob("anna/*of 1.md")
    for words in ({"text": [str(secret)]}, {"text": [f"{notes}/anna/*.md"]}, {"dataset": str(rows)}):
        recipe("evaluate", model=str(folder), **words)
    assert ("evaluation.json", "diagnosis") in told(folder)
    assert export(identify(folder), tmp_path / "out")
    assert told(tmp_path / "out") == []
    evaluation = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    names = [entry["dataset"] for entry in evaluation["results"]]
    one = json.loads((folder / "evaluation.json").read_text())["results"][0]["sha256"]
    assert names[0] == f"file-{one[:8]}.md"
    assert names[1].endswith(" files (.md 13)")
    assert names[2] == "50 files (.md 40, .txt 10)"
    assert evaluation["results"][0]["command"] == "hfgpt evaluate model --text FILE.md"
    results = sorted((tmp_path / "out" / ".eval_results").glob("*.yaml"))
    assert len(results) == 3
    assert {yaml.safe_load(path.read_text())[0]["dataset"]["id"] for path in results} == set(names)
    data = ModelCard(render_card(identify(folder))).data
    assert {result.dataset_name for result in data.eval_results} == set(names)  # the figure of the run itself is the third
    assert not [word for word in SECRET if word in render_card(identify(folder)).lower()]


def test_tables_weights_and_steps_of_a_fine_tuned_models_passport(tmp_path):
    passport = {
        "inputs": [
            {"name": "anna.csv", "kind": "csv", "sha256": "ab" * 32},
            {"name": "user/texts.v2", "kind": "hub", "commit": "c" * 40},
            {"name": "python-docs:test", "kind": "python-docs"},
        ],
        "steps": [{"step": "read anna.csv", "examples_out": 3}, {"step": "mix", "sources": {"anna.csv": 1, "user/texts.v2": 2}},
                  {"step": "drop copies", "copies_of": {"payroll.jsonl": 1, "diagnosis.jsonl": 2, "test": 3}}],
        "settings": {"sources": ["anna.csv", "user/texts.v2"], "decontaminate_against": ["payroll.jsonl", "diagnosis.jsonl"],
                     "model": "base", "split": None},
        "base": {"name": "base"},
    }  # fmt: skip
    public = published_passport(passport)
    assert not [word for word in SECRET if word in json.dumps(public)]
    assert [entry["name"] for entry in public["inputs"]] == ["file-abababab.csv", "user/texts.v2", "python-docs:test"]
    assert public["steps"][0]["step"] == "read file-abababab.csv"
    assert public["steps"][1]["sources"] == {"file-abababab.csv": 1, "user/texts.v2": 2}
    assert sorted(public["steps"][2]["copies_of"].values()) == [1, 2, 3]
    assert public["settings"]["sources"] == ["file-abababab.csv", "user/texts.v2"]
    assert public["base"] == {"name": "base"}
    assert published_passport({}) == {}


def test_what_is_not_a_file_of_the_users_keeps_its_name():
    results = [
        {"task": "benchmark", "dataset": "hellaswag", "metrics": {}, "command": "python recipes/evaluate.py m --tasks hellaswag"},
        {"task": "language-modeling", "dataset": "user/texts", "dataset_id": "user/texts", "metrics": {}},
        {"task": "language-modeling", "dataset": "python-docs:test", "sha256": "0" * 64, "metrics": {},
         "command": "python recipes/evaluate.py base --text python-docs:test --stride 64"},
    ]  # fmt: skip
    assert evaluation_without_names({"model": "base", "results": results}) == {"model": "base", "results": results}
    file = {"task": "benchmark", "dataset": "anna.jsonl", "sha256": "cd" * 32, "metrics": {},
            "command": "python recipes/evaluate.py m --tasks anna.jsonl:hellaswag --limit 5"}  # fmt: skip
    (entry,) = evaluation_without_names({"results": [file]})["results"]
    assert entry["dataset"] == "file-cdcdcdcd.jsonl"
    assert entry["command"] == "python recipes/evaluate.py m --tasks FILE.jsonl:hellaswag --limit 5"


def test_files_are_summed_up_by_kind_and_ending():
    files = [(f"{n}.md", "text") for n in range(1200)] + [("a.PY", "text"), ("LICENSE", "text"), ("odd.näme", "text")]
    assert summed_up(files) == "1,203 text files (.md 1,200, no ending 2, .py 1)"
    assert summed_up([("a.csv", "csv")]) == "1 file (.csv)"
    assert summed_up([("Maildir/cur/1.mail.example:2,S", "eml"), ("Maildir/new/2.mail.example", "eml")]) == "2 files (.eml 2)"
    assert summed_up([("a.csv", "csv"), ("b.txt", "text")]) == "2 files (.csv 1, .txt 1)"


def test_a_mixture_is_published_without_the_patterns_of_its_sources():
    entry = {"name": "anna/1.txt", "given": "anna/*.txt", "kind": "text", "sha256": "ab" * 32}
    mixture = {
        "step": "mixture",
        "documents_in": 3,
        "documents_out": 4,
        "sources": {"anna/*.txt": {"tokens_out": 9, "epochs": 2.5}},
    }
    settings = {"sources": ["anna/*.txt"], "decontaminate_against": ["payroll.jsonl"]}
    leaks = {"step": "drop leaks", "reasons": {"near copies of payroll.jsonl": 2}, "shared_with": {"payroll.jsonl": {"near": 2}}}
    passport = published_passport({"inputs": [entry], "steps": [mixture, leaks], "settings": settings})
    assert not [word for word in SECRET if word in json.dumps(passport)]
    assert passport["inputs"][0]["given"] == "*.txt"
    assert passport["steps"][0]["sources"]["*.txt"]["epochs"] == 2.5
    assert list(passport["steps"][1]["shared_with"].values()) == [{"near": 2}]


@pytest.mark.parametrize(("file_names", "first", "second"), [(False, "*.txt", "*.txt (2)"), (True, "*.txt", "*.txt (2)")])
def test_patterns_that_are_published_alike_keep_their_shares(file_names, first, second):
    """As of `--sources 'en/*.txt' 'de/*.txt' --source_weights 3 1`."""
    patterns = ["en/*.txt", "de/*.txt"]
    names = zip(patterns, "ab")
    inputs = [{"name": f"{one[:3]}a.txt", "given": one, "kind": "text", "sha256": digit * 64} for one, digit in names]
    sources = {name: {"tokens_out": tokens, "epochs": 1.0} for name, tokens in zip(patterns, (75, 25))}
    passport = {"inputs": inputs, "steps": [{"step": "mixture", "sources": sources}], "settings": {"sources": patterns}}
    public = published_passport(passport, file_names=file_names)
    assert public["steps"][0]["sources"] == dict(zip([first, second], sources.values()))
    assert [one["given"] for one in public["inputs"]] == public["settings"]["sources"] == [first, second]
    (step,) = data_facts(public)["steps"]
    assert step["why"] == f"{first} 75.0 % (1.00 times), {second} 25.0 % (1.00 times)"


def test_copies_under_two_names_are_counted_apart_and_keep_their_kind():
    inputs = [{"name": name, "kind": "text", "sha256": "ab" * 32} for name in ("anna.txt", "copy/anna.txt")]
    passport = {"inputs": inputs, "steps": [{"step": "drop exact copies", "by_source": {"anna.txt": 1, "copy/anna.txt": 2}}]}
    public = published_passport(passport)
    assert public["steps"][0]["by_source"] == {"file-abababab.txt": 1, "file-abababab.txt (2)": 2}
    assert data_facts(public)["inputs"][0]["name"] == "2 text files (.txt 2)"


@pytest.mark.parametrize("file_names", [False, True])
@pytest.mark.parametrize("name", ["train", "documents", "4", "repaired", "text", "read"])
def test_a_file_called_like_a_word_of_the_passport_leaves_the_words_alone(name, file_names):
    entry = {"name": name, "kind": "text", "sha256": "ab" * 32, "documents": 3, "splits": {"train": {"documents": 2}}}
    counts = {"documents_in": 3, "documents_out": 2}
    steps = [
        {"step": "repair text", **counts, "reasons": {"repaired": 1}},
        {"step": "split", "sides": {"train": {"documents": 2}, "test": {"documents": 1}}},
        {"step": "drop leaks", **counts, "reasons": {"near copies of test": 1}, "shared_with": {"test": {"near": 1}}},
        {"step": "drop copies", "copies_of": {"test": 1}},
        {"step": "copies across splits, left in", "train-test": {"exact": 0}},
    ]
    words = {
        "steps": steps,
        "splits": {"train": {"documents": 2, "labels": {name: 2}}},
        "rows": {"train": {"rows": 4}},
        "lengths": {"train": {"1": 1, "2": 0, "4": 1}},
    }
    settings = {"text_field": "text", "split_by": "document", "packing": "read"}
    public = published_passport({"inputs": [entry], **words, "settings": settings | {"sources": [name]}}, file_names=file_names)
    assert {key: public[key] for key in words} == words
    assert {key: public["settings"][key] for key in settings} == settings
    label = public["inputs"][0]["name"]
    assert label == ("file-abababab" if not file_names else "train (2)" if name == "train" else name)
    assert public["settings"]["sources"] == [label]
    assert public["inputs"][0]["splits"] == entry["splits"]


@pytest.mark.parametrize("folder", ["", "vault/", "/home/anna/vault/", "vault/exams/"])
def test_benchmarks_are_named_nowhere(folder):
    """As of `--decontaminate_against` with a file, a pattern or a folder; fine-tuning stores only the second of these steps."""
    name = f"{folder}payroll of anna.jsonl"
    shared, whats = {"exact": 1, "near": 2, "passages": 3}, ("exact copies", "near copies", "passages")
    leaks = {
        "step": "drop benchmark text",
        "reasons": {f"{what} of {name}": 1 for what in whats},
        "shared_with": {name: shared, "user/texts": shared},
    }
    copies = {"step": "drop copies", "copies_of": {"validation": 1, name: 2}}
    for given in (name, f"{folder}*.jsonl", folder.rstrip("/")):
        asked = [{"name": name, "given": given, "kind": "json", "sha256": "ab" * 32}, {"name": "user/texts", "kind": "hub"}]
        settings = {"decontaminate_against": [given, "user/texts"], "asked": {"decontaminate_against": asked}}
        public = published_passport({"inputs": [], "steps": [leaks, copies], "settings": settings})
        assert not [word for word in (*SECRET, "vault", "exams") if word in json.dumps(public)]
        label = "file-abababab.jsonl"
        assert [one["name"] for one in public["settings"]["asked"]["decontaminate_against"]] == [label, "user/texts"]
        assert public["steps"][0]["shared_with"] == {label: shared, "user/texts": shared}
        assert list(public["steps"][0]["reasons"]) == [
            f"exact copies of {label}",
            f"near copies of {label}",
            f"passages of {label}",
        ]
        assert public["steps"][1]["copies_of"] == {"validation": 1, label: 2}
        public = published_passport({"steps": [copies], "settings": {"decontaminate_against": [given]}})
        assert not [word for word in (*SECRET, "vault", "exams") if word in json.dumps(public)]
        assert list(public["steps"][0]["copies_of"].values()) == [1, 2]


def test_a_file_that_begins_like_pythons_documentation_is_not_part_of_it():
    entries = [{"name": name, "kind": "text"} for name in ("python-docs-of-anna.txt", "python-docs:anna")]
    assert "anna" not in json.dumps(published_passport({"inputs": entries}))
    names = ["python-docs", "python-docs:test", "python-docs-questions:train"]
    entries = [{"name": name, "kind": name.partition(":")[0]} for name in names]
    assert published_passport({"inputs": entries, "settings": {"sources": names}})["settings"]["sources"] == names


def test_the_time_for_a_passport_grows_with_its_files_and_not_with_their_square():
    """Counted, not timed: each text looks up its places, whatever the number of names."""

    class Named(dict):
        lookups = 0

        def __contains__(self, name):
            type(self).lookups += 1
            return super().__contains__(name)

    def lookups(count: int) -> int:
        named = Named({f"notes/n{number:05}.txt": f"file-{number}.txt" for number in range(count)})
        Named.lookups = 0
        told = _told("read " + ", ".join(named), named, "step")
        assert told == "read " + ", ".join(named.values())
        return Named.lookups

    assert lookups(2000) == 10 * lookups(200)


def test_of_names_that_contain_each_other_the_longest_is_replaced_and_only_as_a_whole():
    named = {"a.txt": "1", "notes/a.txt": "2", "a.txt, b.txt": "3", "pairs": "4"}
    told = _told("read notes/a.txt, a.txt, b.txt, a.txt, ba.txt, a.txt-old, pairs, 2 pairs of equal answers dropped", named, "step")
    assert told == "read 2, 3, 1, ba.txt, a.txt-old, 4, 2 pairs of equal answers dropped"
    assert _told({"sources": {"a.txt": {"a.txt": 1}}, "a.txt": 1}, named) == {"sources": {"1": {"a.txt": 1}}, "a.txt": 1}
