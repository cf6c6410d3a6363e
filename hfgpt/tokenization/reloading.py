"""Load a saved tokenizer with AutoTokenizer in a separate process, and verify that it gives the same ids as before.

transformers does not always load what was saved: AutoTokenizer may choose a different class, or replace the pattern by GPT-2's
(transformers#44463). Run as a script, this file is that process; nothing from hfgpt is imported in it.
"""

import json
import subprocess
import sys
from pathlib import Path

WITH_SPECIAL_TOKENS, AS_TEXT = "special tokens in it are special", "special tokens in it are text"
# External text, and the library's default, which chat templates need.
CALLS = {AS_TEXT: dict(add_special_tokens=False, split_special_tokens=True), WITH_SPECIAL_TOKENS: {}}


def ids_of(tokenizer, texts: list[str]) -> dict[str, list[list[int]]]:
    """The ids of texts for each way of calling a transformers tokenizer."""
    return {name: [tokenizer(text, **how)["input_ids"] for text in texts] for name, how in CALLS.items()}


def check_reloaded(folder: Path, tokenizer, texts: list[str], *, lossless: bool) -> None:
    """Compare the tokenizer with what a stranger loads from `folder`.

    Args:
        texts: the texts to compare.
        lossless: the tokenizer guarantees that every text can be restored from its ids, so that is checked, too.
    Raises: UserError with the first text whose ids differ, or if the folder cannot be loaded.
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
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise UserError(f"the saved tokenizer cannot be loaded with AutoTokenizer in another process ({last}); nothing is kept.")
    loaded = json.loads(done.stdout.splitlines()[-1])
    for how, ids in ids_of(tokenizer, texts).items():
        for text, before, after in zip(texts, ids, loaded["ids"][how], strict=True):
            if before != after:
                raise UserError(
                    f"the saved tokenizer gives different ids when loaded with AutoTokenizer: {_quoted(text)} ({how}) was "
                    f"{before}, is now {after}; nothing is kept."
                )
    for text, ids, back in zip(texts, loaded["ids"][AS_TEXT], loaded["texts"], strict=True):
        if lossless and back != text:
            raise UserError(f"{_quoted(text)} is decoded from its ids {ids} as {_quoted(back)}; nothing is kept.")


def _quoted(text: str) -> str:
    return ascii(text if len(text) <= 60 else text[:60] + "...")


def _answer(folder: str) -> None:
    del sys.path[0]  # the folder of this file, whose modules might shadow others
    # AutoTokenizer imports torch if it can, but does not need it here; it takes more than a second.
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
