"""The energy that a training used: a machine's counters as files, and what a run without one reports."""

import json
from pathlib import Path

import pytest
import torch

from hfgpt.artifacts import identify
from hfgpt.hub.card.rendering import render_card
from hfgpt.training.energy import Counter, EnergyCallback, device_name, find_counters


def zone(powercap: Path, name: str, label: str, energy: int, period: int = 1_000_000_000) -> Path:
    folder = powercap / name
    folder.mkdir(parents=True)
    for file, value in (("name", label), ("energy_uj", energy), ("max_energy_range_uj", period)):
        (folder / file).write_text(f"{value}\n")
    return folder


def test_processors_are_counted_once_also_when_a_counter_begins_again(tmp_path):
    first = zone(tmp_path, "intel-rapl:0", "package-0", 999_000_000)
    second = zone(tmp_path, "intel-rapl:1", "package-1", 5_000_000)
    zone(tmp_path, "intel-rapl:0:0", "core", 1)  # part of the first
    zone(tmp_path, "intel-rapl:2", "psys", 1)  # the whole machine
    counters = find_counters(torch.device("cpu"), counts_processors=True, powercap=tmp_path)
    assert [counter.source for counter in counters] == ["CPU (RAPL)", "CPU (RAPL)"]
    meter = EnergyCallback(counters)
    meter.on_train_begin(None, None, None)
    (first / "energy_uj").write_text("1500000\n")  # 1 J up to the end of its range, then 1.5 J
    (second / "energy_uj").write_text("6000000\n")
    meter.on_step_end(None, None, None)
    (first / "energy_uj").write_text("2000000\n")
    meter.read()  # as for the last line of the log
    assert meter.joules == {"CPU (RAPL)": pytest.approx(2.5 + 1.0 + 0.5)}


def test_a_counter_that_cannot_be_read_is_none(tmp_path):
    zone(tmp_path, "intel-rapl:0", "package-0", 1)
    (tmp_path / "intel-rapl:0" / "energy_uj").unlink()
    (tmp_path / "intel-rapl:0" / "energy_uj").mkdir()  # unreadable even to root
    assert find_counters(torch.device("cpu"), counts_processors=True, powercap=tmp_path) == []
    assert find_counters(torch.device("cpu"), counts_processors=False) == []


def test_several_devices_add_up_by_source():
    reads = iter([10.0, 1.0, 15.0, 4.0])
    meter = EnergyCallback([Counter("GPU (NVML)", lambda: next(reads)), Counter("CPU (RAPL)", lambda: next(reads))])
    meter.on_train_begin(None, None, None)
    meter.on_step_end(None, None, None)
    assert meter.joules == {"GPU (NVML)": 5.0, "CPU (RAPL)": 3.0}


@pytest.mark.slow
def test_a_run_says_what_it_measured_and_the_card_never_more(small_run, tmp_path):
    metrics = json.loads((small_run / "metrics.json").read_text())
    assert metrics["device"] == device_name(torch.device("cpu"))
    assert metrics["num_devices"] == 1
    assert (metrics["energy_joules"] is None) == (metrics["energy_source"] is None)
    for name in ("config.json", "model.safetensors", "passport.json"):
        (tmp_path / name).symlink_to(small_run / name)
    said = {
        "none": {"energy_joules": None, "energy_source": None},
        "some": {"energy_joules": 7200.0, "energy_source": "CPU (RAPL)"},
        "old": {},
    }
    for case, energy in said.items():
        kept = {key: value for key, value in metrics.items() if not key.startswith("energy")}
        (tmp_path / "metrics.json").write_text(json.dumps(kept | energy))
        said[case] = next(line for line in render_card(identify(tmp_path)).splitlines() if line.startswith("Training took"))
    assert said["none"].endswith("Energy was not measured: this machine has no energy counter.")
    assert said["some"].endswith("2 Wh, counted by CPU (RAPL) and including whatever else ran on the machine.")
    assert said["old"].endswith("Energy was not measured.")
