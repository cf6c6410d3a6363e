"""transformers' own common model tests, taken from the source distribution of the installed release, on both families."""

import os
import re
import subprocess
import sys
import tarfile
import xml.etree.ElementTree as ElementTree
from importlib.util import find_spec
from pathlib import Path

import pytest
import transformers

pytestmark = [pytest.mark.slow, pytest.mark.network]
HERE = Path(__file__).parent
# What replaces the files that the common tests import but the source distribution leaves out.
STAND_INS = {
    "exporters/test_export.py": "from ..stand_ins import ExportTesterMixin",
    "generation/test_utils.py": "from ..stand_ins import GenerationTesterMixin",
    "utils/test_configuration_utils.py": "from ..stand_ins import config_common_kwargs",
    "distributed_testing_utils.py": "from .stand_ins import (_get_distributed_backend, _get_distributed_device_type, "
    "_get_rank_device, _set_rank_device, _start_rank_processes, run_distributed)",
}
# Named one by one, so that a release that skips them is noticed.
MUST_PASS = {
    "test_config",
    "test_save_load",
    "test_init_weights_can_init_buffers",
    "test_can_init_all_missing_weights",
    "test_tied_weights_keys",
    "test_load_save_without_tied_weights",
    "test_model_weights_reload_no_missing_tied_weights",
    "test_resize_tokens_embeddings",
    "test_resize_embeddings_untied",
    "test_training",
    "test_training_overfit",
    "test_training_gradient_checkpointing",
    "test_enable_input_require_grads",
    "test_hidden_states_output",
    "test_attention_outputs",
    "test_inputs_embeds",
    "test_inputs_embeds_matches_input_ids",
    "test_torch_save_load",
    "test_can_be_initialized_on_meta",
    "test_batching_equivalence",
    "test_eager_matches_sdpa_inference",
    "test_causal_lm_loss_honors_shift_labels",
    "test_tp_forward",
    "test_tp_backward",
    "test_tp_generation",
    "test_fsdp2_save_load",
    "test_fsdp2_bf16_training",
    "test_fsdp2_plan_vs_ddp",
}


@pytest.fixture(scope="module")
def upstream_tests(tmp_path_factory) -> Path:
    """A folder with transformers' tests as a package, with stand-ins for the missing names, and our cases."""
    folder = tmp_path_factory.mktemp("upstream")
    release = f"transformers=={transformers.__version__}"
    # An isolated build would first download setuptools.
    here = ["--no-build-isolation"] if find_spec("setuptools") else []
    words = ["download", *here, "--quiet", "--no-deps", "--no-binary", "transformers", "--dest", str(folder), release]
    done = subprocess.run([sys.executable, "-m", "pip", *words], capture_output=True, text=True, timeout=300)
    if done.returncode != 0:
        pytest.skip(f"needs a package registry for the source distribution of {release}: {done.stderr.strip()[-200:]}")
    (archive,) = folder.glob("transformers-*.tar.gz")
    tests = folder / "tests_of_transformers"
    with tarfile.open(archive) as packed:
        root = packed.getnames()[0].partition("/")[0]
        wanted = [member for member in packed.getmembers() if member.name.startswith(f"{root}/tests/")]
        packed.extractall(folder, members=wanted, filter="data")
    (folder / root / "tests").rename(tests)
    (tests / "__init__.py").touch()
    for name, line in STAND_INS.items():
        path = tests / name
        if path.exists():
            continue  # a later release may contain it
        path.parent.mkdir(exist_ok=True)
        (path.parent / "__init__.py").touch()
        path.write_text(line + "\n")
    (tests / "stand_ins.py").write_text((HERE / "stand_ins.py").read_text())
    (tests / "test_hfgpt.py").write_text((HERE / "model_cases.py").read_text())
    return folder


@pytest.fixture(scope="module")
def outcome(upstream_tests) -> tuple[list[ElementTree.Element], subprocess.CompletedProcess]:
    """All cases of both families, run in one process, and that process."""
    report = upstream_tests / "report.xml"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "tests_of_transformers/test_hfgpt.py", f"--junitxml={report}",
         "-o", "addopts=", "-p", "no:cacheprovider", "-p", "no:xdist", "--tb=short", "-q", "-W", "ignore",
         f"--rootdir={upstream_tests}", "-c", os.devnull],
        cwd=upstream_tests, env={**environment, "RUN_SLOW": "1", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        capture_output=True, text=True, timeout=1800,
    )  # fmt: skip
    return list(ElementTree.parse(report).getroot().iter("testcase")) if report.exists() else [], done


@pytest.mark.parametrize("family", ["BookFamilyTest", "ModernFamilyTest"])
def test_every_common_test_that_applies_passes(family, outcome):
    cases, done = outcome
    cases = [case for case in cases if case.get("classname").endswith(family)]
    passed = {case.get("name") for case in cases if not len(case)}
    failed = [case.get("name") for case in cases if any(child.tag in ("failure", "error") for child in case)]
    assert done.returncode == 0, f"failed: {failed}\n{done.stdout[-6000:]}{done.stderr[-2000:]}"
    assert len(passed) >= 110, f"only {len(passed)} tests ran"
    # A parametrized test has a number: test_tp_forward_0.
    missing = MUST_PASS - {re.sub(r"_\d+(_.*)?$", "", name.partition("[")[0]) for name in passed}
    assert not missing, f"skipped or gone: {sorted(missing)}"
