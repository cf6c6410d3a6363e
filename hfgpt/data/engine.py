"""Process documents as datatrove tasks on Ray or Slurm, in stages; the output of finished tasks is kept until it is used.

All data passed between tasks is in one folder visible to all machines, with a plan of what was requested: the same command, started
again, continues where it stopped, and a different one starts over.
"""

import functools
import json
import logging
import os
import secrets
import shlex
import shutil
import subprocess
import tempfile
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from hfgpt.arguments.processes import available_processors
from hfgpt.counting import counted
from hfgpt.errors import RunStopped, UserError, require
from hfgpt.files import PARTIAL, read_json, write_json

logger = logging.getLogger(__name__)

PLAN = "plan.json"
SESSION = "ray"  # in the folder: Ray's files while it runs here, or a link to them
# Socket paths are limited to 103 bytes or more, and Ray adds up to 64: session_DATE_TIME_PROCESS/sockets/plasma_store.
LONGEST_SESSION_PATH = 103 - 64


@dataclass(frozen=True)
class Stage:
    """What one executor runs; the next stage may begin when all its tasks are done. Args: `tasks` is the executor's."""

    name: str
    pipeline: list[Callable]
    tasks: int


class ReportedPipeline:
    """The steps of a stage as one, which writes errors to a file: executors only put them in the logs of their tasks."""

    def __init__(self, stage: Stage, folder: Path):  # not a dataclass, because datatrove would save all its fields
        self.stage, self.folder = stage, folder

    def __repr__(self) -> str:
        return f"{self.stage.name}: {', '.join(type(step).__name__ for step in self.stage.pipeline)}"

    def __call__(self, data: Any = None, rank: int = 0, world_size: int = 1) -> None:
        """Do task `rank`."""
        # On a machine with many processors, a task uses only its share: rensa and tokenizers would start a thread per processor.
        os.environ.setdefault("RAYON_NUM_THREADS", os.environ.get("DATATROVE_CPUS_PER_TASK", "1"))
        try:
            for step in self.stage.pipeline:
                data = step(data, rank, world_size)
            deque(data or (), maxlen=0)
        except Exception as error:
            said = str(error) if isinstance(error, UserError) else traceback.format_exc()
            report = {"message": said, "bug": not isinstance(error, UserError)}
            write_json(self.folder / f"{self.stage.name}-{rank:05d}.error.json", report)
            raise RuntimeError(said) from None  # which can be pickled between processes


@dataclass(frozen=True)
class Engine:
    """A cluster, and how to use it.

    Args:
        name: "ray" or "slurm".
        folder: for the files of the tasks, visible to all machines. It is kept until `clear_tasks`, so that a killed run can
            continue.
        tokenizer: used by tasks to encode the documents.
        tasks: number of tasks for the documents; None means one per source, at most `MOST_TASKS` (cluster_documents.py).
        settings: further arguments for datatrove's executor, such as partition, time, mem_per_cpu_gb, env_command.
        command: the command that starts this recipe again, in the collecting job on Slurm.
    """

    name: str
    folder: Path
    tokenizer: PreTrainedTokenizerFast
    tasks: int | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    command: tuple[str, ...] = ()

    def complete(self, stages: Sequence[Stage], *, plan: Mapping[str, object]) -> None:
        """Run all tasks that are not done yet.

        Args: `plan` contains everything their result depends on.
        Raises: UserError for errors in a task; RunStopped if the tasks were submitted to Slurm and this process is done.
        """
        self._begin(plan)
        left = [stage for stage in stages if not self._is_complete(stage)]
        if left:
            (self._run_on_ray if self.name == "ray" else self._hand_to_slurm)(left)

    def _begin(self, plan: Mapping[str, object]) -> None:
        """Keep the output of tasks with exactly the same plan; discard that of any other."""
        path, plan = self.folder / PLAN, json.loads(json.dumps(plan, default=str))
        if (
            self.folder.exists()
            and not path.is_file()
            and any(entry.name != f".{PLAN}{PARTIAL}" for entry in self.folder.iterdir())
        ):
            raise UserError(
                f"{self.folder}, where tasks would write, contains other files; move them, or give another --output_dir."
            )
        if not path.is_file() or read_json(path) != plan:
            clear_tasks(self.folder)
            self.folder.mkdir(parents=True, exist_ok=True)
            write_json(path, plan)
        if failed := self._errors():
            said = read_json(failed[0])["message"]
            logger.warning(f"warning: {len(failed):,} of the tasks that are run again failed before; the first error: {said}")
        for path in failed:
            path.unlink()

    def _errors(self) -> list[Path]:
        return sorted(self.folder.glob("*.error.json"))

    def _is_complete(self, stage: Stage) -> bool:
        """Whether datatrove has marked all tasks as completed."""
        return all((self._logs(stage) / "completions" / f"{rank:05d}").is_file() for rank in range(stage.tasks))

    def _logs(self, stage: Stage) -> Path:
        return self.folder / "logs" / stage.name

    def _run_on_ray(self, stages: Sequence[Stage]) -> None:
        from datatrove.executor import RayPipelineExecutor

        with _ray(self.folder):
            for stage in stages:
                start = time.perf_counter()
                self._executor(RayPipelineExecutor, stage, **{"mem_per_cpu_gb": 1} | self.settings).run()
                if not self._is_complete(stage):
                    break
                logger.info(f"{stage.name}: {counted(stage.tasks, 'tasks')} on Ray, {time.perf_counter() - start:.1f} s")
        if not self._is_complete(stage):
            self._refuse(stage)

    def _refuse(self, stage: Stage) -> None:
        """Raises: the error of a task; UserError if one ended without a message."""
        for path in self._errors():
            error = read_json(path)
            if error["bug"]:
                raise RuntimeError(error["message"])
            clear_tasks(self.folder)  # after a fix, everything starts over: sources and keys are part of the plan
            raise UserError(error["message"])
        raise UserError(
            f"{stage.name}: not all tasks succeeded; see {self._logs(stage) / 'logs'}. Run the same command to continue; finished "
            f"work is kept in {self.folder}."
        )

    def _hand_to_slurm(self, stages: Sequence[Stage]) -> None:
        """Write the scripts and, if there is `sbatch`, submit them: the tasks, then this recipe again, which collects the
        results."""
        script = self.write_scripts(stages)
        if shutil.which("sbatch") is None:
            raise UserError(
                f"engine is slurm, but there is no sbatch here; the scripts are ready: run {shlex.quote(str(script))} on a machine "
                f"with sbatch and the same file system."
            )
        done = subprocess.run(["bash", str(script)], capture_output=True, text=True)
        if done.returncode:
            raise UserError(f"{script} failed: {done.stderr.strip() or done.stdout.strip()}")
        number = counted(sum(stage.tasks for stage in stages), "tasks")
        raise RunStopped(f"data: {number} and the collecting job were submitted to Slurm ({done.stdout.strip()}).")

    def write_scripts(self, stages: Sequence[Stage]) -> Path:
        """datatrove's script for each stage, one for the collecting job, and `submit.sh`, which submits them in sequence."""
        import dill
        from datatrove.executor import SlurmPipelineExecutor

        settings = {"time": "24:00:00", "partition": "cpu", "job_name": "hfgpt", "max_array_size": -1} | self.settings
        for stage in stages:
            named = settings | {"job_name": f"{settings['job_name']}-{stage.name}"}
            executor = self._executor(SlurmPipelineExecutor, stage, **named)
            tasks = executor.get_incomplete_ranks()
            # What `executor.run` does before calling sbatch.
            with executor.logging_dir.open("executor.pik", "wb") as file:
                dill.dump(executor, file, fmode=dill.CONTENTS_FMODE)
            write_json(self._logs(stage) / "ranks_to_run.json", tasks)
            run = f"srun -l -n 1 launch_pickled_pipeline {shlex.quote(str(self._logs(stage) / 'executor.pik'))}"
            self._write_script(stage.name, executor.get_launch_file_contents(executor.get_sbatch_args(len(tasks)), run))
        collect = self._executor(
            SlurmPipelineExecutor, Stage("collect", [], 1), **settings | {"job_name": f"{settings['job_name']}-collect"}
        )
        words = {key: value for key, value in collect.get_sbatch_args().items() if key != "array"}
        run = f"cd {shlex.quote(str(Path.cwd()))}\n{shlex.join(self.command)}"
        self._write_script("collect", collect.get_launch_file_contents(words, run))
        lines, before = ["#!/bin/bash", "set -e", f"cd {shlex.quote(str(self.folder))}"], ""
        names = [stage.name for stage in stages]
        for name in [*names, "collect"]:
            array = "" if name == "collect" else " --export=ALL,RUN_OFFSET=0"
            # A job whose predecessor failed would stay in the queue forever.
            after = f" --dependency=afterok:${{{before}%%;*}} --kill-on-invalid-dep=yes" if before else ""
            lines.append(f"{name}=$(sbatch --parsable{array}{after} {name}.slurm)")
            before = name
        lines.append(f'echo "jobs {", ".join(f"${name}" for name in names)}, then $collect"')
        submit = self.folder / "submit.sh"
        submit.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return submit

    def _write_script(self, name: str, content: str) -> None:
        (self.folder / f"{name}.slurm").write_text(content, encoding="utf-8")

    def _executor(self, kind: type, stage: Stage, **settings: Any):
        try:
            pipeline = [ReportedPipeline(stage, self.folder)]
            return kind(pipeline, tasks=stage.tasks, logging_dir=str(self._logs(stage)), **settings)
        except TypeError as error:
            raise UserError(
                f"engine_settings {self.settings}: datatrove's {kind.__name__} does not accept them ({error})."
            ) from None


def tasks_folder(output: Path) -> Path:
    """The folder for tasks of an output, beside it."""
    place = output.absolute()  # an output_dir "." has no name of its own
    return place.parent / f"{place.name}-tasks"


def clear_tasks(folder: Path) -> None:
    """Remove what tasks and Ray wrote; do nothing if the folder is not theirs."""
    if not (folder / PLAN).is_file():
        return
    _remove_session(folder)
    for entry in folder.iterdir():  # the plan last: it identifies the folder as theirs
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry, ignore_errors=True)
        elif entry.name != PLAN:
            entry.unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _ray(folder: Path) -> Iterator[None]:
    """A connection to Ray: to the cluster at RAY_ADDRESS, or else to a local one that ends with it."""
    # Otherwise Ray sends usage statistics.
    environment: dict[str, str | None] = {"RAY_USAGE_STATS_ENABLED": os.environ.get("RAY_USAGE_STATS_ENABLED", "0")}
    settings: dict[str, Any] = {}
    is_here = "RAY_ADDRESS" not in os.environ
    if is_here:
        session = _session_folder(folder)
        environment |= {"TMPDIR": str(session)} | _token()  # datatrove's tasks write their logs to TMPDIR first
        # Tasks put nothing into the object store except themselves.
        settings |= {"num_cpus": available_processors(), "object_store_memory": 100_000_000, "include_dashboard": False}
        settings["_temp_dir"] = str(session)
    with _environment(environment), ExitStack() as left:
        if is_here:
            left.callback(_remove_session, folder)
        ray: Any = require("ray", extra="ray", purpose="engine: ray needs Ray")
        from loguru import logger as tasks_logger

        tasks_logger.disable("datatrove")  # a page per task; their messages are in their logs
        begun = not ray.is_initialized()
        if begun:
            ray.init(log_to_driver=False, logging_level=logging.ERROR, **settings)
        try:
            yield
        finally:
            if begun:
                ray.shutdown()
            tasks_logger.enable("datatrove")


@contextmanager
def _environment(values: Mapping[str, str | None]) -> Iterator[None]:
    """Set environment variables and restore them afterwards, whoever changed them; None leaves one unchanged."""
    earlier = {name: os.environ.get(name) for name in values}
    os.environ.update({name: value for name, value in values.items() if value is not None})
    try:
        yield
    finally:
        for name, value in earlier.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def _token() -> dict[str, str | None]:
    """An access token that keeps other users out of Ray on this machine; by default, Ray writes one to the home folder."""
    known = any(name in os.environ for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"))
    if known or (Path.home() / ".ray" / "auth_token").exists():
        return {}
    # Ray sets the mode itself, and only then this process, which may have imported Ray before, knows it.
    return {"RAY_AUTH_MODE": None, "RAY_AUTH_TOKEN": _token_of_this_process()}


@functools.cache  # Ray reads it once
def _token_of_this_process() -> str:
    return secrets.token_hex(32)


def _session_folder(folder: Path) -> Path:
    """A new folder for Ray's files: in `folder` or, if that path is too long for sockets, elsewhere, with a link in `folder`."""
    _remove_session(folder)
    place = folder / SESSION
    if len(os.fsencode(place)) <= LONGEST_SESSION_PATH:
        place.mkdir()
    else:
        place.symlink_to(tempfile.mkdtemp(prefix="hfgpt-ray-"))
    return place.resolve()


def _remove_session(folder: Path) -> None:
    place = folder / SESSION
    if place.is_symlink():
        if place.resolve().name.startswith("hfgpt-ray-"):
            shutil.rmtree(place.resolve(), ignore_errors=True)
        place.unlink()
    shutil.rmtree(place, ignore_errors=True)
