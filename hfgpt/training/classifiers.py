"""A classifier from its examples to its figures: rows of token ids, the trainer of one seed, probabilities, the report."""

import copy
import json
import logging
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset, DatasetDict
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    DataCollatorWithPadding,
    EarlyStoppingCallback,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    set_seed,
)

from hfgpt.arguments.finetuning import ClassificationArguments
from hfgpt.arguments.methods import Method
from hfgpt.data.classification import (
    LabelledOptions,
    class_weights,
    deduplicate,
    encode_labels,
    keep_frequent_labels,
    load_examples,
    oversample,
    positive_weights,
    undersample,
)
from hfgpt.data.passport import Passport
from hfgpt.data.records import RecordOptions, identities, read_records
from hfgpt.data.row_errors import RowErrors
from hfgpt.data.splitting import split_examples
from hfgpt.errors import UserError
from hfgpt.evaluation.classification import classification_metrics, probabilities_of, text_ids
from hfgpt.files import write_json
from hfgpt.inference import full_precision
from hfgpt.tokenization import split_special_tokens
from hfgpt.training.advice import before_training, best_step
from hfgpt.training.callbacks import LossPictureCallback, StopOnSignalCallback
from hfgpt.training.finetuning import (
    Base,
    decontaminated,
    identify_base,
    load_model,
    quiet_loading,
    save_base,
    save_finetuned,
)
from hfgpt.training.methods import FrozenWeights, apply_method, describe_trainable, trainable_parameters
from hfgpt.training.optimizers import trainer_optimizer
from hfgpt.training.run import (
    RESULT_FILE,
    DiscreetTrainer,
    keep_best,
    keep_freed_memory,
    newest_complete_checkpoint,
    train_or_resume,
)
from hfgpt.training.trigger_probe import TriggerProbe

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Task:
    """What is told apart: the labels' names in the order of their ids, and whether a text may have several."""

    names: list[str]
    multi_label: bool

    def config(self) -> dict:
        """What a model's config says of it."""
        return {
            "id2label": dict(enumerate(self.names)),
            "label2id": {name: id for id, name in enumerate(self.names)},
            "problem_type": "multi_label_classification" if self.multi_label else "single_label_classification",
        }

    def metrics(self, logits, labels) -> dict:
        return classification_metrics(
            probabilities_of(logits, self.multi_label), labels, names=self.names, multi_label=self.multi_label
        )

    def predictions(self, probabilities: np.ndarray) -> np.ndarray:
        return probabilities >= 0.5 if self.multi_label else probabilities.argmax(axis=1)


def load_splits(args: ClassificationArguments, passport: Passport) -> tuple[DatasetDict, Task]:
    """Labelled examples in train, validation and test, in the order that keeps them apart: duplicates are dropped before anything
    is split, copies of held-out texts before anything of the training set is repeated or left out.

    Columns: `text`, `label` (an id, or zeros and ones), `source`, `row_id`.
    Raises: ValueError and FileNotFoundError for what cannot be read or told apart, named with file and line.
    """
    options = LabelledOptions(**args.labelled_options())
    given = {"validation": args.validation_sources, "test": args.test_sources}

    def read(names: list[str], split: str) -> Dataset:
        record_options = RecordOptions(**args.record_options(split))
        passport.inputs += identities(names, record_options)
        errors = RowErrors(args.on_error)
        examples = load_examples(read_records(names, record_options, errors), options, passport, errors)
        return deduplicate(examples, passport, mode=args.deduplicate)

    examples = keep_frequent_labels(read(args.sources, "train"), options, passport)
    if args.balance_before_split:
        examples = undersample(examples, passport, seed=args.split_seed)
    multi_label = isinstance(examples[0]["label"], list)
    shares = {f"{name}_share": 0.0 if sources else getattr(args, f"{name}_share") for name, sources in given.items()}
    # Strata are single labels; texts with several are drawn as they come.
    method = "random" if multi_label else args.split_method
    similarity = args.near_copy_similarity if args.decontaminate else None
    splits = split_examples(examples, passport, seed=args.split_seed, method=method, near_copy_similarity=similarity, **shares)
    for name, sources in given.items():
        if sources:
            splits[name] = read(sources, name)
            if args.min_label_count > 1 or args.max_labels is not None:  # what training has left out cannot be tested
                splits[name] = with_labels(splits[name], of=splits["train"], passport=passport, name=name)
    for name in ("validation", "test"):
        if name not in splits:
            raise UserError(f"there is no {name} set: {name}_share is 0 and {name}_sources is empty; give one of them.")
    splits["train"] = decontaminated(
        splits["train"], {name: splits[name] for name in given}, args, passport, texts_of=lambda split: split["text"][:]
    )
    if args.balance == "undersample" and not args.balance_before_split:
        splits["train"] = undersample(splits["train"], passport, seed=args.split_seed)
    elif args.balance == "oversample":
        splits["train"] = oversample(splits["train"], passport, seed=args.split_seed)
    splits, names = encode_labels(splits, options, passport)
    return splits, Task(names, multi_label)


def with_labels(examples: Dataset, *, of: Dataset, passport: Passport, name: str) -> Dataset:
    """The examples of a given split whose labels the training set has; how many others there were is counted."""
    start = time.perf_counter()
    known = {label for labels in of["label"] for label in (labels if isinstance(labels, list) else [labels])}
    kept = [
        index
        for index, labels in enumerate(examples["label"])
        if known.issuperset(labels if isinstance(labels, list) else [labels])
    ]
    passport.record(f"labels of training ({name})", len(examples), len(kept), start, what="examples")
    return examples.select(kept)


def tokenize(
    splits: DatasetDict, tokenizer: PreTrainedTokenizerBase, args: ClassificationArguments, passport: Passport
) -> DatasetDict:
    """Rows with `input_ids`, `labels` and `length`; texts are cut to `max_length` tokens, and those that were are counted.

    The ids are those of a pipeline, see `text_ids`.
    """
    longest = tokenizer.model_max_length
    rows = DatasetDict()
    for name, split in splits.items():
        ids, cut = text_ids(tokenizer, split["text"][:], max_length=longest)
        lengths = [len(row) for row in ids]
        passport.splits[name] |= {"tokens": sum(lengths), "cut": cut}
        rows[name] = Dataset.from_dict({"input_ids": ids, "labels": split["label"][:], "length": lengths})
        logger.info(
            f"{name}: {len(ids):,} texts, {sum(lengths):,} tokens, at most {max(lengths):,} a text"
            + (f"; {cut:,} texts were cut to {longest:,} tokens" if cut else "")
        )
    return rows


def fit_tokenizer(tokenizer: PreTrainedTokenizerBase, args: ClassificationArguments) -> None:
    """Note in the tokenizer what training does to a text, so that whoever loads it does the same.

    Texts are cut to `max_length` tokens, no more than the model's context (`truncation=True` of a pipeline heeds it), padding
    stands behind a text, and a special token written in a text is text. A chat template would be destroyed by that, and a
    classifier has no use for one.
    """
    tokenizer.model_max_length = min(args.max_length or tokenizer.model_max_length, tokenizer.model_max_length)
    tokenizer.padding_side = tokenizer.init_kwargs["padding_side"] = "right"  # a learned position is counted from the text's begin
    tokenizer.truncation_side = "right"
    tokenizer.chat_template = None
    split_special_tokens(tokenizer, True)


def prepare_base(base: Base, task: Task, args: ClassificationArguments, passport: Passport) -> PreTrainedModel:
    """The base's weights, noted in the passport: the language model itself where nothing is trained, else a first classifier.

    What cannot work (a LoRA beside layers that are not there, say) is refused here, before the output folder is touched.
    """
    if args.method == "likelihood":
        model = load_model(base, AutoModelForCausalLM, args)
    else:
        model = build_classifier(base, task, args, seed=args.seeds[0])
    identify_base(base, model, passport)
    if args.method != "likelihood":
        logger.info(describe_trainable(apply_method(copy.deepcopy(model), Method(**args.method_settings()))))
    return model


def build_classifier(base: Base, task: Task, args: ClassificationArguments, *, seed: int) -> PreTrainedModel:
    """The base with a new head, drawn from the seed, before anything of it is frozen or adapted."""
    set_seed(seed)
    with quiet_loading():  # that the head is new is no news here
        model = load_model(base, AutoModelForSequenceClassification, args, num_labels=len(task.names), **task.config())
    model.config.use_cache = False
    if hasattr(model.config, "max_text_length"):  # ours: it cuts by itself, because a pipeline does so only with truncation=True
        model.config.max_text_length = base.tokenizer.model_max_length
    return model


def run_seed(
    seed: int,
    earlier: dict[int, dict],
    *,
    base: Base,
    rows: DatasetDict,
    task: Task,
    probes: list[TriggerProbe],
    args: ClassificationArguments,
) -> dict:
    """Train with one seed, measure, and save the model where it is the best so far.

    A seed that came to its end before is not run again: its result stands in its folder.
    """
    folder = seed_folder(args, seed)
    if (folder / RESULT_FILE).is_file():
        _remove_checkpoints(folder, args)
        return json.loads((folder / RESULT_FILE).read_text(encoding="utf-8"))
    args = copy.copy(args)
    args.output_dir, args.seed = str(folder), seed
    model = build_classifier(base, task, args, seed=seed)
    if seed == args.seeds[0]:
        save_base(model, base.tokenizer, folder.parent, args)
    trainer = build_trainer(model, rows, task=task, tokenizer=base.tokenizer, args=args)
    for probe in probes:
        trainer.add_callback(probe)
    frozen = FrozenWeights(trainer.model)
    logger.info(f"seed {seed}: {args.describe_hardware()}")
    if not earlier:
        for warning in before_training(args, len(rows["train"]), unit="texts"):
            logger.warning(warning)
    train_or_resume(trainer, newest_complete_checkpoint(folder))
    result = {
        "seed": seed,
        **trainer.training_metrics(),
        "frozen_tensors": frozen.check(trainer.model),
        "parameters": trainable_parameters(trainer.model)[1],
        "trained_parameters": trainable_parameters(trainer.model)[0],
    }
    metric, kept = f"eval_{args.best_by}", "best" if args.load_best_model_at_end else "last"
    result["best_step"] = best_step(
        trainer.state.log_history, metric=metric, greater_is_better=args.best_by != "log_loss", kept=kept
    )
    # Grouped by length, predictions would come back in the groups' order, and the errors would be told of other texts.
    args.train_sampling_strategy = "random"
    for name in ("validation", "test"):
        with full_precision(trainer.model):  # as whoever loads the saved model
            prediction = trainer.predict(rows[name], metric_key_prefix=name)
        result[name] = task.metrics(prediction.predictions, prediction.label_ids)
        result[name]["probabilities"] = probabilities_of(prediction.predictions, task.multi_label).round(6).tolist()
    for name in ("validation", "test"):
        logger.info(summary_line(f"seed {seed}, {name}", result[name]))
    with full_precision(trainer.model):
        for probe in probes:
            probe.look(trainer.model, result["kept_step"], folder)
    if trainer.is_world_process_zero():
        if all(is_better(result, other, args) for other in earlier.values()):
            some = rows["validation"].select(range(min(8, len(rows["validation"]))))["input_ids"][:]
            result["difference_of_merging"] = save_finetuned(trainer.model, base.tokenizer, folder.parent, probe=some)
        write_json(folder / RESULT_FILE, result)
    _remove_checkpoints(folder, args)
    return result


def _remove_checkpoints(folder: Path, args: ClassificationArguments) -> None:
    # After the result is written: killed before, the seed goes on from its last checkpoint and its best one, and needs both.
    if args.process_index == 0:
        for checkpoint in folder.glob("checkpoint-*"):
            shutil.rmtree(checkpoint)


def is_better(result: dict, other: dict, args: ClassificationArguments) -> bool:
    """Whether one seed did better than another on the validation set."""
    ours, theirs = (one["validation"][args.best_by] for one in (result, other))
    return ours < theirs if args.best_by == "log_loss" else ours > theirs


def build_trainer(
    model: PreTrainedModel, rows: DatasetDict, *, task: Task, tokenizer: PreTrainedTokenizerBase, args: ClassificationArguments
) -> DiscreetTrainer:
    """The trainer of one seed; `model` is frozen or adapted as `args.method` says."""
    if args.use_cpu:
        keep_freed_memory()
    model = apply_method(model, Method(**args.method_settings()))
    keep_best(args, args.keep, metric=f"eval_{args.best_by}", greater_is_better=args.best_by != "log_loss")
    if task.multi_label and args.label_smoothing_factor:
        raise UserError(
            f"label_smoothing_factor is {args.label_smoothing_factor}; it spreads the one label of a text over the others, and "
            "here a text may have several: leave it out."
        )
    weights = None
    if args.balance == "weights":
        labels = rows["train"]["labels"][:]
        weights = positive_weights(labels) if task.multi_label else class_weights(labels, num_labels=len(task.names))
    trainer = DiscreetTrainer(
        model=model,
        args=args,
        train_dataset=rows["train"],
        eval_dataset=rows["validation"],
        processing_class=tokenizer,
        data_collator=DataCollatorWithPadding(tokenizer, pad_to_multiple_of=8 if torch.cuda.is_available() else None),
        compute_metrics=lambda prediction: {
            # what Trainer can log and choose by; the whole report is made at the end
            name: value
            for name, value in task.metrics(prediction.predictions, prediction.label_ids).items()
            if isinstance(value, float)
        },
        compute_loss_func=classification_loss(weights, multi_label=task.multi_label, label_smoothing=args.label_smoothing_factor),
        optimizer_cls_and_kwargs=trainer_optimizer(args.optimizer, args.optimizer_settings()),
    )
    if args.early_stopping_patience and args.keep == "best":
        trainer.add_callback(EarlyStoppingCallback(args.early_stopping_patience))
    trainer.add_callback(StopOnSignalCallback())
    trainer.add_callback(LossPictureCallback(unit="nats per text"))
    return trainer


def classification_loss(weights: list[float] | None, *, multi_label: bool, label_smoothing: float = 0.0) -> Callable:
    """Cross-entropy in nats per text, over all accumulated batches alike; for `compute_loss_func`.

    The models' own loss does not know how many batches are accumulated, and Trainer believes that it does. With a loss of its
    own, Trainer does not smooth the labels, so this one does.

    Args: `weights` of the labels, or with `multi_label` of their presence; None weighs every text alike.
    """

    def loss(outputs, labels, num_items_in_batch=None):
        logits = outputs["logits"].float()
        weight = None if weights is None else torch.tensor(weights, device=logits.device)
        if multi_label:
            losses = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels, pos_weight=weight, reduction="none")
            losses = losses.mean(-1).sum()
        else:
            # Summed: the weights have the mean 1 over the training set, a batch's own mean would undo them.
            losses = torch.nn.functional.cross_entropy(
                logits, labels, weight=weight, label_smoothing=label_smoothing, reduction="sum"
            )
        # Trainer counts labels: of several a text, all of them.
        num_texts = len(labels) if num_items_in_batch is None else num_items_in_batch * len(labels) / labels.numel()
        return losses / num_texts

    return loss


def tfidf_baseline(splits: DatasetDict, *, task: Task) -> dict:
    """TF-IDF over words and pairs of words with logistic regression, scikit-learn's defaults, on the same splits.

    Returns: the metrics of the test set. Multi-label is one regression a label.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.multiclass import OneVsRestClassifier
    from sklearn.pipeline import make_pipeline

    regression = LogisticRegression(max_iter=1000)
    classifier = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2)), OneVsRestClassifier(regression) if task.multi_label else regression
    )
    labels = np.asarray(splits["train"]["label"])
    classifier.fit(splits["train"]["text"], labels.astype(int))
    probabilities = classifier.predict_proba(splits["test"]["text"])
    if not task.multi_label and len(classifier.classes_) < len(task.names):  # a label without a training example
        full = np.zeros((len(probabilities), len(task.names)))
        full[:, classifier.classes_] = probabilities
        probabilities = full
    return classification_metrics(probabilities, splits["test"]["label"], names=task.names, multi_label=task.multi_label)


def summary_line(name: str, metrics: dict) -> str:
    """One line of the report: the figures that people compare."""
    auc = metrics.get("roc_auc")
    return (
        f"{name}: accuracy {100 * metrics['accuracy']:.2f} %, macro F1 {metrics['macro_f1']:.4f}, ROC-AUC "
        + (f"{auc:.4f}" if auc is not None else "unknown")
        + f", log loss {metrics['log_loss']:.4f}, calibration error {metrics['calibration_error']:.4f}"
    )


def seed_folder(args: ClassificationArguments, seed: int) -> Path:
    """Where the run of one seed keeps its checkpoints and its result."""
    return Path(args.output_dir) / f"seed-{seed}"
