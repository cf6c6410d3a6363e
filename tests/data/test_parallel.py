"""Steps on single texts, in one process or several: the same documents, the same counts, and no process is left running."""

import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from hfgpt.data import parallel
from hfgpt.data.parallel import apply_steps_in_processes
from hfgpt.data.steps import Outcome, StepCounts, apply_steps


@dataclass(frozen=True)
class DropOdd:
    name: str = "drop odd"

    @property
    def settings(self):
        return {}

    def __call__(self, text):
        odd = int(text.split()[0]) % 2
        return Outcome(None, {"odd": 1}) if odd else Outcome(text)


@dataclass(frozen=True)
class NameProcess:
    name: str = "name the process"
    fails_at: str = ""

    @property
    def settings(self):
        return {}

    def __call__(self, text):
        if text == self.fails_at:
            raise ValueError(f"cannot read {text}")
        return Outcome(f"{text} {os.getpid()}")


def documents(count, words=1):
    return [{"text": f"{number} " + "x" * words, "source": "s", "row_id": str(number), "draw": 0.5} for number in range(count)]


def without_seconds(counts):
    return [{**vars(count), "seconds": 0} for count in counts]


@pytest.mark.slow
def test_several_processes_give_the_documents_and_counts_of_one_in_their_order(monkeypatch):
    monkeypatch.setattr(parallel, "WORTH_PROCESSES", 50_000)
    monkeypatch.setattr(parallel, "TOO_LONG_TO_SEND", 3_000_000)
    given = documents(6_000, words=800)
    given.insert(4_000, {"text": "4 " + "y" * 3_000_000, "source": "s", "row_id": "long", "draw": 0.5})
    steps = [DropOdd(), NameProcess()]
    one, several = [StepCounts() for _ in steps], [StepCounts() for _ in steps]
    expected = list(apply_steps(given, steps, one))
    found = list(apply_steps_in_processes(iter(given), steps, several, num_proc=2))
    assert [document["row_id"] for document in found] == [document["row_id"] for document in expected]
    processes = [document["text"].split()[-1] for document in found]
    here = str(os.getpid())
    assert processes[0] == here
    assert 2 <= len(set(processes)) <= 3  # this one, for the first texts, and one or two more
    assert processes[[document["row_id"] for document in found].index("long")] == here
    assert without_seconds(several)[0] == without_seconds(one)[0]
    assert several[1].documents_out == one[1].documents_out == 3_001


def test_little_text_starts_no_process():
    before = psutil.Process().children(recursive=True)
    counts = [StepCounts()]
    assert len(list(apply_steps_in_processes(documents(100), [NameProcess()], counts, num_proc=4))) == 100
    assert psutil.Process().children(recursive=True) == before


@pytest.mark.slow
def test_an_error_in_another_process_is_raised_here(monkeypatch):
    monkeypatch.setattr(parallel, "WORTH_PROCESSES", 10)
    given = documents(100)
    with pytest.raises(ValueError, match="cannot read 70 x"):
        list(apply_steps_in_processes(given, [NameProcess(fails_at="70 x")], [StepCounts()], num_proc=2))


SLOW_RUN = """
import itertools, sys, time
sys.path[:0] = {path!r}
from hfgpt.data import parallel
from test_parallel import NameProcess, documents
from hfgpt.data.steps import StepCounts
if __name__ == "__main__":
    parallel.WORTH_PROCESSES = 10
    endless = itertools.cycle(documents(2000))
    for document in parallel.apply_steps_in_processes(endless, [NameProcess()], [StepCounts()], num_proc=2):
        print("one more", flush=True)
        time.sleep(0.01)
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_no_process_outlives_one_that_is_stopped(tmp_path, number):
    script = tmp_path / "run.py"
    script.write_text(SLOW_RUN.format(path=[str(Path(__file__).parent), str(Path.cwd())]))
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as run:
        for _ in range(20):
            assert run.stdout.readline()
        children = psutil.Process(run.pid).children(recursive=True)
        assert len(children) >= 3
        run.send_signal(number)
        run.stdout.close()
        run.wait(timeout=60)
    _, alive = psutil.wait_procs(children, timeout=30)
    assert alive == []
