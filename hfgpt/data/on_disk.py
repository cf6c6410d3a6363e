"""Datasets that are written to disk while they are made and read in batches, so that memory stays constant.

`datasets` does both one row at a time (`Dataset.from_generator`, `for text in dataset["text"]`), which for 20 MB of paragraphs
takes longer than reading and packing them.
"""

import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow

from hfgpt.data.packing import Rows

Document = dict[str, str]  # text, source, row_id; on disk also draw (splitting.py)
BATCH_DOCUMENTS = 1_000
BATCH_CHARACTERS = 2**20  # about; a document is never cut
DOCUMENT_SCHEMA = pyarrow.schema({**{name: pyarrow.string() for name in ("text", "source", "row_id")}, "draw": pyarrow.float64()})


def write_documents(documents: Iterable[dict], path: Path):
    """Documents with the columns `text`, `source`, `row_id` and `draw` as a `datasets.Dataset` that stays on disk."""

    def batches() -> Iterator[pyarrow.RecordBatch]:
        batch, characters = [], 0
        for document in documents:
            batch.append(document)
            characters += len(document["text"])
            if len(batch) == BATCH_DOCUMENTS or characters >= BATCH_CHARACTERS:
                yield pyarrow.RecordBatch.from_pylist(batch, schema=DOCUMENT_SCHEMA)
                batch, characters = [], 0
        if batch:
            yield pyarrow.RecordBatch.from_pylist(batch, schema=DOCUMENT_SCHEMA)

    return _write(batches(), path, schema=DOCUMENT_SCHEMA)


def write_rows(blocks: Iterable[Rows], path: Path, *, context_length: int):
    """Rows with the columns `input_ids` and `position_ids` as a `datasets.Dataset` that stays on disk."""
    row = pyarrow.list_(pyarrow.int32(), context_length)
    schema = pyarrow.schema({"input_ids": row, "position_ids": row})

    def column(matrix) -> pyarrow.Array:
        return pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(matrix.reshape(-1)), type=row)

    batches = (
        pyarrow.RecordBatch.from_arrays([column(rows.input_ids), column(rows.position_ids)], schema=schema) for rows in blocks
    )
    return _write(batches, path, schema=schema)


def _write(batches: Iterable[pyarrow.RecordBatch], path: Path, *, schema: pyarrow.Schema):
    from datasets import Dataset
    from datasets.table import MemoryMappedTable

    with pyarrow.OSFile(str(path), "wb") as file, pyarrow.ipc.new_stream(file, schema) as stream:
        for batch in batches:
            stream.write_batch(batch)
    # The fingerprint is saved with the rows; by default it is the time of writing, hashed.
    return Dataset(MemoryMappedTable.from_file(str(path)), fingerprint=path.stem)


def select(documents, indices: list[int]):
    """These rows of a `datasets.Dataset`, which hashes what it is given: an array at once, a list one number at a time."""
    return documents.select(np.array(indices, dtype=np.int64))


def batches_of(documents, *columns: str) -> Iterator[dict[str, list]]:
    """These columns of a `datasets.Dataset` in order, about `BATCH_CHARACTERS` of it at a time."""
    table = documents.data  # of all rows, also where some of them are selected
    mean_bytes = max(1, table.nbytes // max(1, table.num_rows))
    batch_size = max(1, min(BATCH_DOCUMENTS, BATCH_CHARACTERS // mean_bytes))
    yield from documents.select_columns(list(columns)).iter(batch_size=batch_size)


def text_batches(documents) -> Iterator[list[str]]:
    """The texts of a `datasets.Dataset` in order, about `BATCH_CHARACTERS` at a time."""
    for batch in batches_of(documents, "text"):
        yield batch["text"]


def texts_of(documents) -> Iterator[str]:
    """The texts of a `datasets.Dataset` in order."""
    return itertools.chain.from_iterable(text_batches(documents))
