"""Signals to real processes: always a checkpoint, a documented exit code, and no process that continues to train."""

import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from conftest import ROOT, SMALL_RUN, run_python

from hfgpt.signals import ONE_WISH_SECONDS

pytestmark = pytest.mark.slow

TORCHRUN = ("-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", str(20000 + os.getpid() % 10000))
SIMPLE = ("-m", "accelerate.commands.launch", "--quiet", "--config_file", ROOT / "recipes/accelerate/cpu.yaml")
# One optimizer step is long enough for all signals to arrive during it.
LONG = (*SMALL_RUN, "--max_steps", 3000, "--eval_steps", 3000, "--save_steps", 3000, "--logging_steps", 1, "--keep", "last",
        "--per_device_train_batch_size", 2, "--use_cpu", "true", "--sample_tokens", 1)  # fmt: skip


class Training:
    """A training in a separate session, after its first step."""

    def __init__(self, folder: Path, rows: Path, *words: object, launcher: tuple = ()):
        self.folder = folder
        self.log = folder.with_suffix(".log")
        command = [sys.executable, *launcher, ROOT / "recipes" / "pretrain.py", *LONG, "--dataset", rows, "--output_dir", folder]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [str(word) for word in (*command, *words)], cwd=ROOT, stdout=log, stderr=log, start_new_session=True
            )
        self.wait_for("  loss ")
        self.children = psutil.Process(self.process.pid).children(recursive=True)

    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def wait_for(self, words: str) -> None:
        deadline = time.monotonic() + 240
        while words not in self.text():
            assert self.process.poll() is None, self.text()
            assert time.monotonic() < deadline, self.text()
            time.sleep(0.02)

    def end(self) -> int:
        """Wait until every process has ended, and return the exit code."""
        code = self.process.wait(timeout=120)
        _, alive = psutil.wait_procs(self.children, timeout=120)
        for process in alive:
            process.kill()
        assert not alive, self.text()
        return code

    def checkpoint(self) -> int:
        """The step of the only checkpoint."""
        (name,) = [path.name for path in self.folder.glob("*checkpoint-*")]
        return int(name.removeprefix("checkpoint-"))


@pytest.mark.parametrize(
    ("launcher", "number", "whole_group", "code"),
    [
        ((), signal.SIGTERM, True, 75),  # with data loader workers, which torch would end
        (SIMPLE, signal.SIGINT, True, -signal.SIGINT),  # Ctrl-C in a terminal
        (SIMPLE, signal.SIGTERM, False, -signal.SIGTERM),  # docker stop, systemd
        (TORCHRUN, signal.SIGINT, True, 1),
        (TORCHRUN, signal.SIGUSR1, False, -signal.SIGUSR1),
    ],
    ids=["python-SIGTERM", "one-Ctrl-C", "one-SIGTERM", "several-Ctrl-C", "several-SIGUSR1"],
)
def test_a_signal_always_leaves_a_checkpoint_and_nobody_who_trains_on(small_rows, tmp_path, launcher, number, whole_group, code):
    readers = ("--dataloader_num_workers", 2) if not launcher else ()
    training = Training(tmp_path / "base", small_rows, *readers, launcher=launcher)
    if whole_group:
        os.killpg(training.process.pid, number)
    else:
        training.process.send_signal(number)
    assert training.end() == code, training.text()
    step = training.checkpoint()
    assert step < 3000
    assert f"stopped at step {step:,} of 3,000" in training.text()


def test_of_two_processes_both_stop_where_one_got_the_signal(small_rows, tmp_path):
    training = Training(tmp_path / "base", small_rows, launcher=TORCHRUN)
    training.children[-1].send_signal(signal.SIGTERM)
    assert training.end() == 1  # torchrun's own
    assert "exitcode  : 75" in training.text()
    assert training.checkpoint() < 3000


def test_a_process_that_is_killed_ends_the_others(small_rows, tmp_path):
    training = Training(tmp_path / "base", small_rows, launcher=TORCHRUN)
    begin = time.monotonic()
    training.children[-1].kill()
    assert training.end() != 0
    assert time.monotonic() - begin < 60
    assert not list(training.folder.glob("checkpoint-*"))


# A step that is certain to last until all signals have arrived, on any machine.
SECOND_STEP_LASTS = """
import runpy, sys, time
from hfgpt.training.trainer import HfGptTrainer
step = HfGptTrainer.training_step
def lasting(trainer, *args, **kwargs):
    if trainer.state.global_step == 1:
        print("the second step lasts", flush=True)
        time.sleep(100)
    return step(trainer, *args, **kwargs)
HfGptTrainer.training_step = lasting
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_a_second_ctrl_c_leaves_at_once_and_an_echo_of_the_first_does_not(small_rows, tmp_path):
    training = Training(tmp_path / "base", small_rows, "--save_steps", 1, launcher=("-c", SECOND_STEP_LASTS))
    training.wait_for("the second step lasts")
    while not list(training.folder.glob("checkpoint-*")):  # written in the background
        time.sleep(0.02)
    training.process.send_signal(signal.SIGINT)
    training.process.send_signal(signal.SIGINT)
    training.wait_for("SIGINT: finishing this step")
    time.sleep(ONE_WISH_SECONDS + 0.1)
    training.process.send_signal(signal.SIGTERM)  # does not count as a second request either
    time.sleep(0.5)
    assert training.process.poll() is None
    begin = time.monotonic()
    training.process.send_signal(signal.SIGINT)
    assert training.end() == 130, training.text()
    assert time.monotonic() - begin < 60
    assert "stopped by SIGINT" in training.text()
    assert "Traceback" not in training.text()
    assert training.checkpoint() == 1


def test_a_terminal_that_closes_leaves_a_checkpoint(small_rows, tmp_path):
    """Every later write to it would fail."""
    command = [sys.executable, ROOT / "recipes/pretrain.py", *LONG, "--dataset", small_rows, "--output_dir", tmp_path / "base"]
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(ROOT)
        os.execv(sys.executable, [str(word) for word in command])
    said = b""
    while b"  loss " not in said:
        said += os.read(terminal, 65536)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 75
    assert len(list((tmp_path / "base").glob("checkpoint-*"))) == 1


def test_a_signal_during_a_save_or_an_evaluation_costs_no_further_step(small_rows, tmp_path):
    from killing import CONTEXT

    for number, at in enumerate(("on_evaluate", "on_save")):
        folder = tmp_path / str(number)
        words = [*LONG, "--eval_steps", 2, "--save_steps", 2, "--dataset", small_rows, "--output_dir", folder]
        process = CONTEXT.Process(target=_signalled_at, args=(at, [str(word) for word in words]))
        process.start()
        process.join(timeout=240)
        assert process.exitcode == 75
        assert [path.name for path in folder.glob("checkpoint-*")] == ["checkpoint-2"]


def _signalled_at(event: str, words: list[str]) -> None:
    """The signal arrives while Trainer evaluates or saves: before our callback is called."""
    from killing import run_main

    from hfgpt.errors import RunStopped
    from hfgpt.training.callbacks import StopOnSignalCallback

    answer = getattr(StopOnSignalCallback, event)

    def raised(self, *args, **kwargs):
        if self._training:
            signal.raise_signal(signal.SIGTERM)
        return answer(self, *args, **kwargs)

    setattr(StopOnSignalCallback, event, raised)
    try:
        run_main("pretrain", words)
    except RunStopped:
        raise SystemExit(75) from None


@pytest.mark.parametrize("as_command", [True, False], ids=["command", "script"])
def test_ctrl_c_before_the_imports_are_done_ends_in_one_line(as_command, tmp_path):
    """Nothing has begun that would have to be finished or removed."""
    script = ROOT / "recipes" / "pretrain.py"
    code = f"""
import os, runpy, signal, sys
from hfgpt.arguments import launching
from hfgpt.cli import main
launching.hide_what_is_for_developers = lambda: os.kill(os.getpid(), signal.SIGINT)
sys.argv = [*{["hfgpt", "pretrain"] if as_command else [str(script)]}, "--output_dir", {str(tmp_path / "base")!r}]
main() if {as_command} else runpy.run_path(sys.argv[0], run_name="__main__")
"""
    done = run_python("-c", code, cwd=ROOT)
    assert done.returncode == 130
    assert done.stderr.splitlines() == ["stopped by SIGINT; run the same command to start again, or to continue where possible."]


def test_a_signal_that_comes_while_the_processes_ask_each_other_stops_all_at_the_next_step(monkeypatch):
    from hfgpt.training import callbacks

    callback, told = callbacks.StopOnSignalCallback(), []
    callback._group = "all processes"

    def exchange(number, *operation, group):
        told.append(int(number))
        callback._request.note(signal.SIGTERM)  # too late for the number that the others see

    monkeypatch.setattr(callbacks.distributed, "all_reduce", exchange)
    assert not callback._asked_to_stop()
    assert callback._asked_to_stop()
    assert told == [0, signal.SIGTERM]
