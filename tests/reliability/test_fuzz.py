"""A slice of the fuzzer, from a fixed seed: kills, signals, full disks and damaged files end with exactly the same weights."""

import fuzz
import pytest


@pytest.mark.parametrize(("processes", "minutes"), [(1, 1.2), (2, 0.8)])
def test_a_slice_of_the_fuzzer_finds_nothing(processes, minutes, tmp_path, capfd):
    rounds, finds = fuzz.fuzz(seed=100 * processes, folder=tmp_path, minutes=minutes, processes=processes)
    assert finds == [], capfd.readouterr().out
    assert rounds >= 1
