"""Shared by the serving tests: a running `transformers serve`, `transformers chat` in a terminal, the expected replies."""

import os
import re
import select
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

SERVE = "from transformers.cli.transformers import main; main()"


@contextmanager
def running_server(place: Path, *, first: str = "", options: tuple[str, ...] = (), **environment) -> Iterator[str]:
    """Run `transformers serve` after `first` (`import hfgpt; `) and yield its address.

    It loads whatever folder a request names as its model.

    Args: `place` is an empty folder for log and cache; `environment` is one for `python -S`.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-S", "-c", first + SERVE]
    command += ["serve", "--device", "cpu", "--host", "127.0.0.1", "--port", str(port), *options]
    environment = {**os.environ, "HF_HOME": str(place), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", **environment}
    with (place / "log.txt").open("w") as log:
        process = subprocess.Popen(command, env=environment, cwd=place, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + 120
            while not answers(f"http://127.0.0.1:{port}/health"):
                assert process.poll() is None, (place / "log.txt").read_text()[-2000:]
                assert time.monotonic() < deadline, "the server did not come up in two minutes"
                time.sleep(0.3)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.terminate()
            process.wait(timeout=30)


def answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=5) as response:
            return response.status == 200
    except OSError:
        return False


def expected_reply(folder: Path, chat: list[dict[str, str]], *, tokens: int, **settings) -> tuple[str, int]:
    """The model's own greedy reply to the chat, and its last token."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    with torch.no_grad():
        ids = model.generate(**prompt, max_new_tokens=tokens, do_sample=False, **settings)[0, prompt.input_ids.shape[1] :]
    return tokenizer.decode(ids, skip_special_tokens=True), ids[-1].item()


def chat_in_terminal(
    name: str, address: str, question: str, *words: str, place: Path, ready: str, stay: bytes = b"", **environment: str
) -> str:
    """What `transformers chat` shows in its own terminal for the question; then it is told to exit, and must.

    Args:
        ready: a pattern for the end of the answer.
        stay: what is typed after the answer, before `!exit`.
        environment: one for `python -S`.
    """
    import pty

    parent, child = pty.openpty()
    # The chat sends its request through huggingface_hub, which refuses every address while HF_HUB_OFFLINE is set.
    environment = {**os.environ, "HF_HUB_OFFLINE": "0", "HF_HOME": str(place), "COLUMNS": "100", "TERM": "dumb", **environment}
    process = subprocess.Popen(
        [sys.executable, "-S", "-c", SERVE, "chat", name, address, *words],
        stdin=child, stdout=child, stderr=child, env=environment, cwd=place,
    )  # fmt: skip
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
        os.write(parent, f"{question}\n".encode())
        read_until(ready)
        os.write(parent, stay + b"!exit\n")
        assert process.wait(timeout=30) == 0
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        os.close(parent)
    return seen.partition(question)[2]
