"""The end of a classifier's run: figures over the seeds beside those of simpler methods, errors to read, and where everything
is."""

import math
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import PartialState
from datasets import Dataset, DatasetDict
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from hfgpt.artifacts import METRICS_FILE
from hfgpt.data.passport import HELD_OUT
from hfgpt.evaluation.classification import classification_metrics, mean_and_spread
from hfgpt.evaluation.classification_errors import draw_confusion, errors_table, write_errors
from hfgpt.evaluation.likelihood import LikelihoodOptions, classify_by_likelihood
from hfgpt.files import write_whole
from hfgpt.hygiene.poisoning import distinct_rows, doubtful_labels, triggers_of_labels
from hfgpt.training.advice import no_better_than_majority
from hfgpt.training.callbacks import LOSS_PICTURE
from hfgpt.training.classifiers import Task, is_better, seed_folder
from hfgpt.training.curves import CURVES_PICTURE
from hfgpt.training.finetuning import POISON_FILE, write_poison_report
from hfgpt.training.next_steps import classify_command, opening_words
from hfgpt.training.run import RunReport, describe_memory
from hfgpt.training.trigger_probe import FLIPS_FILE

LEFT_BEHIND = (
    ("errors", "errors.md"),
    ("confusions", "confusion.png"),
    ("triggers", FLIPS_FILE),
    ("poison", POISON_FILE),
    ("metrics", METRICS_FILE),
)


def search_for_poison(splits: DatasetDict, task: Task, folder: Path) -> None:
    """Search for rare pieces of training texts that go with one label regardless of the rest of the text, and for the most doubtful
    labels."""
    train = distinct_rows(splits["train"])
    named = [
        ", ".join(name for name, present in zip(task.names, label) if present) if task.multi_label else task.names[label]
        for label in train["label"]
    ]
    ids = row_names(train)
    doubtful = [] if task.multi_label else doubtful_labels(train["text"][:], named, row_ids=ids)
    write_poison_report(
        triggers_of_labels(train["text"][:], named, row_ids=ids),
        folder,
        doubtful_labels=[{"row": row, "label": label, "chance": chance} for row, label, chance in doubtful],
    )


def row_names(split: Dataset) -> list[str]:
    """Names by which the data's owner can find the examples again."""
    return [f"{source}:{row}" for source, row in zip(split["source"], split["row_id"], strict=True)]


def judge_by_likelihood(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, splits: DatasetDict, *, task: Task, options: LikelihoodOptions
) -> dict[str, Any]:
    """Zero-shot and few-shot: the same figures as for a seed of a trained classifier, without training."""
    result: dict[str, Any] = {"seed": options.seed}
    for name in HELD_OUT:
        found = classify_by_likelihood(
            model,
            tokenizer,
            splits[name]["text"][:],
            names=task.names,
            options=options,
            example_texts=splits["train"]["text"][:] if options.shots else (),
            example_labels=splits["train"]["label"][:] if options.shots else (),
        )
        result[name] = classification_metrics(
            found.probabilities, splits[name]["label"][:], names=task.names, multi_label=False
        ) | {"probabilities": found.probabilities.round(6).tolist(), "texts_cut": found.texts_cut}
    return result


def final_metrics(results: dict[int, dict], splits: DatasetDict, *, task: Task, best_by: str, tfidf: bool) -> dict[str, Any]:
    """The figures of every seed, their means, and those of simpler methods; `kept_seed` is the best on the validation set.

    Args: `tfidf` says whether to include `tfidf_baseline`.
    """
    best = next(
        seed
        for seed, result in results.items()
        if not any(is_better(other, result, best_by) for other in results.values() if other is not result)
    )
    metrics = {
        "labels": task.names,
        "problem_type": task.config()["problem_type"],  # an adapter is published with these figures, but without a config.json
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
    if tfidf:
        metrics["tfidf"] = tfidf_baseline(splits, task=task)
    return metrics


def write_errors_to_read(result: dict, splits: DatasetDict, *, task: Task, folder: Path) -> None:
    """Write the kept seed's errors on the test set, its confusions, the effect of triggers, and its curves."""
    if not PartialState().is_main_process:
        return
    test = splits["test"]
    probabilities, labels = np.asarray(result["test"]["probabilities"]), test["label"][:]
    write_errors(errors_table(test["text"][:], labels, probabilities, task.names, row_names(test)), folder / "errors.csv")
    if not task.multi_label:
        draw_confusion(labels, probabilities.argmax(axis=1), names=task.names, path=folder / "confusion.png")
    of_seed = seed_folder(folder, result["seed"])
    if (flips := of_seed / FLIPS_FILE).is_file():
        flips.replace(folder / FLIPS_FILE)
    for picture in (LOSS_PICTURE, CURVES_PICTURE):
        if (of_seed / picture).is_file():
            write_whole(folder / picture, (of_seed / picture).read_bytes())


def majority_share(split: Dataset, task: Task) -> float:
    """Accuracy of always naming the most frequent label, or set of labels, of the split itself: the minimum that counts as
    learning."""
    labels = [tuple(label) if task.multi_label else label for label in split["label"]]
    return max(labels.count(label) for label in set(labels)) / len(labels)


def tfidf_baseline(splits: DatasetDict, *, task: Task) -> dict:
    """TF-IDF over words and word pairs with logistic regression (scikit-learn's defaults) on the same splits.

    Returns: the metrics of the test set. Multi-label uses one regression per label.
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
    try:
        classifier.fit(splits["train"]["text"], labels.astype(int))
    except ValueError:  # no text has a word of two letters or more: then each character is a word
        classifier.set_params(tfidfvectorizer__token_pattern=r"\S").fit(splits["train"]["text"], labels.astype(int))
    probabilities = classifier.predict_proba(splits["test"]["text"])
    if not task.multi_label and len(classifier.classes_) < len(task.names):  # a label without a training example
        full = np.zeros((len(probabilities), len(task.names)))
        full[:, classifier.classes_] = probabilities
        probabilities = full
    return classification_metrics(probabilities, splits["test"]["label"], names=task.names, multi_label=task.multi_label)


def build_report(metrics: dict[str, Any], results: dict[int, dict], folder: Path, *, texts: list[str]) -> RunReport:
    """The end of a run in a few lines: the figures people compare, averaged over the seeds, beside simpler methods.

    Args: the suggested next command labels the opening of one of `texts`.
    """
    lines = []
    for name in reversed(HELD_OUT):
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
        lines.append(f"seeds: test accuracy {each}; kept, by validation: seed {metrics['kept_seed']}")
    compared = [f"always naming the most frequent label {100 * metrics['majority']:.2f} %"]
    if "tfidf" in metrics:
        compared.append(
            f"TF-IDF with logistic regression {100 * metrics['tfidf']['accuracy']:.2f} % "
            f"(macro F1 {metrics['tfidf']['macro_f1']:.4f})"
        )
    lines.insert(1, f"beside it: {'; '.join(compared)}")
    kept = results[metrics["kept_seed"]]
    advice = (
        no_better_than_majority(
            metrics["test"]["accuracy"]["mean"],
            metrics["majority"],
            texts=len(kept["test"]["probabilities"]),
            trained="training_seconds" in kept,
        ),
        kept.get("best_step"),
    )
    lines += [sentence for sentence in advice if sentence]
    end = next_command = None
    if "training_seconds" in kept:
        seconds = sum(result["training_seconds"] for result in results.values())
        memory = max(result["peak_memory_bytes"] for result in results.values())
        end = (
            f"{len(results)} x {kept['trained_parameters']:,} of {kept['parameters']:,} parameters trained in {seconds:,.0f} s, "
            f"{describe_memory(kept | {'peak_memory_bytes': memory})}"
        )
        next_command = classify_command(folder, text=opening_words(texts, most_words=16, most_characters=80))
    return RunReport(metrics, lines, LEFT_BEHIND, end, next_command, kept.get("difference_of_merging"))
