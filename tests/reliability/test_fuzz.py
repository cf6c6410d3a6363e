"""A slice of the fuzzer, from a fixed seed: kills, signals, full disks and damaged files end with exactly the same weights."""

import fuzz
import pytest


# Rounds instead of minutes, so that a busy machine does as many; on two free cores a minute, and half of one. The three with two
# processes kill assistants and preferences and send a classifier a signal; test_disturbed_runs.py kills pretraining.
@pytest.mark.parametrize(("processes", "seed", "rounds"), [(1, 100, 9), (2, 211, 3)])
def test_a_slice_of_the_fuzzer_finds_nothing(processes, seed, rounds, materials, tmp_path, capfd):
    done, finds = fuzz.fuzz(seed=seed, folder=tmp_path, materials=materials, rounds=rounds, processes=processes)
    assert finds == [], capfd.readouterr().out
    assert done == rounds
