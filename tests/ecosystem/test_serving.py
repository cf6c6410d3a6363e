"""`transformers serve` on this machine, used by a real OpenAI client and by `transformers chat` in a terminal.

Two servers load each folder when a client names it: one in an environment without hfgpt, one that imports it.

The server looks an architecture up by its name in the module `transformers` (5.23, cli/serving/model_manager.py), so a class
of ours is not found: "module transformers has no attribute HfGptForCausalLM". There are two workarounds, both tested here: the
native twin, and a copy of the folder whose config.json names the Auto class, which the server does find.
"""

import functools
import json
import os
import re
import shutil
from contextlib import ExitStack
from pathlib import Path

import pytest
from serving import chat_in_terminal, expected_reply, running_server
from transformers import AutoModelForCausalLM, AutoTokenizer
from twins import qwen3_twin

import hfgpt  # noqa: F401  registers the classes
from hfgpt.chat_templates import stop_token_ids
from hfgpt.evaluation.judge import JudgeItem, judge_answers

openai = pytest.importorskip("openai", reason="needs the package openai")
pytest.importorskip("uvicorn", reason="serving needs transformers[serving]")

pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.name != "posix", reason="a terminal of its own needs a pty")]

QUESTIONS = ["What is a list?", "Say path.", "Is it a tuple?"]
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


STRANGER, IMPORTED = "remote code", "imported"
MODELS = {  # the family, what is in the folder, and which server loads it
    "remote code": ("book", copy_naming_the_auto_class, STRANGER),
    "imported": ("modern", copy_naming_the_auto_class, IMPORTED),
    "native twin": ("modern", native_twin, STRANGER),
}
ASSISTANTS = {  # the assistant, its subfolder, and which server loads it
    "adapter, remote code": ("book", "", STRANGER),
    "adapter, imported": ("modern", "", IMPORTED),
    "adapter of a GPT-2": ("gpt2", "", STRANGER),
    "merged, remote code": ("modern", "merged", STRANGER),
    "merged, imported": ("book", "merged", IMPORTED),
}


@pytest.fixture(scope="module")
def address_of(stranger, without_hqq, tmp_path_factory):
    """The address of a server, which is started on first use."""
    with ExitStack() as running:

        @functools.cache
        def start(door: str) -> str:
            place = tmp_path_factory.mktemp("serving")
            if door == IMPORTED:
                return running.enter_context(running_server(place, first="import hfgpt; ", **without_hqq))
            return running.enter_context(running_server(place, options=("--trust-remote-code",), **stranger))

        yield start


@pytest.fixture(scope="module", params=MODELS)
def server(request, address_of, small_families, tmp_path_factory):
    """A server's address, a folder for it, and the folder that it was made from."""
    family, prepare, door = MODELS[request.param]
    folder = prepare(small_families[family], tmp_path_factory.mktemp("served") / "model")
    return address_of(door), str(folder), small_families[family]


@pytest.fixture(scope="module", params=ASSISTANTS)
def assistant(request, address_of, small_assistants):
    """A server's address and the folder of an assistant for it."""
    base, inner, door = ASSISTANTS[request.param]
    return address_of(door), small_assistants[base] / inner


def test_a_client_of_openai_is_answered_whole_and_as_a_stream(server):
    address, name, folder = server
    special = AutoTokenizer.from_pretrained(folder).all_special_ids
    generation = {"do_sample": False, "max_new_tokens": 10, "suppress_tokens": special}
    request = dict(model=name, messages=CHAT, extra_body={"generation_config": json.dumps(generation)})
    with openai.OpenAI(base_url=address, api_key="none", max_retries=0) as client:
        whole = client.chat.completions.create(**request)
        parts = [chunk for chunk in client.chat.completions.create(**request, stream=True) if chunk.choices]
    text = whole.choices[0].message.content
    # Stripped, because the server knows Qwen3's format and trims its replies.
    assert text.strip() == expected_reply(folder, CHAT, tokens=10, suppress_tokens=special)[0].strip()
    assert text.strip()
    assert whole.choices[0].finish_reason == "length"
    assert whole.usage.completion_tokens == 10
    pieces = [chunk.choices[0].delta.content or "" for chunk in parts]
    assert "".join(pieces).strip() == text.strip()
    assert sum(1 for piece in pieces if piece) > 3


@pytest.mark.parametrize("server", ["remote code"], indirect=True)
def test_a_chat_in_a_terminal_is_answered(server, stranger, tmp_path):
    address, name, folder = server
    words = ("max_new_tokens=10", "do_sample=False", "suppress_tokens=[0,1,2,3]")
    ending = dict(ready=r"Continue generating", stay=b"n\n")  # the answer was cut off
    seen = chat_in_terminal(name, address, CHAT[0]["content"], *words, place=tmp_path, **ending, **stranger)
    reply, _ = expected_reply(folder, CHAT, tokens=10, suppress_tokens=[0, 1, 2, 3])
    assert " ".join(reply.split()) in " ".join(seen.split())


def test_a_client_gets_the_models_own_answers_up_to_the_stop_token(assistant):
    address, folder = assistant
    tokenizer = AutoTokenizer.from_pretrained(folder)
    greedy = {"generation_config": json.dumps({"do_sample": False, "max_new_tokens": 40})}
    said = []
    with openai.OpenAI(base_url=address, api_key="none", max_retries=0) as client:
        for question in QUESTIONS:
            chat = [{"role": "user", "content": question}]
            request = dict(model=str(folder), messages=chat, extra_body=greedy)
            whole = client.chat.completions.create(**request).choices[0]
            stream = [chunk.choices[0] for chunk in client.chat.completions.create(**request, stream=True) if chunk.choices]
            reply, last = expected_reply(folder, chat, tokens=40)
            assert last in stop_token_ids(tokenizer)
            assert whole.message.content == reply
            assert whole.finish_reason == "stop"
            assert "".join(part.delta.content or "" for part in stream) == reply
            assert stream[-1].finish_reason == "stop"
            said.append(reply)
    assert len(set(said)) > 1
    assert all(said)
    assert not any(token in "".join(said) for token in tokenizer.all_special_tokens)


@pytest.mark.parametrize("assistant", ["adapter, remote code"], indirect=True)
def test_a_chat_in_a_terminal_is_answered_and_the_answer_ends(assistant, stranger, tmp_path):
    address, folder = assistant
    reply, _ = expected_reply(folder, [{"role": "user", "content": QUESTIONS[0]}], tokens=40)
    words = ("max_new_tokens=40", "do_sample=False")
    # "<name of the user>:" asks for the next message; the model's name is a path.
    ready = re.escape(QUESTIONS[0]) + r"[\s\S]*<[^/>]+>:?\s*$"
    seen = chat_in_terminal(str(folder), address, QUESTIONS[0], *words, place=tmp_path, ready=ready, **stranger)
    assert " ".join(reply.split()) in " ".join(seen.split())
    assert "Continue generating" not in seen  # the answer ended by itself


@pytest.mark.parametrize("server", ["imported"], indirect=True)
def test_the_nonsense_that_a_small_model_judges_is_unparsed(server, tmp_path):
    address, name, _ = server
    path = tmp_path / "judge.jsonl"
    items = [JudgeItem("What is 1 + 1?", "2", answer) for answer in ("2", "3")]
    report = judge_answers(items, path=path, model=name, base_url=address, max_concurrency=1, settings={"max_tokens": 8})
    assert report.scores == [None, None]
    assert (report.mean_score, report.num_unparsed) == (None, 2)
    answers = [json.loads(line)["answers"] for line in path.read_text(encoding="utf-8").splitlines()]
    assert [len(tries) for tries in answers] == [2, 2]
    assert any(answer.strip() for tries in answers for answer in tries)
