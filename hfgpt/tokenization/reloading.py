"""A saved tokenizer is loaded through AutoTokenizer in a process of its own, and has to give the ids that it gave before.

What transformers makes of a saved tokenizer is not always what was saved: AutoTokenizer may take another class for it, or replace
its pattern by GPT-2's (transformers#44463). Run as a script, this file is that process; nothing of hfgpt is imported in it.
"""

import json
import subprocess
import sys
from pathlib import Path

WITH_SPECIAL_TOKENS, AS_TEXT = "special tokens in it are special", "special tokens in it are text"
# Text as it comes from outside, and as the library takes it by default, which a chat template needs.
CALLS = {AS_TEXT: dict(add_special_tokens=False, split_special_tokens=True), WITH_SPECIAL_TOKENS: {}}


def ids_of(tokenizer, texts: list[str]) -> dict[str, list[list[int]]]:
    """The ids of texts by each way to call a tokenizer of transformers."""
    return {name: [tokenizer(text, **how)["input_ids"] for text in texts] for name, how in CALLS.items()}


def check_reloaded(folder: Path, tokenizer, texts: list[str], *, lossless: bool) -> None:
    """Compare the tokenizer with the one that a stranger loads from `folder`.

    Args:
        texts: that the ids are compared of.
        lossless: the tokenizer promises that every text comes back from its ids, so that is looked at too.
    Raises: UserError with the first text and its ids where they differ, or where the folder does not load.
    Cost: a process that imports transformers without torch, about a second.
    """
    from hfgpt.errors import UserError

    done = subprocess.run(
        [sys.executable, str(Path(__file__).resolve()), str(folder)],
        input=json.dumps(texts),  # in ASCII, whatever the locale
        capture_output=True,
        text=True,
        encoding="utf-8",
        errors="replace",
        check=False,
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it says nothing"])[-1]
        raise UserError(f"the saved tokenizer does not load through AutoTokenizer in another process ({last}); nothing is kept.")
    loaded = json.loads(done.stdout.splitlines()[-1])
    for how, ids in ids_of(tokenizer, texts).items():
        for text, before, after in zip(texts, ids, loaded["ids"][how], strict=True):
            if before != after:
                raise UserError(
                    f"the saved tokenizer gives other ids when it is loaded through AutoTokenizer: {_quoted(text)} ({how}) was "
                    f"{before}, is {after}; nothing is kept."
                )
    for text, ids, back in zip(texts, loaded["ids"][AS_TEXT], loaded["texts"], strict=True):
        if lossless and back != text:
            raise UserError(f"{_quoted(text)} comes back from its ids {ids} as {_quoted(back)}; nothing is kept.")


def _quoted(text: str) -> str:
    return ascii(text if len(text) <= 60 else text[:60] + "...")


def _answer(folder: str) -> None:
    del sys.path[0]  # the folder of this file, whose modules might stand before others of their names
    # AutoTokenizer imports torch where it can, and needs it for nothing here; it is a second and more.
    sys.modules["torch"] = None  # type: ignore[assignment]
    try:
        from transformers import AutoTokenizer
    except ImportError:
        del sys.modules["torch"]
        from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    texts = json.loads(sys.stdin.read())
    ids = ids_of(tokenizer, texts)
    back = [tokenizer.decode(one) for one in ids[AS_TEXT]]
    print(json.dumps({"ids": ids, "texts": back}))


if __name__ == "__main__":
    _answer(sys.argv[1])
