"""A chat template is a program from the folder, so it is run in a sandbox, in a process with limited time and memory.

The same file is that process (`python -I -S template_trial.py`): it only uses the standard library and jinja2, nothing from hfgpt.
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

SECONDS = 5  # of CPU time; a template with a few turns takes milliseconds
MEMORY_BYTES = 1 << 30
MOST_CHARACTERS = 100_000  # output for a conversation of a few words
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
    """Render the conversations with a template in a separate process.

    Args:
        special_tokens: `bos_token` and so on, as the tokenizer would pass them.
        path: where that process finds jinja2.
        seconds: the limit on CPU time; three times as much for wall-clock time.
        memory_bytes: the limit on memory.
    Returns: the text by conversation, None if the template refuses that one; or `{"error": why}`, with `"bound": True` if it
        exceeded a limit on time, memory or output.
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
        return {"error": f"it used more than {seconds:g} seconds of CPU time for a conversation of a few words", "bound": True}
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
        result = {"error": f"it needs more than {mib:,} MiB of memory for a conversation of a few words", "bound": True}
    except Exception as error:  # any exception of third-party code is its own error
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
            # A template may refuse an unknown role, but not the simplest question.
            if name == "question":
                raise
            text = None
        results[name] = text
    if _QUESTION not in (results["question"] or ""):
        return {"error": "its output does not contain the user's message"}
    return results


def _environment():
    """As in transformers (utils/chat_template_utils.py), except that a forbidden attribute is an error rather than empty text."""
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
            raise jinja2.exceptions.SecurityError(f"it accesses {attribute!r} of a {type(obj).__name__}, which is not allowed")

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
