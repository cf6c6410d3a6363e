"""Benchmarks through lm-evaluation-harness: its own task definitions, on the user's files or on data from the Hub.

`FILE.jsonl:TASK` asks the questions in a local file exactly as the harness phrases TASK, without a network: the task's definition
is included, and only the source of its questions is replaced. The rows have the format of the original dataset, one object per
line.
"""

import functools
import hashlib
import json
import logging
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import yaml

from hfgpt.counting import quoted
from hfgpt.data.json_files import json_rows
from hfgpt.data.reading import json_type
from hfgpt.errors import MissingFileError, UserError, require
from hfgpt.evaluation.loading import Loaded
from hfgpt.evaluation.results import Result
from hfgpt.evaluation.seen_texts import seen_in_training
from hfgpt.files import sha256_of_file
from hfgpt.tables import Table

if TYPE_CHECKING:
    from lm_eval.tasks import TaskManager


@dataclass(frozen=True)
class LocalTask:
    """A task for the user's files, whose rows are checked before they are used.

    Args:
        definition: the file that defines it, relative to lm_eval's folder of tasks; or an absolute path.
        columns: the required columns and their types. A text must not be blank,
        may_be_blank: except in these columns.
        problem: returns anything else that is wrong with a row, or None.
    """

    definition: str
    columns: dict[str, type | tuple[type, ...]]
    may_be_blank: tuple[str, ...] = ()
    problem: Callable[[dict], str | None] = lambda row: None


def _problem_of_hellaswag(row: dict) -> str | None:
    right = str(row["label"])
    if not right.isdecimal() or int(right) >= len(row["endings"]):
        return f"the label is {row['label']!r}, but there are {len(row['endings'])} endings; it must be an index from 0."


def _problem_of_lambada(row: dict) -> str | None:
    if " " not in row["text"].strip():
        return "the text is one word; lambada asks for the last word of several."


def _problem_of_arc(row: dict) -> str | None:
    names, texts = (row["choices"].get(key) for key in ("label", "text"))
    if not isinstance(names, list) or not isinstance(texts, list) or len(names) != len(texts):
        return "choices need 'label' and 'text', two lists of the same length."
    if row["answerKey"] not in names:
        return f"the answerKey is {row['answerKey']!r}, but must be one of {names}."


# Any other task can also be used with a file: its definition is looked up among several thousand, and its rows are not checked.
LOCAL_TASKS = Table(
    "tasks",
    {
        "hellaswag": LocalTask(
            "hellaswag/hellaswag.yaml",
            {"activity_label": str, "ctx_a": str, "ctx_b": str, "endings": list, "label": (str, int)},
            may_be_blank=("ctx_b",),
            problem=_problem_of_hellaswag,
        ),
        "lambada": LocalTask("lambada/lambada_openai.yaml", {"text": str}, problem=_problem_of_lambada),
        "arc": LocalTask("arc/arc_easy.yaml", {"question": str, "choices": dict, "answerKey": str}, problem=_problem_of_arc),
    },
)


@dataclass(frozen=True)
class Benchmark:
    """A task of the harness, and the local file with its rows, if they do not come from the Hub."""

    task: str
    path: Path | None = None

    @classmethod
    def parse(cls, word: str) -> "Benchmark":
        """`FILE:TASK` or `TASK`. Raises: FileNotFoundError for a missing file; ValueError for a file without a task."""
        file, _, task = word.rpartition(":")
        if not file:
            if Path(word).suffix.lower() in (".jsonl", ".ndjson", ".json"):
                raise UserError(f"tasks: {word} has no task; write {word}:hellaswag, :lambada, :arc or another task's name.")
            return cls(task)
        if not Path(file).is_file():
            raise MissingFileError(f"tasks: {file} does not exist (looked from {Path.cwd()}); check the spelling.")
        return cls(task, Path(file))


def run_benchmarks(
    loaded: Loaded,
    benchmarks: Sequence[Benchmark],
    *,
    num_fewshot: int | None = None,
    limit: int | None = None,
    batch_size: int = 8,
) -> list[Result]:
    """Run the harness: one result per task, with its metrics by name (`acc`, `acc_stderr`).

    Args:
        num_fewshot: solved examples in front of each question; None uses the task's own number. With a local file, they come from
            the same file, except the question itself.
        limit: the maximum number of questions per task.
    Raises: ValueError without lm_eval, for an unknown task, and for rows that do not fit the task, with file and line;
        FileNotFoundError if the questions are on the Hub and the Hub cannot be reached.
    """
    require("lm_eval", extra="benchmarks", purpose="tasks need lm-evaluation-harness")
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    for name in ("lm_eval", "lm-eval"):
        logging.getLogger(name).setLevel(logging.ERROR)
    os.environ.setdefault("DISABLE_MULTIPROC", "1")  # computing the standard error of a perplexity would start one process per core
    harness = cast(Any, HFLM)(
        pretrained=loaded.model,
        tokenizer=loaded.tokenizer,
        batch_size=batch_size,
        max_length=loaded.context(None),
        backend="causal",
    )
    all_tasks = functools.cache(TaskManager)  # reads every definition, only if needed: half a minute
    results = []
    with tempfile.TemporaryDirectory(prefix="hfgpt-benchmarks-") as temporary:
        for number, one in enumerate(benchmarks):
            folder = Path(temporary) / str(number)
            folder.mkdir()
            if one.path is None:
                manager, name = all_tasks(), one.task
                if name not in manager.all_tasks:
                    raise UserError(f"tasks: lm_eval has no task {name!r}; 'lm_eval ls tasks' lists all tasks.")
            else:
                name = write_local_task(one.task, one.path, folder, definition=definition_of(one.task, all_tasks))
                manager = TaskManager(include_path=str(folder), include_defaults=False)
            try:
                found = cast(Any, simple_evaluate)(
                    model=harness, tasks=[name], num_fewshot=num_fewshot, limit=limit, task_manager=manager, log_samples=False,
                    bootstrap_iters=1000, batch_size=batch_size,
                )  # fmt: skip
            except (ConnectionError, OSError) as error:
                if one.path is not None:
                    raise
                reason = (str(error).strip() or type(error).__name__).splitlines()[0]
                raise MissingFileError(
                    f"tasks: the questions of {one.task} are on the Hub, which cannot be reached ({reason}); download them once, "
                    f"or give a file: FILE.jsonl:{one.task}."
                ) from None
            results += _results(found, one, loaded.name, limit=limit)
    return results


def check_rows(task: str, path: Path) -> list[dict]:
    """The rows of a local file. Raises: ValueError, with file and line, for one that does not fit the task."""
    known = LOCAL_TASKS.get(task, LocalTask("", {}))
    rows = []
    for row, place, _ in json_rows(path):
        where = f"{path}, {place}"
        if not isinstance(row, dict):
            raise UserError(f"{where}: found a JSON {json_type(row)}, but an object is needed.")
        for name, kind in known.columns.items():
            value = row.get(name)
            if not isinstance(value, kind) or (kind is str and name not in known.may_be_blank and not str(value).strip()):
                shown = json_type(value) if name in row else "missing"
                raise UserError(
                    f"{where}: {name!r} is {shown}; {task} needs {quoted(known.columns)} in every row, as in the original dataset."
                )
        if problem := known.problem(row):
            raise UserError(f"{where}: {problem}")
        rows.append(row)
    if not rows:
        raise UserError(f"{path} is empty; it must have one question per line.")
    return rows


def write_local_task(task: str, path: Path, folder: Path, *, definition: Path) -> str:
    """Write a task file to `folder` that uses the rows of a local file as `definition` would; returns the task's name.

    Raises: see `check_rows`.
    """
    rows = folder / "rows.jsonl"  # a name that datasets cannot mistake for a pattern
    rows.write_text("".join(json.dumps(row) + "\n" for row in check_rows(task, path)), encoding="utf-8")
    name = f"local_{task}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    settings = {
        "include": str(definition),
        "task": name,
        "tag": None,
        "dataset_path": "json",
        "dataset_name": None,
        # `datasets` caches what it reads; use this folder, so that nothing is left behind.
        "dataset_kwargs": {"data_files": {"test": str(rows)}, "cache_dir": str(folder / "cache")},
        "training_split": None,
        "validation_split": None,
        "test_split": "test",
        "fewshot_split": "test",
    }
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    return name


def definition_of(task: str, all_tasks: "Callable[[], TaskManager]") -> Path:
    """The file that defines a task. Args: `all_tasks` is called for a task that is not one of `LOCAL_TASKS`.

    Raises: ValueError for a task that lm_eval does not have, or that is not a single task in a file.
    """
    import lm_eval.tasks

    if task in LOCAL_TASKS:
        definition = LOCAL_TASKS[task].definition
        path = Path(lm_eval.tasks.__file__).parent / definition
        if path.is_file():
            return path
        raise UserError(f"this version of lm_eval has no {definition}; install the version required by hfgpt[benchmarks].")
    known = all_tasks()
    entry = known.task_index.get(task)
    if entry is None or entry.yaml_path is None or task not in known.all_subtasks:
        raise UserError(f"tasks: lm_eval has no single task {task!r} with a definition file; 'lm_eval ls tasks' lists all tasks.")
    return entry.yaml_path


def _results(found: dict, benchmark: Benchmark, model: str, *, limit: int | None) -> list[Result]:
    results = []
    for name, values in found["results"].items():
        metrics = _by_metric({key: value for key, value in values.items() if "," in key and isinstance(value, int | float)})
        if not metrics:
            continue  # the heading of a group without a figure of its own
        path, definition = benchmark.path, found["configs"].get(name, {})
        asked = found["n-samples"].get(name)  # None for a group
        task = benchmark.task if path else name
        results.append(
            Result(
                "benchmark",
                dataset=path.name if path else task,
                dataset_id=None if path else definition.get("dataset_path"),
                sha256=(sha256 := sha256_of_file(path) if path else None),
                seen_in_training=path is not None and bool(seen_in_training(model, [{"name": path.name, "sha256": sha256}])),
                split=None if path else definition.get("test_split") or definition.get("validation_split"),
                metrics={key: float(value) for key, value in metrics.items()},
                settings={
                    "task": task,
                    "task_version": str(found["versions"].get(name)),
                    "num_fewshot": found["n-shot"].get(name, 0),
                    **({"limit": limit} if limit else {}),
                    "lm_eval": version("lm_eval"),
                },
                counts={"num_examples": asked["effective"]} if asked else {},
            )
        )
    return results


def _by_metric(values: dict[str, float]) -> dict[str, float]:
    """lm_eval's "exact_match,strict-match" as "exact_match (strict-match)" if there are several filters, else as "exact_match"."""
    filters = Counter(key.partition(",")[0] for key in values)
    named = {}
    for key, value in values.items():
        metric, _, of = key.partition(",")
        base = metric.removesuffix("_stderr")
        named[f"{base} ({of}){metric.removeprefix(base)}" if filters[base] > 1 else metric] = value
    return named
