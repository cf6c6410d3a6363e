"""SHA-256 of rows: of the values in their columns, regardless of files, shards and Arrow batches.

How to reproduce it: rows are divided into blocks of `ROWS_PER_BLOCK`. The hash of a block covers, for each column in order of name,
the line "name type width" and the SHA-256 of its values, little-endian, row by row. The hash of all rows covers the concatenated
block hashes. So a change can be located to a block of 4,096 rows without the original.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.types as types

from hfgpt.errors import UserError
from hfgpt.files import read_json

ROWS_PER_BLOCK = 4096
_BLOCK_DIGITS = 16  # of each block's hash in the passport: enough to locate a change; the full hash proves it


class RowHash:
    """Takes batches of rows in order, of any size, and returns their hash."""

    def __init__(self):
        self.rows = 0
        self._whole = hashlib.sha256()
        self._blocks: list[str] = []
        self._columns: dict[str, _ColumnHash] = {}
        self._in_block = 0

    def add(self, batch: pyarrow.RecordBatch) -> None:
        """Add the rows of a batch; all batches have the same columns."""
        start = 0
        while start < batch.num_rows:
            taken = batch.slice(start, ROWS_PER_BLOCK - self._in_block)
            for name in sorted(taken.schema.names):
                self._columns.setdefault(name, _ColumnHash()).add(taken.column(name))
            start += taken.num_rows
            self.rows += taken.num_rows
            self._in_block += taken.num_rows
            if self._in_block == ROWS_PER_BLOCK:
                self._close_block()

    def result(self) -> dict[str, object]:
        """The passport's entry: the number of rows, their SHA-256, and the first digits of every block's hash."""
        if self._in_block:
            self._close_block()
        return {"rows": self.rows, "sha256": self._whole.hexdigest(), "blocks": " ".join(self._blocks)}

    def _close_block(self) -> None:
        block = hashlib.sha256()
        for name, column in self._columns.items():
            block.update(f"{name} {column.form}\n".encode())
            block.update(column.digest())
        self._whole.update(block.digest())
        self._blocks.append(block.hexdigest()[:_BLOCK_DIGITS])
        self._columns, self._in_block = {}, 0


class _ColumnHash:
    """The values of one column in one block."""

    def __init__(self):
        self.form = ""
        self._values = hashlib.sha256()
        self._lengths = hashlib.sha256()  # of lists that have different ones

    def add(self, array: pyarrow.Array) -> None:
        kind = array.type
        width = ""
        if not array.null_count and types.is_fixed_size_list(kind):
            width, array = f"{kind.list_size}", array.flatten()
        elif not array.null_count and (types.is_list(kind) or types.is_large_list(kind)):
            self._lengths.update(array.value_lengths().to_numpy().astype("<i8").tobytes())
            width, array = "*", array.flatten()
        if not array.null_count and (types.is_integer(array.type) or types.is_floating(array.type)):
            values = array.to_numpy()
            self._values.update(np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<")).data)
            self.form = f"{array.type} {width}".rstrip()
        else:  # text and whatever else: a line of JSON a value
            self._values.update("".join(json.dumps(value, default=str) + "\n" for value in array.to_pylist()).encode())
            self.form = f"json {width}".rstrip()

    def digest(self) -> bytes:
        return self._values.digest() + (self._lengths.digest() if self.form.endswith("*") else b"")


def hash_of_rows(folder: Path) -> dict[str, object]:
    """The number and SHA-256 of the rows of one split saved by `datasets`, see `RowHash.result`.

    Cost: reads the files once, at the speed of SHA-256 (about 1 GB per second); one Arrow batch is in memory.
    Raises: UserError for files that are missing, truncated or not Arrow.
    """
    found = RowHash()
    for batch in batches_of_rows(folder):
        found.add(batch)
    return found.result()


def files_of_rows(folder: Path) -> list[Path]:
    """The files of one split, in order."""
    files = read_json(folder / "state.json").get("_data_files")
    if not isinstance(files, list) or not all(isinstance(one, dict) and "filename" in one for one in files):
        raise UserError(f"{folder / 'state.json'} lists no files with rows")
    return [folder / Path(str(one["filename"])).name for one in files]


def file_of_row(folder: Path, row: int) -> Path:
    """The file of a split that contains a row. Cost: reads them up to that row."""
    paths = files_of_rows(folder)
    for path in paths:
        with pyarrow.OSFile(str(path)) as file, pyarrow.ipc.open_stream(file) as stream:
            row -= sum(batch.num_rows for batch in stream)
        if row < 0:
            return path
    return paths[-1]


def batches_of_rows(folder: Path) -> Iterator[pyarrow.RecordBatch]:
    """The rows of one split in order, as stored in the files; read, not mapped, so that memory stays constant."""
    for path in files_of_rows(folder):
        try:
            with pyarrow.OSFile(str(path)) as file, pyarrow.ipc.open_stream(file) as stream:
                yield from stream
        except FileNotFoundError:
            raise UserError(f"{path} is missing") from None
        except (OSError, pyarrow.ArrowException) as error:
            raise UserError(f"{path} cannot be read ({' '.join(str(error).split())})") from None
