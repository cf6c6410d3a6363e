"""A classifier from its examples to the figures of its seeds: splits, rows of token ids, the model, its loss, and the run of one
seed."""

import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import PartialState
from datasets import Dataset, DatasetDict
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    set_seed,
)
from transformers.trainer_utils import EvalPrediction

from hfgpt.arguments.methods import Method
from hfgpt.counting import counted, listed
from hfgpt.data.classification import (
    LabelledOptions,
    check_labels_recur,
    class_weights,
    encode_labels,
    keep_frequent_labels,
    load_examples,
    oversample,
    positive_weights,
    undersample,
)
from hfgpt.data.classification import deduplicate as drop_duplicates
from hfgpt.data.passport import HELD_OUT, Passport
from hfgpt.data.splitting import split_examples
from hfgpt.errors import UserError
from hfgpt.evaluation.classification import classification_metrics, probabilities_of, text_ids
from hfgpt.evaluation.loading import quiet_loading
from hfgpt.files import write_json
from hfgpt.inference import full_precision
from hfgpt.tokenization import split_special_tokens
from hfgpt.training.advice import best_step
from hfgpt.training.checkpoints import remove_checkpoints
from hfgpt.training.examples import Examples
from hfgpt.training.finetuning import Base, identify_base, load_model, longest_text, save_finetuned
from hfgpt.training.methods import FrozenWeights, apply_method, describe_trainable
from hfgpt.training.run import train_or_resume
from hfgpt.training.run_folder import RESULT_FILE, Claim
from hfgpt.training.trainer import HfGptTrainer
from hfgpt.training.trigger_probe import TriggerProbe

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Task:
    """A classification task: the labels' names in the order of their ids, and whether a text may have several."""

    names: list[str]
    multi_label: bool

    def config(self) -> dict:
        """How it is stored in a model's config."""
        return {
            "id2label": dict(enumerate(self.names)),
            "label2id": {name: id for id, name in enumerate(self.names)},
            "problem_type": "multi_label_classification" if self.multi_label else "single_label_classification",
        }

    def metrics(self, logits, labels) -> dict:
        return classification_metrics(
            probabilities_of(logits, self.multi_label), labels, names=self.names, multi_label=self.multi_label
        )

    def compute_metrics(self, prediction: EvalPrediction) -> dict[str, float]:
        """The figures that Trainer logs and uses for selection; the full report is made at the end."""
        metrics = self.metrics(prediction.predictions, prediction.label_ids)
        return {name: value for name, value in metrics.items() if isinstance(value, float)}


def load_splits(
    source: Examples,
    passport: Passport,
    *,
    options: LabelledOptions,
    deduplicate: str,
    balance: str,
    balance_before_split: bool,
) -> tuple[DatasetDict, Task]:
    """Labelled examples in train, validation and test, in an order that prevents leaks: duplicates are dropped before splitting,
    and copies of held-out texts before training examples are repeated or left out.

    Columns: `text`, `label` (an id, or zeros and ones), `source`, `row_id`.

    Args:
        options: which parts of a record are the text and its label.
        deduplicate: which texts are dropped before splitting, "exact", "near" or "none".
        balance: how unbalanced classes are treated; this function handles "undersample" and "oversample", in training only.
        balance_before_split: all examples are undersampled, so that the test set is also balanced.
    Raises: ValueError and FileNotFoundError for data that cannot be read or classified, with file and line.
    """

    def read(split: str) -> Dataset:
        records, errors = source.read(split, passport)
        return drop_duplicates(load_examples(records, options, passport, errors), passport, mode=deduplicate)

    examples = keep_frequent_labels(read("train"), options, passport)
    if len(source.given) < len(HELD_OUT):
        check_labels_recur(examples, options)
    if balance_before_split:
        examples = undersample(examples, passport, seed=source.shares.seed)
    multi_label = isinstance(examples[0]["label"], list)
    splits = split_examples(
        examples,
        passport,
        validation_share=0.0 if "validation" in source.given else source.shares.validation,
        test_share=0.0 if "test" in source.given else source.shares.test,
        seed=source.shares.seed,
        # Strata are single labels; texts with several are drawn without strata.
        method="random" if multi_label else source.shares.method,
        near_copy_similarity=source.kept_together,
    )
    for name in source.given:
        splits[name] = read(name)
        if options.min_label_count > 1 or options.max_labels is not None:  # labels left out of training cannot be tested
            splits[name] = with_labels(splits[name], of=splits["train"], passport=passport, name=name)
    for name in HELD_OUT:
        if name not in splits:
            raise UserError(f"there is no {name} set: {name}_share is 0 and {name}_sources is empty; give one of them.")
    held_out = {name: splits[name] for name in HELD_OUT}
    splits["train"] = source.without_copies(splits["train"], held_out, passport, texts_of=lambda split: split["text"][:])
    if balance == "undersample" and not balance_before_split:
        splits["train"] = undersample(splits["train"], passport, seed=source.shares.seed)
    elif balance == "oversample":
        splits["train"] = oversample(splits["train"], passport, seed=source.shares.seed)
    splits, names = encode_labels(splits, options, passport)
    return splits, Task(names, multi_label)


def with_labels(examples: Dataset, *, of: Dataset, passport: Passport, name: str) -> Dataset:
    """The examples of a given split whose labels occur in the training set; the others are counted.

    Raises: UserError if no example is left.
    """
    start = time.perf_counter()
    known = {label for labels in of["label"] for label in (labels if isinstance(labels, list) else [labels])}
    kept = [
        index
        for index, labels in enumerate(examples["label"])
        if known.issuperset(labels if isinstance(labels, list) else [labels])
    ]
    if not kept:
        raise UserError(
            f"none of the {len(examples):,} {name} texts has a label that is left in training ({listed(sorted(known))}); give "
            f"texts with such labels, or change --max_labels or --min_label_count."
        )
    passport.record(f"labels of training ({name})", len(examples), len(kept), start, what="examples")
    return examples.select(kept)


def fit_tokenizer(tokenizer: PreTrainedTokenizerFast, *, max_length: int | None) -> None:
    """Store in the tokenizer how training treats a text, so that whoever loads it does the same.

    Texts are cut to `max_length` tokens, at most the model's context (a pipeline with `truncation=True` respects it), padding
    follows the text, and a special token written in a text is plain text. That would break a chat template, but a classifier does
    not need one.
    """
    tokenizer.model_max_length = longest_text(tokenizer, max_length)
    # Learned positions are counted from the start of the text.
    tokenizer.padding_side = tokenizer.init_kwargs["padding_side"] = "right"
    tokenizer.truncation_side = "right"
    tokenizer.chat_template = None
    split_special_tokens(tokenizer, True)


def tokenize(splits: DatasetDict, tokenizer: PreTrainedTokenizerFast, passport: Passport) -> DatasetDict:
    """Rows with `input_ids`, `labels` and `length`; texts are cut to the tokenizer's limit, and cut ones are counted.

    The ids are the same as in a pipeline, see `text_ids`.
    """
    longest = tokenizer.model_max_length
    rows = DatasetDict()
    for name, split in cast(dict[str, Dataset], splits).items():
        ids, cut = text_ids(tokenizer, split["text"][:], max_length=longest)
        lengths = [len(row) for row in ids]
        passport.splits[name] |= {"tokens": sum(lengths), "cut": cut}
        rows[name] = Dataset.from_dict({"input_ids": ids, "labels": split["label"][:], "length": lengths})
        logger.info(
            f"{name}: {counted(len(ids), 'texts')}, {sum(lengths):,} tokens, at most {max(lengths):,} per text"
            + (f"; {cut:,} texts were cut to {longest:,} tokens" if cut else "")
        )
    return rows


def build_labeller(base: Base, task: Task, *, attn_implementation: str | None, quantization: str = "none") -> PreTrainedModel:
    """The language model itself, which is asked for the most likely label.

    Raises: UserError for texts with several labels, because only one can be the most likely.
    """
    if task.multi_label:
        raise UserError(
            "method likelihood finds the single most likely label, but these texts have several; train with another method."
        )
    return load_model(base, AutoModelForCausalLM, attn_implementation=attn_implementation, quantization=quantization)


def build_classifier(
    base: Base, task: Task, *, seed: int, attn_implementation: str | None, quantization: str = "none"
) -> PreTrainedModel:
    """The base with a new head, initialized from the seed, before any of it is frozen or adapted."""
    set_seed(seed)
    kinds = {"attn_implementation": attn_implementation, "quantization": quantization}
    with quiet_loading():  # the message about a new head is expected here
        model = load_model(base, AutoModelForSequenceClassification, **kinds, num_labels=len(task.names), **task.config())
    model.config.use_cache = False
    # Our own model truncates by itself, because a pipeline only does with truncation=True.
    if hasattr(model.config, "max_text_length"):
        model.config.max_text_length = base.tokenizer.model_max_length
    return model


def inspect_base(base: Base, classifier: PreTrainedModel, method: Method) -> dict:
    """Which weights are fine-tuned, for the passport; logs which of them will be trained.

    The classifier is discarded. Impossible settings (for example, LoRA on layers that do not exist) are refused here, before the
    output folder is touched.
    """
    identity = identify_base(base, classifier)
    logger.info(describe_trainable(apply_method(classifier, method)))
    return identity


def finished_seed(folder: Path) -> dict | None:
    """The result of a seed that already finished and is not run again; None for one that did not."""
    if not (folder / RESULT_FILE).is_file():
        return None
    if PartialState().is_main_process:
        remove_checkpoints(folder)
    return json.loads((folder / RESULT_FILE).read_text(encoding="utf-8"))


def run_seed(
    trainer: HfGptTrainer,
    earlier: Mapping[int, dict],
    *,
    claim: Claim,
    rows: DatasetDict,
    task: Task,
    probes: list[TriggerProbe],
    best_by: str,
) -> dict:
    """Train with one seed, measure, and save the model in the folder above the seed's if it is the best so far.

    Args:
        earlier: results of the previous seeds, to determine the best one.
        claim: the claim of the folder above the seed's.
        best_by: the figure of the validation set that decides.
    Returns: figures and probabilities for both held-out sets, and the training figures.
    """
    seed, folder = trainer.args.seed, trainer.folder
    frozen = FrozenWeights(trainer.trained)
    train_or_resume(trainer, claim)
    result: dict[str, Any] = {
        "seed": seed,
        **trainer.training_metrics(),
        "frozen_tensors": frozen.check(trainer.trained),
        **trainer.parameter_counts(),
        "best_step": best_step(
            trainer.state.log_history,
            metric=f"eval_{best_by}",
            greater_is_better=best_by != "log_loss",
            kept="best" if trainer.args.load_best_model_at_end else "last",
        ),
    }
    with full_precision(trainer.trained):  # as for anyone who loads the saved model
        for name in HELD_OUT:
            prediction = trainer.predict(cast(Any, rows[name]), metric_key_prefix=name)
            result[name] = task.metrics(prediction.predictions, prediction.label_ids)
            probabilities = probabilities_of(prediction.predictions, task.multi_label)
            result[name]["probabilities"] = probabilities.round(6).tolist()
    for name in HELD_OUT:
        logger.info(summary_line(f"seed {seed}, {name}", result[name]))
    with full_precision(trainer.trained):
        for probe in probes:
            probe.look(trainer.trained, result["kept_step"], folder)
    trainer.reporters.close(result)
    if trainer.is_world_process_zero():
        if all(is_better(result, other, best_by) for other in earlier.values()):
            some = rows["validation"].select(range(min(8, len(rows["validation"]))))["input_ids"][:]
            result["difference_of_merging"] = save_finetuned(trainer.trained, trainer.text_tokenizer, folder.parent, probe=some)
        write_json(folder / RESULT_FILE, result)
        # Only after the result is written: if killed before, the seed resumes from its last checkpoint and its best one, and needs
        # both.
        remove_checkpoints(folder)
    return result


def is_better(result: dict, other: dict, best_by: str) -> bool:
    """Whether one seed did better than another on the validation set."""
    ours, theirs = (one["validation"][best_by] for one in (result, other))
    return ours < theirs if best_by == "log_loss" else ours > theirs


def build_loss(rows: Dataset, task: Task, *, balance: str, label_smoothing: float) -> Callable:
    """The loss for a training set; with balance "weights", every label counts equally.

    Raises: see `classification_loss`.
    """
    weights = None
    if balance == "weights":
        labels = rows["labels"][:]
        weights = positive_weights(labels) if task.multi_label else class_weights(labels, num_labels=len(task.names))
    return classification_loss(weights, multi_label=task.multi_label, label_smoothing=label_smoothing)


def classification_loss(weights: list[float] | None, *, multi_label: bool, label_smoothing: float = 0.0) -> Callable:
    """Cross-entropy in nats per text, averaged over all accumulated batches; for `compute_loss_func`.

    The models' own loss does not know how many batches are accumulated, although Trainer assumes that it does. With a custom loss,
    Trainer does not smooth the labels, so this one does.

    Args: `weights` are those of the labels or, with `multi_label`, of their presence; None weighs every text equally.
    Raises: UserError if labels are smoothed and a text may have several.
    """
    if multi_label and label_smoothing:
        raise UserError(
            f"label_smoothing_factor is {label_smoothing}; it spreads a text's single label over the others, but here a text may "
            f"have several; leave it out."
        )

    def loss(outputs, labels, num_items_in_batch=None):
        logits = outputs["logits"].float()
        weight = None if weights is None else torch.tensor(weights, device=logits.device)
        if multi_label:
            losses = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels, pos_weight=weight, reduction="none")
            losses = losses.masked_fill(labels == -100, 0.0).mean(-1).sum()  # rows that are not trained on, as below
        else:
            # Summed: the weights have mean 1 over the training set; dividing by a batch's own mean would undo them.
            losses = torch.nn.functional.cross_entropy(
                logits, labels, weight=weight, label_smoothing=label_smoothing, reduction="sum"
            )
        # Trainer counts labels: with several per text, all of them.
        num_texts = len(labels) if num_items_in_batch is None else num_items_in_batch * len(labels) / labels.numel()
        return losses / num_texts

    return loss


def summary_line(name: str, metrics: dict) -> str:
    """One line of the report: the figures that people compare."""
    auc = metrics.get("roc_auc")
    return (
        f"{name}: accuracy {100 * metrics['accuracy']:.2f} %, macro F1 {metrics['macro_f1']:.4f}, ROC-AUC "
        + (f"{auc:.4f}" if auc is not None else "unknown")
        + f", log loss {metrics['log_loss']:.4f}, calibration error {metrics['calibration_error']:.4f}"
    )


def seed_folder(folder: Path, seed: int) -> Path:
    """The folder with the checkpoints and the result of one seed."""
    return folder / f"seed-{seed}"
