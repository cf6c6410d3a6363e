"""Training rows that change from epoch to epoch: repacked documents, and random masked tokens against memorisation.

Everything is derived from the seed, the epoch and the row number, never from the global random state: a run resumed within an
epoch, or with different workers and processes, reads exactly the same rows. To this end, an index encodes both: `epoch * len(rows)
+ row`, which `EpochSampler` yields, wherever the row is then read.
"""

import bisect
from collections.abc import Iterator
from functools import cached_property

import numpy as np
import torch
from datasets import Dataset
from torch.utils.data import Sampler

from hfgpt.data.on_disk import no_progress_bars
from hfgpt.data.packing import restarting_positions
from hfgpt.errors import UserError

_ORDER, _MASKS = 0, 1  # separate random streams, so that two draws for one epoch are independent


class EpochRows(torch.utils.data.Dataset):
    """The rows of prepared data, changed in each epoch; `len` is that of one epoch, and is always the same.

    Args:
        rows: rows of one length, with the columns `input_ids` and `position_ids`.
        separator, pad: ids of the two special tokens.
        seed: the seed of all random choices.
        repack: rows contain the same documents in a different order, cut at different places (`_Repacked`); needs rows packed in
            order.
        max_masked_tokens: in each row, 1 to this many tokens (drawn uniformly) are replaced by the padding token in `input_ids` but
            stay in `labels`: they are predicted, and the following tokens are predicted without them. Separators are never masked.
            The padding token occurs nowhere else in text, so nothing wrong is learned about it. 0 masks none.
    Raises: ValueError if `repack` is used with rows that were not packed in order, and if a whole row could be masked.
    Cost: with `repack`, one pass over the tokens at the start, and 32 bytes per document.
    Source: word dropout, Bowman et al. (2016), Generating Sentences from a Continuous Space, arXiv 1511.06349, section 3.1.
    """

    def __init__(self, rows: Dataset, *, separator: int, pad: int, seed: int, repack: bool = False, max_masked_tokens: int = 0):
        if len(rows) != rows.data.num_rows:  # in a selection, the table still has all rows
            with no_progress_bars():
                rows = rows.flatten_indices()
        self._ids, self._positions = _Column(rows, "input_ids"), _Column(rows, "position_ids")
        self._special = (separator, pad)
        self._seed = seed % 2**63
        self._max_masked_tokens = max_masked_tokens
        self._num_rows = len(rows)
        length = len(rows[0]["input_ids"])
        if max_masked_tokens >= length:
            raise UserError(
                f"max_masked_tokens is {max_masked_tokens:,}, but the rows are {length:,} tokens long, so nothing would be left in "
                f"them; 1 to 3 are usual."
            )
        self._repacked = _Repacked(self._ids, separator=separator, pad=pad, seed=self._seed) if repack else None

    def __len__(self) -> int:
        return self._num_rows

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        epoch, number = divmod(index, self._num_rows)
        if self._repacked is not None:
            ids, positions = self._repacked.row(epoch, number)
        else:
            ids, positions = self._ids[number], self._positions[number]
        if not self._max_masked_tokens:
            return {"input_ids": ids, "position_ids": positions}
        return {"input_ids": self._with_masks(ids, epoch, number), "position_ids": positions, "labels": ids}

    def _with_masks(self, ids: np.ndarray, epoch: int, number: int) -> np.ndarray:
        separator, pad = self._special
        generator = np.random.default_rng([self._seed, _MASKS, epoch, number])
        count = generator.integers(1, self._max_masked_tokens, endpoint=True)
        places = np.flatnonzero((ids != separator) & (ids != pad))
        masked = ids.copy()
        masked[generator.choice(places, min(count, len(places)), replace=False)] = pad
        return masked


class EpochSampler(Sampler[int]):
    """The indices of one epoch of `EpochRows`, in the order in which Trainer reads ordinary rows.

    Args: with `shuffled` False, the rows stay in order.
    """

    def __init__(self, rows: EpochRows, *, seed: int, shuffled: bool = True):
        self._num_rows, self._seed, self._shuffled = len(rows), seed, shuffled
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self._num_rows

    def __iter__(self) -> Iterator[int]:
        if self._shuffled:
            generator = torch.Generator().manual_seed(self._seed + self.epoch)  # as accelerate's SeedableRandomSampler
            order = torch.randperm(self._num_rows, generator=generator).tolist()
        else:
            order = range(self._num_rows)
        start = self.epoch * self._num_rows
        return (start + number for number in order)


class _Column:
    """A column of lists of one length, read from disk as rows of an int32 matrix, without a copy."""

    def __init__(self, rows: Dataset, name: str):
        self._rows, self._name = rows, name

    @cached_property
    def blocks(self) -> list[np.ndarray]:
        chunks = self._rows.data.column(self._name).chunks
        return [chunk.flatten().to_numpy(zero_copy_only=True).reshape(len(chunk), -1) for chunk in chunks if len(chunk)]

    @cached_property
    def _ends(self) -> list[int]:
        return np.cumsum([len(block) for block in self.blocks]).tolist()

    def __getitem__(self, number: int) -> np.ndarray:
        place = bisect.bisect_right(self._ends, number)
        return self.blocks[place][number - self._ends[place]]  # counted from the end of its block

    def __getstate__(self) -> dict[str, object]:
        # A worker that is not forked opens the file itself instead of receiving its contents.
        return {"_rows": self._rows, "_name": self._name}


class _Repacked:
    """The documents of rows that were packed in order, reordered in each epoch and cut at different places.

    Rows packed in order are one stream of documents, in which each row begins with the last token of the previous one. An epoch
    permutes the documents with a seed and reads them as a ring from a seeded position: so the rows change even for a single long
    document, their number does not, and each token is predicted exactly once per epoch.

    Rows are located by bisection, and nothing is packed in advance: resuming is a seek.
    """

    def __init__(self, ids: _Column, *, separator: int, pad: int, seed: int):
        self._ids, self._pad, self._seed = ids, pad, seed
        self._length = ids.blocks[0].shape[1]
        step = self._length - 1  # between the beginnings of two rows in the stream
        starts, first, before = [np.zeros(1, dtype=np.int64)], 0, None
        for block in ids.blocks:
            previous = np.concatenate([block[:1, 0] if before is None else before[-1:], block[:-1, -1]])
            if (block[:, 0] != previous).any():
                raise UserError(
                    "repack is true, but the rows were not packed in order; run prepare_data.py with --packing in_order."
                )
            row, column = np.nonzero(block[:, 1:] == separator)
            starts.append((first + row) * step + column + 1)
            first, before = first + len(block), block[-1]
        boundaries = np.concatenate(starts)
        self._starts, self._lengths = boundaries[:-1], np.diff(boundaries)  # the last separator opens no document
        self._total = int(boundaries[-1])
        self._drawn: tuple[int, np.ndarray, np.ndarray, int] | None = None

    def row(self, epoch: int, number: int) -> tuple[np.ndarray, np.ndarray]:
        """`input_ids` and `position_ids` of a row in an epoch."""
        order, ends, offset = self._order(epoch)
        begin = number * (self._length - 1)
        used = min(self._length, self._total + 1 - begin)
        place = int(np.searchsorted(ends, (offset + begin) % self._total, side="right"))
        within = (offset + begin) % self._total - int(ends[place] - self._lengths[order[place]])
        segments: list[np.ndarray] = []
        filled = 0
        while filled < used:
            document = order[place]
            start, length = int(self._starts[document]), int(self._lengths[document])
            segment = self._stream(start + within, min(length - within, used - filled))
            if segments and filled + 1 == used:
                segments[-1] = np.append(segments[-1], segment)  # a separator that ends a row closes the document before it
            else:
                segments.append(segment)
            filled += len(segment)
            place, within = (place + 1) % len(order), 0
        ids = np.full(self._length, self._pad, dtype=np.int32)
        ids[:used] = np.concatenate(segments)
        return ids, restarting_positions([segments], length=self._length)[0]

    def _order(self, epoch: int) -> tuple[np.ndarray, np.ndarray, int]:
        """The documents of an epoch in their order, where each ends in it, and where the first row begins."""
        if self._drawn is None or self._drawn[0] != epoch:
            generator = np.random.default_rng([self._seed, _ORDER, epoch])
            order = generator.permutation(len(self._lengths))
            self._drawn = (epoch, order, np.cumsum(self._lengths[order]), int(generator.integers(self._total)))
        return self._drawn[1:]

    def _stream(self, start: int, count: int) -> np.ndarray:
        pieces: list[np.ndarray] = []
        while count > 0:
            number, column = divmod(start, self._length - 1)
            pieces.append(self._ids[number][column : column + count])
            start, count = start + len(pieces[-1]), count - len(pieces[-1])
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
