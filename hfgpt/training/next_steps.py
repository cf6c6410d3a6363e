"""The next commands that a recipe suggests: they work when pasted, with the chosen settings and the user's own text."""

import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path

from hfgpt.arguments.commands import command_line

_MOST_WORDS, _MOST_CHARACTERS = 4, 40
_FIRST_TOKENS = 48  # tokens of a document, enough for a line


def generate_command(model: str | Path, *, prompt: str | None = None, chat: bool = False) -> str:
    """Let a model write or an assistant answer; without a prompt, it starts a text by itself."""
    if chat:
        return command_line("chat", model)
    return command_line("generate", model, *(["--prompt", prompt] if prompt else []))


def classify_command(model: str | Path, *, text: str | None = None) -> str:
    """Let a classifier label a text; the path is a Python string inside a shell word."""
    call = f"pipeline('text-classification', {str(model)!r})({text or 'a text'!r}, truncation=True)"
    code = f"import hfgpt; from transformers import pipeline; print({call})"
    # Inside double quotes, Python's single quotes need no escaping, unless something has a special meaning in a shell.
    return shlex.join(["python", "-c", code]) if set('"$`\\!') & set(code) else f'python -c "{code}"'


def free_folder(beside: Path, name: str) -> Path:
    """A folder of this name beside another one, with a number if it is taken."""
    folder, number = beside.parent / name, 2
    while folder.exists():
        folder, number = beside.parent / f"{name}-{number}", number + 1
    return folder


def opening_words(texts: Iterable[str]) -> str | None:
    """The first words (one to four, on one line) of the first text that has some, to be continued or classified; None if there are
    none."""
    for text in texts:
        for line in text.splitlines():
            # Half a character at the end of a cut text, and terminal control characters.
            words = "".join(one if one.isprintable() and one != "\ufffd" else " " for one in line).split()
            if not any(one.isalnum() for one in "".join(words)):
                continue
            chosen = words[:1]
            for word in words[1:_MOST_WORDS]:
                if len(" ".join([*chosen, word])) > _MOST_CHARACTERS:
                    break
                chosen.append(word)
            return " ".join(chosen)[:_MOST_CHARACTERS]
    return None


def opening_of_rows(rows: Mapping, tokenizer) -> str | None:
    """The first words of a held-out document, or of a training one if nothing is held out, decoded from packed rows."""
    split = next((rows[name] for name in ("test", "validation", "train") if name in rows and len(rows[name])), None)
    return opening_words(_openings(split, tokenizer)) if split is not None else None


def _openings(split, tokenizer) -> Iterable[str]:
    """The beginnings of the documents in the first rows."""
    for row in split.select(range(min(len(split), 20))):
        ids = row["input_ids"]
        starts = [place + 1 for place, token in enumerate(ids) if token == tokenizer.eos_token_id]
        for start in starts:
            text = tokenizer.decode(ids[start : start + _FIRST_TOKENS], skip_special_tokens=True)
            if text.strip():
                yield text
