"""Rows to tensors."""

import torch


class PackedRowsCollator:
    """Batch fixed-length rows: `input_ids`, `position_ids` and `labels`, each (B, T), int64.

    There is deliberately no attention mask: transformers keeps packed documents apart by their restarting positions, and only
    where no mask is given. Labels are the inputs (the model shifts them); padding has the label -100.
    """

    def __init__(self, pad_token_id: int):
        self.pad_token_id = pad_token_id

    def __call__(self, rows: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
        input_ids = torch.tensor([row["input_ids"] for row in rows], dtype=torch.long)
        position_ids = torch.tensor([row["position_ids"] for row in rows], dtype=torch.long)
        return {
            "input_ids": input_ids,
            "position_ids": position_ids,
            "labels": input_ids.masked_fill(input_ids == self.pad_token_id, -100),
        }
