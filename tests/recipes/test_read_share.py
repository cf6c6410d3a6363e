"""A share of a text that is too large: passport and card name the user's own file, its hash, and what was read of it."""

import hashlib
import json

import pytest
from recipes_in_process import recipe

from hfgpt.errors import OtherResultError


def test_passport_and_card_tell_the_users_file_and_the_share_of_it_that_was_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = "".join(f"line {number} of a story about boat {number % 7} that goes on\n\n" for number in range(12_000))
    (tmp_path / "story.txt").write_text(text)
    recipe("train_tokenizer", sources=["story.txt"], text_documents="paragraph", read_share=0.25, vocab_size=400, output_dir="t")
    recipe("prepare_data", tokenizer="t", context_length=64, output_dir="d")
    for folder in ("t", "d"):
        passport = json.loads((tmp_path / folder / "passport.json").read_text())
        (entry,) = passport["inputs"]
        assert (entry["name"], entry["bytes"]) == ("story.txt", len(text))
        assert entry["sha256"] == hashlib.sha256(text.encode()).hexdigest()
        assert entry["text_bytes"] / entry["bytes"] == pytest.approx(0.25, abs=0.03)
        assert passport["settings"]["read_share"] == 0.25
        assert "MB, of which 25 % was read |" in (tmp_path / folder / "README.md").read_text().replace("kB", "MB")
    (tmp_path / "story.txt").write_text(text + "one more line\n")
    with pytest.raises(OtherResultError) as refused:
        recipe(
            "train_tokenizer", sources=["story.txt"], text_documents="paragraph", read_share=0.25, vocab_size=400, output_dir="t"
        )
    assert refused.value.changed == ["the texts of the sources are different"]
