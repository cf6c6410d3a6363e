"""Sliding windows over one document, as the book cuts its training text."""

from collections.abc import Iterator, Sequence

from hfgpt.errors import UserError


def sliding_windows(ids: Sequence[int], *, window: int, stride: int) -> Iterator[Sequence[int]]:
    """Cut one document into windows that overlap by `window - stride` tokens; no token is lost.

    A window holds inputs and targets at once, because the loss shifts the labels: it predicts its tokens 2..window from those
    before. A stride of `window - 1` therefore predicts every token exactly once, a stride of `window` skips the first of each.

    Args:
        ids: token ids of one document, length >= 1: a list, or an array, whose windows share its memory.
        window: most tokens per window.
        stride: tokens between window starts, 1..window; smaller means more overlap and more training steps.
    Yields: at most `window` ids each; the last may be shorter.
    Raises: ValueError if `stride` would skip tokens.
    Source: Raschka (2024), Build a Large Language Model (From Scratch), section 2.6.
    """
    if not 1 <= stride <= window:
        raise UserError(f"stride is {stride}, window {window}; a stride from 1 to the window is needed, or tokens are skipped.")
    for start in range(0, len(ids), stride):
        yield ids[start : start + window]
        if start + window >= len(ids):
            return
