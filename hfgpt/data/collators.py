"""Rows to tensors."""

import numpy as np
import torch


class PackedRowsCollator:
    """Batch fixed-length rows: `input_ids`, `position_ids` and `labels`, each (B, T), int64.

    There is deliberately no attention mask: transformers separates packed documents by their restarting positions, but only without
    a mask. Labels are the inputs (the model shifts them), or the `labels` of rows with masked inputs (epoch_rows.py); padding has
    the label -100.
    """

    def __init__(self, pad_token_id: int):
        self.pad_token_id = pad_token_id

    def __call__(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        def together(column: str) -> torch.Tensor:
            return torch.from_numpy(np.array([row[column] for row in rows], dtype=np.int64))

        labels = together("labels" if "labels" in rows[0] else "input_ids")
        return {
            "input_ids": together("input_ids"),
            "position_ids": together("position_ids"),
            "labels": labels.masked_fill(labels == self.pad_token_id, -100),
        }


class SupervisedCollator:
    """Batch conversations: `input_ids` and `labels`, each (B, T), int64, padded on the right; padding has the label -100.

    Rows with `position_ids` are packed and keep them, without an attention mask, as in `PackedRowsCollator`; others get an
    `attention_mask`. Padding of packed rows is a separate segment with positions from 0.
    """

    def __init__(self, pad_token_id: int):
        self.pad_token_id = pad_token_id

    def __call__(self, rows: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
        length = max(len(row["input_ids"]) for row in rows)
        batch: dict[str, list[list[int]]] = {}
        for row in rows:
            padding = length - len(row["input_ids"])
            filled = {
                "input_ids": row["input_ids"] + [self.pad_token_id] * padding,
                "labels": row["labels"] + [-100] * padding,
            }
            if "position_ids" in row:
                filled["position_ids"] = row["position_ids"] + list(range(padding))
            else:
                filled["attention_mask"] = [1] * len(row["input_ids"]) + [0] * padding
            for name, values in filled.items():
                batch.setdefault(name, []).append(values)
        return {name: torch.tensor(values, dtype=torch.long) for name, values in batch.items()}
