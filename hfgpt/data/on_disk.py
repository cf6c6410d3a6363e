"""Datasets written to disk while they are created and read in batches, so that memory stays constant.

`datasets` does both one row at a time (`Dataset.from_generator`, `for text in dataset["text"]`), which for 20 MB of paragraphs
takes longer than reading and packing them. It reads through memory maps, whose pages count as this process's memory: a pass over 2
GB of text makes it 2 GB larger. Here, files are read without maps.
"""

import contextlib
import hashlib
import itertools
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow
import pyarrow.compute

from hfgpt.data.packing import Rows

Document = dict[str, str]  # text, source, row_id; on disk also draw (splitting.py)
BATCH_DOCUMENTS = 10_000
BATCH_CHARACTERS = 2**20  # about; a document is never cut
SHARD_BYTES = 2**28  # about, of the files that rows are written to
DOCUMENT_SCHEMA = pyarrow.schema({**{name: pyarrow.string() for name in ("text", "source", "row_id")}, "draw": pyarrow.float64()})


def write_documents(documents: Iterable[dict], path: Path, *, schema: pyarrow.Schema = DOCUMENT_SCHEMA):
    """Write documents as a `datasets.Dataset` that stays on disk; by default, its columns are `text`, `source`, `row_id` and
    `draw`.

    Memory: one batch; for a long document, twice its UTF-8 bytes.
    """

    def batches() -> Iterator[pyarrow.RecordBatch]:
        for batch in in_batches(documents):
            columns = [_column([document[field.name] for document in batch], field.type) for field in schema]
            batch.clear()  # before the caller writes: a text of 200 MB would stay beside its bytes
            yield pyarrow.RecordBatch.from_arrays(columns, schema=schema)

    _write(batches(), [path], schema=schema)
    return _stored([path])


def stored_documents(paths: Sequence[Path]):
    """The documents that `write_documents` wrote to these files, one file after another."""
    return _stored(paths, fingerprint="documents")


def in_batches(documents: Iterable[dict]) -> Iterator[list[dict]]:
    """Lists of documents, about `BATCH_CHARACTERS` of text each. The receiver may empty a list."""
    batch, characters = [], 0
    for document in documents:
        batch.append(document)
        characters += len(document["text"])
        del document  # the one that is yielded next is held by its batch alone
        if len(batch) == BATCH_DOCUMENTS or characters >= BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _column(values: list, kind: pyarrow.DataType) -> pyarrow.Array:
    if not pyarrow.types.is_string(kind):
        return pyarrow.array(values, type=kind)
    # pyarrow.array keeps the bytes of every text inside the text, and makes room by doubling.
    encoded = [value.encode() for value in values]
    offsets = np.zeros(len(encoded) + 1, dtype=np.int32)
    np.cumsum([len(value) for value in encoded], out=offsets[1:])
    return pyarrow.StringArray.from_buffers(len(encoded), pyarrow.py_buffer(offsets), pyarrow.py_buffer(b"".join(encoded)))


def write_rows(blocks: Iterable[Rows], path: Path, *, context_length: int):
    """Write rows with the columns `input_ids` and `position_ids` as a `datasets.Dataset` that stays on disk.

    They are in files of about `SHARD_BYTES` beside `path`, named after it; `save_rows` moves them to their final location.
    """
    row = pyarrow.list_(pyarrow.int32(), context_length)
    schema = pyarrow.schema({"input_ids": row, "position_ids": row})

    def column(matrix) -> pyarrow.Array:
        return pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(matrix.reshape(-1)), type=row)

    batches = (
        pyarrow.RecordBatch.from_arrays([column(rows.input_ids), column(rows.position_ids)], schema=schema) for rows in blocks
    )
    shards = (path.with_name(f"{path.stem}-{number:05d}{path.suffix}") for number in itertools.count())
    return _stored(_write(batches, shards, schema=schema), fingerprint=path.stem)


def _write(batches: Iterable[pyarrow.RecordBatch], paths: Iterable[Path], *, schema: pyarrow.Schema) -> list[Path]:
    """Write the batches, a file after the other where there is more than one; a file is left at `SHARD_BYTES`, the last never."""
    written: list[Path] = []
    batches, paths = iter(batches), iter(paths)
    path: Path | None = next(paths)
    batch = next(batches, None)
    while batch is not None or not written:
        assert path is not None  # the last file takes all that is left
        written.append(path)
        following = next(paths, None)
        with pyarrow.OSFile(str(path), "wb") as file, pyarrow.ipc.new_stream(file, schema) as stream:
            size = 0
            while batch is not None and (following is None or size < SHARD_BYTES):
                stream.write_batch(batch)
                size += batch.nbytes
                batch = None  # not beside the next one
                batch = next(batches, None)
        path = following
    return written


def _stored(paths: Sequence[Path], *, fingerprint: str | None = None):
    from datasets import Dataset
    from datasets.table import MemoryMappedTable, Table, concat_tables

    # The fingerprint is saved with the rows; by default it is the time of writing, hashed.
    tables: list[Table] = [MemoryMappedTable.from_file(str(path)) for path in paths]
    return Dataset(concat_tables(tables) if len(tables) > 1 else tables[0], fingerprint=fingerprint or paths[0].stem)


@contextlib.contextmanager
def no_progress_bars() -> Iterator[None]:
    """Turn off the progress bars of `datasets` for its internal steps."""
    from datasets.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    shown = not are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            enable_progress_bars()


def save_rows(rows, folder: Path) -> None:
    """Same as `rows.save_to_disk(folder)` for a `datasets.DatasetDict`, but the existing files are moved there."""
    from datasets import DatasetDict

    files = {name: _files_of(part) for name, part in rows.items()}
    empty = {name: part.select(range(0), new_fingerprint=part._fingerprint) if files[name] else part for name, part in rows.items()}
    with no_progress_bars():  # which would show that 0 rows are saved
        DatasetDict(empty).save_to_disk(folder)
    for name, paths in files.items():
        if not paths:
            continue
        state_file = folder / name / "state.json"
        state = json.loads(state_file.read_text(encoding="utf-8"))
        for entry in state["_data_files"]:
            (folder / name / entry["filename"]).unlink()
        names = [f"data-{number:05d}-of-{len(paths):05d}.arrow" for number in range(len(paths))]
        for path, kept_as in zip(paths, names, strict=True):
            path.rename(folder / name / kept_as)
        state["_data_files"] = [{"filename": kept_as} for kept_as in names]
        state_file.write_text(json.dumps(state, indent=2, sort_keys=True), encoding="utf-8")


def _files_of(dataset) -> list[Path]:
    """The files that contain exactly these rows in this order; [] if there are no such files."""
    from datasets.table import MemoryMappedTable

    paths = [Path(file["filename"]) for file in dataset.cache_files]
    whole = dataset._indices is None and sum(MemoryMappedTable.from_file(str(path)).num_rows for path in paths) == len(dataset)
    return paths if whole else []


def select(documents, indices: Sequence[int] | np.ndarray):
    """Select rows of a `datasets.Dataset`, whose own `select` creates a Python list (40 bytes per row).

    Memory: 8 bytes per row, kept by the result; none for contiguous rows.
    """
    from datasets import Dataset
    from datasets.table import InMemoryTable

    rows = np.asarray(indices, dtype=np.int64)
    if not len(rows) or (rows[-1] - rows[0] + 1 == len(rows) and (rows[1:] > rows[:-1]).all()):
        start = int(rows[0]) if len(rows) else 0
        return documents if len(rows) == len(documents) else documents.select(range(start, start + len(rows)))
    if rows.min() < 0 or rows.max() >= len(documents):
        raise IndexError(f"rows {rows.min()} to {rows.max()} of {len(documents)}")
    fingerprint = hashlib.blake2b(rows.data, digest_size=8, key=documents._fingerprint.encode()[:64]).hexdigest()
    if documents._indices is not None:
        rows = documents._indices.column(0).to_numpy()[rows]
    table = InMemoryTable(pyarrow.table({"indices": pyarrow.array(rows.view(np.uint64))}))
    info = documents.info.copy()
    return Dataset(documents.data, info=info, split=documents.split, indices_table=table, fingerprint=fingerprint)


def rows_where(flags: Iterable[bool]) -> np.ndarray:
    """The numbers of the rows whose flag is set; uses a byte per row, whereas a list of numbers takes 36."""
    return np.flatnonzero(np.fromiter(flags, dtype=bool))


def numbers_of(documents, column: str) -> np.ndarray:
    """A column of numbers of a `datasets.Dataset` as an array."""
    numbers, end = np.zeros(len(documents)), 0
    for part in _parts(documents, column):
        start, end = end, end + len(part)
        if not start:
            numbers = numbers.astype(part.to_numpy().dtype)
        numbers[start:end] = part.to_numpy()
    return numbers


def text_batches(documents) -> Iterator[list[str]]:
    """The texts of a `datasets.Dataset` in order, about `BATCH_CHARACTERS` at a time. The receiver may empty a list."""
    for part in _parts(documents, "text"):
        texts = part.to_pylist()
        del part  # of a long text, its bytes
        yield texts
        del texts


def column_batches(documents, *columns: str) -> Iterator[list[list]]:
    """Columns of a `datasets.Dataset` side by side, in order, about `BATCH_CHARACTERS` of text at a time."""
    for parts in zip(*(_parts(documents, column) for column in columns), strict=True):
        yield [part.to_pylist() for part in parts]


def document_batches(documents, what: str) -> Iterator[list[dict]]:
    """The documents of a `datasets.Dataset` in order, about `BATCH_CHARACTERS` at a time, with a progress bar that says `what`."""
    from datasets.utils import tqdm

    names = documents.column_names
    with tqdm(total=len(documents), desc=what, unit=" documents") as progress:
        for values in column_batches(documents, *names):
            yield [dict(zip(names, row, strict=True)) for row in zip(*values, strict=True)]
            progress.update(len(values[0]))


def text_bytes(documents) -> int:
    """UTF-8 bytes of all texts of a `datasets.Dataset` of documents. Memory: one batch."""
    compute = cast(Any, pyarrow.compute)  # its functions are made when it is imported
    return sum(compute.sum(compute.binary_length(part)).as_py() or 0 for part in _parts(documents, "text"))


def _parts(documents, column: str) -> Iterator[pyarrow.Array]:
    """A column in order, about `BATCH_CHARACTERS` of text at a time, read from files where the rows lie there in their order."""
    blocks = _row_blocks(documents.data)
    wanted = None if documents._indices is None else documents._indices.column(0).to_numpy().view(np.int64)
    in_order = wanted is None or bool((wanted[1:] > wanted[:-1]).all())
    if blocks is None or not (in_order or hasattr(os, "pread")):  # which Windows has not
        yield from _mapped_parts(documents, column)
        return
    if not in_order:
        assert wanted is not None  # which is what in_order says
        yield from _picked_parts(blocks, column, wanted)
        return
    passed = used = 0  # rows of the blocks, and numbers of `wanted`, that were read
    for part in itertools.chain.from_iterable(_parts_of(block, column) for block in blocks):
        if wanted is not None:
            end = int(np.searchsorted(wanted, passed + len(part)))
            here = wanted[used:end] - passed
            passed, used = passed + len(part), end
            part = part.take(pyarrow.array(here)) if len(here) < len(part) else part
        if len(part):
            yield part
        del part


def _batch_rows(table) -> int:
    """How many rows of a table have about `BATCH_CHARACTERS` of text, at most `BATCH_DOCUMENTS`."""
    mean_bytes = max(1, table.nbytes // max(1, table.num_rows))
    return max(1, min(BATCH_DOCUMENTS, BATCH_CHARACTERS // mean_bytes))


def _mapped_parts(documents, column: str) -> Iterator[pyarrow.Array]:
    """As `_parts`, by `datasets`, through the maps of the files."""
    for batch in documents.select_columns(column).with_format("arrow").iter(batch_size=_batch_rows(documents.data)):
        yield batch.column(0).combine_chunks()


def _picked_parts(blocks: list, column: str, wanted: np.ndarray) -> Iterator[pyarrow.Array]:
    """A column of rows in any order, each text read by itself from its file: a map would bring the 64 KB around it along."""
    kind = blocks[0].schema.field(column).type
    is_string = pyarrow.types.is_string(kind)
    rows = min(_batch_rows(block) for block in blocks)  # the same for every column: they are read side by side
    if not is_string or column == "source":  # of which there are few different ones: 4 bytes a row
        parts = itertools.chain.from_iterable(_parts_of(block, column) for block in blocks)
        encoded = [part.dictionary_encode() if is_string else part for part in parts]
        values = pyarrow.chunked_array(encoded).unify_dictionaries().combine_chunks()
        del encoded
        for start in range(0, len(wanted), rows):
            taken = values.take(pyarrow.array(wanted[start : start + rows]))
            yield taken.dictionary_decode() if is_string else taken
        return
    ends = np.cumsum([block.num_rows for block in blocks])
    with contextlib.ExitStack() as files:
        texts = [_texts_in(block, column, files) for block in blocks]
        for start in range(0, len(wanted), rows):
            part = wanted[start : start + rows]
            block_of = np.searchsorted(ends, part, side="right")
            within = part - np.concatenate([[0], ends])[block_of]
            yield pyarrow.array([texts[block](row) for block, row in zip(block_of.tolist(), within.tolist())], type=kind)


def _texts_in(block, column: str, files: contextlib.ExitStack) -> Callable[[int], str]:
    """A function that returns the text of a row of a block. Memory: 12 bytes a row. Args: `files` closes what is opened."""
    from datasets.table import MemoryMappedTable

    if not isinstance(block, MemoryMappedTable):
        held = block.table.column(column)
        return lambda row: held[row].as_py()
    starts, lengths = np.empty(block.num_rows, dtype=np.int64), np.empty(block.num_rows, dtype=np.int32)
    skipped, end = _first_row(block), 0
    with pyarrow.OSFile(block.path) as source:  # not mapped: what is touched of a map is held
        schema = pyarrow.ipc.read_schema(source)
        while end < block.num_rows:
            message = pyarrow.ipc.read_message(source)
            whole = pyarrow.ipc.read_record_batch(message, schema).column(column)
            array = whole.slice(min(skipped, len(whole)), block.num_rows - end)
            skipped -= min(skipped, len(whole))
            start, end = end, end + len(array)
            _, offsets, content = array.buffers()
            places = np.frombuffer(offsets, dtype=np.int32)[array.offset : array.offset + len(array) + 1] if len(array) else [0]
            in_file = source.tell() - message.body.size - message.body.address + (content.address if content else 0)
            starts[start:end] = np.asarray(places[:-1], dtype=np.int64) + in_file
            lengths[start:end] = np.diff(places)
    file = files.enter_context(Path(block.path).open("rb", buffering=0))  # noqa: SIM115

    def text(row: int) -> str:
        content = os.pread(file.fileno(), int(lengths[row]), int(starts[row]))
        assert len(content) == lengths[row], f"{block.path} is shorter than it was"
        return content.decode()

    return text


def _first_row(block) -> int:
    """Of a part of a mapped file, the row at which it begins."""
    return sum(words[0] if words else settings.get("offset", 0) for name, words, settings in block.replays or [] if name == "slice")


def _row_blocks(table) -> list | None:
    """The blocks that lie below each other in a table of `datasets`; None where others lie beside them, or were changed."""
    from datasets.table import ConcatenationTable, MemoryMappedTable

    rows = table.blocks if isinstance(table, ConcatenationTable) else [[table]]
    # Columns are chosen again when a batch is read, and are of one type from the beginning.
    harmless = {"slice", "select", "drop", "replace_schema_metadata", "cast"}
    for blocks in rows:
        replays = blocks[0].replays if isinstance(blocks[0], MemoryMappedTable) else []
        if len(blocks) != 1 or any(name not in harmless for name, _, _ in replays):
            return None
    return [blocks[0] for blocks in rows]


def _parts_of(block, column: str) -> Iterator[pyarrow.Array]:
    """A column of a block: from its file, not from the map of it, where it has one."""
    from datasets.table import MemoryMappedTable

    if not isinstance(block, MemoryMappedTable):
        for batch in block.table.select([column]).to_batches(max_chunksize=BATCH_DOCUMENTS):
            yield batch.column(0)
        return
    start, left = _first_row(block), block.num_rows
    with pyarrow.OSFile(block.path) as file, pyarrow.ipc.open_stream(file) as stream:
        while left > 0:
            batch = stream.read_next_batch()
            if start >= batch.num_rows:
                start -= batch.num_rows
                continue
            part = batch.column(column).slice(start, left)
            start, left = 0, left - len(part)
            del batch
            yield part
            del part


def texts_of(documents) -> Iterator[str]:
    """The texts of a `datasets.Dataset` in order."""
    for batch in text_batches(documents):
        batch.reverse()
        while batch:
            yield batch.pop()  # held by who gets it alone
