"""Text generation."""

import logging
from collections.abc import Callable
from typing import Any, cast

import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerFast

from hfgpt.errors import UserError
from hfgpt.evaluation.batches import padding_id
from hfgpt.inference import GREEDY, evaluating, isolated_random_state, longest_input, only_given_settings
from hfgpt.tokenization import encode_texts, start_token

logger = logging.getLogger(__name__)


def context_length_of(model: PreTrainedModel) -> int:
    """The maximum number of tokens a model reads at once; 2 ** 31 if its positions are unlimited, as in Bloom."""
    return longest_input(model.config) or 2**31


def prompt_ids(tokenizer: PreTrainedTokenizerFast, prompt: str) -> torch.Tensor:
    """The ids (1, T) of a text's beginning, as in training: the tokenizer's `start_token`, then the prompt as plain text.

    Raises: see `check_is_text`.
    """
    check_is_text(prompt)
    return torch.tensor([[cast(int, start_token(tokenizer)), *encode_texts(tokenizer, [prompt])[0]]])


def check_is_text(prompt: str) -> None:
    """Raises: UserError for a prompt with half of a surrogate pair, as Python makes of bytes that are not UTF-8."""
    try:
        prompt.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UserError(f"the prompt is not text: character {error.start + 1} comes from bytes that are not UTF-8.") from None


def check_room(max_new_tokens: int, context_length: int) -> None:
    """Raises: UserError if the new tokens alone would fill the context."""
    if max_new_tokens >= context_length:
        raise UserError(
            f"max_new_tokens is {max_new_tokens:,}, but the model's context is {context_length:,} tokens including the prompt; "
            f"give fewer."
        )


def fit_to_context(ids: torch.Tensor, *, max_new_tokens: int, context_length: int) -> torch.Tensor:
    """Keep the last ids (1, T) that leave room for `max_new_tokens`, and log what is cut. Raises: see `check_room`."""
    check_room(max_new_tokens, context_length)
    room = context_length - max_new_tokens
    if ids.shape[1] > room:
        logger.warning(
            f"the prompt has {ids.shape[1]:,} tokens, but with {max_new_tokens:,} new ones the context of {context_length:,} only "
            f"has room for {room:,}: the first {ids.shape[1] - room:,} are dropped; a smaller --max_new_tokens keeps more of it."
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
    on_begin: Callable[[], None] | None = None,
) -> list[str]:
    """Continuations of `prompt`, without the prompt itself, up to the separator that ends a document.

    The model's mode, its `use_cache` and the random state are restored. `streamer` (transformers `TextStreamer`) prints during
    generation; it supports only one sequence. `on_begin` is called after the prompt has been checked.

    Raises: ValueError if `max_new_tokens` leaves no room in the context.
    """
    ids = prompt_ids(tokenizer, prompt)
    room = dict(max_new_tokens=generation_config.max_new_tokens, context_length=context_length_of(model))
    ids = fit_to_context(ids, **room).to(model.device)
    if on_begin is not None:
        on_begin()
    with evaluating(model), isolated_random_state(seed):
        output = generate(model, ids, generation_config=generation_config, streamer=streamer)
    return tokenizer.batch_decode(output, skip_special_tokens=True)


def generate(model: PreTrainedModel, ids: torch.Tensor, *, mask: torch.Tensor | None = None, **settings) -> torch.Tensor:
    """The ids (B, new) that `model.generate` adds to ids (B, T). Without a `mask`, all ids are used.

    Nothing comes from the model's own generation config: `settings` include a `generation_config`.
    """
    mask = torch.ones_like(ids) if mask is None else mask
    with only_given_settings(model):
        output = cast(Any, model).generate(input_ids=ids, attention_mask=mask, **settings)  # pyright thinks it might be a tensor
    return output[:, ids.shape[1] :]


def token_choice(
    tokenizer: PreTrainedTokenizerFast,
    *,
    max_new_tokens: int,
    temperature: float,
    top_k: int | None = None,
    top_p: float | None = None,
) -> GenerationConfig:
    """How the next token is chosen: greedily at temperature 0, otherwise sampled from all, the `top_k` most likely or the top
    share."""
    # A top_k of 0 means all; without one, transformers would choose from 50.
    sampled = dict(do_sample=True, temperature=temperature, top_k=top_k or 0, top_p=top_p or 1.0)
    return generation_settings(tokenizer, max_new_tokens=max_new_tokens, **(sampled if temperature > 0 else GREEDY))


def default_max_new_tokens(model: PreTrainedModel, *, chat: bool) -> int:
    """The default number of tokens for an answer or a continuation: at most half the context."""
    return min(512 if chat else 100, context_length_of(model) // 2)


def generation_settings(tokenizer: PreTrainedTokenizerFast, **settings) -> GenerationConfig:
    """A `GenerationConfig` that stops at the document separator and pads with the padding token.

    Raises: ValueError for a tokenizer without the separator that begins and ends a text.
    """
    if tokenizer.eos_token_id is None:
        raise UserError("the tokenizer has no eos_token, which must begin and end each text; use the tokenizer from training.")
    return GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=padding_id(tokenizer, otherwise=cast(int, tokenizer.eos_token_id)),
        **settings,
    )
