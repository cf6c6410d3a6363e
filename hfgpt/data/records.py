"""Records: the rows of tables with their columns, from files, Hub datasets and this Python's own documentation.

Examples for fine-tuning are read from records. The meaning of columns is defined elsewhere (classification.py, conversations.py).
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

from hfgpt.data.reading import Record, SourceOptions
from hfgpt.data.row_errors import RowErrors
from hfgpt.data.sources import find_sources, identity, records_of


@dataclass(frozen=True)
class RecordOptions(SourceOptions):
    """How records are read. Args: `max_records` stops after this many records in total; None reads everything."""

    max_records: int | None = None


def read_records(names: Iterable[str], options: RecordOptions, errors: RowErrors | None = None) -> Iterator[Record]:
    """The rows of .csv, .tsv, .json, .jsonl, .ndjson and .parquet files, Hub datasets and `python-docs`, one after the other.

    Names may be patterns. A value is a string in CSV and TSV, otherwise it has the type in the source.

    Args: `errors` handles rows that cannot be used; None raises.
    Memory: one row (CSV, TSV, JSON lines, Hub) or one row group (Parquet); a .json list is read completely.
    Raises: FileNotFoundError for a missing file or dataset, ValueError for unreadable data, with file and line.
    """
    sources = find_sources(names, as_records=True)
    records = (record for source in sources for record in records_of(source, options, errors))
    return islice(records, options.max_records)


def identities(names: Iterable[str], options: RecordOptions) -> list[dict[str, object]]:
    """The passport's entry for each input: files with size and SHA-256, Hub datasets with their commit."""
    return [identity(source, options) for source in find_sources(names, as_records=True)]
