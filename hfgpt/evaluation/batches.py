"""Rows of ids in batches: of similar lengths, padded to one width, with a progress bar."""

from collections.abc import Iterable, Sequence
from typing import Any, cast

import torch
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase


def batches_by_length(rows: Sequence[Sequence], *, batch_size: int) -> list[list[int]]:
    """The indices of the rows in batches of similar lengths, which need little padding; the shortest first."""
    order = sorted(range(len(rows)), key=lambda index: len(rows[index]))
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def padded(
    rows: Sequence[Sequence[int]], *, device: torch.device, left: bool = False, value: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and mask (rows, longest row), padded on the right, or on the `left`, with `value` (every vocabulary has the id 0)."""
    longest = max(map(len, rows))
    ids = torch.full((len(rows), longest), value)
    mask = torch.zeros_like(ids)
    for row, tokens in enumerate(rows):
        place = slice(longest - len(tokens), None) if left else slice(len(tokens))
        ids[row, place] = torch.tensor(tokens, dtype=torch.long)
        mask[row, place] = 1
    return ids.to(device), mask.to(device)


def padding_id(tokenizer: PreTrainedTokenizerBase, *, otherwise: int = 0) -> int:
    """The id for padding rows: the padding token, or `otherwise` if a tokenizer (such as GPT-2's) has none."""
    return cast(int, otherwise if tokenizer.pad_token_id is None else tokenizer.pad_token_id)


def progress_bar(iterable: Iterable | None = None, *, show: bool, **settings) -> Any:
    """A progress bar like those of `datasets` and Trainer that disappears at its end; shown only in a terminal."""
    return tqdm(iterable, leave=False, disable=not show or None, **settings)
