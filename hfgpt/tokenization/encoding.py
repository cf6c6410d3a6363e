"""Token ids of plain texts."""

import hashlib
import re
from collections.abc import Iterable, Iterator
from typing import TypeVar, cast

import numpy as np
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from hfgpt.errors import UserError
from hfgpt.tokenization.patterns import safe_cut

PIECE_CHARACTERS = 2**15  # the library needs 475 bytes per token of the current text: a book of 20 MB would need 2.4 GB
LONGEST_PIECE = 2**21  # at most 1 GB, if every character is its own token
CALL_CHARACTERS = 2**20  # encoded by one call, on all cores
Key = TypeVar("Key")


def encode_texts(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> list[list[int]]:
    """Token ids of each text as plain text: no separator is added, and `<|endoftext|>` in a text does not become one.

    The saved tokenizer keeps the library's default (special tokens in text are special), because chat templates need it; external
    text therefore always goes through this function.
    """
    return [ids.tolist() for ids in encode_to_arrays(tokenizer, texts)]


def encode_to_arrays(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> list[np.ndarray]:
    """Like `encode_texts`, but as int32 arrays: 4 bytes per token instead of 40 in a list.

    Raises: ValueError for a text with more than `LONGEST_PIECE` characters and no place to cut it.
    """
    if isinstance(texts, str):
        raise UserError("texts is a single text; give a list of texts.")
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    backend.encode_special_tokens = True  # as ordinary characters
    # Added tokens that are not special are matched before words, perhaps across a cut.
    added_in_text = any(not token.special for token in tokenizer.added_tokens_decoder.values())
    place = None if added_in_text else safe_cut(tokenizer)
    ids: list[list[np.ndarray]] = [[] for _ in texts]
    pieces = ((index, piece) for index, text in enumerate(texts) for piece in cut_at(place, text, length=PIECE_CHARACTERS))
    for call in in_batches(pieces):
        encodings = backend.encode_batch_fast([piece for _, piece in call], add_special_tokens=False)  # fast: without offsets
        for (index, _), encoding in zip(call, encodings):
            ids[index].append(np.array(encoding.ids, dtype=np.int32))
        del encodings  # 475 bytes per token
    return [parts[0] if len(parts) == 1 else np.concatenate(parts) for parts in ids]


def tokens_around(tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """The ids that the tokenizer itself puts before a text and after it; found by calling it, because no field of it says so."""
    whole, plain = (cast(list[int], tokenizer("a", add_special_tokens=special)["input_ids"]) for special in (True, False))
    start = whole.index(plain[0]) if plain else len(whole)  # some vocabularies of characters have no "a"
    return whole[:start], whole[start + len(plain) :]


def start_token(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The id that a text begins after: what the tokenizer itself puts there, or else its BOS, or else its EOS.

    Llama's and Gemma's models have always seen their BOS there; ours, the separator of documents.
    """
    begins = [*tokens_around(tokenizer)[0][-1:], tokenizer.bos_token_id, tokenizer.eos_token_id]
    return next((cast(int, token) for token in begins if token is not None), None)


def in_batches(texts: Iterable[tuple[Key, str]]) -> Iterator[list[tuple[Key, str]]]:
    """Lists of texts and whatever stands beside them; a list ends with the text that reaches `CALL_CHARACTERS`."""
    batch, size = [], 0
    for key, text in texts:
        batch.append((key, text))
        size += len(text)
        if size >= CALL_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def cut_at(place: re.Pattern | None, text: str, *, length: int) -> Iterator[str]:
    """Pieces of `text` that end at the first `place` after `length` characters; the whole text without a `place`.

    Raises: ValueError if more than `LONGEST_PIECE` characters follow without such a place.
    """
    start = 0
    while place and len(text) - start > length:
        cut = place.search(text, start + length, start + LONGEST_PIECE + 1)
        if cut is None:
            if len(text) - start > LONGEST_PIECE:
                raise UserError(
                    f"the text that begins {text[start : start + 40]!r} has more than {LONGEST_PIECE:,} characters without a line "
                    f"break, a space or a comma, and encoding it in one piece would need gigabytes; break it into lines."
                )
            break
        yield text[start : cut.start()]
        start = cut.start()
    yield text[start:]


def split_special_tokens(tokenizer: PreTrainedTokenizerFast, split: bool) -> None:
    """Set whether special tokens written in a text are plain text (True, for classifiers), for this tokenizer and after reloading.

    True breaks the special tokens written by a chat template.
    """
    tokenizer.split_special_tokens = split
    tokenizer.init_kwargs["split_special_tokens"] = split  # what save_pretrained writes


def tokenizer_sha256(tokenizer: PreTrainedTokenizerFast) -> str:
    """SHA-256 of the tokenizer's definition: equal for equal ids, wherever it is stored."""
    return hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode("utf-8")).hexdigest()
