"""recipes/train_tokenizer.py: what it writes next to the tokenizer, and what it leaves out."""

import json
from pathlib import Path

import pytest
from hard_texts import HARD_TEXTS
from recipes_in_process import recipe
from tokenizers import normalizers

from hfgpt.arguments.tokenizers import ALGORITHMS, Algorithm
from hfgpt.artifacts import identify
from hfgpt.hub.export import export
from hfgpt.tokenization import encode_texts, load_tokenizer, train_bpe

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def letters(tmp_path_factory) -> Path:
    """Two files of short documents; those of the second contain special tokens."""
    folder = tmp_path_factory.mktemp("letters")
    for name, end in (("dear anna.jsonl", ""), ("secret.jsonl", "<|endoftext|>Bye.<|im_end|> ")):
        texts = [f"Letter {number}: the weather in {name} is fine today, isn't it?\n{end}" for number in range(150)]
        (folder / name).write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return folder


@pytest.mark.parametrize("algorithm", ["bpe", "unigram", "wordpiece", "wordlevel"])
def test_each_algorithm_leaves_a_tokenizer_that_loads_and_a_report(algorithm, letters, tmp_path):
    if algorithm == "unigram":
        pytest.importorskip("sentencepiece", reason="an extra")
    output = tmp_path / "tokenizer"
    done = recipe(
        "train_tokenizer", sources=[str(letters / "*.jsonl")], algorithm=algorithm, output_dir=str(output), split_by="document"
    )
    tokenizer = load_tokenizer(output)
    assert done["vocab_size"] == len(tokenizer)
    assert algorithm in (output / "tokenizer_report.md").read_text(encoding="utf-8").splitlines()[2]
    if algorithm != "wordlevel":
        assert [tokenizer.decode(ids) for ids in encode_texts(tokenizer, HARD_TEXTS)] == HARD_TEXTS
    settings = json.loads((output / "passport.json").read_text())["settings"]
    assert settings["special_tokens_left_out"]["<|im_end|>"] > 100
    assert not [token for token in tokenizer.get_vocab() if "endof" in token and token != "<|endoftext|>"]


def test_two_runs_leave_the_same_bytes_and_publish_no_name(letters, tmp_path, caplog):
    caplog.set_level("INFO")
    compared = train_bpe(["a b c"], vocab_size=261)
    compared.save_pretrained(tmp_path / "other")
    keys = dict(sources=[str(letters / "*.jsonl")], vocab_size=300, split_by="document", compare_with=[str(tmp_path / "other")])
    for name in ("one", "two"):
        recipe("train_tokenizer", **keys, output_dir=str(tmp_path / name), check_reload=False)
    assert "special tokens written in the text were left out of training (<|endoftext|> 1" in caplog.text
    assert "takes about 10 MiB of memory" in caplog.text
    for file in ("tokenizer.json", "tokenizer_report.md", "tokenizer_report.png"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    page = (tmp_path / "one" / "tokenizer_report.md").read_text()
    assert "| `other` | 261 |" in page
    assert "dear anna.jsonl" in page
    export(identify(tmp_path / "one"), tmp_path / "published")
    published = (tmp_path / "published" / "tokenizer_report.md").read_text()
    assert "| `other` | 261 |" in published
    assert "anna" not in published
    assert "anna" not in (tmp_path / "published" / "passport.json").read_text()
    assert "![Bytes per token" in (tmp_path / "published" / "README.md").read_text()
    assert (tmp_path / "published" / "tokenizer_report.png").is_file()


def test_a_budget_takes_its_part_of_both_files(letters, tmp_path):
    done = recipe(
        "train_tokenizer", sources=[str(letters / "*.jsonl")], max_bytes=6_000, output_dir=str(tmp_path / "t"), check_reload=False,
        split_by="document",
    )  # fmt: skip
    assert 5_700 < done["bytes"] <= 6_000
    (step,) = [one for one in json.loads((tmp_path / "t" / "passport.json").read_text())["steps"] if "sample" in one["step"]]
    assert [one["source"] for one in step["sources"]] == ["dear anna.jsonl", "secret.jsonl"]
    assert all(one["bytes_out"] / one["bytes_in"] == pytest.approx(6_000 / step["bytes_in"], rel=0.1) for one in step["sources"])


def test_a_tokenizer_that_loads_as_another_leaves_nothing(letters, tmp_path):
    """An algorithm that does not save what it has trained."""

    def train_forgetful(texts, *, vocab_size):
        tokenizer = train_bpe(texts, vocab_size=vocab_size)
        save = tokenizer.save_pretrained

        def save_in_small_letters(folder, **settings):
            tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
            save(folder, **settings)
            tokenizer.backend_tokenizer.normalizer = None

        tokenizer.save_pretrained = save_in_small_letters
        return tokenizer

    ALGORITHMS["forgetful"] = Algorithm(train_forgetful, takes=(), pieces=(256, "bytes"))
    keys = dict(sources=[str(letters / "*.jsonl")], algorithm="forgetful", vocab_size=300, split_by="document")
    try:
        with pytest.raises(
            ValueError, match="gives different ids when loaded with AutoTokenizer: .* was .*, is now .*; nothing is kept"
        ):
            recipe("train_tokenizer", **keys, output_dir=str(tmp_path / "t"))
        assert list(tmp_path.iterdir()) == []
        recipe("train_tokenizer", **keys, output_dir=str(tmp_path / "t"), check_reload=False)
        assert (tmp_path / "t" / "tokenizer.json").is_file()
    finally:
        del ALGORITHMS["forgetful"]
