"""Labelled examples: records become texts with their labels, cleaned, balanced, split and numbered.

The steps in order, each a `Dataset` in and a `Dataset` out, each with its entry in the passport:

    load_examples -> deduplicate -> keep_frequent_labels -> undersample -> split_examples -> oversample (train) -> encode_labels

Until they are encoded, labels are names: a string, or a list of strings if a text may have several.
"""

import logging
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pandas

from hfgpt.counting import counted, listed
from hfgpt.data.near_copies import normalize, similar_groups
from hfgpt.data.passport import Passport
from hfgpt.data.reading import Record
from hfgpt.data.row_errors import RowError, RowErrors, refuse
from hfgpt.data.splitting import label_names, rows_of_each_label
from hfgpt.errors import UserError
from hfgpt.tables import check_allowed

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LabelledOptions:
    """Which parts of a record are the text and its label.

    Args:
        text_column, label_column: the columns. A list in the label column means several labels for one text.
        label_delimiter: what separates several labels in one string, such as ","; None: the string is one label.
        labels: the names of all labels in the order of their ids; labels that are ids refer to these by position. None uses those
            found, sorted.
        min_label_count: labels with fewer examples are left out, with their examples.
        max_labels: only this many of the most frequent labels are kept; None keeps all.
        blank_texts: whether a text without a visible character is an "error", or dropped and counted ("drop").
    """

    text_column: str = "text"
    label_column: str = "label"
    label_delimiter: str | None = None
    labels: list[str] | None = None
    min_label_count: int = 1
    max_labels: int | None = None
    blank_texts: str = "error"

    def __post_init__(self):
        check_allowed("blank_texts", self.blank_texts, ("error", "drop"))
        if self.max_labels is not None and self.max_labels < 2:
            raise UserError(f"max_labels is {self.max_labels}; a classifier needs at least 2.")
        if self.labels is not None and len(set(self.labels)) != len(self.labels):
            raise UserError(f"labels are {self.labels}; every label may occur only once.")


def load_examples(records: Iterable[Record], options: LabelledOptions, passport: Passport, errors: RowErrors | None = None):
    """The records as a `Dataset` with the columns text, label (a name, or a list of names), source and row_id.

    Args: `errors` handles invalid rows; None raises.
    Raises: ValueError for a missing column, a blank text, a missing or unknown label, with file and line, and for no examples.
    """
    from datasets import Dataset, Features, List, Value

    start = time.perf_counter()
    columns: dict[str, list] = {"text": [], "label": [], "source": [], "row_id": []}
    blank = 0
    for record in records:
        try:
            text = _text_of(record, options)
            if not text.strip() and options.blank_texts == "drop":
                blank += 1
                continue
            if not text.strip():
                raise record.error("the text is blank; repair the row, or set --blank_texts drop.", reason="blank text")
            label = _label_of(record, options)
            if columns["label"] and isinstance(label, list) != isinstance(columns["label"][0], list):
                raise record.error(
                    f"{_one_or_several(label)}, and {_one_or_several(columns['label'][0])} in {columns['source'][0]}, row "
                    f"{columns['row_id'][0]}; use lists in all rows or in none.",
                    reason="a single label among lists of labels, or vice versa",
                )
        except RowError as error:
            error.of_all = error.reason.startswith(_NO_COLUMN) and record.source not in columns["source"]
            refuse(error, errors)
            continue
        for name, value in (("text", text), ("label", label), ("source", record.source), ("row_id", record.row_id)):
            columns[name].append(value)
    if errors is not None:
        errors.finish(columns["source"], passport)
    if not columns["text"]:
        found = f"{blank:,} rows were read, all with blank texts" if blank else "0 rows were read"
        raise UserError(f"no labelled examples: {found}; give files that contain some.")
    several = isinstance(columns["label"][0], list)
    features = Features({name: Value("string") for name in columns})
    if several:
        features["label"] = List(Value("string"))
    examples = Dataset.from_dict(columns, features=features)
    passport.record("load", len(examples) + blank, len(examples), start, what="examples", blank=blank)
    return examples


def _text_of(record: Record, options: LabelledOptions) -> str:
    text = _cell(record, options.text_column, "text_column")
    if text is None or text != text:  # pandas writes an empty cell as NaN, which is unequal to itself
        return ""
    if not isinstance(text, str):
        raise record.error(
            f"the column {options.text_column!r} is a {type(text).__name__}, but must be text; quote it, or remove the row.",
            reason="the text is not a string",
        )
    return text


_NO_COLUMN = "no column"


def _cell(record: Record, column: str, key: str) -> object:
    if column not in record.values:
        found = ", ".join(repr(name) if len(name) < 40 else repr(name[:36] + "...") for name in record.values) or "none"
        raise record.error(
            f"no column {column!r}, found {found}; give the right one with --{key} (if the first line of the file is already an "
            f"example, set --header false and --columns).",
            reason=f"{_NO_COLUMN} {column!r}",
        )
    return record.values[column]


def _label_of(record: Record, options: LabelledOptions) -> str | list[str]:
    cell = _cell(record, options.label_column, "label_column")
    if options.label_delimiter is not None and isinstance(cell, str):
        cell = [part for part in cell.split(options.label_delimiter) if part.strip()]
    if isinstance(cell, list):
        return list(dict.fromkeys(_label_name(record, item, options) for item in cell))  # empty: none of the labels applies
    return _label_name(record, cell, options)


def _label_name(record: Record, value: object, options: LabelledOptions) -> str:
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # pandas turns a column of ids with gaps into floats
    if isinstance(value, bool):
        value = str(value).lower()
    if value is None or value != value or not str(value).strip():  # NaN is unequal to itself
        raise record.error(
            f"the label in column {options.label_column!r} is missing; add it, or remove the row.", reason="no label"
        )
    if not isinstance(value, (str, int)):
        raise record.error(
            f"the label {value!r} is a {type(value).__name__}; it must be a word, an id or a list of them.",
            reason="the label is neither a word nor an id",
        )
    name = str(value).strip()
    if options.labels is None or name in options.labels:
        return name
    ids = not any(label.isdecimal() for label in options.labels)  # one to five stars are names, and 0 is not the first of them
    if ids and name.isdecimal() and int(name) < len(options.labels):
        return options.labels[int(name)]
    or_id = f" (or an id from 0 to {len(options.labels) - 1})" if ids else ""
    raise record.error(
        f"the label {name!r} is not one of {', '.join(options.labels)}{or_id}; correct it, or add it to --labels.",
        reason=f"the label {name!r} is not among the known ones",
    )


def _one_or_several(label: str | list[str]) -> str:
    return f"a list of labels {label}" if isinstance(label, list) else f"one label {label!r}"


def deduplicate(examples, passport: Passport, *, mode: str = "exact"):
    """Keep the first of all examples with the same text, and none if their labels contradict each other.

    Args:
        mode: "exact" (the same characters), "near" (the same except for case, digits, punctuation and spaces; and of near copies,
            see near_copies.py, the first per label) or "none".
    Raises: UserError if no example is left.
    Cost: for "near", see `find_copies`.
    """
    check_allowed("deduplicate", mode, ("exact", "near", "none"))
    if mode == "none":
        return examples
    start = time.perf_counter()
    texts = examples["text"][:] if mode == "exact" else [normalize(text) for text in examples["text"]]
    labels = [label_names(label) for label in examples["label"]]
    labels_of: dict[str, set] = {}
    for text, label in zip(texts, labels):
        labels_of.setdefault(text, set()).add(label)
    conflicting = [index for index, text in enumerate(texts) if len(labels_of[text]) > 1]
    if conflicting:
        row = examples[conflicting[0]]
        logger.warning(
            f"{len(conflicting):,} examples have a text that also occurs with a different label, and are left out; the first is "
            f"{row['source']}, row {row['row_id']}: {row['text'][:80]!r}"
        )
    first = {text: index for index, text in reversed(list(enumerate(texts))) if len(labels_of[text]) == 1}
    kept = sorted(first.values())
    if not kept:
        raise UserError(
            f"each of the {len(texts):,} texts, of which {len(labels_of):,} differ, occurs with different labels, so no example is "
            f"left; give the right columns with --text_column and --label_column."
        )
    if mode == "near":
        groups = similar_groups(texts[index] for index in kept)
        first_of = {(group, labels[index]): index for index, group in reversed(list(zip(kept, groups)))}
        kept = sorted(first_of.values())
    duplicates = len(examples) - len(conflicting) - len(kept)
    counts = dict(duplicates=duplicates, conflicting=len(conflicting))
    passport.record(f"deduplicate ({mode})", len(examples), len(kept), start, what="examples", **counts)
    return examples.select(kept)


def keep_frequent_labels(examples, options: LabelledOptions, passport: Passport):
    """Leave out labels by `min_label_count` and `max_labels`, and the examples that have no other."""
    if options.min_label_count <= 1 and options.max_labels is None:
        return examples
    start = time.perf_counter()
    counts = _count(examples["label"])
    kept = {label for label, count in counts.most_common(options.max_labels) if count >= options.min_label_count}
    if len(kept) < 2:
        raise UserError(
            f"{len(kept)} labels have {options.min_label_count:,} examples (min_label_count), but a classifier needs 2 labels; the "
            f"most frequent are {', '.join(f'{label} ({count:,})' for label, count in counts.most_common(5))}."
        )
    if isinstance(examples[0]["label"], list):
        selected = examples.select([i for i, label in enumerate(examples["label"]) if not label or kept & set(label)])
        selected = selected.map(
            lambda label: {"label": [name for name in label if name in kept]}, input_columns="label", desc="labels"
        )
    else:
        selected = examples.select([i for i, label in enumerate(examples["label"]) if label in kept])
    dropped = {label: count for label, count in counts.most_common() if label not in kept}
    details = dict(labels_kept=len(kept), labels_dropped=dropped)
    passport.record("keep frequent labels", len(examples), len(selected), start, what="examples", **details)
    return selected


def check_labels_recur(examples, options: LabelledOptions) -> None:
    """Refuse a column in which most examples have a label of their own, before splits are drawn: it holds ids or texts, not labels.

    Raises: UserError. Several labels per text are not examined.
    """
    labels = examples["label"][:]
    counts = Counter(labels) if labels and not isinstance(labels[0], list) else Counter()
    alone = sum(count == 1 for count in counts.values())
    if alone > len(labels) / 2:
        raise UserError(
            f"there are {len(counts):,} labels for {len(labels):,} examples, {alone:,} of them with a single example; is "
            f"{options.label_column!r} the column of the labels? Give the right one with --label_column, or leave rare labels out "
            f"with --min_label_count."
        )


def _count(labels: Iterable[str | list[str]]) -> Counter:
    return Counter(name for label in labels for name in label_names(label))


def undersample(examples, passport: Passport, *, seed: int = 123):
    """Keep as many examples of each label as the rarest has: the larger ones are sampled, the rarest is unchanged.

    Source: Raschka, Build a Large Language Model (From Scratch), chapter 6, create_balanced_dataset; the same rows in the same
    order for its two labels.
    """
    start = time.perf_counter()
    *larger, rarest = rows_of_each_label(examples, "undersampling").values()
    kept = []
    for rows in larger:
        kept += pandas.Series(rows).sample(len(rarest), random_state=seed).tolist()
    kept += rarest
    passport.record("undersample", len(examples), len(kept), start, what="examples", each=len(rarest), seed=seed)
    return examples.select(kept)


def oversample(examples, passport: Passport, *, seed: int = 123):
    """Repeat examples evenly until each label has as many as the most frequent; for training data only.

    The rows stay in order; the repeated ones follow.
    """
    start = time.perf_counter()
    each_label = rows_of_each_label(examples, "oversampling")
    most = max(map(len, each_label.values()))
    rows_out = list(range(len(examples)))
    for rows in each_label.values():
        whole, rest = divmod(most - len(rows), len(rows))
        rows_out += rows * whole + pandas.Series(rows).sample(rest, random_state=seed).tolist()
    passport.record("oversample", len(examples), len(rows_out), start, what="examples", each=most, seed=seed)
    return examples.select(rows_out)


def check_labels(splits, options: LabelledOptions) -> list[str]:
    """The names of the labels in the order of their ids: `options.labels`, or those of the training examples, sorted.

    Raises: ValueError if there is only one label, if a label has no training example, and if examples with one label per text are
    mixed with examples with several.
    """
    several = {name: isinstance(side[0]["label"], list) for name, side in splits.items()}
    if len(set(several.values())) > 1:
        raise UserError(f"some splits have one label per text and some several ({several}); label all of them the same way.")
    counts = _count(splits["train"]["label"])
    if len(counts) < 2:
        found = f"only the label {next(iter(counts))!r}" if counts else "no label"
        raise UserError(f"the {len(splits['train']):,} training examples have {found}; a classifier needs at least two.")
    names = options.labels or sorted(counts, key=lambda name: (0, int(name), "") if name.isdecimal() else (1, 0, name))
    for name, side in splits.items():
        for row in side:
            unseen = [label for label in label_names(row["label"]) if not counts[label]]
            if unseen:
                raise UserError(
                    f"the label {unseen[0]!r} only occurs in the {name} split (first in {row['source']}, row {row['row_id']}) and "
                    f"has no training example; add some, remove it, leave rare labels out with --min_label_count, or, if they were "
                    f"dropped as copies, keep those with --decontaminate false."
                )
    missing = [name for name in names if not counts[name]]
    if missing:
        raise UserError(f"no training example has the label {missing[0]!r} of labels; add some, or remove it from labels.")
    return list(names)


def encode_labels(splits, options: LabelledOptions, passport: Passport):
    """Labels as numbers: `(DatasetDict, names)`, where a label is its index in `names`, or a list of 0.0 and 1.0, one per name.

    The passport records the counts of each label in each split.
    Raises: see `check_labels`.
    """
    from datasets import ClassLabel, List, Value

    names = check_labels(splits, options)
    ids = {name: index for index, name in enumerate(names)}
    several = isinstance(splits["train"][0]["label"], list)
    features = splits["train"].features.copy()
    features["label"] = List(Value("float32")) if several else ClassLabel(names=names)

    def encode(label: str | list[str]) -> dict:
        return {"label": [float(name in label) for name in names] if isinstance(label, list) else ids[label]}

    for name, side in splits.items():
        counts = _count(side["label"])
        passport.splits[name] = {"examples": len(side), "labels": {label: counts[label] for label in names}}
        if absent := [repr(label) for label in names if not counts[label]]:  # `check_labels` has found all of them in training
            logger.warning(
                f"labels: {len(absent):,} of {counted(len(names), 'labels')} have no {name} example ({listed(absent)}), so that "
                f"split cannot show how well they are told apart; add examples, or leave rare labels out with --min_label_count."
            )
    return splits.map(encode, input_columns="label", features=features, desc="labels"), names


def class_weights(labels: Sequence[int], *, num_labels: int) -> list[float]:
    """The loss weight of each label: inversely proportional to its frequency, with mean 1 over the examples.

    Args:
        labels: ids of the training examples, each of 0..num_labels - 1 at least once.
    """
    counts = Counter(labels)
    return [len(labels) / (num_labels * counts[label]) for label in range(num_labels)]


def positive_weights(labels: Sequence[Sequence[float]]) -> list[float]:
    """For several labels per text (0.0 and 1.0), `pos_weight` of BCEWithLogitsLoss: the ratio of examples without a label to those
    with it."""
    return [(len(column) - sum(column)) / sum(column) for column in zip(*labels)]
