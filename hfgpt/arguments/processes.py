"""How this process was started, and whether all the processes that were asked for were started with it."""

import os
import shlex
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import yaml

from hfgpt.arguments.commands import RECIPES
from hfgpt.errors import UserError

SET_BY_ACCELERATE = "ACCELERATE_DYNAMO_BACKEND"  # by each of its launchers, for the processes that they start
# What a process has that is one of several: from torchrun and all that use it, and from MPI.
ONE_OF_SEVERAL = ("LOCAL_RANK", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
DDP = RECIPES / "accelerate" / "ddp.yaml"


_noted: list[float] = []
_launchers: list[int | None] = []


def note_start() -> None:
    """A command begins, with this process, or now where the process has done other things: its time is counted from here."""
    _noted[:] = [time.time() if "torch" in sys.modules else psutil.Process().create_time()]
    _launchers[:] = [_launcher_of_this_process()]


def time_of_start() -> float:
    """When the command began, in seconds since the epoch; now where none has noted it, as in a call from Python."""
    return _noted.pop() if _noted else time.time()


@contextmanager
def ending_with_launcher() -> Iterator[None]:
    """Meanwhile, a launcher that is gone is SIGTERM for this process.

    `accelerate launch` with one process dies of SIGTERM alone, and torchrun of SIGUSR1 and SIGKILL; what they have started would
    train on with nobody to stop it. Where nobody waits for the process, as under nohup, nothing is watched.
    """
    launcher = _launchers.pop() if _launchers else _launcher_of_this_process()
    done = threading.Event()

    def watch() -> None:
        while not done.wait(1):
            if os.getppid() != launcher:
                os.kill(os.getpid(), signal.SIGTERM)
                return

    if launcher is not None:
        threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        done.set()


def _launcher_of_this_process() -> int | None:
    """The parent, where it is torchrun's agent, or `accelerate launch` of one process."""
    parent = os.getppid()
    if "TORCHELASTIC_RUN_ID" in os.environ:  # the agent gives each of its processes a session
        return parent if hasattr(os, "getsid") and os.getsid(0) == os.getpid() else None
    if SET_BY_ACCELERATE in os.environ:
        # A shell is none: hfgpt --launch becomes the recipe that it starts, and goes on when its terminal is left.
        with suppress(psutil.Error):
            if any(Path(word).name.startswith("accelerate") for word in psutil.Process(parent).cmdline()):
                return parent
    return None


def refuse_missing_processes() -> None:
    """Refuse to train alone where `accelerate launch` was asked for several processes.

    Without several GPUs its simple launcher starts one process whatever `--num_processes` says (huggingface/accelerate#2741). All
    that it does for several is to set the address at which they would meet, and that is how it is noticed.

    Raises: UserError with the command that starts them all.
    """
    if SET_BY_ACCELERATE not in os.environ or "MASTER_PORT" not in os.environ or any(name in os.environ for name in ONE_OF_SEVERAL):
        return
    environment, words = _launcher()
    asked = _asked(words)
    meeting = ("MASTER_ADDR", "MASTER_PORT")
    if asked in (None, "1") and all(environment.get(name) == os.environ.get(name) for name in meeting):
        return  # the launcher was given the address, by a cluster's script for instance
    several = asked not in (None, "1")
    number = asked if several else "N"
    raise UserError(
        f"accelerate launch was asked for {asked if several else 'several'} processes and started one: without several GPUs it "
        f"starts no more (huggingface/accelerate#2741). Start them with: torchrun --nproc_per_node {number} {shlex.join(sys.argv)} "
        f"(or let accelerate launch read --config_file {DDP} and --num_processes {number}); or ask for 1."
    )


def refuse_several_gpus(num_gpus: int) -> None:
    """Refuse one process with several GPUs, for which Trainer would make each batch as many times larger (`nn.DataParallel`).

    Raises: UserError with the command that starts one process per GPU, and the one that uses one GPU.
    """
    if num_gpus > 1:
        command = shlex.join(sys.argv)
        raise UserError(
            f"{num_gpus} GPUs are here for one process, which would make each batch {num_gpus} times as large; start one process "
            f"per GPU: torchrun --nproc_per_node {num_gpus} {command}; or use one of them: CUDA_VISIBLE_DEVICES=0 python {command}"
        )


def _launcher() -> tuple[dict[str, str], list[str]]:
    """Environment and command line of the launcher: the nearest process above that had not been launched by it."""
    try:
        for process in psutil.Process().parents():
            environment = process.environ()
            if SET_BY_ACCELERATE not in environment:
                return environment, process.cmdline()
    except psutil.Error:
        pass  # somebody else's process: nothing is known of it
    return {}, []


def _asked(words: list[str]) -> str | None:
    """How many processes a launcher's command line asks for, itself or by its configuration file."""
    given: dict[str, str] = {}
    for word, following in zip(words, [*words[1:], ""]):
        key, equals, value = word.partition("=")
        given.setdefault(key.removeprefix("--").replace("-", "_"), value if equals else following)
    if "num_processes" not in given and (file := Path(given.get("config_file", ""))).is_file():
        return str((yaml.safe_load(file.read_text(encoding="utf-8")) or {}).get("num_processes"))
    return given.get("num_processes")
