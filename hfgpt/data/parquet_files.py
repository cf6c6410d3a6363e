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


def read_parquet(source: Source, options: SourceOptions, errors: RowErrors | None, column: str | None = None) -> Iterator[Record]:
    """The rows of a Parquet file. Memory: one row group."""
    row_id = 0
    try:
        file = pyarrow.parquet.ParquetFile(source.file)
        fields = list(file.schema_arrow)
        if column is None:
            check_column_names([field.name for field in fields], source.name)
        else:
            check_text_column({field.name: str(field.type) for field in fields}, source.name, column)
        needed = None if column is None else [column, *filter(None, [column_of_groups(options)])]
        for batch in file.iter_batches(columns=needed):
            for row in batch.to_pylist():
                yield Record(row, source.name, f"row {row_id}", str(row_id))
                row_id += 1
    except pyarrow.ArrowException as error:
        raise UserError(f"{source.name} is not a valid Parquet file: {error}") from None


PARQUET_FILES = SourceKind(records=read_parquet, documents=texts_of(read_parquet), suffixes=(".parquet",))
