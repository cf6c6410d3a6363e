"""Text out of a model."""

import logging
import sys
from typing import Any, cast

import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerFast

from hfgpt.errors import UserError
from hfgpt.evaluation.batches import padding_id
from hfgpt.inference import evaluating, isolated_random_state
from hfgpt.tokenization import encode_texts

logger = logging.getLogger(__name__)


def context_length_of(model: PreTrainedModel) -> int:
    """Most tokens that a model reads at once; a number beyond all texts where its positions have no end (Bloom, MPT)."""
    return getattr(model.config.get_text_config(), "max_position_embeddings", None) or sys.maxsize


def prompt_ids(tokenizer: PreTrainedTokenizerFast, prompt: str) -> torch.Tensor:
    """The ids (1, T) that a text begins with, as in training: the separator, then the prompt, in which nothing is special."""
    return torch.tensor([[tokenizer.eos_token_id, *encode_texts(tokenizer, [prompt])[0]]])


def check_room(max_new_tokens: int, context_length: int) -> None:
    """Raises: UserError where the new tokens alone would fill the context."""
    if max_new_tokens >= context_length:
        raise UserError(
            f"max_new_tokens is {max_new_tokens:,}, the model's context {context_length:,} tokens, prompt included; ask for fewer."
        )


def fit_to_context(ids: torch.Tensor, *, max_new_tokens: int, context_length: int) -> torch.Tensor:
    """Keep the last ids (1, T) that leave room for `max_new_tokens`; what is cut is said. Raises: as `check_room`."""
    check_room(max_new_tokens, context_length)
    room = context_length - max_new_tokens
    if ids.shape[1] > room:
        logger.warning(
            f"the prompt has {ids.shape[1]:,} tokens, and beside {max_new_tokens:,} new ones the context of {context_length:,} has "
            f"room for {room:,}: its first {ids.shape[1] - room:,} are left out; fewer max_new_tokens leave more of it."
        )
    return ids[:, -room:]


def sample(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    prompt: str,
    *,
    generation_config: GenerationConfig,
    seed: int = 0,
    streamer=None,
) -> list[str]:
    """Continuations of `prompt`, each without it, up to the separator that ends a document.

    The model's mode, its `use_cache` and the random state are as before when this returns. `streamer` (transformers
    `TextStreamer`) prints while it goes; it takes one sequence.

    Raises: ValueError where `max_new_tokens` leaves no room in the context.
    """
    ids = prompt_ids(tokenizer, prompt)
    room = dict(max_new_tokens=generation_config.max_new_tokens, context_length=context_length_of(model))
    ids = fit_to_context(ids, **room).to(model.device)
    with evaluating(model), isolated_random_state(seed):
        output = generate(model, ids, generation_config=generation_config, streamer=streamer)
    return tokenizer.batch_decode(output, skip_special_tokens=True)


def generate(model: PreTrainedModel, ids: torch.Tensor, *, mask: torch.Tensor | None = None, **settings) -> torch.Tensor:
    """The ids (B, new) that `model.generate` adds to ids (B, T). Without a `mask` all ids are read."""
    mask = torch.ones_like(ids) if mask is None else mask
    output = cast(Any, model).generate(input_ids=ids, attention_mask=mask, **settings)  # to pyright, it might be a tensor
    return output[:, ids.shape[1] :]


def token_choice(
    tokenizer: PreTrainedTokenizerFast,
    *,
    max_new_tokens: int,
    temperature: float,
    top_k: int | None = None,
    top_p: float | None = None,
) -> GenerationConfig:
    """How the next token is chosen: greedily at a temperature of 0, else drawn from all, the `top_k` likeliest or the top share."""
    if temperature > 0:
        # Every one is given: what is not would come from the model's own generation_config.
        choice = dict(do_sample=True, temperature=temperature, top_k=top_k or 0, top_p=top_p or 1.0)
    else:
        choice = dict(do_sample=False, temperature=1.0, top_k=50, top_p=1.0)  # the neutral values; greedy ignores them
    return generation_settings(tokenizer, max_new_tokens=max_new_tokens, **choice)


def default_max_new_tokens(model: PreTrainedModel, *, chat: bool) -> int:
    """Tokens of an answer or of a continuation where nobody says how many: at most half the context."""
    return min(512 if chat else 100, context_length_of(model) // 2)


def generation_settings(tokenizer: PreTrainedTokenizerFast, **settings) -> GenerationConfig:
    """A `GenerationConfig` that stops at the document separator and pads with the padding token.

    Raises: ValueError for a tokenizer without a separator, with which a text begins and ends.
    """
    if tokenizer.eos_token_id is None:
        raise UserError("the tokenizer has no eos_token, with which a text begins and ends; take the one of the training.")
    return GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=padding_id(tokenizer, otherwise=cast(int, tokenizer.eos_token_id)),
        **settings,
    )
