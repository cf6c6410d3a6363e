"""Parquet files."""

from collections.abc import Iterator

import pyarrow
import pyarrow.parquet

from hfgpt.data.reading import (
    Record,
    Source,
    SourceKind,
    SourceOptions,
    check_column_names,
    check_text_column,
    column_of_groups,
    texts_of,
)
from hfgpt.data.row_errors import RowErrors
from hfgpt.errors import UserError

BATCH_BYTES, MOST_ROWS = 2**24, 1_000  # read at once


def read_parquet(source: Source, options: SourceOptions, errors: RowErrors | None, column: str | None = None) -> Iterator[Record]:
    """The rows of a Parquet file. Memory: about `BATCH_BYTES`, or a row of the widest row group."""
    row_id = 0
    try:
        file = pyarrow.parquet.ParquetFile(source.file)
        fields = list(file.schema_arrow)
        if column is None:
            check_column_names([field.name for field in fields], source.name)
        else:
            check_text_column({field.name: str(field.type) for field in fields}, source.name, column)
        needed = None if column is None else [column, *filter(None, [column_of_groups(options)])]
        groups = (file.metadata.row_group(number) for number in range(file.num_row_groups))
        widest = max((group.total_byte_size // max(1, group.num_rows) for group in groups), default=0)
        rows = max(1, min(MOST_ROWS, BATCH_BYTES // max(1, widest)))
        for batch in file.iter_batches(batch_size=rows, columns=needed):
            try:
                values = batch.to_pylist()
            except UnicodeDecodeError as error:
                raise UserError(
                    f"{source.name}, rows {row_id} to {row_id + len(batch) - 1}: a column declared as text is not valid UTF-8 "
                    f"({error.reason}: {error.object[error.start : error.end]!r}); write the file again with decoded text."
                ) from None
            for row in values:
                yield Record(row, source.name, f"row {row_id}", str(row_id))
                row_id += 1
    except (pyarrow.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # a machine error; for damaged data, Arrow gives no errno
            raise
        raise UserError(f"{source.name} is not a valid Parquet file: {error}") from None


PARQUET_FILES = SourceKind(records=read_parquet, documents=texts_of(read_parquet), options=("text_field",), suffixes=(".parquet",))
