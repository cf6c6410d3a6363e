"""Tiny runs of the four training recipes: processes as a shell would start them, but forked with the imports done."""

import atexit
import gc
import json
import os
import resource
import runpy
import signal
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for `python -m tests.reliability.fuzz`
from killing import CONTEXT, sha256_of_weights, signal_at
from recipes_in_process import RECIPES, recipe

from hfgpt.files import sha256_of_file as sha256_of_file

LIMIT_SECONDS = 120  # for a tiny run, which takes two or three; longer means a hang

TRAINING = (
    *("--precision", "fp32", "--cpu_threads", "1", "--use_cpu", "true", "--disable_tqdm", "true", "--logging_steps", "1"),
    # With a rate that does not fall to 0, one step too many changes the weights.
    *("--lr_scheduler_type", "constant", "--learning_rate", "3e-3", "--warmup_steps", "0", "--gradient_accumulation_steps", "2"),
)
LORA = (
    *("--lora_rank", "4", "--canaries", "false", "--poison_report", "false", "--decontaminate", "false"),
    *("--num_train_epochs", "2", "--save_strategy", "steps", "--validation_share", "0.2"),
)
EVALUATED = ("--eval_strategy", "steps")
DROPOUT = ("--lora_dropout", "0.1")  # not used for preferences
ANSWERS = ("--max_new_tokens", "2", "--max_answers", "1", "--num_samples", "1", "--max_length", "64")
SHAPE = dict(hidden_size=32, num_attention_heads=2, num_key_value_heads=2, head_dim=16, intermediate_size=64)
OVERRIDES = json.dumps(SHAPE | {"residual_dropout": 0.1})
WORDS = {
    "pretrain": (
        "--depth",
        "2",
        "--max_steps",
        "10",
        "--config_overrides",
        OVERRIDES,
        "--sample_prompts",
        "os",
        "--sample_tokens",
        "2",
    ),
    # Evaluated after each epoch, the default of the three; the other two also evaluate within an epoch.
    "finetune_classification": (*LORA, *DROPOUT, "--tfidf_baseline", "false", "--max_length", "32", "--seeds", "0", "1"),
    "finetune_instructions": (*LORA, *EVALUATED, *DROPOUT, *ANSWERS, "--packing", "false", "--keep", "last"),
    "align_preferences": (*LORA, *EVALUATED, *ANSWERS),
}
NAMES = tuple(WORDS)


def make_materials(folder: Path) -> Path:
    """A tokenizer, rows of 64 tokens, a base of two layers with its chat template, and a file of examples for each recipe."""
    import torch
    from transformers import AutoTokenizer

    from hfgpt import HfGptConfig, HfGptForCausalLM
    from hfgpt.chat_templates import set_prompt_style

    folder.mkdir(parents=True, exist_ok=True)
    texts = [f"def function_{n}(a, b): return a + b * {n * 37 % 101}  # {'os.path ' * (n % 5)}" for n in range(150)]
    write_lines(folder / "texts.jsonl", ({"text": text} for text in texts))
    answers = [{"instruction": f"Say {n}.", "input": "", "output": text[4 : 12 + n % 7]} for n, text in enumerate(texts[:26])]
    write_lines(folder / "finetune_instructions.jsonl", answers)
    pairs = [{**row, "chosen": row["output"], "rejected": row["output"][:3]} for row in answers]
    write_lines(folder / "align_preferences.jsonl", ({key: row[key] for key in row if key != "output"} for row in pairs))
    labelled = [{"text": f"{'yes' if n % 2 else 'no'} {text[:20]}", "label": "ab"[n % 2]} for n, text in enumerate(texts[:44])]
    write_lines(folder / "finetune_classification.jsonl", labelled)
    shared = dict(sources=[str(folder / "texts.jsonl")], validation_share=0.1, test_share=0.1, num_proc=1)
    tokenizer, rows = str(folder / "tokenizer"), str(folder / "rows")
    recipe("train_tokenizer", **shared, vocab_size=300, split_by="document", output_dir=tokenizer)
    recipe("prepare_data", **shared, tokenizer=tokenizer, context_length=64, output_dir=rows)
    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
    set_prompt_style(tokenizer, "chat")
    torch.manual_seed(0)
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("pad", "bos", "eos")}
    config = HfGptConfig.modern(2, vocab_size=len(tokenizer), max_position_embeddings=128, **SHAPE, **ids)
    HfGptForCausalLM(config).save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    return folder


def write_lines(path: Path, rows: Iterable[dict]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def words_of(name: str, materials: Path, *, world: int = 1, save_steps: int = 2) -> list[str]:
    """The command line of a tiny run of the recipe, without output_dir; with two processes each gets half of a batch."""
    rows = ("--dataset", materials / "rows") if name == "pretrain" else (
        *("--model", materials / "base", "--sources", materials / f"{name}.jsonl"),
    )  # fmt: skip
    batch = ("--per_device_train_batch_size", 4 // world, "--save_steps", save_steps)
    steps = () if name == "finetune_classification" else ("--eval_steps", 2 * save_steps)
    return [str(word) for word in (*TRAINING, *WORDS[name], *rows, *batch, *steps)]


class Job:
    """A running command of one process or several ranks, with its output in a file.

    Args:
        file_limit: maximum size of a written file, in bytes.
        open_files: how many more files it may open than are open when it starts.
        at: a function, a number of calls and a signal that the process then sends to itself, see `killing.signal_at`.
    """

    def __init__(
        self,
        name: str,
        words: Sequence[object],
        log: Path,
        *,
        world: int = 1,
        file_limit: int | None = None,
        open_files: int | None = None,
        at: tuple[str, int, int] | None = None,
    ):
        self.log = log
        log.unlink(missing_ok=True)
        arguments = (name, [str(word) for word in words], str(log), file_limit, open_files, at)
        environments = _environments(world)
        self.processes = [CONTEXT.Process(target=_run_as_script, args=(*arguments, one)) for one in environments]
        for process in self.processes:
            process.start()

    @property
    def running(self) -> bool:
        return any(process.exitcode is None for process in self.processes)

    def runs_for(self, seconds: float) -> bool:
        """Whether it is still running after this time."""
        return self.runs_until(lambda: False, seconds=seconds) or self.running

    def runs_until(self, happened: Path | Callable[[], bool], *, seconds: float = 60) -> bool:
        """Whether the file appeared, or the condition became true, while it was running."""
        deadline = time.monotonic() + seconds
        while self.running and time.monotonic() < deadline:
            if happened.exists() if isinstance(happened, Path) else happened():
                return True
            time.sleep(0.002)
        return False

    @property
    def said(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace") if self.log.exists() else ""

    def send(self, number: int, ranks: Sequence[int] = (0, 1)) -> bool:
        """Send a signal to those processes that are still running. Returns: whether there was one."""
        there = [one for rank, one in enumerate(self.processes) if rank in ranks and one.exitcode is None]
        for process in there:
            with suppress(ProcessLookupError):  # it has ended, and the forkserver has not told us yet
                os.kill(process.pid, number)
        return bool(there)

    def wait(self, seconds: float = LIMIT_SECONDS) -> int:
        """The exit code; with several processes the first one that is not 0. Then the others are ended, as torchrun does.

        Raises: TimeoutError, with the output, if it takes longer.
        """
        deadline = time.monotonic() + seconds
        patience = None
        while self.running:
            now = time.monotonic()
            if patience is None and any(process.exitcode not in (None, 0, 75) for process in self.processes):
                patience = now + 15
            if now > deadline or (patience and now > patience):
                self.send(signal.SIGKILL)
                if now > deadline:
                    for process in self.processes:
                        process.join()
                    raise TimeoutError(f"still running after {seconds:.0f} s; it said:\n{self.said}")
            time.sleep(0.01)
        return next((process.exitcode for process in self.processes if process.exitcode), 0)


def _environments(world: int) -> list[dict[str, str]]:
    if world == 1:
        return [{}]
    from together import environment_of

    shared = environment_of(RECIPES / "accelerate" / "ddp.yaml")
    return [shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(world)]


def _run_as_script(
    name: str,
    words: list[str],
    log: str,
    file_limit: int | None,
    open_files: int | None,
    at: tuple[str, int, int] | None,
    environment: dict[str, str],
) -> None:
    """`python recipes/NAME.py WORDS > LOG 2>&1`, in a process that already has the imports."""
    _leave_out_what_takes_most_of_a_tiny_run()
    os.environ.update(environment | {"TRANSFORMERS_VERBOSITY": "error", "HF_HUB_OFFLINE": "1"})
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for number in (1, 2):
        os.dup2(file, number)
    sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if file_limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))
    if open_files is not None:
        highest = max(int(path.name) for path in Path("/dev/fd").iterdir())
        while (last := os.open(os.devnull, os.O_RDONLY)) <= highest:
            pass  # it has filled a gap
        resource.setrlimit(resource.RLIMIT_NOFILE, (last + open_files, last + open_files))
    if at is not None:
        signal_at(*at)
    script = str(RECIPES / f"{name}.py")
    sys.argv = [script, *words]
    try:
        runpy.run_path(script, run_name="__main__")
    finally:
        atexit._run_exitfuncs()  # which multiprocessing skips


def _leave_out_what_takes_most_of_a_tiny_run() -> None:
    """Pictures have one byte, the machine's speed is not measured, and garbage collection only covers objects of the run.

    None of this affects the weights; a tiny run takes a third of the time.
    """
    from matplotlib.figure import Figure

    from hfgpt.training import flops

    Figure.savefig = lambda self, file, **options: file.write(b"-")
    flops.measured_ceiling = lambda *args, **kwargs: 1e11
    gc.collect()
    gc.freeze()


def start(name: str, words: Sequence[object], folder: Path, **settings) -> Job:
    """Start a run in `folder`; its output goes to a file next to it."""
    return Job(name, [*words, "--output_dir", folder], folder.with_name(f"{folder.name}.log"), **settings)


def weights(folder: Path) -> dict[str, str]:
    """The SHA-256 of every weight file of a result."""
    return sha256_of_weights(folder)
