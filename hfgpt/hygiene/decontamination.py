"""Keep copies of held-out texts out of training: drop them, or count the leaks."""

import time
from collections.abc import Iterable, Iterator
from itertools import combinations

from hfgpt.data.near_copies import SIMILARITY, find_copies, normalize, similar_pairs
from hfgpt.data.passport import Passport
from hfgpt.data.records import RecordOptions, read_records
from hfgpt.data.row_errors import RowErrors
from hfgpt.errors import UserError

MIN_CHARACTERS = 20  # shorter strings of a benchmark (labels, names, "yes") are not distinctive and are left out


def drop_copies(
    train,
    references: dict[str, Iterable[str]],
    passport: Passport,
    *,
    texts: list[str] | None = None,
    threshold: float = SIMILARITY,
):
    """Drop training examples that are copies of a reference or contain one, counted by reference in the passport.

    Args:
        train: a `Dataset`.
        references: texts by name, such as {"validation": ..., "test": ..., "benchmark.jsonl": ...}; they are never changed.
        texts: the text of each training example to compare (default: its column "text").
    Raises: ValueError if nothing is left to train on.
    Cost: see `find_copies`.
    """
    start = time.perf_counter()
    texts = list(train["text"]) if texts is None else texts
    dropped: set[int] = set()
    counts = {}
    for name, reference in references.items():
        copies = find_copies(texts, reference, threshold=threshold)
        counts[name] = len(copies)
        dropped.update(copy.index for copy in copies)
    kept = [index for index in range(len(train)) if index not in dropped]
    if not kept:
        raise UserError(
            f"all {len(train):,} training examples are copies of {', '.join(references)}; give different training data, raise "
            f"--near_copy_similarity ({threshold}) if they only look alike, or keep them with --decontaminate false."
        )
    passport.record("drop copies", len(train), len(kept), start, what="examples", copies_of=counts, threshold=threshold)
    return train.select(kept)


def leaks_between(splits: dict[str, Iterable[str]], *, threshold: float = SIMILARITY) -> dict[str, dict[str, int]]:
    """How many texts of each later split have a copy in an earlier one; drops nothing.

    Args:
        splits: texts by split name, training first.
    Returns: for example {"train-test": {"exact": 3, "near": 5}}, counted in texts of the later split; "exact" means the same after
        folding, and is not included in "near".
    """
    normalized = {name: [normalize(text) for text in texts] for name, texts in splits.items()}
    leaks = {}
    for earlier, later in combinations(normalized, 2):
        exact, references = dict.fromkeys(normalized[earlier]), list(dict.fromkeys(normalized[later]))
        copied: set[str] = set()
        for _, indices, _ in similar_pairs(list(exact), references, threshold=threshold):
            copied.update(references[index] for index in indices.tolist())
        same = sum(text in exact for text in normalized[later])
        leaks[f"{earlier}-{later}"] = {"exact": same, "near": sum(text in copied for text in normalized[later]) - same}
    return leaks


def reference_texts(names: list[str], options: RecordOptions, errors: RowErrors | None = None) -> dict[str, list[str]]:
    """All texts of files or Hub datasets by name, for `drop_copies`: every string in a row, whatever its column.

    Args: `errors` handles rows that cannot be read; None raises.
    """
    texts: dict[str, list[str]] = {}
    for record in read_records(names, options, errors):
        long_enough = (text for text in _strings(record.values) if len(text.strip()) >= MIN_CHARACTERS)
        texts.setdefault(record.source, []).extend(long_enough)
    return texts


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)
