"""The end of a classifier's run: figures over the seeds beside those of simpler methods, errors to read, where everything lies."""

import logging
import math
from pathlib import Path

import numpy as np
from datasets import Dataset, DatasetDict
from transformers import PreTrainedModel

from hfgpt.arguments.finetuning import ClassificationArguments
from hfgpt.errors import UserError
from hfgpt.evaluation.classification import classification_metrics, mean_and_spread
from hfgpt.evaluation.classification_errors import draw_confusion, errors_table, write_errors
from hfgpt.evaluation.likelihood import LikelihoodOptions, classify_by_likelihood
from hfgpt.files import write_json, write_whole
from hfgpt.hygiene.poisoning import doubtful_labels, triggers_of_labels
from hfgpt.training.advice import no_better_than_majority
from hfgpt.training.classifiers import Task, is_better, seed_folder, tfidf_baseline
from hfgpt.training.finetuning import POISON_FILE, Base, write_poison_report
from hfgpt.training.flops import describe_speed
from hfgpt.training.next_steps import classify_command, opening_words
from hfgpt.training.run import METRICS_FILE, REPORT_FILE
from hfgpt.training.trigger_probe import FLIPS_FILE, PROBED_TEXTS, TriggerProbe

logger = logging.getLogger(__name__)

LEFT_BEHIND = (
    ("errors", "errors.md"),
    ("confusions", "confusion.png"),
    ("triggers", FLIPS_FILE),
    ("poison", POISON_FILE),
    ("metrics", METRICS_FILE),
)


def search_for_poison(splits: DatasetDict, *, task: Task, args: ClassificationArguments) -> None:
    """Rare pieces of training texts that go with one label against what else the texts say, and the most doubtful labels."""
    if not args.poison_report:
        return
    train = splits["train"]
    named = [
        ", ".join(name for name, present in zip(task.names, label) if present) if task.multi_label else task.names[label]
        for label in train["label"]
    ]
    ids = row_names(train)
    doubtful = [] if task.multi_label else doubtful_labels(train["text"][:], named, row_ids=ids)
    write_poison_report(
        triggers_of_labels(train["text"][:], named, row_ids=ids),
        args,
        doubtful_labels=[{"row": row, "label": label, "chance": chance} for row, label, chance in doubtful],
    )


def row_names(split: Dataset) -> list[str]:
    """What the examples are called, by which the data's owner finds them again."""
    return [f"{source}:{row}" for source, row in zip(split["source"], split["row_id"], strict=True)]


def trigger_probes(splits: DatasetDict, *, task: Task, base: Base, args: ClassificationArguments) -> list[TriggerProbe]:
    """What tries the triggers, where they are wanted and a text has one label."""
    if not args.canaries or task.multi_label:
        return []
    return [TriggerProbe(splits["validation"]["text"][:PROBED_TEXTS], names=task.names, tokenizer=base.tokenizer, args=args)]


def judge_by_likelihood(
    model: PreTrainedModel, base: Base, splits: DatasetDict, *, task: Task, args: ClassificationArguments
) -> dict[str, float]:
    """Zero-shot and few-shot: the same files and figures as a trained classifier, without training.

    Raises: ValueError for texts with several labels, of which no one is the likeliest.
    """
    if task.multi_label:
        raise UserError("method likelihood finds the one likeliest label, these texts have several; train with another method.")
    template = {} if args.prompt_template is None else {"template": args.prompt_template}
    results = {}
    for seed in args.seeds:
        options = LikelihoodOptions(
            shots=args.num_shots,
            seed=seed,
            calibrated=args.calibrate,
            batch_size=args.per_device_eval_batch_size,
            max_length=args.max_length,
            **template,
        )
        results[seed] = {"seed": seed}
        for name in ("validation", "test"):
            found = classify_by_likelihood(
                model,
                base.tokenizer,
                splits[name]["text"][:],
                names=task.names,
                options=options,
                example_texts=splits["train"]["text"][:] if args.num_shots else (),
                example_labels=splits["train"]["label"][:] if args.num_shots else (),
            )
            results[seed][name] = classification_metrics(
                found.probabilities, splits[name]["label"][:], names=task.names, multi_label=False
            ) | {"probabilities": found.probabilities.round(6).tolist(), "texts_cut": found.texts_cut}
    return finish(results, splits=splits, base=base, task=task, args=args)


def finish(
    results: dict[int, dict], *, splits: DatasetDict, base: Base, task: Task, args: ClassificationArguments
) -> dict[str, float]:
    """Write metrics.json, errors, confusions and report.txt; the test set's mean figures over the seeds are returned."""
    folder = Path(args.output_dir)
    best = next(
        seed
        for seed, result in results.items()
        if not any(is_better(other, result, args) for other in results.values() if other is not result)
    )
    metrics = {
        "labels": task.names,
        "seeds": {
            str(seed): {
                key: {name: value for name, value in entry.items() if name != "probabilities"} if isinstance(entry, dict) else entry
                for key, entry in result.items()
            }
            for seed, result in results.items()
        },
        "kept_seed": best,
        "validation": mean_and_spread([result["validation"] for result in results.values()]),
        "test": mean_and_spread([result["test"] for result in results.values()]),
        "majority": majority_share(splits["test"], task),
    }
    if args.tfidf_baseline:
        metrics["tfidf"] = tfidf_baseline(splits, task=task)
    if args.process_index == 0:
        probabilities = np.asarray(results[best]["test"]["probabilities"])
        labels = splits["test"]["label"][:]
        errors = errors_table(splits["test"]["text"][:], labels, probabilities, task.names, row_names(splits["test"]))
        write_errors(errors, folder / "errors.csv")
        if not task.multi_label:
            draw_confusion(labels, probabilities.argmax(axis=1), names=task.names, path=folder / "confusion.png")
        if (flips := seed_folder(args, best) / FLIPS_FILE).is_file():
            flips.replace(folder / FLIPS_FILE)
        write_json(folder / METRICS_FILE, metrics)
        text = describe(metrics, results, args, example=opening_words(splits["test"]["text"][:20]))
        write_whole(folder / REPORT_FILE, text)
        logger.info(text.rstrip())
    return {name: value["mean"] for name, value in metrics["test"].items() if "mean" in value}


def majority_share(split: Dataset, task: Task) -> float:
    """Accuracy of naming the most frequent label, or set of labels, of the split itself: the least that counts as learning."""
    labels = [tuple(label) if task.multi_label else label for label in split["label"]]
    return max(labels.count(label) for label in set(labels)) / len(labels)


def describe(metrics: dict, results: dict[int, dict], args: ClassificationArguments, *, example: str | None = None) -> str:
    """The end of a run in a few lines: the figures people compare, over the seeds, beside simpler methods.

    Args: `example` is the text that the next command has labelled.
    """
    folder = Path(args.output_dir)
    lines = []
    for name in ("validation", "test"):
        accuracy, f1 = metrics[name]["accuracy"], metrics[name]["macro_f1"]
        more = f" +- {100 * accuracy['standard_deviation']:.2f}" if accuracy["standard_deviation"] is not None else ""
        rest = "".join(
            f", {label} {metrics[name][key]['mean']:.4f}"
            for key, label in (("roc_auc", "ROC-AUC"), ("log_loss", "log loss"), ("calibration_error", "calibration error"))
            if key in metrics[name] and not math.isnan(metrics[name][key]["mean"])
        )
        lines.append(f"{name}: accuracy {100 * accuracy['mean']:.2f} %{more}, macro F1 {f1['mean']:.4f}{rest}")
    if len(results) > 1:
        each = ", ".join(f"{seed}: {100 * result['test']['accuracy']:.2f} %" for seed, result in results.items())
        lines.append(f"test accuracy of each seed: {each}; kept, by validation: seed {metrics['kept_seed']}")
    compared = [f"always the most frequent label {100 * metrics['majority']:.2f} %"]
    if "tfidf" in metrics:
        compared.append(
            f"TF-IDF with logistic regression {100 * metrics['tfidf']['accuracy']:.2f} % "
            f"(macro F1 {metrics['tfidf']['macro_f1']:.4f})"
        )
    lines.append(f"the same test set: {'; '.join(compared)}")
    kept = results[metrics["kept_seed"]]
    advice = (
        no_better_than_majority(
            metrics["test"]["accuracy"]["mean"],
            metrics["majority"],
            texts=len(kept["test"]["probabilities"]),
            trained=args.method != "likelihood",
        ),
        kept.get("best_step"),
    )
    lines += [sentence for sentence in advice if sentence]
    if kept.get("difference_of_merging") is not None:
        lines.append(f"merged: {folder / 'merged'}, its logits within {kept['difference_of_merging']:.1e} of the adapter's")
    lines.append("; ".join(f"{what}: {folder / name}" for what, name in LEFT_BEHIND if (folder / name).exists()))
    if "training_seconds" in kept:
        seconds = sum(result["training_seconds"] for result in results.values())
        memory = max(result["peak_memory_bytes"] for result in results.values())
        lines.append(
            f"end: {len(results)} x {kept['trained_parameters']:,} of {kept['parameters']:,} parameters trained in {seconds:,.0f} "
            f"s, {describe_speed(kept)}peak memory {memory / 2**20:,.0f} MiB"
        )
        lines.append(f"next: {classify_command(folder, text=example)}")
    return "\n".join(lines) + "\n"
