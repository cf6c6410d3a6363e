"""Examples that a model has not seen, measured in the same way as the test set in training: rows, labelled texts, conversations."""

import hashlib
import logging
import math
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

import numpy as np
import torch
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hfgpt.chat_templates import style_of
from hfgpt.counting import listed, quoted
from hfgpt.data.classification import LabelledOptions, deduplicate, load_examples
from hfgpt.data.collators import PackedRowsCollator, SupervisedCollator
from hfgpt.data.conversations import Conversation, read_conversations
from hfgpt.data.passport import Passport
from hfgpt.data.records import RecordOptions, identities, read_records
from hfgpt.data.row_errors import RowErrors
from hfgpt.data.supervised import supervised_rows
from hfgpt.data.verification import check_rows, open_rows
from hfgpt.errors import UserError
from hfgpt.evaluation.answer_rows import all_kinds, rows_of_each_kind, scores_by_kind
from hfgpt.evaluation.answers import answer_conversations, answer_rows, answers_report
from hfgpt.evaluation.batches import padding_id, progress_bar
from hfgpt.evaluation.classification import classification_metrics, classify, probabilities_of, text_ids
from hfgpt.evaluation.language_modeling import bytes_of, language_modeling_metrics, nats_and_tokens
from hfgpt.evaluation.loading import Loaded
from hfgpt.evaluation.results import Result
from hfgpt.evaluation.seen_texts import seen_in_training, split_seen_in_training
from hfgpt.files import public_name
from hfgpt.inference import evaluating
from hfgpt.tokenization import tokenizer_sha256

logger = logging.getLogger(__name__)


def evaluate_rows(loaded: Loaded, folder: Path, *, split: str, batch_size: int = 8) -> Result:
    """One split of the rows that recipes/prepare_data.py wrote: the same figures as pretraining's own test, including closing
    separators.

    Raises: FileNotFoundError for a folder of something else; ValueError for an unknown split, and for rows that do not match the
    passport, use a different tokenizer, or are longer than the model's context.
    """
    passport = Passport.load(folder)
    splits = open_rows(folder)
    if split not in splits:
        raise UserError(f"{folder} has no split {split!r}, only {quoted(splits)}; give one of these with --split.")
    if passport.tokenizer.get("sha256") != tokenizer_sha256(loaded.tokenizer):
        raise UserError(
            f"the rows in {folder} were made with a different tokenizer than {loaded.name}'s, so the ids would mean different "
            f"words; prepare the data with --tokenizer {loaded.name}, or give the text itself with --text."
        )
    check_rows(folder, passport, splits=[split])
    rows = splits[split]
    context_length = loaded.context(passport.settings["context_length"])
    nats, tokens = score_rows(loaded.model, rows, PackedRowsCollator(padding_id(loaded.tokenizer)), batch_size=batch_size)
    # Sliding windows, which only training text is cut into, predict a token several times, but never the first of a document.
    in_windows = split == "train" and passport.settings.get("window") is not None
    num_bytes = None if in_windows else bytes_of(split, passport, loaded.tokenizer)
    first_token = "each document begins after a separator; the separator that ends it is scored"
    return Result(
        "language-modeling",
        dataset=", ".join(public_name(str(one["name"])) for one in passport.inputs) or public_name(str(folder)),
        sha256=_sha256_of(passport.inputs),
        seen_in_training=bool(split_seen_in_training(loaded.name, passport, split)),
        split=split,
        metrics=language_modeling_metrics(nats, tokens, num_bytes=num_bytes),
        settings={
            "context_length": context_length,
            "first_token": "not scored, unlike the separator that ends a document" if in_windows else first_token,
            "rows": "sliding windows" if in_windows else "packed",
        },
        counts={"num_tokens": tokens, "num_rows": len(rows), **({"num_bytes": num_bytes} if num_bytes is not None else {})},
    )


def evaluate_labels(
    loaded: Loaded,
    sources: Sequence[str],
    reading: RecordOptions,
    columns: LabelledOptions,
    *,
    on_error: str = "stop",
    deduplicated: str = "exact",
    max_length: int | None = None,
    batch_size: int = 8,
) -> Result:
    """Evaluate a classifier on labelled texts: every metric of `hfgpt.metrics` that is a single number.

    Args:
        on_error, deduplicated: how training treated its test set, so that the same file gives the same figures.
        max_length: maximum tokens of a text; None uses the value from training.
    Raises: ValueError for errors of `load_examples`, for texts without a label that the model knows, and for a `max_length` above
        the classifier's limit.
    """
    passport, errors = Passport(), RowErrors(on_error)
    examples = load_examples(read_records(sources, reading, errors), columns, passport, errors)
    unique = deduplicate(examples, passport, mode=deduplicated)
    names = label_names(loaded.model)
    known, unknown = with_known_labels(unique, names)
    labels = label_vectors(loaded.model, known["label"][:])
    dropped = {"duplicates": len(examples) - len(unique), "unknown_labels": unknown, "skipped_rows": errors.skipped}
    return measure_labels(
        loaded,
        known["text"][:],
        labels,
        described=described(loaded, sources, reading),
        settings={"deduplicate": deduplicated},
        counts={name: count for name, count in dropped.items() if count},
        max_length=max_length,
        batch_size=batch_size,
    )


def measure_labels(
    loaded: Loaded,
    texts: list[str],
    labels: np.ndarray,
    *,
    described: dict,
    settings: dict,
    counts: dict[str, int] | None = None,
    max_length: int | None = None,
    batch_size: int = 8,
) -> Result:
    """The result of a classifier on texts with their `labels`, see `label_vectors`.

    Args: `described`, `settings` and `counts` are what the result says about its data, besides what is found here.
    """
    longest = loaded.longest_text(max_length)
    ids, cut = text_ids(loaded.tokenizer, texts, max_length=longest)
    logits = classify(loaded.model, loaded.tokenizer, ids, batch_size=batch_size, show_progress=True)
    several = gives_several_labels(loaded.model)
    names = label_names(loaded.model)
    metrics = classification_metrics(probabilities_of(logits, several), labels, names=names, multi_label=several)
    return Result(
        "text-classification",
        **described,
        metrics={name: value for name, value in metrics.items() if isinstance(value, float) and math.isfinite(value)},
        settings={"max_length": longest, **settings},
        counts={"num_examples": len(texts), "texts_cut": cut, **(counts or {})},
    )


def evaluate_conversations(
    loaded: Loaded,
    sources: Sequence[str],
    reading: RecordOptions,
    *,
    format: str | None = None,
    on_error: str = "stop",
    max_length: int | None = None,
    too_long: str = "drop",
    loss_on: str = "assistant",
    max_new_tokens: int = 128,
    max_answers: int | None = None,
    batch_size: int = 8,
) -> Result:
    """Evaluate an assistant on conversations: nats per token of their answers, and its own answers compared with the last of each.

    Args: `format` as in `read_conversations`; `max_length`, `too_long` and `loss_on` as in training, see `supervised_rows`.
    Returns: with `loss`, `perplexity`, `exact_match`, `token_f1`, `rougeL` and more of the metric `answer_metrics`; if the rows
    have kinds, `right` and `most_frequent` over those with right and wrong answers, and `right (KIND)` or `token_f1 (KIND)`.
    Raises: ValueError for errors of `read_conversations`, and if every conversation is longer than the context.
    """
    style, errors = prompt_style_of(loaded.tokenizer), RowErrors(on_error)
    records = read_records(sources, reading, errors)
    conversations = list(read_conversations(records, style=style, format=format, errors=errors))
    errors.finish(one.source for one in conversations)
    return measure_conversations(
        loaded,
        conversations,
        described=described(loaded, sources, reading),
        counts={"skipped_rows": errors.skipped} if errors.skipped else {},
        max_length=max_length,
        too_long=too_long,
        loss_on=loss_on,
        max_new_tokens=max_new_tokens,
        max_answers=max_answers,
        batch_size=batch_size,
    )


def measure_conversations(
    loaded: Loaded,
    conversations: Sequence[Conversation],
    *,
    described: dict,
    counts: dict[str, int] | None = None,
    max_length: int | None = None,
    too_long: str = "drop",
    loss_on: str = "assistant",
    max_new_tokens: int = 128,
    max_answers: int | None = None,
    batch_size: int = 8,
) -> Result:
    """The result of an assistant on conversations, see `evaluate_conversations`.

    Args: `described` and `counts` are what the result says about its data, besides what is found here.
    """
    tokenizer, longest = loaded.tokenizer, loaded.context(max_length)
    columns, encoded = supervised_rows(conversations, tokenizer, max_length=longest, too_long=too_long, loss_on=loss_on)
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    if not rows:
        raise UserError(
            f"all {len(conversations):,} conversations are longer than {longest:,} tokens; give shorter ones, or a larger "
            "--max_length."
        )
    nats, tokens = score_rows(loaded.model, rows, SupervisedCollator(padding_id(tokenizer)), batch_size=batch_size)
    asked = [conversations[row] for row in rows_of_each_kind([one.kind for one in conversations], max_answers)]
    prompts, references = [list(one.messages[:-1]) for one in asked], [one.messages[-1]["content"] for one in asked]
    asked_kinds = [one.kind for one in asked]
    answers = answer_conversations(
        loaded.model,
        tokenizer,
        prompts,
        max_new_tokens=max_new_tokens,
        groups=asked_kinds,
        batch_size=batch_size,
        show_progress=True,
    )
    report = answers_report(answers, references) if asked else {}
    kinds = scores_by_kind(answer_rows(prompts, references, {"after": answers}, kinds=asked_kinds), "after")
    report |= {key: value for key, value in all_kinds(kinds).items() if key != "num_examples"}
    report |= {f"{key} ({kind})": value for kind, of in kinds.items() for key, value in of.items() if key in ("right", "token_f1")}
    return Result(
        "instructions",
        **described,
        metrics=language_modeling_metrics(nats, tokens)
        | {name: float(value) for name, value in report.items() if name != "num_examples"},  # counted below
        settings={"prompt_style": prompt_style_of(tokenizer), "max_new_tokens": max_new_tokens, "decoding": "greedy"},
        counts={
            "num_examples": len(conversations),
            "num_tokens": tokens,
            "num_answers": len(asked),
            "dropped_too_long": encoded.dropped_too_long + encoded.dropped_without_answer,
            "cut": encoded.cut,
            **(counts or {}),
        },
    )


def described(loaded: Loaded, sources: Sequence[str], reading: RecordOptions) -> dict:
    """What a result records about the origin of its examples."""
    inputs = identities(sources, reading)
    only = inputs[0] if len(inputs) == 1 else {}
    on_hub = only.get("kind") == "hub"
    return {
        "dataset": ", ".join(public_name(str(one["name"])) for one in inputs),
        "dataset_id": str(only["name"]).partition(":")[0] if on_hub else None,
        "sha256": _sha256_of(inputs),
        "split": reading.hub_split if on_hub else None,
        "seen_in_training": bool(seen_in_training(loaded.name, inputs)),
    }


def _sha256_of(inputs: Sequence[dict]) -> str | None:
    """The hash of a single input, or of the hashes of several one after the other; None if one has none."""
    hashes = [str(one.get("sha256") or "") for one in inputs]
    if not hashes or "" in hashes:
        return None
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()


@torch.no_grad()
def score_rows(model: PreTrainedModel, rows: Sequence | Dataset, collate: Callable, *, batch_size: int) -> tuple[float, int]:
    """Nats in float64 and the number of labels of `rows` (dicts), which `collate` turns into batches with `labels`.

    Raises: ValueError for logits that are not finite, and for rows without a label.
    """
    sums = torch.zeros(2, dtype=torch.float64)
    with evaluating(model):
        for start in progress_bar(range(0, len(rows), batch_size), desc="rows", show=True):
            batch = collate([rows[index] for index in range(start, min(start + batch_size, len(rows)))])
            labels = batch.pop("labels").to(model.device)
            batch = {name: tensor.to(model.device) for name, tensor in batch.items()}
            found = nats_and_tokens(model(**batch, use_cache=False).logits, labels).double().sum(0).cpu()
            if not torch.isfinite(found).all():
                raise UserError(
                    f"the model gives {found[0].item()} nats to rows {start} to {start + len(labels) - 1}; did its training "
                    f"diverge?"
                )
            sums += found
    if not sums[1]:
        raise UserError("no row has a token to predict; give more text.")
    return sums[0].item(), int(sums[1].item())


def label_names(model: PreTrainedModel) -> list[str]:
    """The names of a classifier's labels, in the order of their ids."""
    names = cast("dict[int, str]", model.config.id2label)
    return [names[index] for index in range(len(names))]


def gives_several_labels(model: PreTrainedModel) -> bool:
    """Whether a classifier can assign any number of labels to a text, not just one."""
    return model.config.problem_type == "multi_label_classification"


# JSON and Python write them differently, and so do files.
_BOOLEANS = {"true": "True", "false": "False", "True": "true", "False": "false"}


def with_known_labels(examples: Dataset, names: list[str]) -> tuple[Dataset, int]:
    """The labelled texts all of whose labels are in `names`, and the number of others; an id stands for its name.

    A model cannot predict a label it does not have: such texts would always count as errors.

    Raises: ValueError if no text has a label that the model knows.
    """

    def known(label: str) -> str | None:
        for one in (label, _BOOLEANS.get(label)):
            if one in names:
                return one
        # If names are numbers themselves, as with one to five stars, another number is not an id.
        is_id = label.isdecimal() and int(label) < len(names) and not any(name.isdecimal() for name in names)
        return names[int(label)] if is_id else None

    several = isinstance(examples[0]["label"], list)
    given: list[list[str]] = [label if several else [label] for label in examples["label"]]
    found = [list(map(known, names_of_text)) for names_of_text in given]
    kept = [row for row, labels in enumerate(found) if None not in labels]
    left_out = Counter(name for labels in given for name in labels if known(name) is None).most_common()
    if not kept:
        raise UserError(
            f"none of the {len(examples):,} texts has a label that the model knows ({listed(names, most=5)}); the file has "
            f"{listed([name for name, _ in left_out], most=5)}. Give another column with --label_column, or texts for its task."
        )
    if left_out:
        logger.warning(
            f"labels: {len(examples):,} -> {len(kept):,} texts; the model does not know {len(left_out):,} of their labels: "
            f"{listed([f'{name!r} ({count:,})' for name, count in left_out], most=5)}"
        )
    labels = [found[row] if several else found[row][0] for row in kept]
    return examples.select(kept).remove_columns("label").add_column("label", labels), len(examples) - len(kept)


def label_vectors(model: PreTrainedModel, labels: list) -> np.ndarray:
    """Names of labels as ids (N,), or as zeros and ones (N, C) for a model that gives a text several.

    Raises: ValueError if the examples have several labels per text but the model assigns one, or vice versa.
    """
    ids = {name: index for index, name in enumerate(label_names(model))}
    multi_label = gives_several_labels(model)
    if isinstance(labels[0], list) != multi_label:
        allowed = "several labels (a list, or one string with --label_delimiter)" if multi_label else "one label"
        raise UserError(
            f"the model gives a text {allowed}, but the first example has {labels[0]!r}; write the labels the same way."
        )
    if not multi_label:
        return np.array([ids[label] for label in labels])
    vectors = np.zeros((len(labels), len(ids)))
    for row, several in enumerate(labels):
        vectors[row, [ids[label] for label in several]] = 1
    return vectors


def prompt_style_of(tokenizer: PreTrainedTokenizerBase) -> str:
    """The prompt style of a tokenizer's chat template: "alpaca", "chat", or "base" for its own.

    Raises: ValueError for a tokenizer without a template.
    """
    if tokenizer.chat_template is None:
        raise UserError(
            "the model has no chat template, so it is not an assistant that answers conversations, and it has no labels either; "
            "give --text for a language model, or an assistant (recipes/finetune_instructions.py) or classifier."
        )
    return style_of(tokenizer)
