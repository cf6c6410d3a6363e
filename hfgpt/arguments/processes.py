"""How this process was started, and whether all requested processes were started with it."""

import logging
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
from hfgpt.signals import STOPPING_SIGNALS

logger = logging.getLogger(__name__)

PATIENCE_SECONDS = 20.0
SET_BY_ACCELERATE = "ACCELERATE_DYNAMO_BACKEND"  # by each of its launchers, for the processes that they start
# Variables of a process that is one of several: from torchrun and everything built on it, and from MPI.
ONE_OF_SEVERAL = ("LOCAL_RANK", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
DDP = RECIPES / "accelerate" / "ddp.yaml"


_noted: list[float] = []
_launchers: list[int | None] = []


def note_start() -> None:
    """Record that a command begins: with this process, or now if the process has done other things before."""
    _noted[:] = [time.time() if "torch" in sys.modules else psutil.Process().create_time()]
    _launchers[:] = [_launcher_of_this_process()]


def time_of_start() -> float:
    """When the command began, in seconds since the epoch; now if nothing recorded it, as in a call from Python."""
    return _noted.pop() if _noted else time.time()


def available_processors() -> int:
    """How many processors this process may run on: under taskset or a scheduler, fewer than the machine has."""
    affinity = getattr(os, "sched_getaffinity", None)  # only on Linux
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def default_cpu_threads() -> int:
    """Threads per process on a CPU: OMP_NUM_THREADS if the user set it, else all cores, divided among this machine's processes.

    Launchers set the variable to 1 by themselves, which halves the speed of one process on two cores, so from them 1 says nothing.
    """
    asked = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()  # a list has one number per level of nesting
    launched = SET_BY_ACCELERATE in os.environ or "TORCHELASTIC_RUN_ID" in os.environ
    if asked.isdecimal() and int(asked) > (1 if launched else 0):
        return int(asked)
    usable = available_processors()
    cores = min(usable, psutil.cpu_count(logical=False) or usable)
    return max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))


@contextmanager
def ending_with_launcher() -> Iterator[None]:
    """Inside this context, the end of the launcher counts as SIGTERM for this process.

    `accelerate launch` with one process dies from SIGTERM without passing it on, and so does torchrun from SIGUSR1 and SIGKILL; the
    processes they started would train on with nobody to stop them. If nobody waits for the process, as under nohup, nothing is
    watched.
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
    """The parent, if it is torchrun's agent or `accelerate launch` with one process."""
    parent = os.getppid()
    if "TORCHELASTIC_RUN_ID" in os.environ:  # the agent gives each of its processes a session
        return parent if hasattr(os, "getsid") and os.getsid(0) == os.getpid() else None
    if SET_BY_ACCELERATE in os.environ:
        # A shell is not a launcher: hfgpt --launch becomes the recipe it starts, and keeps running after its terminal is closed.
        with suppress(psutil.Error):
            if any(Path(word).name.startswith("accelerate") for word in psutil.Process(parent).cmdline()):
                return parent
    return None


@contextmanager
def meeting() -> Iterator[None]:
    """Inside this context, the processes of a run meet, if there are several: that takes until the last one has started.

    The wait is in torch's C++, where no Python handler of a signal runs, so a signal ends the process by itself; nothing has been
    written yet.
    Raises: UserError if they do not meet.
    """
    processes = int(os.environ.get("WORLD_SIZE", 1))
    if processes == 1:
        yield
        return
    from torch.distributed import DistError

    where = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
    # Otherwise accelerate does the same with a warning.
    os.environ.setdefault("OMP_NUM_THREADS", str(default_cpu_threads()))
    waiting = f"process {os.environ.get('RANK')} of {processes} is still waiting to meet the others at {where}"
    cure = "check that all of them were started, and that each can reach that address and port."
    patience = threading.Timer(PATIENCE_SECONDS, logger.warning, (f"{waiting}; {cure}",))
    patience.daemon = True
    earlier = {}
    if threading.current_thread() is threading.main_thread():
        heeded = [number for number in STOPPING_SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
        earlier = {number: signal.signal(number, signal.SIG_DFL) for number in heeded}
    patience.start()
    try:
        yield
    except DistError as error:
        said = " ".join(str(error).split())[:300]
        if "EADDRINUSE" in said:
            cure = "another program uses that port; set another MASTER_PORT, or main_process_port in the accelerate file."
        raise UserError(f"the {processes} processes cannot meet at {where} ({said}); {cure}") from None
    finally:
        patience.cancel()
        for number, handler in earlier.items():
            signal.signal(number, handler)


def refuse_missing_processes() -> None:
    """Refuse to train with one process if `accelerate launch` was asked for several.

    Without several GPUs its simple launcher starts one process whatever `--num_processes` says (huggingface/accelerate#2741). All
    it does for several is set the address at which they would meet, which is how this function notices.

    Raises: UserError with the command that starts them all.
    """
    if SET_BY_ACCELERATE not in os.environ or "MASTER_PORT" not in os.environ or any(name in os.environ for name in ONE_OF_SEVERAL):
        return
    environment, words = _launcher()
    asked = _asked(words)
    meeting = ("MASTER_ADDR", "MASTER_PORT")
    if asked in (None, "1") and all(environment.get(name) == os.environ.get(name) for name in meeting):
        return  # the launcher was given the address, for instance by a cluster's script
    several = asked not in (None, "1")
    number = asked if several else "N"
    raise UserError(
        f"accelerate launch was asked for {asked if several else 'several'} processes but started only one, because there are not "
        f"several GPUs (huggingface/accelerate#2741). Start them with: torchrun --nproc_per_node {number} {shlex.join(sys.argv)} "
        f"(or let accelerate launch read --config_file {DDP} and --num_processes {number}); or ask for 1."
    )


def refuse_several_gpus(num_gpus: int) -> None:
    """Refuse one process with several GPUs, because Trainer would multiply each batch by their number (`nn.DataParallel`).

    Raises: UserError with the command that starts one process per GPU, and the one that uses one GPU.
    """
    if num_gpus > 1:
        command = shlex.join(sys.argv)
        raise UserError(
            f"one process has {num_gpus} GPUs, which would make each batch {num_gpus} times as large; start one process per GPU: "
            f"torchrun --nproc_per_node {num_gpus} {command}; or use only one of them: CUDA_VISIBLE_DEVICES=0 python {command}"
        )


def _launcher() -> tuple[dict[str, str], list[str]]:
    """Environment and command line of the launcher: the nearest parent process that was not started by it."""
    try:
        for process in psutil.Process().parents():
            environment = process.environ()
            if SET_BY_ACCELERATE not in environment:
                return environment, process.cmdline()
    except psutil.Error:
        pass  # another user's process: nothing is known about it
    return {}, []


def _asked(words: list[str]) -> str | None:
    """How many processes a launcher's command line asks for, directly or through its configuration file."""
    given: dict[str, str] = {}
    for word, following in zip(words, [*words[1:], ""]):
        key, equals, value = word.partition("=")
        given.setdefault(key.removeprefix("--").replace("-", "_"), value if equals else following)
    if "num_processes" not in given and (file := Path(given.get("config_file", ""))).is_file():
        return str((yaml.safe_load(file.read_text(encoding="utf-8")) or {}).get("num_processes"))
    return given.get("num_processes")
