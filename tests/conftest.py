"""What several tests share: the repository's places, and small real artifacts made once a session."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"

# Nothing here needs the network; a test that would ask for it fails at once instead of waiting.
os.environ.setdefault("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The real data sets beside the project; a stranger's clone has none."""
    if not (SHARED / "data").is_dir():
        pytest.skip("needs the data sets of ../shared/data, which are not part of the project")
    return SHARED / "data"


def run_python(*words: str | Path, cwd: Path, env: dict[str, str] | None = None, timeout: int = 300):
    """Run this interpreter as a user would, in a process of its own; the result has stdout, stderr and returncode."""
    return subprocess.run(
        [sys.executable, *map(str, words)],
        cwd=cwd,
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        timeout=timeout,
    )


@pytest.fixture(scope="session")
def run_recipe(tmp_path_factory):
    """Run a recipe by name in a process of its own, in an empty folder or in `cwd`."""
    empty = tmp_path_factory.mktemp("elsewhere")

    def run(name: str, *words: str | Path, cwd: Path = empty, launcher: tuple[str, ...] = (), **settings):
        return run_python(*launcher, ROOT / "recipes" / name, *words, cwd=cwd, **settings)

    return run


ACCELERATE = ("-m", "accelerate.commands.launch", "--num_processes", "1", "--num_machines", "1", "--mixed_precision", "no",
              "--dynamo_backend", "no")  # fmt: skip


@pytest.fixture(scope="session")
def accelerate_launch(run_recipe):
    """Run a recipe under the real `accelerate launch`."""

    def run(name: str, *words: str | Path, **settings):
        return run_recipe(name, *words, launcher=ACCELERATE, **settings)

    return run


@pytest.fixture(scope="session")
def small_corpus(tmp_path_factory) -> Path:
    """Sixty short documents of this Python's documentation, one a JSON line."""
    import json

    from hfgpt.data.sources import read_python_docs

    documents = [document["text"] for document in read_python_docs() if 200 < len(document["text"]) < 700][:400:4]
    path = tmp_path_factory.mktemp("corpus") / "documents.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in documents), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def small_tokenizer(tmp_path_factory, small_corpus) -> Path:
    """A byte-level BPE of 512 tokens, trained by the recipe's main on the small corpus."""
    from recipes_in_process import recipe

    folder = tmp_path_factory.mktemp("tokenizer") / "tokenizer"
    recipe("train_tokenizer", sources=[str(small_corpus)], vocab_size=512, output_dir=str(folder))
    return folder


@pytest.fixture(scope="session")
def small_rows(tmp_path_factory, small_corpus, small_tokenizer) -> Path:
    """The small corpus as rows of 64 tokens, made by the recipe's main."""
    from recipes_in_process import recipe

    folder = tmp_path_factory.mktemp("rows") / "rows"
    recipe(
        "prepare_data", sources=[str(small_corpus)], tokenizer=str(small_tokenizer), context_length=64,
        validation_share=0.1, test_share=0.1, output_dir=str(folder),
    )  # fmt: skip
    return folder


@pytest.fixture(scope="session")
def small_run(tmp_path_factory, small_rows) -> Path:
    """A model that the real `accelerate launch recipes/pretrain.py` trained for 12 steps."""
    folder = tmp_path_factory.mktemp("run") / "base"
    done = run_python(
        *ACCELERATE, ROOT / "recipes" / "pretrain.py", *SMALL_RUN, "--dataset", small_rows, "--output_dir", folder, cwd=ROOT
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


SMALL_RUN = (
    *("--depth", "2", "--max_steps", "12", "--per_device_train_batch_size", "8", "--precision", "fp32", "--cpu_threads", "1"),
    *("--eval_steps", "6", "--save_steps", "6", "--logging_steps", "3", "--sample_prompts", "os.", "", "--sample_tokens", "8"),
)
