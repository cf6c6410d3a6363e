"""Where documents are processed: in how many processes on this machine, or on a cluster."""

from dataclasses import dataclass
from typing import Literal

from hfgpt.arguments.keys import RecipeArguments, machine_key
from hfgpt.arguments.mappings import read_mapping
from hfgpt.arguments.processes import available_processors

# Keys that do not change the result and so are not part of what was asked for.
MACHINE_KEYS = ("num_proc", "engine", "num_tasks", "engine_settings")


@dataclass
class ProcessKeys(RecipeArguments):
    """Processes on this machine."""

    num_proc: int | None = machine_key(None, "Processes for the work on each document (default: one per available processor).")

    def processes(self) -> int:
        """How many processes to use."""
        return self.num_proc or available_processors()


@dataclass
class EngineKeys(RecipeArguments):
    """A cluster that reads, compares and tokenises the documents."""

    engine: Literal["local", "ray", "slurm"] = machine_key(
        "local",
        "Where documents are read, cleaned, deduplicated and tokenised: on this machine, or in datatrove tasks on Ray or Slurm.",
    )
    num_tasks: int | None = machine_key(
        None, "Tasks per stage for ray and slurm; files are never cut, so at most one per file (default)."
    )
    engine_settings: dict | str | None = machine_key(
        None, "More arguments for datatrove's executor, such as {partition: cpu, time: '02:00:00', mem_per_cpu_gb: 4}."
    )

    def check_engine(self) -> None:
        """Raises: UserError if the settings are not a mapping or the number of tasks is below 1."""
        self.engine_settings = read_mapping(self.engine_settings, "engine_settings", example="'{partition: cpu}'")
        self.check_least(num_tasks=1)
