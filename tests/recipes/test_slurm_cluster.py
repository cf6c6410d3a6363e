"""The Slurm script, and documents read in tasks, on a real Slurm of two nodes."""

import json
import re

import pytest
import slurm_cluster
from conftest import ROOT, SMALL_RUN
from datasets import load_from_disk
from killing import run_main, sha256_of_weights
from together import run_together

SCRIPT = ROOT / "recipes" / "slurm" / "train.sbatch"
# Answers a signal as a recipe does; started again, it has nothing left to do.
PROGRAM = """
import os, signal, sys, time
for number in (signal.SIGTERM, signal.SIGUSR1):
    signal.signal(number, lambda *_: sys.exit(75))
print("ready", flush=True)
if "SLURM_RESTART_COUNT" not in os.environ:
    time.sleep(120)
print("finished", flush=True)
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        bool(slurm_cluster.ABSENT),
        reason=f"needs {', '.join(slurm_cluster.ABSENT)} (Debian's packages slurmctld, slurmd, slurm-client and munge)",
    ),
]


@pytest.fixture(scope="module")
def cluster():
    with slurm_cluster.cluster() as here:
        yield here


@pytest.fixture
def submit(cluster, tmp_path):
    """Submit the script with one process on each of this many nodes; its log is `tmp_path/NUMBER.out`."""

    def start(*words, nodes=1, options=()):
        each = ("--ntasks-per-node", 1, "--gpus-per-node", 1, "--cpus-per-task", 1, "--output", tmp_path / "%j.out")
        return cluster.submit("--nodes", nodes, *each, *options, SCRIPT, *words, cwd=ROOT)

    return start


def test_a_preempted_training_goes_on_when_the_nodes_are_free_again_and_ends_with_the_same_weights(
    cluster, submit, small_rows, tmp_path
):
    folder = tmp_path / "base"
    words = ["recipes/pretrain.py", *SMALL_RUN, "--max_steps", 60, "--eval_steps", 60, "--save_steps", 60, "--keep", "last",
             "--use_cpu", "true", "--fsdp", "true", "--per_device_train_batch_size", 4, "--dataset", small_rows]  # fmt: skip
    number = submit(*words, "--output_dir", folder, nodes=2)
    log = tmp_path / f"{number}.out"
    cluster.until(lambda: log.is_file() and "  loss " in log.read_text())
    urgent = cluster.submit("--partition", "urgent", "--nodes", 2, "--exclusive", "--output", "/dev/null", "--wrap", "true")
    cluster.wait(urgent, "COMPLETED")
    (checkpoint,) = folder.glob("checkpoint-*")
    assert int(checkpoint.name.partition("-")[2]) < 60
    assert cluster.wait(number, "COMPLETED")["Restarts"] == "1"
    assert "2 x cpu with FSDP2" in log.read_text()
    assert f"resume: from {checkpoint}" in log.read_text()

    run_together(ROOT / "recipes/accelerate/fsdp2.yaml", "pretrain", [*words[1:], "--output_dir", tmp_path / "undisturbed"])
    assert sha256_of_weights(folder) == sha256_of_weights(tmp_path / "undisturbed")


def test_what_the_cluster_stops_is_queued_again_and_what_a_person_stops_is_not(cluster, submit, tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM)
    limit, administrator, person = (submit(tmp_path / "program.py") for _ in range(3))
    logs = {number: tmp_path / f"{number}.out" for number in (limit, administrator, person)}
    cluster.until(lambda: all(log.is_file() and "ready" in log.read_text() for log in logs.values()))
    cluster.call("scancel", "--batch", "--signal=USR1", limit)  # as Slurm does before the time limit
    cluster.call("scontrol", "requeue", administrator)
    cluster.call("scancel", person)
    for number in (limit, administrator):
        assert cluster.wait(number, "COMPLETED")["Restarts"] == "1"
        assert logs[number].read_text().count("ready") == 2
    assert cluster.wait(person, "CANCELLED")["Restarts"] == "0"
    assert logs[person].read_text().count("ready") == 1


def test_a_job_that_fails_is_not_queued_again(cluster, submit, tmp_path):
    number = submit("recipes/pretrain.py", "--dataset", tmp_path / "none", "--output_dir", tmp_path / "base", nodes=2)
    job = cluster.wait(number, "FAILED")
    assert (job["Restarts"], job["ExitCode"]) == ("0", "1:0")
    assert f"{tmp_path / 'none'}" in (tmp_path / f"{number}.out").read_text()


def test_documents_that_tasks_of_the_cluster_read_are_those_of_one_machine(cluster, small_corpus, small_tokenizer, tmp_path):
    pytest.importorskip("datatrove")
    for number, text in enumerate(small_corpus.read_text(encoding="utf-8").split("\n\n\n")):
        (tmp_path / f"{number}.txt").write_text(text, encoding="utf-8")
    words = ["recipes/prepare_data.py", "--sources", tmp_path / "*.txt", "--tokenizer", small_tokenizer, "--context_length", 64,
             "--text_documents", "paragraph"]  # fmt: skip
    run_main("prepare_data", [*words[1:], "--output_dir", tmp_path / "here"])
    settings = json.dumps({"partition": "cheap", "time": "00:10:00", "mem_per_cpu_gb": 1})
    slurm = ("--engine", "slurm", "--num_tasks", 2, "--engine_settings", settings)
    said = cluster.call("python", *words, "--output_dir", tmp_path / "there", *slurm, cwd=ROOT, code=75)
    collecting = re.search(r"then (\d+)", said)[1]
    cluster.wait(collecting, "COMPLETED")
    here, there = (load_from_disk(str(tmp_path / name)) for name in ("here", "there"))
    assert {split: here[split].to_dict() for split in here} == {split: there[split].to_dict() for split in there}
