"""`transformers serve` on this machine, asked by a real OpenAI client and by `transformers chat` in a terminal.

The server looks an architecture up by its name in the module `transformers` (5.23, cli/serving/model_manager.py), so a class
of ours is not found: "module transformers has no attribute HfGptForCausalLM". Two ways lead around it, both tested here: the
native twin, and a copy of the folder whose config.json names the Auto class, which the server does find.
"""

import json
import os
import shutil
from pathlib import Path

import pytest
from serving import chat_in_terminal, expected_reply, running_server
from transformers import AutoModelForCausalLM, AutoTokenizer
from twins import qwen3_twin

import hfgpt  # noqa: F401  registers the classes

openai = pytest.importorskip("openai", reason="needs the package openai")
pytest.importorskip("uvicorn", reason="serving needs transformers[serving]")

pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.name != "posix", reason="a terminal of its own needs a pty")]

CHAT = [{"role": "user", "content": "What does os.getcwd do?"}]


def copy_naming_the_auto_class(folder: Path, place: Path) -> Path:
    shutil.copytree(folder, place)
    config = json.loads((place / "config.json").read_text())
    (place / "config.json").write_text(json.dumps(config | {"architectures": ["AutoModelForCausalLM"]}, indent=2))
    return place


def native_twin(folder: Path, place: Path) -> Path:
    shutil.copytree(folder, place, ignore=shutil.ignore_patterns("*.py", "*.safetensors", "config.json"))
    twin = qwen3_twin(AutoModelForCausalLM.from_pretrained(folder))
    twin.config.eos_token_id = twin.generation_config.eos_token_id = 0
    twin.save_pretrained(place)
    return place


DOORS = {  # the family, what lies in the folder, and what is imported before the server starts
    "remote code": ("book", copy_naming_the_auto_class, "", ("--trust-remote-code",)),
    "imported": ("modern", copy_naming_the_auto_class, "import hfgpt; ", ()),
    "native twin": ("modern", native_twin, "", ()),
}


@pytest.fixture(scope="module", params=DOORS)
def server(request, small_families, stranger, tmp_path_factory):
    """A running server: its address, the folder it serves, and the folder it was made from."""
    family, prepare, first, options = DOORS[request.param]
    place = tmp_path_factory.mktemp("serving")
    folder = prepare(small_families[family], place / "model")
    with running_server(folder, place, first=first, options=options, **({} if first else stranger)) as address:
        yield address, str(folder), small_families[family]


def test_a_client_of_openai_is_answered_whole_and_as_a_stream(server):
    address, name, folder = server
    special = AutoTokenizer.from_pretrained(folder).all_special_ids
    generation = {"do_sample": False, "max_new_tokens": 10, "suppress_tokens": special}
    request = dict(model=name, messages=CHAT, extra_body={"generation_config": json.dumps(generation)})
    with openai.OpenAI(base_url=address, api_key="none", max_retries=0) as client:
        whole = client.chat.completions.create(**request)
        parts = [chunk for chunk in client.chat.completions.create(**request, stream=True) if chunk.choices]
    text = whole.choices[0].message.content
    # Stripped, because the server knows how a Qwen3 answers and trims what it says.
    assert text.strip() == expected_reply(folder, CHAT, tokens=10, suppress_tokens=special)[0].strip()
    assert text.strip()
    assert whole.choices[0].finish_reason == "length"
    assert whole.usage.completion_tokens == 10
    pieces = [chunk.choices[0].delta.content or "" for chunk in parts]
    assert "".join(pieces).strip() == text.strip()
    assert sum(1 for piece in pieces if piece) > 3


@pytest.mark.parametrize("server", ["remote code"], indirect=True)
def test_a_chat_in_a_terminal_is_answered(server, tmp_path):
    address, name, folder = server
    words = ("max_new_tokens=10", "do_sample=False", "suppress_tokens=[0,1,2,3]")
    ending = dict(ready=r"Continue generating", stay=b"n\n")  # it was cut
    seen = chat_in_terminal(name, address, CHAT[0]["content"], *words, place=tmp_path, **ending)
    reply, _ = expected_reply(folder, CHAT, tokens=10, suppress_tokens=[0, 1, 2, 3])
    assert " ".join(reply.split()) in " ".join(seen.split())
