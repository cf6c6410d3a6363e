"""A classifier at work: texts become token ids as every door makes them, and ids become logits."""

from collections.abc import Sequence

import numpy as np
import torch
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hfgpt.inference import evaluating


def text_ids(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], *, max_length: int) -> tuple[list[list[int]], int]:
    """Ids of the texts, and how many texts were cut.

    They are those of `pipeline("text-classification", folder)(texts, truncation=True)`: the tokenizer adds what it adds for
    everybody and cuts as it does for everybody. Nothing that a text says makes a special token; the tokenizer of a classifier of
    ours says so, too, to whoever loads it.

    Args: `max_length` counts what the tokenizer adds.
    """
    encoded = tokenizer(
        list(texts),
        truncation=True,
        max_length=max_length,
        split_special_tokens=True,
        return_overflowing_tokens=True,
        return_attention_mask=False,
        verbose=False,
    )
    # Otherwise the tokenizer would be saved as one that cuts (which transformers does not heed, and its hash would be another).
    tokenizer.backend_tokenizer.no_truncation()
    rows: dict[int, list[int]] = {}
    for row, text in enumerate(encoded["overflow_to_sample_mapping"]):
        rows.setdefault(text, encoded["input_ids"][row])  # the first piece of each text
    pieces = np.bincount(encoded["overflow_to_sample_mapping"], minlength=len(rows))
    return [rows[text] for text in range(len(rows))], int((pieces > 1).sum())


def classify(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[list[int]],
    *,
    batch_size: int,
    show_progress: bool = False,
) -> np.ndarray:
    """Logits (N, C) of token ids, in batches of like lengths; without a padding of the tokenizer's, one by one."""
    batch_size = batch_size if tokenizer.pad_token_id is not None else 1
    # A learned position is counted from the text's begin, so the padding stands behind it.
    side, tokenizer.padding_side = tokenizer.padding_side, "right"
    order = sorted(range(len(rows)), key=lambda index: len(rows[index]))
    logits: dict[int, np.ndarray] = {}
    try:
        with evaluating(model), torch.no_grad():
            for start in tqdm(range(0, len(order), batch_size), desc="texts", leave=False, disable=None if show_progress else True):
                chosen = order[start : start + batch_size]
                batch = {"input_ids": [rows[index] for index in chosen]}
                batch = tokenizer.pad(batch, return_tensors="pt", padding=len(chosen) > 1).to(model.device)
                logits.update(zip(chosen, model(**batch).logits.float().cpu().numpy(), strict=True))
    finally:
        tokenizer.padding_side = side
    return np.stack([logits[index] for index in range(len(rows))])
