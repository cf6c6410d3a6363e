"""What several tests share: paths in the repository, and small real artifacts made once per session."""

import gc
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

ROOT = Path(__file__).resolve().parents[1]
# tests/ecosystem also compares with the native twins; tests/recipes converts the published architectures and sends signals.
sys.path += [str(ROOT / "tests" / name) for name in ("model", "conversion", "reliability")]
SHARED = ROOT.parent / "shared"

# No test needs the network; one that tries to use it fails at once instead of waiting.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# A process that a script starts in the background ignores Ctrl-C, as do its children; some tests send it.
signal.signal(signal.SIGINT, signal.default_int_handler)
# Workers train side by side: threads that spin while waiting would take cores from other workers (benchmarks/busy_machine.py).
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

# The longest files start first and in this order, so that no worker has minutes left when the others are done. Between files that
# need the same artifacts of `once` there is another: two that start together would both wait for the first to make them.
LONGEST = ("test_serving.py", "test_fuzz.py", "test_disturbed_runs.py", "test_slurm_cluster.py", "test_signals.py",
           "test_upstream.py", "test_wheel.py", "test_killed_runs.py", "test_many_processes.py", "test_evaluate.py",
           "test_budgets.py", "test_publish_recipe.py", "test_api.py", "test_pretrain.py", "test_readme.py")  # fmt: skip


# Folders of tests that run whole recipes or other people's programs.
SLOW_FOLDERS = {"ecosystem", "recipes", "reliability", "upstream"}
# These train a model or start processes; a test that uses one of them is slow, whatever else it does.
SLOW_FIXTURES = {"small_run", "small_families", "small_gpt2", "fine_tune", "small_assistants", "stranger", "without_hqq",
                 "run_recipe", "accelerate_launch"}  # fmt: skip


@pytest.hookimpl(tryfirst=True)  # before `-m "not slow"` is applied
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first, keep the order of the rest, and mark what `make test-fast` leaves out."""
    place = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.name, len(LONGEST)))
    for item in items:
        if item.path.parent.name in SLOW_FOLDERS or SLOW_FIXTURES & set(item.fixturenames):
            item.add_marker("slow")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item):
    """Restore the number of threads after each test, because a recipe that runs in this process sets its own."""
    import torch

    threads = torch.get_num_threads()
    result = yield
    torch.set_num_threads(threads)
    return result


@pytest.fixture(scope="module", autouse=True)
def _frozen() -> None:
    """Exclude existing objects from garbage collection: Trainer's full collections take two fifths of the time of some files."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The real data sets beside the project; other people's clones do not have them."""
    if not (SHARED / "data").is_dir():
        pytest.skip("needs the data sets of ../shared/data, which are not part of the project")
    return SHARED / "data"


def run_python(*words: str | Path, cwd: Path, env: dict[str, str] | None = None, timeout: int = 300):
    """Run this interpreter as a user would, in a new process; the result has stdout, stderr and returncode."""
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
    """Run a recipe by name in a new process, in an empty folder or in `cwd`."""
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
def once(tmp_path_factory):
    """Make something once for all workers of a session: the first to ask makes it, the others wait and get its JSON value."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def value_of(name: str, make: Callable[[], Any]):
        path = shared / f"{name}.json"
        with FileLock(path.with_suffix(".lock")):
            if not path.exists():
                path.write_text(json.dumps(make(), default=str), encoding="utf-8")
            return json.loads(path.read_text(encoding="utf-8"))

    return value_of


def paths(folders: dict[str, str]) -> dict[str, Path]:
    return {name: Path(folder) for name, folder in folders.items()}


@pytest.fixture(scope="session")
def small_corpus(tmp_path_factory, once) -> Path:
    """A hundred short documents from this Python's documentation, one per JSON line."""
    return Path(once("small_corpus", lambda: _small_corpus(tmp_path_factory.mktemp("corpus"))))


def _small_corpus(folder: Path) -> Path:
    from hfgpt.data.python_docs import read_python_docs

    documents = [document["text"] for document in read_python_docs() if 200 < len(document["text"]) < 700][:400:4]
    path = folder / "documents.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in documents), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def small_tokenizer(tmp_path_factory, once, small_corpus) -> Path:
    """A byte-level BPE of 512 tokens, trained by the recipe's main on the small corpus."""

    def make() -> Path:
        from recipes_in_process import recipe

        folder = tmp_path_factory.mktemp("tokenizer") / "tokenizer"
        recipe("train_tokenizer", sources=[str(small_corpus)], vocab_size=512, split_by="document", output_dir=str(folder))
        return folder

    return Path(once("small_tokenizer", make))


@pytest.fixture(scope="session")
def small_rows(tmp_path_factory, once, small_corpus, small_tokenizer) -> Path:
    """The small corpus as rows of 64 tokens, made by the recipe's main."""

    def make() -> Path:
        from recipes_in_process import recipe

        folder = tmp_path_factory.mktemp("rows") / "rows"
        recipe(
            "prepare_data", sources=[str(small_corpus)], tokenizer=str(small_tokenizer), context_length=64,
            validation_share=0.1, test_share=0.1, output_dir=str(folder),
        )  # fmt: skip
        return folder

    return Path(once("small_rows", make))


@pytest.fixture(scope="session")
def small_run(tmp_path_factory, once, small_rows) -> Path:
    """A model that the real `accelerate launch recipes/pretrain.py` trained for 12 steps."""

    def make() -> Path:
        folder = tmp_path_factory.mktemp("run") / "base"
        done = run_python(
            *ACCELERATE, ROOT / "recipes" / "pretrain.py", *SMALL_RUN, "--dataset", small_rows, "--output_dir", folder, cwd=ROOT
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return folder

    return Path(once("small_run", make))


SMALL_RUN = (
    *("--depth", "2", "--max_steps", "12", "--per_device_train_batch_size", "8", "--precision", "fp32", "--cpu_threads", "1"),
    *("--eval_steps", "6", "--save_steps", "6", "--logging_steps", "3", "--sample_prompts", "os.", "", "--sample_tokens", "8"),
)


@pytest.fixture(scope="session")
def stranger(tmp_path_factory, once) -> dict[str, str]:
    """An environment (for `python -S`) with every installed package except hfgpt and hqq (which takes two seconds to import)."""
    return once("stranger", lambda: _stranger(tmp_path_factory.mktemp("packages")))


def _stranger(packages: Path) -> dict[str, str]:
    for folder in (Path(entry) for entry in sys.path if Path(entry).name in ("site-packages", "dist-packages")):
        for entry in folder.iterdir():
            if not re.search("hfgpt|^hqq", entry.name) and not (packages / entry.name).exists():
                (packages / entry.name).symlink_to(entry)
    environment = {"PYTHONPATH": str(packages)}
    done = run_python("-S", "-c", "import transformers, hfgpt", cwd=packages, env=environment)
    assert done.stderr.strip().endswith("No module named 'hfgpt'"), done.stderr
    return environment


@pytest.fixture(scope="session")
def without_hqq(stranger) -> dict[str, str]:
    """The environment of `stranger` with hfgpt: what `import hfgpt` gives others, without the seconds for hqq.

    Not for functions of Dataset.map: dill copies modules that are not in site-packages, and fails.
    """
    return stranger | {"PYTHONPATH": os.pathsep.join((stranger["PYTHONPATH"], str(ROOT)))}


@pytest.fixture(scope="session")
def materials(tmp_path_factory, once) -> Path:
    """What the tiny runs of tests/reliability/lab.py read."""
    from lab import make_materials

    return Path(once("materials", lambda: make_materials(tmp_path_factory.mktemp("materials"))))


@pytest.fixture(scope="session")
def small_families(tmp_path_factory, once, small_corpus, small_tokenizer) -> dict[str, Path]:
    """A folder for each family: 2 layers of 64 channels, trained long enough to prefer some tokens, with a chat template."""
    return paths(once("small_families", lambda: _small_families(tmp_path_factory, small_corpus, small_tokenizer)))


def _small_families(tmp_path_factory, small_corpus: Path, small_tokenizer: Path) -> dict[str, Path]:
    from datasets import Dataset
    from transformers import AutoTokenizer, Trainer, TrainingArguments, default_data_collator, set_seed

    from hfgpt import HfGptConfig, HfGptForCausalLM
    from hfgpt.chat_templates import set_prompt_style
    from hfgpt.tokenization import encode_texts

    tokenizer = AutoTokenizer.from_pretrained(small_tokenizer)
    set_prompt_style(tokenizer, "chat")
    texts = [json.loads(line)["text"] for line in small_corpus.read_text(encoding="utf-8").splitlines()]
    ids = [token for document in encode_texts(tokenizer, texts) for token in (tokenizer.eos_token_id, *document)]
    rows = [ids[start : start + 128] for start in range(0, len(ids) - 127, 128)]
    dataset = Dataset.from_dict({"input_ids": rows, "labels": rows})
    shape = dict(
        **dict(vocab_size=len(tokenizer), num_hidden_layers=2, hidden_size=64, num_attention_heads=4, max_position_embeddings=256),
        **{f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("pad", "bos", "eos")},
        **dict(embedding_dropout=0.0, residual_dropout=0.0, attention_dropout=0.0),  # makes losses after few steps comparable
    )
    configs = {
        "book": HfGptConfig.gpt2("124M", **shape),
        "modern": HfGptConfig.modern(
            2, **shape, num_key_value_heads=2, head_dim=16, intermediate_size=160, tie_word_embeddings=True
        ),
    }
    folders = {}
    for family, config in configs.items():
        folders[family] = tmp_path_factory.mktemp(family) / "base"
        set_seed(0)
        model = HfGptForCausalLM(config)
        settings = TrainingArguments(
            str(folders[family].parent / "training"), max_steps=240, per_device_train_batch_size=8, learning_rate=3e-3,
            warmup_steps=0.1, save_strategy="no", disable_tqdm=True, use_cpu=True,
        )  # fmt: skip
        Trainer(model, settings, train_dataset=dataset, data_collator=default_data_collator).train()
        model.config.use_cache = True  # the Trainer's False would be saved
        model.save_pretrained(folders[family])
        tokenizer.save_pretrained(folders[family])
    return folders


@pytest.fixture(scope="session")
def small_gpt2(tmp_path_factory, once, small_corpus) -> Path:
    """A tiny GPT2LMHeadModel with a tokenizer like OpenAI's: one special token, no padding token, nothing added before a text."""
    return Path(once("small_gpt2", lambda: _small_gpt2(tmp_path_factory.mktemp("gpt2") / "base", small_corpus)))


def _small_gpt2(folder: Path, small_corpus: Path) -> Path:
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast, set_seed

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder, backend.post_processor = decoders.ByteLevel(), processors.ByteLevel(trim_offsets=False)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, special_tokens=["<|endoftext|>"], show_progress=False)
    backend.train([str(small_corpus)], trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<|endoftext|>", eos_token="<|endoftext|>")
    texts = [json.loads(line)["text"] for line in small_corpus.read_text(encoding="utf-8").splitlines()]
    ids = [token for document in tokenizer(texts).input_ids for token in (0, *document)]
    rows = torch.tensor(ids[: len(ids) // 64 * 64]).view(-1, 64)
    set_seed(0)
    shape = dict(n_positions=256, n_embd=64, n_layer=2, n_head=4, bos_token_id=0, eos_token_id=0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), **shape))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(100):
        batch = rows[torch.randint(len(rows), (16,))]
        model(batch, labels=batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def fine_tune(small_families, small_gpt2, tmp_path_factory):
    """Run a recipe that fine-tunes one of "book", "modern" and "gpt2" for a few steps, and return the output folder."""
    from recipes_in_process import run_script

    bases = {**small_families, "gpt2": small_gpt2}
    common = (
        *("--cpu_threads", "1", "--use_cpu", "true", "--decontaminate", "false", "--poison_report", "false"),
        *("--per_device_train_batch_size", "8", "--learning_rate", "5e-3", "--lora_rank", "8"),
    )

    def run(recipe: str, base: str, rows: list[dict], *words: str) -> Path:
        folder = tmp_path_factory.mktemp(recipe)
        (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        done = run_script(
            f"{recipe}.py", "--model", bases[base], "--sources", folder / "rows.jsonl", "--output_dir", folder / base, *common,
            *words,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return folder / base

    return run


@pytest.fixture(scope="session")
def small_assistants(fine_tune, once) -> dict[str, Path]:
    """LoRA assistants of recipes/finetune_instructions.py on all three bases; it adds tokens to GPT-2's vocabulary."""
    things = ["list", "file", "path", "name", "key", "tuple", "set", "module", "function", "line", "string", "number", "class"]
    rows = [
        {"instruction": question.format(thing), "input": "", "output": answer.format(thing)}
        for thing in things
        for question, answer in (("What is a {}?", "It is a {}."), ("Say {}.", "{}"), ("Is it a {}?", "Yes, a {}."))
    ]
    # Split by order, so that the first rows are learned; keep the last, because memorised rows do not improve the validation loss.
    words = ("--max_steps", "100", "--keep", "last", "--split_method", "order", "--canaries", "false", "--answers_before", "false",
             "--eval_strategy", "no", "--save_strategy", "no", "--max_new_tokens", "16", "--prompt_style")  # fmt: skip
    styles = {"book": "chat", "modern": "alpaca", "gpt2": "chat"}

    def make() -> dict[str, Path]:
        return {base: fine_tune("finetune_instructions", base, rows, *words, style) for base, style in styles.items()}

    return paths(once("small_assistants", make))


@pytest.fixture
def no_slurm(tmp_path_factory, monkeypatch):
    """A PATH with everything but `sbatch`, also on a machine that has it."""
    folders = []
    for folder in map(Path, os.environ["PATH"].split(os.pathsep)):
        if (folder / "sbatch").exists():
            others = tmp_path_factory.mktemp("programs")
            for program in folder.iterdir():
                if program.name != "sbatch":
                    (others / program.name).symlink_to(program)
            folder = others
        folders.append(str(folder))
    monkeypatch.setenv("PATH", os.pathsep.join(folders))
