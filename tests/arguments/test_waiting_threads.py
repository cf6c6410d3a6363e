"""The threads of a training are told to sleep before torch, which reads it once, is loaded."""

import pytest
from conftest import ROOT, run_python


@pytest.mark.slow
@pytest.mark.parametrize(
    ("given", "expected"), [({}, "1000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "PASSIVE"}, "0")]
)
def test_openmp_reads_the_count_that_a_recipe_or_the_environment_gives(given, expected, tmp_path, monkeypatch):
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    words = (ROOT / "recipes/pretrain.py", "--dataset", "nowhere", "--output_dir", tmp_path / "base")
    said = run_python(*words, cwd=tmp_path, env={"OMP_DISPLAY_ENV": "VERBOSE", **given}).stderr
    assert "nowhere" in said
    if "GOMP_SPINCOUNT" not in said:
        pytest.skip("this torch brings another OpenMP than GNU's")
    assert f"GOMP_SPINCOUNT = '{expected}'" in said
