"""Where the work on documents is done: in how many processes of this machine, or on a cluster."""

import os
from dataclasses import dataclass
from typing import Literal

from hfgpt.arguments.keys import RecipeArguments, machine_key
from hfgpt.arguments.mappings import read_mapping

# Keys that change nothing about the result, and so are no part of what was asked for.
MACHINE_KEYS = ("num_proc", "engine", "num_tasks", "engine_settings")


@dataclass
class ProcessKeys(RecipeArguments):
    """Processes of this machine."""

    num_proc: int | None = machine_key(
        None, "Processes for what is done to each document; without it as many as there are processors for this one."
    )

    def processes(self) -> int:
        """How many processes to use."""
        return self.num_proc or available_processors()


@dataclass
class EngineKeys(RecipeArguments):
    """A cluster that reads, compares and tokenises the documents."""

    engine: Literal["local", "ray", "slurm"] = machine_key(
        "local",
        "Where documents are read, cleaned, searched for copies and tokenised: here, or by tasks of datatrove on Ray or Slurm.",
    )
    num_tasks: int | None = machine_key(
        None, "Tasks of a stage for ray and slurm; a file is never cut, so at most (without it) one for each."
    )
    engine_settings: dict | str | None = machine_key(
        None, "More arguments of datatrove's executor, such as {partition: cpu, time: '02:00:00', mem_per_cpu_gb: 4}."
    )

    def check_engine(self) -> None:
        """Raises: UserError for settings that are not a mapping, and a number of tasks below 1."""
        self.engine_settings = read_mapping(self.engine_settings, "engine_settings", example="'{partition: cpu}'")
        self.check_least(num_tasks=1)


def available_processors() -> int:
    """How many processors this process may run on: fewer than the machine has, under taskset or a scheduler."""
    affinity = getattr(os, "sched_getaffinity", None)  # Linux has it
    return len(affinity(0)) if affinity else os.cpu_count() or 1
