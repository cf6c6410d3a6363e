"""Documents that are read on a cluster: by tasks of datatrove on Ray or Slurm, with the result of reading them here.

Each task reads a share of the sources, in their order, does to each document what is done to it by itself, and writes a file; what
compares documents comes after, in the one process that collects the files. Since shares are neighbours and files are collected in
the order of the tasks, the documents, their order and all counts are those of one machine. A source is never cut: as many tasks as
there are sources can work at once.
"""

import json
import os
import shlex
import shutil
import subprocess
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hfgpt.arguments.engine import available_processors
from hfgpt.data.on_disk import stored_documents, write_documents
from hfgpt.data.passport import Passport
from hfgpt.data.reading import Source
from hfgpt.data.row_errors import RowErrors
from hfgpt.data.sources import Read, ReadingOptions, drawn_documents, identity, record_loaded, refuse_changed, state_of
from hfgpt.data.steps import StepCounts, TextStep, apply_steps
from hfgpt.errors import RunStopped, UserError, require
from hfgpt.files import read_json, write_json

MOST_TASKS = 1_000  # what a Slurm cluster takes as one array, where nobody asks for more or less


@dataclass(frozen=True)
class ReadingTask:
    """What each task does: a step of a datatrove pipeline, which calls it with its number and the number of tasks.

    Args:
        sources, options, steps, draw, on_error: as `load_documents` takes them.
        folder: that all tasks and the collecting process share.
    """

    sources: tuple[Source, ...]
    options: ReadingOptions
    steps: tuple[TextStep, ...]
    draw: Callable[[str], float]
    on_error: str
    folder: Path

    def __call__(self, data: object, rank: int, world_size: int) -> None:
        """Read share `rank` and write its documents, then its counts: a task whose counts are there is complete."""
        sources = shares(self.sources, world_size)[rank]
        found = {source: state_of(source) for source in sources}
        errors, counts, read = RowErrors(self.on_error), [StepCounts() for _ in self.steps], Read(sources)
        try:
            inputs = [identity(source, self.options) for source in sources]
            drawn = drawn_documents(sources, self.options, errors, self.draw, read)
            documents = write_documents(apply_steps(drawn, self.steps, counts), self.folder / f"{rank:05d}.arrow")
            refuse_changed(found)
        except Exception as error:  # said by the process that collects; on Slurm, also in the log of the task
            said = str(error) if isinstance(error, UserError) else traceback.format_exc()
            write_json(self.folder / f"{rank:05d}.error.json", {"message": said, "bug": not isinstance(error, UserError)})
            raise RuntimeError(said) from None  # which every process can hand to another
        skipped = {"counts": errors.counts, "firsts": errors.firsts, "sources": errors.sources}
        done = {"documents": len(documents), "read": read, "inputs": inputs, "skipped": skipped}
        done["counts"] = [vars(count) for count in counts]
        write_json(self.folder / f"{rank:05d}.json", done)


def shares(sources: Sequence[Source], number: int) -> list[list[Source]]:
    """The sources in `number` neighbouring parts of about the same bytes; what is not a file counts as the mean of the files."""
    sizes = [source.path.stat().st_size if source.path else None for source in sources]
    known = [size for size in sizes if size]
    mean = sum(known) / len(known) if known else 1
    total = sum(size if size is not None else mean for size in sizes) or 1
    parts: list[list[Source]] = [[] for _ in range(number)]
    before = 0.0
    for source, size in zip(sources, sizes, strict=True):
        size = mean if size is None else size
        parts[min(number - 1, int(number * (before + size / 2) / total))].append(source)
        before += size
    return parts


@dataclass(frozen=True)
class Engine:
    """A cluster, and how it is asked.

    Args:
        name: "ray" or "slurm".
        folder: for the files of the tasks; all machines see it. On Slurm it stays between the commands that go on with each other.
        tasks: how many; None is one for each source, at most `MOST_TASKS`.
        settings: more arguments of datatrove's executor, such as partition, time, mem_per_cpu_gb, env_command.
        command: what starts this recipe again: on Slurm, in the job that collects.
    """

    name: str
    folder: Path
    tasks: int | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    command: tuple[str, ...] = ()

    def complete(self, task: ReadingTask) -> int:
        """Have all tasks done that are not yet. Returns: how many they are. Raises: see `load_on_engine`."""
        require("datatrove", extra="data", purpose=f"engine: {self.name} runs datatrove's tasks")
        number = min(self.tasks or MOST_TASKS, len(task.sources)) if task.options.max_documents is None else 1
        self._begin(task, number)
        if not self._complete(number):
            (self._run_on_ray if self.name == "ray" else self._hand_to_slurm)(task, number)
        return number

    def clear(self) -> None:
        """Remove what the tasks wrote, once it is used."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _begin(self, task: ReadingTask, number: int) -> None:
        """Keep what tasks of the very same reading have written; of another one, nothing."""
        states = [(source.name, state_of(source)) for source in task.sources]
        steps = [(step.name, step.settings) for step in task.steps]
        same = json.loads(json.dumps([number, states, asdict(task.options), steps, repr(task.draw), task.on_error], default=str))
        plan = self.folder / "plan.json"
        if not plan.is_file() or read_json(plan) != {"reading": same}:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir(parents=True)
            write_json(plan, {"reading": same})
        for refused in self.folder.glob("*.error.json"):
            refused.unlink()

    def _complete(self, number: int) -> bool:
        return all((self.folder / f"{rank:05d}.json").is_file() for rank in range(number))

    def _run_on_ray(self, task: ReadingTask, number: int) -> None:
        from datatrove.executor import RayPipelineExecutor

        with _ray():
            executor = self._executor(RayPipelineExecutor, [task], tasks=number, **{"mem_per_cpu_gb": 1} | self.settings)
            executor.run()  # an error of a task is in its log, and in what it wrote here
        self._refuse_failed(number)

    def _refuse_failed(self, number: int) -> None:
        for path in sorted(self.folder.glob("*.error.json")):
            error = read_json(path)
            raise (RuntimeError if error["bug"] else UserError)(error["message"])
        if not self._complete(number):
            raise UserError(f"not all tasks have ended well; what they said is in {self.folder / 'logs' / 'logs'}.")

    def _hand_to_slurm(self, task: ReadingTask, number: int) -> None:
        """Write the scripts, and start them where there is `sbatch`: an array of tasks, then this recipe again, which collects."""
        script = self.write_scripts(task, number)
        if shutil.which("sbatch") is None:
            raise UserError(
                f"engine is slurm and there is no sbatch here; the scripts are written: run {shlex.quote(str(script))} where there "
                "is one, on the same file system."
            )
        done = subprocess.run(["bash", str(script)], capture_output=True, text=True)
        if done.returncode:
            raise UserError(f"{script} failed: {done.stderr.strip() or done.stdout.strip()}")
        raise RunStopped(f"data: {number:,} tasks and the job that collects are with Slurm ({done.stdout.strip()}).")

    def write_scripts(self, task: ReadingTask, number: int) -> Path:
        """datatrove's script for the tasks, one for the job that collects, and `submit.sh`, which chains and starts both."""
        import dill
        from datatrove.executor import SlurmPipelineExecutor

        defaults = {"time": "24:00:00", "partition": "cpu", "job_name": "hfgpt-documents", "max_array_size": -1}
        executor = self._executor(SlurmPipelineExecutor, [task], tasks=number, **defaults | self.settings)
        tasks = executor.get_incomplete_ranks()
        # What `executor.run` does before it calls sbatch.
        with executor.logging_dir.open("executor.pik", "wb") as file:
            dill.dump(executor, file, fmode=dill.CONTENTS_FMODE)
        write_json(self.folder / "logs" / "ranks_to_run.json", tasks)
        pickled = shlex.quote(str(self.folder / "logs" / "executor.pik"))
        sbatch = executor.get_sbatch_args(len(tasks))
        scripts = {
            "tasks.slurm": (sbatch, f"srun -l -n 1 launch_pickled_pipeline {pickled}"),
            "collect.slurm": (
                {key: value for key, value in sbatch.items() if key != "array"} | {"job-name": f"{executor.job_name}-collect"},
                f"cd {shlex.quote(str(Path.cwd()))}\n{shlex.join(self.command)}",
            ),
        }
        for name, (words, run) in scripts.items():
            (self.folder / name).write_text(executor.get_launch_file_contents(words, run), encoding="utf-8")
        submit = self.folder / "submit.sh"
        submit.write_text(
            "#!/bin/bash\nset -e\n"
            f"cd {shlex.quote(str(self.folder))}\n"
            "tasks=$(sbatch --parsable --export=ALL,RUN_OFFSET=0 tasks.slurm)\n"
            "collect=$(sbatch --parsable --dependency=afterok:$tasks collect.slurm)\n"
            'echo "jobs $tasks, then $collect"\n',
            encoding="utf-8",
        )
        return submit

    def _executor(self, kind: type, pipeline: list, **settings: Any):
        try:
            return kind(pipeline, logging_dir=str(self.folder / "logs"), **settings)
        except TypeError as error:
            raise UserError(f"engine_settings {self.settings}: datatrove's {kind.__name__} does not take them ({error}).") from None


@contextmanager
def _ray() -> Iterator[None]:
    """A connection to Ray: to the cluster that RAY_ADDRESS names, else to one of this machine, which ends with it."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # or it reports to its makers
    ray: Any = require("ray", extra="ray", purpose="engine: ray needs Ray")
    from loguru import logger

    logger.disable("datatrove")  # a page for every task; what they say is in their logs
    begun = not ray.is_initialized()
    if begun and "RAY_ADDRESS" in os.environ:
        ray.init(log_to_driver=False)
    elif begun:
        # No task puts anything into the store but itself.
        ray.init(num_cpus=available_processors(), object_store_memory=100_000_000, include_dashboard=False, log_to_driver=False)
    try:
        yield
    finally:
        if begun:
            ray.shutdown()
        logger.enable("datatrove")


def load_on_engine(
    engine: Engine,
    sources: Sequence[Source],
    options: ReadingOptions,
    passport: Passport,
    *,
    steps: Sequence[TextStep] = (),
    draw: Callable[[str], float],
    on_error: str = "stop",
):
    """What `load_documents` returns and records, from the tasks of a cluster.

    Raises: UserError for what a task cannot read; RunStopped where the tasks are handed to Slurm, and this process is done.
    """
    start = time.perf_counter()
    task = ReadingTask(tuple(sources), options, tuple(steps), draw, on_error, engine.folder)
    number = engine.complete(task)
    passport.inputs, counts, errors, read = [], [StepCounts() for _ in steps], RowErrors(on_error), Read(sources)
    for rank in range(number):
        done = read_json(task.folder / f"{rank:05d}.json")
        passport.inputs += done["inputs"]
        for count, more in zip(counts, done["counts"], strict=True):
            count.add(StepCounts(**more | {"reasons": Counter(more["reasons"])}))
        for source, (number_read, num_bytes) in done["read"].items():
            read.add(source, number_read, num_bytes)
        errors.counts.update(done["skipped"]["counts"])
        errors.sources.update(done["skipped"]["sources"])
        errors.firsts = done["skipped"]["firsts"] | errors.firsts
    documents = stored_documents([task.folder / f"{rank:05d}.arrow" for rank in range(number)])
    record_loaded(documents, read, steps, counts, errors, passport, start)
    return documents
