"""How a recipe is started and how it ends: processes that are missing, signals, exit codes."""

import os
import re
import signal
import socket
import subprocess
import sys

import pytest
from conftest import ACCELERATE, ROOT, run_python
from recipes_in_process import recipe, run_script

from hfgpt.arguments.processes import ONE_OF_SEVERAL, default_cpu_threads, refuse_missing_processes, refuse_several_gpus
from hfgpt.errors import UserError

SIMPLE = {"ACCELERATE_DYNAMO_BACKEND": "no", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}


@pytest.fixture
def launched(monkeypatch):
    """Set what accelerate's simple launcher sets in the one process it starts when it was asked for several."""
    for name in (*SIMPLE, *ONE_OF_SEVERAL):
        monkeypatch.delenv(name, raising=False)
    for name, value in SIMPLE.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


def test_one_process_where_several_were_asked_for_is_refused(launched):
    with pytest.raises(UserError, match="asked for several processes but started only one.*torchrun --nproc_per_node N"):
        refuse_missing_processes()


@pytest.mark.parametrize("name", ONE_OF_SEVERAL)
def test_one_of_several_processes_is_not_refused(launched, name):
    launched.setenv(name, "1")
    refuse_missing_processes()


def test_nothing_is_refused_without_a_launcher_or_without_an_address(launched):
    launched.delenv("MASTER_PORT")
    refuse_missing_processes()
    launched.setenv("MASTER_PORT", "29500")
    launched.delenv("ACCELERATE_DYNAMO_BACKEND")
    refuse_missing_processes()


@pytest.fixture
def first_of_two(monkeypatch):
    where = {"MASTER_ADDR": "127.0.0.1", "RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    for name, value in where.items():
        monkeypatch.setenv(name, value)
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("MASTER_PORT", str(server.getsockname()[1]))
        yield server


def test_a_process_that_waits_for_the_others_says_so_and_ends_at_a_signal(first_of_two, small_rows, tmp_path):
    first_of_two.close()
    words = ["--dataset", small_rows, "--output_dir", tmp_path / "base", "--max_steps", 2, "--use_cpu", "true"]
    start = "import runpy, sys, hfgpt.arguments.processes as p; p.PATIENCE_SECONDS = 0.5; sys.argv = sys.argv[1:]"
    command = [sys.executable, "-c", f"{start}; runpy.run_path(sys.argv[0], run_name='__main__')", "recipes/pretrain.py", *words]
    waiting = subprocess.Popen(list(map(str, command)), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    with waiting:
        assert any("process 0 of 2 is still waiting to meet the others at 127.0.0.1:" in line for line in waiting.stdout)
        waiting.send_signal(signal.SIGTERM)
        assert waiting.wait(20) == -signal.SIGTERM
    assert not (tmp_path / "base").exists()


def test_an_address_in_use_is_one_sentence(first_of_two, small_rows, tmp_path):
    words = ["--dataset", small_rows, "--output_dir", tmp_path / "base", "--max_steps", 2, "--use_cpu", "true"]
    done = run_python(ROOT / "recipes" / "pretrain.py", *words, cwd=ROOT)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert re.fullmatch(r"error: the 2 processes cannot meet at 127.0.0.1:\d+ \(.*\); another program uses that port; .*", last)


def test_one_process_with_several_gpus_is_refused():
    refuse_several_gpus(0)
    refuse_several_gpus(1)
    with pytest.raises(UserError, match="^one process has 4 GPUs.*torchrun --nproc_per_node 4 .*CUDA_VISIBLE_DEVICES=0"):
        refuse_several_gpus(4)


def test_omp_num_threads_sets_the_threads_unless_a_launcher_set_it(launched):
    launched.delenv("OMP_NUM_THREADS", raising=False)
    all_cores = default_cpu_threads()
    launched.setenv("OMP_NUM_THREADS", "1")
    assert default_cpu_threads() == all_cores  # accelerate sets 1 unasked
    launched.setenv("OMP_NUM_THREADS", str(all_cores + 1))
    assert default_cpu_threads() == all_cores + 1
    launched.delenv("ACCELERATE_DYNAMO_BACKEND")
    launched.delenv("TORCHELASTIC_RUN_ID", raising=False)
    for text, threads in (("1", 1), ("3,2", 3), ("", all_cores), ("many", all_cores)):
        launched.setenv("OMP_NUM_THREADS", text)
        assert default_cpu_threads() == threads, text


@pytest.mark.slow
def test_accelerate_launch_with_two_processes_ends_in_one_line_with_the_command_that_works(tmp_path):
    launcher = ("-m", "accelerate.commands.launch", "--quiet", "--config_file", ROOT / "recipes" / "accelerate" / "cpu.yaml")
    words = ("--num_processes", "2", ROOT / "recipes" / "pretrain.py", "--dataset", "rows", "--output_dir", "out")
    done = run_python(*launcher, *words, cwd=tmp_path)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: accelerate launch was asked for 2 processes but started only one")
    assert f"torchrun --nproc_per_node 2 {ROOT / 'recipes' / 'pretrain.py'} --dataset rows --output_dir out" in line
    assert "recipes/accelerate/ddp.yaml" in line
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_an_address_from_a_cluster_is_not_taken_for_a_wish(tmp_path):
    """`accelerate launch --num_processes 1` passes on the variables it was given."""
    script = tmp_path / "script.py"
    script.write_text(
        "from hfgpt.arguments.processes import refuse_missing_processes\nrefuse_missing_processes()\nprint('alone')\n"
    )
    environment = {"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "1234", "PYTHONPATH": str(ROOT)}
    done = run_python(*ACCELERATE, script, cwd=tmp_path, env=environment)
    assert (done.returncode, done.stdout) == (0, "alone\n"), done.stderr


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR1, 138),
                                              (signal.SIGHUP, 129)], ids=["Ctrl-C", "SIGTERM", "SIGUSR1", "SIGHUP"])  # fmt: skip
@pytest.mark.parametrize("name", ["train_tokenizer", "prepare_data"])
def test_a_signal_ends_the_recipes_of_the_data_in_one_line(
    name, number, code, small_corpus, small_tokenizer, tmp_path, monkeypatch
):
    """In the middle of reading, inside the tokenizer's trainer or datasets."""
    import hfgpt.data.sources

    read = hfgpt.data.sources.read_documents

    def read_some(*given, **named):
        for count, document in enumerate(read(*given, **named)):
            if count == 5:
                signal.raise_signal(number)
            yield document

    monkeypatch.setattr(hfgpt.data.sources, "read_documents", read_some)
    words = ["--sources", small_corpus, "--output_dir", tmp_path / "out"]
    words += ["--vocab_size", "512"] if name == "train_tokenizer" else ["--tokenizer", small_tokenizer, "--context_length", "64"]
    done = run_script(f"{name}.py", *words)
    assert done.returncode == code, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == (
        f"stopped by {signal.Signals(number).name}; run the same command to start again, or to continue where possible."
    )
    assert "Traceback" not in done.stdout + done.stderr
    assert list(tmp_path.iterdir()) == []  # neither a result nor a temporary folder


def test_a_process_that_was_forked_dies_of_a_signal_without_a_word(tmp_path):
    """Workers that read and encode inherit the handlers, but must not raise and print as the main process does."""
    from hfgpt.arguments.launching import _signals_raised

    with _signals_raised():
        child = os.fork()
        if not child:
            signal.raise_signal(signal.SIGTERM)
            os._exit(3)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM


def test_made_data_is_not_made_again_and_other_data_not_replaced(small_corpus, tmp_path):
    tokenizer, rows = tmp_path / "tokenizer", tmp_path / "rows"
    corpus = tmp_path / "documents.jsonl"
    corpus.write_bytes(small_corpus.read_bytes())
    one = dict(sources=[str(corpus)], vocab_size=400, output_dir=str(tokenizer))
    two = dict(sources=[str(corpus)], tokenizer=str(tokenizer), context_length=64, output_dir=str(rows))
    assert recipe("train_tokenizer", **one) != {}
    assert recipe("prepare_data", **two) != {}
    made = {path: path.stat().st_mtime_ns for path in (*tokenizer.iterdir(), *rows.rglob("*"))}
    assert recipe("train_tokenizer", **one) == recipe("prepare_data", **two) == {}  # already done
    assert {path: path.stat().st_mtime_ns for path in (*tokenizer.iterdir(), *rows.rglob("*"))} == made
    with pytest.raises(
        UserError, match=r"holds a result made with other settings \(vocab_size was 400, is now 500\).*--overwrite true"
    ):
        recipe("train_tokenizer", **{**one, "vocab_size": 500})
    with pytest.raises(UserError, match=r"holds a result made with other settings \(context_length was 64, is now 32\)"):
        recipe("prepare_data", **{**two, "context_length": 32})
    with corpus.open("a") as file:
        file.write('{"text": "One more document."}\n')
    with pytest.raises(UserError, match="the texts of the sources are different"):
        recipe("train_tokenizer", **one)
    assert recipe("train_tokenizer", **one, overwrite=True)["vocab_size"] == 400
    assert recipe("prepare_data", **two, overwrite=True) != {}
