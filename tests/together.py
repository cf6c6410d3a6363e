"""Run a recipe in the processes that `accelerate launch` would start, forked from one that has made their imports."""

import os
import signal
import socket
import time
from collections.abc import Sequence
from pathlib import Path

from killing import CONTEXT, run_main


def environment_of(file: Path) -> dict[str, str]:
    """What `accelerate launch --config_file FILE` sets in the environment of its processes, computed by its own parser."""
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser
    from accelerate.utils.launch import prepare_multi_gpu_env

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    args = launch_command_parser().parse_args(["--config_file", str(file), "--main_process_port", port, "recipe.py"])
    args, *_ = _validate_launch_command(args)
    number = int(args.num_processes)
    world = {"WORLD_SIZE": str(number), "LOCAL_WORLD_SIZE": str(number), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return prepare_multi_gpu_env(args) | world


def run_together(file: Path, name: str, words: Sequence[object], *, kill_at_step: int | None = None) -> None:
    """Run the recipe in all processes of the file until it ends, or kill all of them at the end of a step."""
    environment = environment_of(file)
    ranks = range(int(environment["WORLD_SIZE"]))
    arguments = (environment, name, [str(word) for word in words], kill_at_step)
    processes = [CONTEXT.Process(target=_one_of_several, args=(rank, *arguments)) for rank in ranks]
    for process in processes:
        process.start()
    deadline = time.monotonic() + 600
    while any(process.is_alive() for process in processes) and time.monotonic() < deadline:
        if any(process.exitcode not in (None, 0) for process in processes):
            time.sleep(2)  # the others may end by themselves
            break
        time.sleep(0.05)
    for process in processes:
        process.kill()
        process.join()
    codes = [process.exitcode for process in processes]
    assert any(codes) == (kill_at_step is not None), codes


def _one_of_several(rank: int, environment: dict[str, str], name: str, words: list[str], kill_at_step: int | None) -> None:
    os.environ.update(environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
    if kill_at_step is not None:
        from hfgpt.training.callbacks import StopOnSignalCallback

        def die(self, args, state, control, **kwargs):
            if state.global_step == kill_at_step:
                os.kill(os.getpid(), signal.SIGKILL)

        StopOnSignalCallback.on_step_end = die
    run_main(name, words)
