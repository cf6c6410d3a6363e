"""Dangerous requests in somebody else's folder are refused in a sentence before any part of it is loaded or run."""

import json
import shutil
import time
from pathlib import Path

import psutil
import pytest
import torch

from hfgpt.errors import UserError
from hfgpt.evaluation.loading import open_folder


@pytest.fixture
def folder(small_families, tmp_path):
    """A copy of a small model whose config has these keys."""

    def make(**keys) -> Path:
        shutil.copytree(small_families["modern"], tmp_path / "model", dirs_exist_ok=True)
        path = tmp_path / "model" / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | keys))
        return path.parent

    return make


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation"])
def test_an_attention_that_is_code_from_the_hub_is_refused(folder, key):
    with pytest.raises(UserError, match="requests the attention 'evil/kernel', which would be code from the Hub"):
        open_folder(folder(**{key: "evil/kernel"}))


def test_sizes_that_no_machine_has_are_refused_with_the_bytes_and_nothing_is_allocated(folder):
    before, state = psutil.Process().memory_info().rss, torch.get_rng_state()
    with pytest.raises(UserError, match=r"describes a model with [\d,]{15,} parameters, which needs [\d,]+ bytes"):
        open_folder(folder(hidden_size=10**9))
    with pytest.raises(UserError, match="has 1,000,000,000 layers; at most 10,000"):
        open_folder(folder(hidden_size=64, num_hidden_layers=10**9))
    assert psutil.Process().memory_info().rss - before < 2**28
    assert torch.equal(torch.get_rng_state(), state)


def test_a_tokenizer_of_half_a_gigabyte_is_not_read(folder):
    place = folder()
    with (place / "tokenizer.json").open("ab") as file:
        file.truncate(500 * 2**20)
    with pytest.raises(UserError, match=r"tokenizer.json has 524,288,000 bytes; at most 268,435,456 are allowed"):
        open_folder(place).load_tokenizer()


@pytest.mark.parametrize(
    ("bomb", "why"),
    [
        ("{{ 'a' * 10**9 }}", "needs more than 200 MiB of memory"),
        ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "used more than 1 seconds of CPU time"),
        ("{% for a in range(99999) %}{{ 'aaaaaaaa' }}{% endfor %}", "writes more than 100,000 characters"),
    ],
    ids=["memory", "time", "text"],
)
def test_a_template_that_wants_the_machine_is_refused(folder, bomb, why):
    place = folder()
    (place / "chat_template.jinja").write_text(bomb + "{% for message in messages %}{{ message['content'] }}{% endfor %}")
    opened, begin, before = open_folder(place), time.process_time(), psutil.Process().memory_info().rss
    with pytest.raises(UserError, match=f"chat template of .* is refused: it {why}"):
        opened.load_tokenizer()
    assert time.process_time() - begin < 10  # none of it was computed here
    assert psutil.Process().memory_info().rss - before < 2**28


def test_a_template_of_another_style_is_no_bomb(folder):
    place = folder()
    (place / "chat_template.jinja").write_text("{% for m in messages %}<s>{{ m['role'] }}: {{ m['content'] }}{% endfor %}")
    assert open_folder(place).load_tokenizer().chat_template.startswith("{% for m")
