"""A model and its tokenizer: one row per id, and the same special tokens in every config."""

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from hfgpt.conversion.checkpoints import read_characters
from hfgpt.errors import UserError
from hfgpt.tokenization import character_tokenizer, load_or_wrap_tokenizer

CHARACTERS = "meta.pkl"  # nanoGPT's file for a character-level model
# nanoGPT and others round the rows up to a multiple of 64 or 128, which is faster on GPUs; Qwen's vocabularies have up to 400 more
# rows than their tokenizers use.
PADDED_TO = 64
MOST_PADDING = 512


def find_tokenizer(named: str, *, beside: Sequence[Path]) -> PreTrainedTokenizerFast | None:
    """The given tokenizer, or the one beside the weights; GPT-2's own files and nanoGPT's characters get a padding token.

    Args:
        named: a folder, a file of characters or a Hub id; empty to search `beside`.
        beside: the folders of the weights; the first with a tokenizer counts.
    Returns: None if nothing was given and nothing is there. Raises: see `load_tokenizer`.
    """
    for place in [Path(named)] if named else beside:
        if place.name == CHARACTERS or (place / CHARACTERS).is_file():
            return character_tokenizer(read_characters(place if place.name == CHARACTERS else place / CHARACTERS))
        if named or any((place / name).is_file() for name in ("tokenizer.json", "vocab.json", "encoder.json")):
            return load_or_wrap_tokenizer(named or place)
    return None


def adopt_tokenizer(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> list[str]:
    """Fit model and tokenizer to each other, in place; the notes describe the changes.

    Special tokens past the last row (GPT-2 has none for padding and chat) get new rows.
    Raises: ValueError for a tokenizer with a different vocabulary.
    """
    notes = check_vocabulary(model.config.vocab_size, tokenizer)
    rows, num_tokens = model.config.vocab_size, num_ids(tokenizer)
    if num_tokens > rows:
        grow_vocabulary(model, num_tokens)
        notes.append(f"{num_tokens - rows} rows were added to the embedding ({rows:,} -> {num_tokens:,}), for special tokens.")
    for config in (model.config, getattr(model, "generation_config", None)):  # a classifier generates nothing
        if config is not None:
            for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
                ids = getattr(config, name)
                # An assistant's eos_token_id is a list: it also stops at the end of a turn.
                if not (isinstance(ids, list) and getattr(tokenizer, name) in ids):
                    setattr(config, name, getattr(tokenizer, name))
    context = model.config.max_position_embeddings
    limit = min(tokenizer.model_max_length, model.config.max_text_length or context)
    if not model.can_generate() and limit < context:  # a classifier's tokenizer knows where training cut its texts
        model.config.max_text_length = limit
    tokenizer.model_max_length = model.config.max_text_length or context
    return notes


def check_vocabulary(rows: int, tokenizer: PreTrainedTokenizerFast) -> list[str]:
    """Raises: ValueError if the ids of a tokenizer do not match the rows of an embedding."""
    num_tokens = num_ids(tokenizer)
    special = {id for id, token in tokenizer.added_tokens_decoder.items() if token.special}
    outside = sorted(id for id in tokenizer.get_vocab().values() if id >= rows and id not in special)
    if outside:
        first = f"{outside[0]}, {tokenizer.convert_ids_to_tokens(outside[0])!r}"
        raise UserError(
            f"the tokenizer has {num_tokens:,} tokens, but the model's embedding has {rows:,} rows; {len(outside):,} of the ids "
            f"without a row (the first is {first}) are not special tokens, so give the tokenizer that the model was trained with."
        )
    if rows <= num_tokens:
        return []
    if rows % PADDED_TO or rows - num_tokens >= MOST_PADDING:
        raise UserError(
            f"the tokenizer has {num_tokens:,} tokens, but the model's embedding has {rows:,} rows; extra rows are only allowed as "
            f"padding to a multiple of {PADDED_TO}, so give the tokenizer that the model was trained with."
        )
    return [f"the last {rows - num_tokens} of the embedding's {rows:,} rows have no token (padded to a multiple of {PADDED_TO})."]


def num_ids(tokenizer: PreTrainedTokenizerFast) -> int:
    """One more than the largest id."""
    return max(tokenizer.get_vocab().values()) + 1


@torch.no_grad()
def grow_vocabulary(model: PreTrainedModel, rows: int) -> None:
    """Add rows to the embedding, and to the head if there is one, each the mean of the existing rows.

    The logit of such a row is the mean of all logits, so (Jensen) its probability is at most 1 / V: the model behaves as before,
    and no random numbers are needed.
    """
    before = model.config.vocab_size
    means = [matrix.mean(dim=0) for matrix in _matrices(model)]
    model.resize_token_embeddings(rows, mean_resizing=False)
    for matrix, mean in zip(_matrices(model), means):
        matrix[before:] = mean


def _matrices(model: PreTrainedModel) -> list[torch.Tensor]:
    layers = (model.get_input_embeddings(), model.get_output_embeddings())
    return [cast(nn.Embedding | nn.Linear, layer).weight for layer in layers if layer is not None]
