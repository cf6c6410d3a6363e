"""The next commands that a recipe suggests: they work when pasted, with the chosen settings and the user's own text."""

import shlex
from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path

from hfgpt.arguments.commands import command_line
from hfgpt.arguments.keys import as_words

_QUOTES = "'\"`$\\!\u2018\u2019\u201a\u201c\u201d\u201e\u00ab\u00bb"  # and what else a shell may change
_FEWEST_WORDS, _MOST_TEXTS = 3, 20
_FIRST_TOKENS = 48  # tokens of a document, enough for a line


def generate_command(model: str | Path, *, prompt: str | None = None, chat: bool = False) -> str:
    """Let a model write or an assistant answer; without a prompt, it starts a text by itself."""
    if chat:
        return command_line("chat", model)
    return command_line("generate", model, *(as_words("prompt", prompt) if prompt else []))


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


def opening_words(texts: Iterable[str], *, most_words: int = 4, most_characters: int = 40) -> str | None:
    """The first words, on one line, of one of the first texts, to be continued or classified; None if none has words.

    The first text is taken whose opening needs no quotes in a shell, has several words and begins like a sentence; else the best.
    """
    openings = [_opening(text, most_words, most_characters) for text in islice(texts, _MOST_TEXTS)]
    return min(filter(None, openings), key=_oddness, default=None)


def _opening(text: str, most_words: int, most_characters: int) -> str | None:
    """The first words of the first line that has some; it ends before a word with quotes, and none precede it."""
    for line in text.splitlines():
        # Half a character at the end of a cut text, and terminal control characters.
        words = "".join(one if one.isprintable() and one != "\ufffd" else " " for one in line).lstrip(_QUOTES + " ").split()
        if not any(one.isalnum() for one in "".join(words)):
            continue
        chosen = [words[0].strip(_QUOTES)]
        for word in words[1:most_words]:
            if set(word) & set(_QUOTES) or len(" ".join([*chosen, word])) > most_characters:
                break
            chosen.append(word)
        return " ".join(chosen)[:most_characters]
    return None


def _oddness(opening: str) -> tuple[bool, bool, bool]:
    return bool(set(opening) & set(_QUOTES)), opening.count(" ") < _FEWEST_WORDS - 1, not opening[0].isupper()


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
