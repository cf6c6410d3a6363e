"""A real Slurm of two nodes on this machine: controller, two node daemons and munge, with their files in one folder."""

import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

PATH = f"{Path(sys.executable).parent}:/usr/sbin:{os.environ['PATH']}"
ABSENT = [name for name in ("munged", "slurmctld", "slurmd", "sbatch", "srun") if not shutil.which(name, path=PATH)]
# The first node has this machine's name, because processes meet there and need its address. Each node daemon pretends to have as
# many CPUs and GPUs as the script asks for; a GPU is an empty file. Jobs in `urgent` take the nodes of those in `cheap`.
CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/controller.pid
SlurmdPidFile={folder}/%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
GresTypes=gpu
SlurmdParameters=config_overrides
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName={host} NodeHostname={host} NodeAddr=127.0.0.1 Port={first} CPUs=64 RealMemory=8000 Gres=gpu:8
NodeName={host}-2 NodeHostname={host} NodeAddr=127.0.0.1 Port={second} CPUs=64 RealMemory=8000 Gres=gpu:8
PartitionName=cheap Nodes=ALL Default=YES PriorityTier=1 GraceTime=120
PartitionName=urgent Nodes=ALL PriorityTier=2 PreemptMode=OFF
"""


class Cluster:
    """Commands for the cluster; `folder` has the logs of its daemons."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
        self.environment |= {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": PATH}

    def call(self, *words: object, cwd: Path | None = None, code: int = 0) -> str:
        """The output of a command that ends with this exit code."""
        done = subprocess.run(
            list(map(str, words)), env=self.environment, cwd=cwd, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == code, f"{words}: {done.stdout}{done.stderr}{self.logs()}"
        return done.stdout.strip()

    def submit(self, *words: object, cwd: Path | None = None) -> str:
        """The number of a new job."""
        return self.call("sbatch", "--parsable", *words, cwd=cwd)

    def job(self, number: str) -> dict[str, str]:
        """What `scontrol show job` says, field by field."""
        return dict(word.partition("=")[::2] for word in self.call("scontrol", "show", "job", number).split())

    def wait(self, number: str, *states: str, seconds: float = 120) -> dict[str, str]:
        """Wait until the job is in one of these states.

        A job that was queued again starts after three seconds instead of two minutes; sooner, its credential might be refused
        together with that of its first turn.
        """
        hurried = False

        def is_there() -> bool:
            nonlocal hurried
            job = self.job(number)
            if job["JobState"] == "PENDING" and job["Reason"] == "BeginTime" and not hurried:
                self.call("scontrol", "update", f"JobId={number}", "StartTime=now+3")
                hurried = True
            return job["JobState"] in states

        self.until(is_there, seconds)
        return self.job(number)

    def until(self, condition: Callable[[], bool], seconds: float = 120) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, self.logs()
            time.sleep(0.1)

    def logs(self) -> str:
        jobs = subprocess.run(["scontrol", "show", "job"], env=self.environment, capture_output=True, text=True).stdout
        return "\n".join([jobs, *(f"{path.name}: {path.read_text()[-2000:]}" for path in self.folder.glob("*.log"))])


def _free_ports(number: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(number)]
        return [one.getsockname()[1] for one in sockets]


@contextmanager
def cluster() -> Iterator[Cluster]:
    """The daemons run until the block ends; their folder is gone afterwards."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="slurm", dir="/tmp")))  # a socket's path must be short
        host = socket.gethostname()
        for name in ("munge", "state", f"spool-{host}", f"spool-{host}-2"):
            (folder / name).mkdir(mode=0o700)
        folder.chmod(0o755)  # munge wants its socket in a folder that everybody can reach
        (folder / "munge").chmod(0o711)
        key = folder / "munge" / "key-file"
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)
        for number in range(8):
            (folder / f"gpu{number}").touch()
        (folder / "gres.conf").write_text(f"NodeName={host},{host}-2 Name=gpu File={folder}/gpu[0-7]\n")
        controller, first, second = _free_ports(3)
        (folder / "slurm.conf").write_text(
            CONFIGURATION.format(
                folder=folder, host=host, user=getpass.getuser(), controller=controller, first=first, second=second
            )
        )
        here = Cluster(folder)

        def daemon(name: str, *words: object) -> None:
            log = stack.enter_context((folder / f"{name}.log").open("w"))
            process = subprocess.Popen(list(map(str, words)), env=here.environment, cwd=folder, stdout=log, stderr=log)
            stack.callback(process.wait, 30)
            stack.callback(process.send_signal, signal.SIGTERM)

        munge = [f"--{name}={folder}/munge/{name}" for name in ("key-file", "pid-file", "log-file", "seed-file", "socket")]
        daemon("munge", "munged", "--foreground", "--force", *munge)
        here.until((folder / "munge" / "socket").exists, 30)
        daemon("controller", "slurmctld", "-D")
        for node in (host, f"{host}-2"):
            daemon(node, "slurmd", "-D", "-N", node)
        state = ("sinfo", "--noheader", "--Node", "--partition=cheap", "--format=%t")
        here.until(lambda: subprocess.run(state, env=here.environment, capture_output=True, text=True).stdout == "idle\n" * 2, 60)
        yield here
        here.call("scancel", "--quiet", "--user", getpass.getuser())
        here.until(lambda: not here.call("squeue", "--noheader"))
