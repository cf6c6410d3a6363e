"""Benchmarks through lm-evaluation-harness: its own task definitions, on files of the user's or on what the Hub has.

`FILE.jsonl:TASK` asks the questions of a local file exactly as the harness words TASK, without a network: the task's definition is
included, and only where its questions come from is replaced. The rows are those of the original dataset, one object a line.
"""

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from hfgpt.data.json_files import json_rows
from hfgpt.data.reading import json_type
from hfgpt.errors import MissingFileError, UserError, require
from hfgpt.evaluation.loading import Loaded
from hfgpt.files import sha256_of_file

# Of these it is known where the definition lies and what a row has to hold; others are looked up among several thousand.
DEFINITIONS = {
    "hellaswag": "hellaswag/hellaswag.yaml",
    "lambada": "lambada/lambada_openai.yaml",
    "arc": "arc/arc_easy.yaml",
}
COLUMNS = {
    "hellaswag": {"activity_label": str, "ctx_a": str, "ctx_b": str, "endings": list, "label": (str, int)},
    "lambada": {"text": str},
    "arc": {"question": str, "choices": dict, "answerKey": str},
}


@dataclass(frozen=True)
class Benchmark:
    """A task of the harness, and the local file whose rows it asks, where that is not the Hub's."""

    task: str
    path: Path | None = None

    @classmethod
    def parse(cls, word: str) -> "Benchmark":
        """`FILE:TASK` or `TASK`. Raises: FileNotFoundError for a missing file; ValueError for a file without a task."""
        file, _, task = word.rpartition(":")
        if not file:
            if Path(word).suffix.lower() in (".jsonl", ".ndjson", ".json"):
                raise UserError(f"tasks: {word} names no task; write {word}:hellaswag, :lambada, :arc or another task's name.")
            return cls(task)
        if not Path(file).is_file():
            raise MissingFileError(f"tasks: {file} does not exist (looked from {Path.cwd()}); check the spelling.")
        return cls(task, Path(file))


@dataclass
class BenchmarkResult:
    """What came of one task: its metrics by name (`acc`, `acc_stderr`), how many questions, and of which version and dataset."""

    benchmark: Benchmark
    task: str
    metrics: dict[str, float]
    num_examples: int
    num_fewshot: int
    version: str
    dataset_id: str | None
    sha256: str | None
    split: str | None


def run_benchmarks(
    loaded: Loaded,
    benchmarks: Sequence[Benchmark],
    *,
    num_fewshot: int | None = None,
    limit: int | None = None,
    batch_size: int = 8,
) -> list[BenchmarkResult]:
    """Let the harness ask its questions.

    Args:
        num_fewshot: solved examples in front of each question; None is the task's own number. On a local file they come out of
            the same file, the question itself left out.
        limit: only so many questions of each task.
    Raises: ValueError without lm_eval, for an unknown task, and for rows that the task cannot ask, with file and line;
        FileNotFoundError where the questions are on the Hub, and the Hub is out of reach.
    """
    require("lm_eval", extra="benchmarks", purpose="tasks are asked by lm-evaluation-harness")
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    for name in ("lm_eval", "lm-eval"):
        logging.getLogger(name).setLevel(logging.ERROR)
    os.environ.setdefault("DISABLE_MULTIPROC", "1")  # the standard error of a perplexity would start a process a core
    harness = HFLM(
        pretrained=loaded.model,
        tokenizer=loaded.tokenizer,
        batch_size=batch_size,
        max_length=loaded.context(None),
        backend="causal",
    )
    known = None
    if any(one.path is None or one.task not in DEFINITIONS for one in benchmarks):
        known = TaskManager()  # reads every definition: half a minute
    results = []
    with tempfile.TemporaryDirectory(prefix="hfgpt-benchmarks-") as temporary:
        for number, one in enumerate(benchmarks):
            folder = Path(temporary) / str(number)
            folder.mkdir()
            if one.path is None:
                if one.task not in known.all_tasks:
                    raise UserError(f"tasks: lm_eval knows no task {one.task!r}; 'lm_eval ls tasks' lists what there is.")
                manager, name = known, one.task
            else:
                name = write_local_task(one, folder, definition=definition_of(one.task, known))
                manager = TaskManager(include_path=str(folder), include_defaults=False)
            try:
                found = simple_evaluate(
                    model=harness, tasks=[name], num_fewshot=num_fewshot, limit=limit, task_manager=manager, log_samples=False,
                    bootstrap_iters=1000, batch_size=batch_size,
                )  # fmt: skip
            except (ConnectionError, OSError) as error:
                if one.path is not None:
                    raise
                reason = (str(error).strip() or type(error).__name__).splitlines()[0]
                raise MissingFileError(
                    f"tasks: the questions of {one.task} are on the Hub, which is out of reach ({reason}); download them once, "
                    f"or give a file: FILE.jsonl:{one.task}."
                ) from None
            results += _results(found, one)
    return results


def check_rows(benchmark: Benchmark) -> list[dict]:
    """The rows of a local file. Raises: ValueError, with file and line, for one that its task could not ask."""
    columns = COLUMNS.get(benchmark.task, {})
    rows = []
    for row, place, _ in json_rows(benchmark.path):
        where = f"{benchmark.path}, {place}"
        if not isinstance(row, dict):
            raise UserError(f"{where}: found a JSON {json_type(row)}, an object is needed.")
        for name, kind in columns.items():
            if not isinstance(row.get(name), kind) or (kind is str and name != "ctx_b" and not row[name].strip()):
                shown = json_type(row[name]) if name in row else "missing"
                raise UserError(
                    f"{where}: {name!r} is {shown}; {benchmark.task} needs {', '.join(map(repr, columns))} in every row, as in the "
                    "original dataset."
                )
        _check_answer(benchmark.task, row, where)
        rows.append(row)
    if not rows:
        raise UserError(f"{benchmark.path} is empty; one question a line is needed.")
    return rows


def _check_answer(task: str, row: dict, where: str) -> None:
    if task == "hellaswag":
        right = str(row["label"])
        if not right.isdecimal() or int(right) >= len(row["endings"]):
            raise UserError(f"{where}: the label is {row['label']!r}, of {len(row['endings'])} endings; a place from 0 is needed.")
    if task == "arc":
        names, texts = (row["choices"].get(key) for key in ("label", "text"))
        if not isinstance(names, list) or not isinstance(texts, list) or len(names) != len(texts):
            raise UserError(f"{where}: choices need 'label' and 'text', two lists of one length.")
        if row["answerKey"] not in names:
            raise UserError(f"{where}: the answerKey is {row['answerKey']!r}, the choices are {names}; it is one of them.")
    if task == "lambada" and " " not in row["text"].strip():
        raise UserError(f"{where}: the text is one word; lambada asks for the last word of several.")


def write_local_task(benchmark: Benchmark, folder: Path, *, definition: Path) -> str:
    """Write a task file into `folder` that asks the rows of a local file as `definition` does; returns the task's name.

    Raises: as `check_rows`.
    """
    rows = folder / "rows.jsonl"  # a name without anything that datasets would take for a pattern
    rows.write_text("".join(json.dumps(row) + "\n" for row in check_rows(benchmark)), encoding="utf-8")
    name = f"local_{benchmark.task}_{hashlib.sha256(str(benchmark.path).encode()).hexdigest()[:8]}"
    settings = {
        "include": str(definition),
        "task": name,
        "tag": None,
        "dataset_path": "json",
        "dataset_name": None,
        # Datasets keeps what it reads; here, so that nothing stays behind.
        "dataset_kwargs": {"data_files": {"test": str(rows)}, "cache_dir": str(folder / "cache")},
        "training_split": None,
        "validation_split": None,
        "test_split": "test",
        "fewshot_split": "test",
    }
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    return name


def definition_of(task: str, known) -> Path:
    """The file that defines a task. Args: `known` is a TaskManager, or None for one of `DEFINITIONS`.

    Raises: ValueError for a task that lm_eval does not have, or not as a single task in a file.
    """
    import lm_eval.tasks

    if task in DEFINITIONS:
        path = Path(lm_eval.tasks.__file__).parent / DEFINITIONS[task]
        if path.is_file():
            return path
        raise UserError(f"this version of lm_eval has no {DEFINITIONS[task]}; install the one that hfgpt[benchmarks] asks for.")
    entry = known.task_index.get(task)
    if entry is None or entry.yaml_path is None or task not in known.all_subtasks:
        raise UserError(
            f"tasks: lm_eval has no single task {task!r} with a definition file; 'lm_eval ls tasks' lists what there is."
        )
    return entry.yaml_path


def _results(found: dict, benchmark: Benchmark) -> list[BenchmarkResult]:
    results = []
    for name, values in found["results"].items():
        # "acc,none" is the metric acc under the filter none.
        metrics = {key.partition(",")[0]: value for key, value in values.items() if "," in key and isinstance(value, int | float)}
        if not metrics or name not in found["configs"]:
            continue  # the heading of a group
        settings = found["configs"][name]
        local = benchmark.path is not None
        results.append(
            BenchmarkResult(
                benchmark,
                task=benchmark.task if local else name,
                metrics={key: float(value) for key, value in metrics.items()},
                num_examples=found["n-samples"][name]["effective"],
                num_fewshot=found["n-shot"].get(name, 0),
                version=str(found["versions"].get(name)),
                dataset_id=None if local else settings.get("dataset_path"),
                sha256=sha256_of_file(benchmark.path) if local else None,
                split=None if local else settings.get("test_split") or settings.get("validation_split"),
            )
        )
    return results
