"""The Slurm script, run by bash as sbatch would; srun and scontrol, which only a cluster has, are short shell scripts here."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import slurm_cluster
from conftest import ROOT, SMALL_RUN

SCRIPT = ROOT / "recipes" / "slurm" / "train.sbatch"
# Starts the processes of all nodes on this machine. A signal reaches the second process half a second after the first. A step
# is shorter, so by then both have stopped training and are about to exit.
SRUN = """#!/bin/bash
while [[ $1 == -* ]]; do shift; done
pids=()
for ((rank = 0; rank < SLURM_NTASKS; rank++)); do
  SLURM_PROCID=$rank SLURM_LOCALID=0 "$@" &
  pids+=($!)
done
trap 'interrupted=yes; for pid in "${pids[@]}"; do kill -USR1 "$pid"; sleep 0.5; done' USR1
code=0
for pid in "${pids[@]}"; do
  interrupted=yes
  while [ "$interrupted" ]; do interrupted=; wait "$pid"; one=$?; done
  [ "$one" -gt "$code" ] && code=$one
done
exit "$code"
"""
SCONTROL = """#!/bin/bash
case "$1 $2" in
  "show hostnames") printf '%s\\n' 127.0.0.1 node2 ;;
  "show job") echo "PreemptTime=${PREEMPTED:-None}" ;;
  *) echo "scontrol $*" >> "$CALLS" ;;
esac
"""


@pytest.fixture
def job(tmp_path):
    """Start the script with these arguments in a job of `tasks` processes, one per node."""
    for name, text in {"srun": SRUN, "scontrol": SCONTROL}.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    calls = tmp_path / "calls"
    calls.touch()

    def start(*words: object, tasks: int) -> subprocess.Popen:
        slurm = {"JOB_ID": os.getpid(), "JOB_NODELIST": "node[1-2]", "NTASKS": tasks, "NTASKS_PER_NODE": 1}
        environment = os.environ | {f"SLURM_{name}": str(value) for name, value in slurm.items()}
        environment |= {"PATH": f"{tmp_path}:{Path(sys.executable).parent}:{os.environ['PATH']}", "CALLS": str(calls)}
        command = ["bash", str(SCRIPT), *map(str, words)]
        return subprocess.Popen(command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    start.calls = lambda: calls.read_text().splitlines()
    return start


@pytest.mark.skipif(not slurm_cluster.ABSENT, reason="test_slurm_cluster.py does it with the real Slurm")
def test_a_job_that_is_wanted_back_is_queued_again_and_goes_on_with_the_same_command(job, small_rows, tmp_path):
    folder = tmp_path / "base"
    words = ["recipes/pretrain.py", *SMALL_RUN, "--max_steps", 100, "--eval_steps", 100, "--save_steps", 100, "--use_cpu", "true",
             "--per_device_train_batch_size", 4, "--keep", "last", "--dataset", small_rows, "--output_dir", folder]  # fmt: skip
    stopped = job(*words, tasks=2)
    lines = []
    for line in stopped.stdout:  # the first line of the log: training has begun
        lines.append(line)
        if "  loss " in line:
            break
    stopped.send_signal(signal.SIGUSR1)
    lines.append(stopped.communicate(timeout=120)[0])
    assert stopped.returncode == 75, "".join(lines)
    assert "2 x cpu" in "".join(lines)
    assert job.calls() == [f"scontrol requeue {os.getpid()}"]
    (checkpoint,) = folder.glob("checkpoint-*")
    assert int(checkpoint.name.partition("-")[2]) < 100

    again = job(*words, tasks=2)
    output = again.communicate(timeout=300)[0]
    assert again.returncode == 0, output
    assert f"resume: from {checkpoint}" in output
    assert (folder / "metrics.json").is_file()
    assert len(job.calls()) == 1  # a finished run is not queued again


@pytest.mark.parametrize(("ends_with", "queued"), [(0, 0), (1, 0), (75, 1), (138, 1), (143, 0)])
def test_only_what_stopped_at_the_signal_is_queued_again(job, tmp_path, ends_with, queued):
    program = tmp_path / "program.py"
    program.write_text(f"import signal, sys\nsignal.signal(signal.SIGUSR1, lambda *_: sys.exit({ends_with}))\n"
                       "print('ready', flush=True)\nwhile True: signal.pause()\n")  # fmt: skip
    running = job(program, tasks=1)
    assert running.stdout.readline() == "ready\n"
    running.send_signal(signal.SIGUSR1)
    running.communicate(timeout=60)
    assert running.returncode == ends_with
    assert len(job.calls()) == queued


@pytest.mark.parametrize(
    ("preempted", "ends_with", "queued"), [("", 75, 0), ("", 143, 0), ("2026-11-28", 75, 1), ("2026-11-28", 143, 1)]
)
def test_without_the_clusters_signal_only_a_preempted_training_is_queued_again(
    job, tmp_path, monkeypatch, preempted, ends_with, queued
):
    """`scancel` and a preemption both send SIGTERM to the processes; the former is meant to stop it for good."""
    monkeypatch.setenv("PREEMPTED", preempted)
    (tmp_path / "program.py").write_text(f"raise SystemExit({ends_with})")
    running = job(tmp_path / "program.py", tasks=1)
    running.communicate(timeout=60)
    assert running.returncode == ends_with
    assert len(job.calls()) == queued


def test_the_processes_are_told_which_they_are_and_where_they_meet(job, tmp_path):
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    (tmp_path / "program.py").write_text(
        f"import os\nprint(' '.join(os.environ.get(name, '-') for name in {names}) + chr(10), end='')"
    )
    port = 20000 + os.getpid() % 10000
    for tasks, expected in ((2, [f"{rank} 0 2 1 127.0.0.1 {port}" for rank in (0, 1)]), (1, [f"- - - - 127.0.0.1 {port}"])):
        assert sorted(job(tmp_path / "program.py", tasks=tasks).communicate(timeout=60)[0].splitlines()) == expected


def test_the_script_asks_slurm_for_the_signal_and_for_another_turn():
    assert subprocess.run(["bash", "-n", SCRIPT]).returncode == 0
    directives = [line.split()[1] for line in SCRIPT.read_text().splitlines() if line.startswith("#SBATCH")]
    assert {"--signal=B:USR1@120", "--requeue", "--open-mode=append"} <= set(directives)
