"""`transformers serve` on this machine, asked by a real OpenAI client and by `transformers chat` in a terminal.

The server looks an architecture up by its name in the module `transformers` (5.23, cli/serving/model_manager.py), so a class
of ours is not found: "module transformers has no attribute HfGptForCausalLM". Two ways lead around it, both tested here: the
native twin, and a copy of the folder whose config.json names the Auto class, which the server does find.
"""

import json
import os
import pty
import re
import select
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from twins import qwen3_twin

import hfgpt  # noqa: F401  registers the classes

openai = pytest.importorskip("openai", reason="needs the package openai")
pytest.importorskip("uvicorn", reason="serving needs transformers[serving]")

pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.name != "posix", reason="a terminal of its own needs a pty")]

CHAT = [{"role": "user", "content": "What does os.getcwd do?"}]
SERVE = "from transformers.cli.transformers import main; main()"


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
    "remote code": ("book", copy_naming_the_auto_class, "", ["--trust-remote-code"]),
    "imported": ("modern", copy_naming_the_auto_class, "import hfgpt; ", []),
    "native twin": ("modern", native_twin, "", []),
}


@pytest.fixture(scope="module", params=DOORS)
def server(request, small_families, stranger, tmp_path_factory):
    """A running server: its address, the folder it serves, and the folder it was made from."""
    family, prepare, first, options = DOORS[request.param]
    place = tmp_path_factory.mktemp("serving")
    folder = prepare(small_families[family], place / "model")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {**os.environ, "HF_HOME": str(place), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    if not first:
        environment |= stranger
    command = [sys.executable, *([] if first else ["-S"]), "-c", first + SERVE]
    command += ["serve", str(folder), "--device", "cpu", "--host", "127.0.0.1", "--port", str(port), *options]
    log = (place / "log.txt").open("w")
    process = subprocess.Popen(command, env=environment, cwd=place, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 120
        while not answers(f"http://127.0.0.1:{port}/health"):
            assert process.poll() is None, (place / "log.txt").read_text()[-2000:]
            assert time.monotonic() < deadline, "the server did not come up in two minutes"
            time.sleep(0.3)
        yield f"http://127.0.0.1:{port}/v1", str(folder), small_families[family]
    finally:
        process.terminate()
        process.wait(timeout=30)
        log.close()


def answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=5) as response:
            return response.status == 200
    except OSError:
        return False


def expected_reply(folder: Path, *, tokens: int) -> str:
    """What the model itself says to the chat, greedily."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    prompt = tokenizer.apply_chat_template(CHAT, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    with torch.no_grad():
        ids = model.generate(**prompt, max_new_tokens=tokens, do_sample=False, suppress_tokens=tokenizer.all_special_ids)
    return tokenizer.decode(ids[0, prompt.input_ids.shape[1] :], skip_special_tokens=True)


def test_a_client_of_openai_is_answered_whole_and_as_a_stream(server):
    address, name, folder = server
    tokenizer = AutoTokenizer.from_pretrained(folder)
    generation = {"do_sample": False, "max_new_tokens": 10, "suppress_tokens": tokenizer.all_special_ids}
    request = dict(model=name, messages=CHAT, extra_body={"generation_config": json.dumps(generation)})
    with openai.OpenAI(base_url=address, api_key="none", max_retries=0) as client:
        whole = client.chat.completions.create(**request)
        parts = [chunk for chunk in client.chat.completions.create(**request, stream=True) if chunk.choices]
    text = whole.choices[0].message.content
    assert text == expected_reply(folder, tokens=10)
    assert text.strip()
    assert whole.choices[0].finish_reason == "length"
    assert whole.usage.completion_tokens == 10
    pieces = [chunk.choices[0].delta.content or "" for chunk in parts]
    assert "".join(pieces) == text
    assert sum(1 for piece in pieces if piece) > 3


@pytest.mark.parametrize("server", ["remote code"], indirect=True)
def test_a_chat_in_a_terminal_is_answered(server, tmp_path):
    address, name, folder = server
    parent, child = pty.openpty()
    # The chat sends its request through huggingface_hub, which refuses every address while HF_HUB_OFFLINE is set.
    environment = {**os.environ, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path), "COLUMNS": "100", "TERM": "dumb"}
    words = ["chat", name, address, "max_new_tokens=10", "do_sample=False", "suppress_tokens=[0,1,2,3]"]
    process = subprocess.Popen(
        [sys.executable, "-c", SERVE, *words], stdin=child, stdout=child, stderr=child, env=environment, cwd=tmp_path
    )
    os.close(child)
    seen = ""

    def read_until(pattern: str) -> None:
        nonlocal seen
        deadline = time.monotonic() + 60
        while not re.search(pattern, seen) and time.monotonic() < deadline:
            if select.select([parent], [], [], 0.5)[0]:
                seen += re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", os.read(parent, 4096).decode(errors="replace"))
        assert re.search(pattern, seen), seen[-2000:]

    try:
        read_until(r">:?\s*$")
        os.write(parent, f"{CHAT[0]['content']}\n".encode())
        read_until(r"Continue generating")
        os.write(parent, b"n\n")
        os.write(parent, b"!exit\n")
        assert process.wait(timeout=30) == 0
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        os.close(parent)
    answer = seen.partition(CHAT[0]["content"])[2]
    assert " ".join(expected_reply(folder, tokens=10).split()) in " ".join(answer.split())
