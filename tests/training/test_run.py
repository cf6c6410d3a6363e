"""The common end of every run, and how a finished one is recognised."""

import os
import shutil

from hfgpt.training.finetuning import file_states
from hfgpt.training.last_screen import last_screen
from hfgpt.training.run import RunReport, describe_training

METRICS = {"steps": 1200, "steps_timed": 1200, "training_seconds": 61.4, "peak_memory_bytes": 512 * 2**20}


def test_a_report_names_what_is_there_and_what_to_do_next(tmp_path):
    (tmp_path / "loss.png").touch()
    report = RunReport(
        metrics=METRICS,
        lines=["test: 2.5000 nats per token"],
        files=(("picture", "loss.png"), ("samples", "samples.md")),
        end=describe_training(METRICS),
        next_command="python recipes/generate.py out",
        difference_of_merging=1.5e-6,
    )
    assert report.text(tmp_path).splitlines() == [
        "test:       2.5000 nats per token",
        f"merged:     {tmp_path / 'merged'}, with logits within 1.5e-06 of the adapter's",
        f"page:       {tmp_path / 'report.html'}, beside it loss.png",
        "end:        1,200 steps in 61 s, peak memory 512 MiB",
        "next:       python recipes/generate.py out",
    ]
    assert RunReport(METRICS, ["No better."], ()).text(tmp_path) == f"No better.\npage:       {tmp_path / 'report.html'}\n"


def test_of_a_long_report_the_screen_has_what_is_most_important(tmp_path):
    report = "".join(f"{name}:\n" for name in ("test", *range(20), "page", "end", "next"))
    lines = last_screen(report, tmp_path / "report.txt").splitlines()
    assert lines == ["test:", "0:", "1:", "2:", f"more:       17 lines in {tmp_path / 'report.txt'}", "page:", "end:", "next:"]
    # A verdict is not one of the lines that only the file has.
    verdict = "no better than the base"
    report = "".join(f"{name}:\n" for name in ("test", *range(20), f"advice: {verdict}", "canaries", "page", "end", "next"))
    lines = last_screen(report, tmp_path / "report.txt").splitlines()
    assert lines[:4] == ["test:", "0:", "1:", f"advice: {verdict}:"]
    assert lines[4:] == [f"more:       19 lines in {tmp_path / 'report.txt'}", "page:", "end:", "next:"]
    short = "".join(f"{number}\n" for number in range(8))
    assert last_screen(short, tmp_path) == short.rstrip()


def test_the_end_says_what_was_trained_and_that_a_run_went_on():
    tuned = METRICS | {"steps_timed": 200, "trained_parameters": 1000, "parameters": 20000}
    assert describe_training(tuned) == (
        "1,200 steps (200 of them since it resumed) in 61 s, 1,000 of 20,000 parameters trained, peak memory 512 MiB"
    )


def test_a_base_that_was_replaced_is_noticed_whatever_its_times_say(tmp_path):
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"first")
    (tmp_path / "metrics.json").write_text("{}")
    before = file_states(tmp_path)
    assert list(before) == ["model.safetensors"]
    (tmp_path / "metrics.json").write_text('{"loss": 1}')  # not part of the model
    assert file_states(tmp_path) == before
    times = weights.stat()
    shutil.copyfile(weights, tmp_path / "other")
    (tmp_path / "other").write_bytes(b"other")
    (tmp_path / "other").replace(weights)
    os.utime(weights, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert file_states(tmp_path)["model.safetensors"][:2] == before["model.safetensors"][:2]
    assert file_states(tmp_path) != before
