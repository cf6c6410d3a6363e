"""`hfgpt data --verify FOLDER`, and the recipes that refuse what it would find."""

import json
import shutil
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from recipes_in_process import recipe, run_command, run_script

from hfgpt import HfGptConfig, HfGptForCausalLM
from hfgpt.artifacts import identify
from hfgpt.errors import UserError
from hfgpt.evaluation.held_out import evaluate_rows
from hfgpt.evaluation.loading import Loaded
from hfgpt.hub.export import export
from hfgpt.tokenization import load_tokenizer


@pytest.fixture(scope="module")
def prepared(small_corpus, small_tokenizer, tmp_path_factory) -> Path:
    """The small corpus in two files, prepared from their folder with a licence for one of them."""
    place = tmp_path_factory.mktemp("prepared")
    lines = small_corpus.read_text(encoding="utf-8").splitlines(keepends=True)
    (place / "texts").mkdir()
    (place / "texts" / "diagnosis.jsonl").write_text("".join(lines[:40]), encoding="utf-8")
    (place / "texts" / "payroll.jsonl").write_text("".join([*lines[40:], '{"text": " "}\n', lines[41]]), encoding="utf-8")
    prepare(place, small_tokenizer, "rows")
    return place


def prepare(place: Path, tokenizer: Path, name: str) -> None:
    recipe(
        "prepare_data", sources=[str(place / "texts" / "*.jsonl")], tokenizer=str(tokenizer), context_length=32,
        validation_share=0.1, test_share=0.1, output_dir=str(place / name), card={"license": "mit"},
        source_cards={"diagnosis.jsonl": {"license": "cc0-1.0", "url": "https://example.org/texts"}},
    )  # fmt: skip


def spoil(split: Path) -> None:
    """Change one bit in the middle of the rows."""
    (file,) = split.glob("*.arrow")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def test_the_passport_accounts_for_sources_and_steps_down_to_the_byte(prepared):
    passport = json.loads((prepared / "rows" / "passport.json").read_text())
    texts = [
        json.loads(line)["text"]
        for name in ("diagnosis", "payroll")
        for line in (prepared / "texts" / f"{name}.jsonl").read_text().splitlines()
    ]
    assert [(entry["documents"], entry["license"]) for entry in passport["inputs"]] == [(40, "cc0-1.0"), (len(texts) - 40, None)]
    assert sum(entry["text_bytes"] for entry in passport["inputs"]) == sum(len(text.encode()) for text in texts)
    *steps, leaks = passport["steps"]
    for before, after in pairwise(steps):
        assert (after["documents_in"], after["bytes_in"]) == (before["documents_out"], before["bytes_out"])
    assert [step["step"] for step in steps] == ["load", "drop blank", "drop exact copies", "drop near copies", "split"]
    assert steps[2]["bytes_out"] == sum(len(text.encode()) for text in set(texts) if text.strip())
    sides = {name: (counts["documents"], counts["bytes"]) for name, counts in passport["splits"].items()}
    assert (leaks["documents_in"], leaks["bytes_in"]) == tuple(steps[-1]["sides"]["train"].values())
    assert (leaks["documents_out"], leaks["bytes_out"]) == sides["train"]
    assert all(tuple(steps[-1]["sides"][name].values()) == sides[name] for name in ("validation", "test"))
    for name, counts in passport["splits"].items():
        for key in ("documents", "bytes", "tokens"):
            assert sum(entry["splits"].get(name, {}).get(key, 0) for entry in passport["inputs"]) == counts[key]
        assert sum(passport["lengths"][name].values()) == counts["documents"]


def test_the_same_command_leaves_the_same_bytes(prepared, small_tokenizer):
    prepare(prepared, small_tokenizer, "again")
    names = {path.relative_to(prepared / "rows") for path in (prepared / "rows").rglob("*") if path.is_file()}
    assert {"passport.json", "overview.png", "README.md"} <= {str(name) for name in names}
    differ = [str(name) for name in names if (prepared / "rows" / name).read_bytes() != (prepared / "again" / name).read_bytes()]
    assert differ == ["README.md"]  # its title is the folder's name


def test_verify_says_that_everything_matches_or_what_changed_and_by_its_exit_code(prepared, tmp_path):
    folder = Path(shutil.copytree(prepared / "rows", tmp_path / "rows"))
    done = run_script("prepare_data.py", "--verify", folder)
    assert done.returncode == 0, done.stderr
    assert f"{folder}: everything matches\n" in done.stdout
    spoil(folder / "train")
    done = run_command(f"hfgpt data --verify {folder}", cwd=tmp_path)
    assert done.returncode == 1
    assert "rows of train: differs, " in done.stdout
    assert "error:" in done.stderr
    assert "does not match its passport: rows of train;" in done.stderr


def test_pretraining_refuses_rows_that_were_changed_before_it_begins(prepared, tmp_path):
    folder = Path(shutil.copytree(prepared / "rows", tmp_path / "rows"))
    spoil(folder / "train")
    with pytest.raises(UserError, match=r"the train rows have changed since they were prepared \(SHA-256 .*prepare the data again"):
        recipe("pretrain", dataset=str(folder), depth=1, max_steps=1, output_dir=str(tmp_path / "base"))
    assert not (tmp_path / "base").exists()


def test_evaluation_refuses_the_rows_that_it_would_measure(prepared, tmp_path):
    folder = Path(shutil.copytree(prepared / "rows", tmp_path / "rows"))
    spoil(folder / "train")
    tokenizer = load_tokenizer(folder / "tokenizer")
    torch.manual_seed(0)
    model = HfGptForCausalLM(HfGptConfig.modern(1, vocab_size=len(tokenizer), max_position_embeddings=32))
    loaded = Loaded("small", model.eval(), tokenizer, "text-generation", 32)
    assert evaluate_rows(loaded, folder, split="test").metrics["loss"] > 0  # the intact split
    with pytest.raises(UserError, match="the train rows have changed since they were prepared"):
        evaluate_rows(loaded, folder, split="train")


def test_a_published_copy_can_be_verified_and_names_no_file(prepared, tmp_path):
    export(identify(prepared / "rows"), tmp_path / "copy")
    done = run_script("prepare_data.py", "--verify", tmp_path / "copy", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "everything matches; 2 sources are not here" in done.stdout
    for path in (tmp_path / "copy").glob("*"):
        if path.is_file():
            assert not [word for word in (b"diagnosis", b"payroll") if word in path.read_bytes()], path.name
    ours, published = (folder / "overview.png" for folder in (prepared / "rows", tmp_path / "copy"))
    assert ours.read_bytes() != published.read_bytes()  # drawn again, with other names
    passport = json.loads((tmp_path / "copy" / "passport.json").read_text())
    assert "--sources FILE.jsonl" in passport["command"]


def test_the_card_shows_sources_steps_and_rows(prepared):
    card, passport = (prepared / "rows" / "README.md").read_text(), json.loads((prepared / "rows" / "passport.json").read_text())
    tokens = " | ".join(f"{counts['tokens']:,}" for counts in passport["splits"].values())
    documents = sum(entry["documents"] for entry in passport["inputs"])
    assert "| cc0-1.0 (1), unknown (1) |" in card
    assert f"| {documents} | {tokens} |" in card
    assert (
        f"| drop exact copies | {passport['steps'][1]['documents_out']} | {passport['steps'][2]['documents_out']} documents |"
        in card
    )
    assert f"| {passport['rows']['train']['sha256'][:16]}… |" in card
    assert "](overview.png)" in card
