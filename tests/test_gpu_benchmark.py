"""benchmarks/gpu.py also fills its tables on a CPU, in its smallest size; only a GPU can test its figures."""

import argparse
import importlib

import pytest
from conftest import ROOT


@pytest.mark.slow
def test_every_table_is_filled_in_its_smallest_size(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    gpu = importlib.import_module("gpu")
    monkeypatch.setattr(gpu.torch.cuda, "is_available", lambda: False)  # leave a GPU to the tests that need it
    output_file = tmp_path / "gpu.md"
    said = gpu.main(argparse.Namespace(smallest=True, minutes=9, output_file=str(output_file)))
    assert output_file.read_text() == said + "\n"
    assert "failed" not in said
    assert "left out" not in said
    tables = {block.splitlines()[0]: block.splitlines()[1:] for block in said.split("\n## ")[1:]}
    assert list(tables) == list(gpu.TABLES)
    for title, lines in tables.items():
        rows = [line for line in lines if line.startswith("|")]
        assert len(rows) >= 3, title
        assert len({line.count("|") for line in rows}) == 1, title
    losses = [line.split("|")[-2].strip() for line in tables["Head and loss"] if line.startswith("| ")][1:]
    assert len(losses) == 3
    assert len(set(losses)) == 1  # three ways to compute the same number
    (flash,) = [line for line in tables["Model step: forward and backward, tokens per second"] if "its flash kernel" in line]
    assert "%" in flash  # it was measured


def test_what_the_time_does_not_reach_is_named(monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    gpu = importlib.import_module("gpu")
    said = gpu.main(argparse.Namespace(smallest=True, minutes=-1, output_file=""))
    assert said.count("left out") == len(gpu.TABLES)
    assert said + "\n" == capsys.readouterr().out
