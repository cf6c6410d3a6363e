"""Where the work on documents is done: in how many processes of this machine, or on a cluster."""

import os
from dataclasses import dataclass

from hfgpt.arguments.keys import RecipeArguments, machine_key

# Keys that change nothing about the result, and so are no part of what was asked for.
MACHINE_KEYS = ("num_proc",)


@dataclass
class ProcessKeys(RecipeArguments):
    """Processes of this machine."""

    num_proc: int | None = machine_key(
        None, "Processes for what is done to each document; without it as many as there are processors for this one."
    )

    def processes(self) -> int:
        """How many processes to use."""
        return self.num_proc or available_processors()


def available_processors() -> int:
    """How many processors this process may run on: fewer than the machine has, under taskset or a scheduler."""
    affinity = getattr(os, "sched_getaffinity", None)  # Linux has it
    return len(affinity(0)) if affinity else os.cpu_count() or 1
