"""Datasets on the Hub: "user/name" or "user/name:configuration"."""

import gc
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import pyarrow
import yaml

from hfgpt.data.reading import Record, Source, SourceKind, SourceOptions, check_text_column, column_of_groups, texts_of
from hfgpt.data.row_errors import RowErrors
from hfgpt.errors import MissingFileError, UserError
from hfgpt.files import HUB_NAME


def read_hub(source: Source, options: SourceOptions, errors: RowErrors | None, column: str | None = None) -> Iterator[Record]:
    """The rows of a Hub dataset; class ids are replaced by their names.

    Images and audio are left out: decoding them would need more packages.
    Raises: FileNotFoundError if the Hub has no such dataset, ValueError if it cannot be read.
    """
    from datasets import ClassLabel, Features, LargeList, List, Value, load_dataset

    name, _, configuration = source.name.partition(":")
    with hub_errors_named(source.name):
        rows = load_dataset(
            name, configuration or None, split=options.hub_split, revision=options.hub_revision, streaming=options.streaming
        )
    class_names = {}
    if rows.features is not None:  # a stream may not know them
        features = cast(Features, rows.features)
        if column is not None:
            types = {key: getattr(feature, "dtype", type(feature).__name__) for key, feature in features.items()}
            check_text_column(types, f"the Hub dataset {source.name}", column)
            readable = [column, *(key for key in features if key == column_of_groups(options))]
        else:
            kinds = (Value, ClassLabel, List, LargeList, list, dict)
            readable = [key for key, feature in features.items() if isinstance(feature, kinds)]
            within = {key: getattr(features[key], "feature", features[key]) for key in readable}  # of a list, what is in it
            class_names = {key: feature.names for key, feature in within.items() if isinstance(feature, ClassLabel)}
        rows = rows.select_columns(readable)
    iterator = iter(rows)
    try:
        for row_id in itertools.count():
            with hub_errors_named(source.name):
                row = next(iterator, None)
            if row is None:
                return
            named = {key: _class_names(row[key], names) for key, names in class_names.items()}
            yield Record({**row, **named}, source.name, f"row {row_id}", str(row_id))
    finally:
        if options.streaming:
            # Arrow's threads read on in a file of Python's, and abort the process where they still do at its end
            # (apache/arrow#45214, huggingface/datasets#7467): they end with the reader that they belong to.
            del iterator, rows
            gc.collect()


def _class_names(value: int | list[int] | None, names: list[str]) -> object:
    if isinstance(value, list):
        return [_class_names(item, names) for item in value]
    return None if value is None or value < 0 else names[value]  # -1 is the Hub's "not labelled"


@contextmanager
def hub_errors_named(name: str) -> Iterator[None]:
    """One clear message instead of the many exceptions that `datasets` raises for an unreadable dataset."""
    from datasets.exceptions import DatasetNotFoundError, DatasetsError

    try:
        yield
    except (DatasetNotFoundError, ConnectionError) as error:
        raise MissingFileError(f"{name!r} is not a local file, and the Hub has no such dataset: {_reason(error)}") from error
    except (DatasetsError, ValueError, RuntimeError, OSError, pyarrow.ArrowException, yaml.YAMLError) as error:
        raise UserError(f"the Hub dataset {name} cannot be read: {_reason(error)}") from error


def _reason(error: BaseException) -> str:
    while error.__cause__ is not None and type(error).__name__ == "DatasetGenerationError":
        error = error.__cause__  # it says only that an error occurred
    return " ".join(str(error).split()) or type(error).__name__


def hub_identity(source: Source, options: SourceOptions) -> dict[str, object]:
    """Split and revision, their current commit, and the licence given in the dataset's card.

    Commit and licence are None if the Hub cannot be reached.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    name = source.name.partition(":")[0]
    commit = license = None
    try:
        found = HfApi().dataset_info(name, revision=options.hub_revision)
        commit, license = found.sha, (found.card_data or {}).get("license")
    except (HfHubHTTPError, OfflineModeIsEnabled, OSError):
        pass  # unknown values are None
    about = {
        "license": ", ".join(license) if isinstance(license, list) else license,
        "url": f"https://huggingface.co/datasets/{name}",
    }
    return {"split": options.hub_split, "revision": options.hub_revision, "commit": commit, **about}


HUB_DATASETS = SourceKind(
    records=read_hub,
    documents=texts_of(read_hub),
    identity=hub_identity,
    options=("text_field", "hub_split", "hub_revision", "streaming"),
    is_named=lambda name: HUB_NAME.fullmatch(name) is not None,
    after_files=True,
)
