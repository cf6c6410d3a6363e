"""Store results where others can find them: evaluation.json, the Hub's .eval_results/*.yaml, and the card's model-index."""

import hashlib
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Literal

import yaml
from huggingface_hub import EvalResult, EvalResultEntry, eval_result_entries_to_yaml

from hfgpt.counting import counted, listed
from hfgpt.errors import UserError
from hfgpt.files import read_json, write_json, write_whole

EVALUATION_FILE = "evaluation.json"
EVAL_RESULTS_FOLDER = ".eval_results"
FORMAT = 1
TASK_NAMES = {
    "language-modeling": "Language modeling",
    "text-classification": "Text classification",
    "instructions": "Answering instructions",
    "benchmark": "Benchmark",
}
# The headline figure where there is room for only one: the first that exists.
HEADLINES = ("bits_per_byte", "accuracy", "macro_f1", "right", "token_f1", "acc_norm", "acc", "exact_match", "perplexity")
NAMES = {
    "loss": "Loss (nats per token)",
    "bits_per_byte": "Bits per byte",
    "perplexity": "Perplexity per token",
    "word_perplexity": "Perplexity per word",
    "macro_f1": "Macro F1",
    "token_f1": "Token F1",
    "right": "Right answers",
    "most_frequent": "Right by always giving the most frequent answer of a kind",
    "acc": "Accuracy",
    "acc_norm": "Accuracy, by length-normalised likelihood",
    "roc_auc": "ROC-AUC",
    "rougeL": "ROUGE-L",
}


@dataclass
class Result:
    """The result of one measurement.

    Args:
        task: what the model had to do.
        dataset: the data: names of files (never their paths), of Hub datasets or of benchmarks.
        metrics: numbers by name, in their natural units; non-finite ones are left out.
        dataset_id: the dataset on the Hub, if it came from there.
        sha256: the hash of the file, of the hashes of several files, or of the documents' texts, each followed by a NUL byte.
        split: which part of the dataset.
        settings: how it was measured: context, stride, what precedes a document.
        counts: numbers of examples, tokens, bytes.
        seen_in_training: whether the model was trained on these texts, or on part of them.
        command: the command line that repeats the measurement.
    """

    task: Literal["language-modeling", "text-classification", "instructions", "benchmark"]
    dataset: str
    metrics: dict[str, float]
    dataset_id: str | None = None
    sha256: str | None = None
    split: str | None = None
    settings: dict = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    command: str = ""
    seen_in_training: bool = False
    date: str = field(default_factory=lambda: datetime.now(timezone.utc).isoformat(timespec="seconds"))

    @property
    def named(self) -> str:
        """The name of the data, which is that of its sources, of which the first are named."""
        return listed(self.dataset.split(", "))

    @property
    def title(self) -> str:
        """The task and the data."""
        where = f"{self.named} ({self.split})" if self.split else self.named
        return f"{_task_of(asdict(self))}, {where}"

    def line(self) -> str:
        """The result for people, with standard errors beside their figures."""
        errors = {name.removesuffix("_stderr"): value for name, value in self.metrics.items() if name.endswith("_stderr")}
        figures = [
            f"{name} {value:,.4f}" + (f" +- {errors[name]:,.4f}" if name in errors else "")
            for name, value in self.metrics.items()
            if not name.endswith("_stderr")
        ]
        notes = [note for note in (answered_of(self.counts), "seen in training" if self.seen_in_training else None) if note]
        noted = f" ({'; '.join(notes)})" if notes else ""
        return f"{self.title}{noted}: {', '.join(figures)}"

    def entry(self) -> dict:
        """The result as stored in evaluation.json: counts beside the rest, without unknown values."""
        values = asdict(self)
        values["metrics"] = {name: value for name, value in self.metrics.items() if math.isfinite(value)}
        counts = values.pop("counts")
        if not values["seen_in_training"]:
            del values["seen_in_training"]
        return {name: value for name, value in {**values, **counts}.items() if name == "metrics" or value not in (None, {}, "")}


def figures_of(results: Sequence[Result]) -> dict[str, float]:
    """All metrics by the name of their data, "texts.txt: loss"; of several results on such data, with what was measured."""
    several = {name for name, count in Counter(result.named for result in results).items() if count > 1}
    titles = [result.title if result.named in several else result.named for result in results]
    alike = {title for title, count in Counter(titles).items() if count > 1}  # files with the same name
    titles = [f"{title}, {_digest(result.entry())}" if title in alike else title for title, result in zip(titles, results)]
    return {f"{title}: {key}": value for title, result in zip(titles, results) for key, value in result.metrics.items()}


def refuse_others_results(folder: Path, *, model: str) -> None:
    """Raises: UserError if a folder that is not the model's own holds the results of another one."""
    found = read_evaluation(folder)
    if found and found["model"] != model:
        raise UserError(
            f"{folder / EVALUATION_FILE} holds results of {found['model']}, not of {model}; give each model its own --output_dir."
        )


def record_results(folder: Path, results: Sequence[Result], *, model: str) -> dict:
    """Write `results` into the folder's evaluation.json and `.eval_results/`; an earlier result for the same data is replaced.

    "The same" means the same task, dataset and split, but not another SHA-256: of a file, the dataset is only the name, without the
    folder. Both are written atomically.

    Returns: the content of evaluation.json.
    Raises: ValueError for an invalid evaluation.json.
    """
    evaluation = read_evaluation(folder) or {"format": FORMAT, "model": model, "results": []}
    evaluation["model"] = model
    for new in (result.entry() for result in results):
        others = [entry for entry in evaluation["results"] if not _is_same(entry, new)]
        evaluation["results"] = [*others, new]  # the newest comes last
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / EVALUATION_FILE, evaluation, ensure_ascii=False, allow_nan=False)
    write_eval_results(folder, evaluation)
    return evaluation


def write_eval_results(folder: Path, evaluation: dict) -> list[Path]:
    """Write each result with figures on texts that the model has not seen to `.eval_results/`, and return the files."""
    entries = [entry for entry in evaluation["results"] if entry["metrics"]]
    names, place, paths = [_file_name(entry) for entry in entries], folder / EVAL_RESULTS_FOLDER, []
    shared = {name for name, count in Counter(names).items() if count > 1}
    for name in shared:
        (place / f"{name}.yaml").unlink(missing_ok=True)  # it may be any one's, of a time when it was the only one
    for entry, name in zip(entries, names, strict=True):
        path = place / f"{name}-{_digest(entry)}.yaml" if name in shared else place / f"{name}.yaml"
        if entry.get("seen_in_training"):
            path.unlink(missing_ok=True)  # of an earlier hfgpt, which did not tell such texts apart
            continue
        path.parent.mkdir(exist_ok=True)
        write_whole(path, eval_results_yaml(entry))
        paths.append(path)
    return paths


def read_evaluation(folder: Path) -> dict | None:
    """The folder's evaluation.json, or None if there is none. Raises: ValueError, with its name, for any other content."""
    path = Path(folder) / EVALUATION_FILE
    if not path.is_file():
        return None
    content = read_json(path)
    good = content.get("format") == FORMAT and isinstance(content.get("results"), list)
    if not good or not all(
        isinstance(entry, dict) and {"task", "dataset", "metrics"} <= entry.keys() for entry in content["results"]
    ):
        raise UserError(
            f"{path} is not an evaluation written by recipes/evaluate.py (format {FORMAT}); delete it and evaluate again."
        )
    return content


def eval_results_yaml(entry: dict) -> str:
    """One result in the Hub's format for `.eval_results/`: its headline as the value, the other numbers in the notes.

    The Hub shows those whose dataset is on the Hub; a user's file is given by name, with its SHA-256 in the notes.
    """
    metrics = entry["metrics"]
    headline = headline_of(metrics)
    notes = [f"{headline}", *(f"{name} {value:.6g}" for name, value in metrics.items() if name != headline)]
    if "sha256" in entry:
        notes.append(f"sha256 {entry['sha256']}")
    one = EvalResultEntry(
        dataset_id=entry.get("dataset_id") or entry["dataset"],
        task_id=_task_of(entry),
        value=metrics[headline],
        date=entry.get("date"),
        notes="; ".join(notes),
    )
    return yaml.safe_dump(eval_result_entries_to_yaml([one]), sort_keys=False, allow_unicode=True)


def answered_of(counts: dict) -> str | None:
    """Of how many examples the figures on answers are, where not all were answered: "350 examples, 10 answered"."""
    examples, answered = counts.get("num_examples"), counts.get("num_answers")
    if examples is None or answered is None or answered == examples:
        return None
    return f"{counted(examples, 'examples')}, {answered:,} answered"


def headline_of(metrics: dict[str, float]) -> str:
    """The name of the headline figure."""
    # A benchmark may have a metric under several filters: "exact_match (strict-match)".
    found = (next((one for one in metrics if one == name or one.startswith(f"{name} (")), None) for name in HEADLINES)
    return next(filter(None, found), next(iter(metrics)))


def model_index(evaluation: dict) -> list[EvalResult]:
    """The results as the model-index of a card, one entry per metric.

    Standard errors, counts and figures on texts of the model's own training are only in evaluation.json.

    Args: `evaluation` as `record_results` returns it and evaluation.json holds it.
    """
    entries = [entry for entry in evaluation["results"] if not entry.get("seen_in_training")]
    where = [
        (
            "text-classification" if entry["task"] == "text-classification" else "text-generation",
            entry.get("dataset_id") or _slug(entry["dataset"]),
            entry.get("split"),
        )
        for entry in entries
    ]
    results = []
    for entry, (hub_task, dataset_type, split) in zip(entries, where, strict=True):
        config = None
        if where.count((hub_task, dataset_type, split)) > 1:  # the Hub would take them for one
            if entry.get("dataset_id"):
                config = entry["dataset"].partition(":")[2] or _task_of(entry)
            else:
                dataset_type += f"-{_digest(entry)}"
        for name, value in entry["metrics"].items():
            if name.endswith("_stderr") or name.startswith("num_") or name in ("stopped", "cut", "mean_tokens", "most_frequent"):
                continue
            results.append(
                EvalResult(
                    task_type=hub_task,
                    task_name=TASK_NAMES[entry["task"]],
                    dataset_type=dataset_type,
                    dataset_name=entry["dataset"],
                    dataset_config=config,
                    dataset_split=split,
                    metric_type=name,
                    metric_name=NAMES.get(name, name.replace("_", " ").capitalize()),
                    metric_value=value,
                )
            )
    return results


def _task_of(entry: dict) -> str:
    """The task: for a benchmark, which one; several may use the same file of questions."""
    return entry.get("settings", {}).get("task", "benchmark") if entry["task"] == "benchmark" else entry["task"]


def _key(entry: dict) -> tuple:
    return entry["task"], _task_of(entry), entry["dataset"], entry.get("split")


def _is_same(one: dict, other: dict) -> bool:
    hashes = {entry["sha256"] for entry in (one, other) if entry.get("sha256")}
    return _key(one) == _key(other) and len(hashes) < 2


def _file_name(entry: dict) -> str:
    """A readable name, which several entries may share: it is cut, and has no letters but ASCII's."""
    kind, task, *where = _key(entry)
    parts = [kind, *([task] if kind == "benchmark" else []), *where]
    return "-".join(_slug(part) for part in parts if part)[:120]


def _digest(entry: dict) -> str:
    """Eight digits that tell entries apart whose names are the same."""
    return hashlib.sha256(repr((*_key(entry), entry.get("sha256"))).encode()).hexdigest()[:8]


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._]+", "-", name).strip("-.") or "dataset"
