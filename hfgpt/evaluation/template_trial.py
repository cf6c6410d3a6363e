"""A chat template is a program from the folder: it is run in a process with little time and little memory, and in a sandbox.

The same file is that process (`python -I -S template_trial.py`): it knows the standard library and jinja2, nothing of ours.
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

SECONDS = 5  # of computing; a template of a few turns takes thousandths
MEMORY_BYTES = 1 << 30
MOST_CHARACTERS = 100_000  # written for a conversation of a few words
ANSWER = "The Answer Of 1 Turn"
_QUESTION = "A question."
CONVERSATIONS = {
    "question": [{"role": "user", "content": _QUESTION}],
    "system": [{"role": "system", "content": "Be short."}, {"role": "user", "content": _QUESTION}],
    "answered": [{"role": role, "content": text} for role, text in (("user", _QUESTION), ("assistant", ANSWER))] * 2,
}


def render(
    template: str, special_tokens: dict[str, str], *, path: list[str], seconds: float = SECONDS, memory_bytes: int = MEMORY_BYTES
) -> dict:
    """Write the conversations through a template, in a process of its own.

    Args:
        special_tokens: `bos_token` and so on, as the tokenizer would give them to it.
        path: where that process finds jinja2.
        seconds: how long it may compute, and three times as long it may take.
        memory_bytes: how much memory it may have.
    Returns: the text by conversation, None where the template refuses that one; or `{"error": why}`, with `"bound": True` where
        it wanted more time, memory or room than it may have.
    """
    job = json.dumps(
        {"template": template, "special_tokens": special_tokens, "path": path, "seconds": seconds, "memory_bytes": memory_bytes}
    )
    child = subprocess.Popen(
        [sys.executable, "-I", "-S", str(Path(__file__))],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={}, text=True, encoding="utf-8", start_new_session=True,
    )  # fmt: skip
    try:
        written, complaints = child.communicate(job, timeout=3 * seconds + 5)
    except subprocess.TimeoutExpired:
        return {"error": f"it took more than {3 * seconds + 5:g} seconds for a conversation of a few words", "bound": True}
    finally:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
            child.communicate()
    if child.returncode in (-signal.SIGXCPU, -signal.SIGKILL):
        return {"error": f"it computed for more than {seconds:g} seconds over a conversation of a few words", "bound": True}
    if child.returncode:
        last = (complaints.strip() or f"exit code {child.returncode}").splitlines()[-1]
        return {"error": f"the process that rendered it ended ({last})"}
    return json.loads(written)


def _main() -> None:
    import resource

    job = json.load(sys.stdin)
    sys.path += job["path"]
    whole_seconds = max(1, round(job["seconds"]))
    for limit, value in (
        (resource.RLIMIT_CPU, whole_seconds),
        (resource.RLIMIT_AS, job["memory_bytes"]),
        (resource.RLIMIT_FSIZE, 0),
    ):
        resource.setrlimit(limit, (value, value))
    try:
        result = _rendered(job["template"], job["special_tokens"])
    except MemoryError:
        mib = job["memory_bytes"] >> 20
        result = {"error": f"it asks for more than {mib:,} MiB of memory for a conversation of a few words", "bound": True}
    except Exception as error:  # whatever a foreign program may raise is its own fault
        result = {"error": f"{type(error).__name__}: {str(error)[:300]}"}
    sys.stdout.write(json.dumps(result))


def _rendered(source: str, special_tokens: dict[str, str]) -> dict:
    template = _environment().from_string(source)
    from jinja2.exceptions import SecurityError, TemplateError

    results: dict[str, Any] = {}
    for name, messages in CONVERSATIONS.items():
        try:
            parts = template.generate(messages=messages, add_generation_prompt=name != "answered", **special_tokens)
            text = ""
            for part in parts:
                text += part
                if len(text) > MOST_CHARACTERS:
                    what = f"it writes more than {MOST_CHARACTERS:,} characters for a conversation of a few words"
                    return {"error": what, "bound": True}
        except SecurityError:
            raise
        except TemplateError:
            # A template may refuse a role that it does not know, but not the simplest question.
            if name == "question":
                raise
            text = None
        results[name] = text
    if _QUESTION not in (results["question"] or ""):
        return {"error": "what the user says is not in what it writes"}
    return results


def _environment():
    """As transformers has it (utils/chat_template_utils.py), but an attribute that is not allowed is an error, no empty text."""
    from datetime import datetime

    import jinja2
    from jinja2.ext import Extension, loopcontrols
    from jinja2.nodes import CallBlock
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        tags = {"generation"}

        def parse(self, parser):
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return CallBlock(self.call_method("_say"), [], [], body).set_lineno(line)

        def _say(self, caller) -> str:
            return caller()

    class Sandbox(ImmutableSandboxedEnvironment):
        def unsafe_undefined(self, obj, attribute):
            raise jinja2.exceptions.SecurityError(f"it reaches for {attribute!r} of a {type(obj).__name__}, which is not allowed")

    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    def tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    environment = Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment


if __name__ == "__main__":
    _main()
