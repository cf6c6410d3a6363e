"""Fine-tuned assistants behind `transformers serve`, as they lie there: the adapter's folder and its merged twin."""

import json
import os
import re

import pytest
from serving import chat_in_terminal, expected_reply, running_server
from transformers import AutoTokenizer

import hfgpt  # noqa: F401  registers the classes
from hfgpt.chat_templates import stop_token_ids

openai = pytest.importorskip("openai", reason="needs the package openai")
pytest.importorskip("uvicorn", reason="serving needs transformers[serving]")

pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.name != "posix", reason="a terminal of its own needs a pty")]

QUESTIONS = ["What is a list?", "Say path.", "Is it a tuple?"]
STRANGER, IMPORTED = ("", ("--trust-remote-code",)), ("import hfgpt; ", ())
DOORS = {  # the assistant, which of its folders, what is imported before the server starts, its options
    "adapter, remote code": ("book", "", *STRANGER),
    "adapter, imported": ("modern", "", *IMPORTED),
    "adapter of a GPT-2": ("gpt2", "", "", ()),
    "merged, remote code": ("modern", "merged", *STRANGER),
    "merged, imported": ("book", "merged", *IMPORTED),
}


@pytest.fixture(scope="module", params=DOORS)
def server(request, small_assistants, stranger, tmp_path_factory):
    """A running server: its address and the folder that it serves."""
    base, inner, first, options = DOORS[request.param]
    folder = small_assistants[base] / inner
    place = tmp_path_factory.mktemp("serving")
    with running_server(folder, place, first=first, options=options, **({} if first else stranger)) as address:
        yield address, folder


def test_a_client_gets_the_models_own_answers_up_to_the_stop_token(server):
    address, folder = server
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


@pytest.mark.parametrize("server", ["adapter, remote code"], indirect=True)
def test_a_chat_in_a_terminal_is_answered_and_the_answer_ends(server, tmp_path):
    address, folder = server
    reply, _ = expected_reply(folder, [{"role": "user", "content": QUESTIONS[0]}], tokens=40)
    words = ("max_new_tokens=40", "do_sample=False")
    # "<name of the user>:" asks for the next message; the model's name is a path.
    ready = re.escape(QUESTIONS[0]) + r"[\s\S]*<[^/>]+>:?\s*$"
    seen = chat_in_terminal(str(folder), address, QUESTIONS[0], *words, place=tmp_path, ready=ready)
    assert " ".join(reply.split()) in " ".join(seen.split())
    assert "Continue generating" not in seen  # it ended by itself
