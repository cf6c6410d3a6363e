"""Measurements for a plan: a few real steps per size on this machine, and a short rehearsal of the chosen run.

The measurements use the Trainer of the run itself, with its data, its optimizer and all its processes; only its folder is
temporary. All processes measure together, and the first one's figures count.
"""

import gc
import logging
import lzma
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import psutil
import torch
from datasets import Dataset, DatasetDict
from transformers import PreTrainedTokenizerFast, PrinterCallback, ProgressCallback, TrainerCallback

from hfgpt.arguments.pretraining import PretrainArguments
from hfgpt.data.collators import PackedRowsCollator
from hfgpt.data.passport import HELD_OUT, Passport
from hfgpt.training import plan as planning
from hfgpt.training.callbacks import LossPictureCallback, SamplesCallback
from hfgpt.training.decisions import decided_by_the_first
from hfgpt.training.flops import ModelFlops
from hfgpt.training.optimizers import trainer_optimizer
from hfgpt.training.plan import Candidate, Choice, Speed, Text
from hfgpt.training.pretraining import build_model, training_rows
from hfgpt.training.trainer import LanguageModelTrainer, changed

logger = logging.getLogger(__name__)

# Tokens per step in the two measurements per size.
PROBE_TOKENS = (1024, 4096)
# Steps per measurement after the first, which prepares kernels and memory.
PROBE_STEPS = 2
# Rows for timing evaluations.
TIMED_ROWS = 16
# The speed of a size that does not fit.
TOO_LARGE = Speed(1e9, 1e9)


@dataclass(frozen=True)
class Rehearsal:
    """The measured costs of the chosen run, in seconds.

    Args:
        step: one training step.
        evaluation: one evaluation without its rows: samples, plot, log, checkpoint.
        row: evaluating one row.
        memory_bytes: peak memory on a GPU; 0 on a CPU.
    """

    step: float
    evaluation: float
    row: float
    memory_bytes: int


class StepClock(TrainerCallback):
    """Notes when steps end."""

    def __init__(self, device: torch.device):
        self.device = device
        self.ends: list[float] = []

    def on_step_end(self, args, state, control, **kwargs):
        if self.device.type != "cpu":
            torch.accelerator.synchronize(self.device)
        self.ends.append(time.perf_counter())

    def seconds(self) -> list[float]:
        """Of each step except the first, including everything since the previous step."""
        return [end - begin for begin, end in zip(self.ends, self.ends[1:])]


def difficulty_of(rows: Dataset, tokenizer: PreTrainedTokenizerFast) -> float:
    """Bits per byte that lzma needs for 32 KiB parts of the text, so that short and long texts are comparable; 0 for no text.

    Cost: a tenth of a second.
    """
    part, texts = 2**15, []
    wanted = 8 * part
    for start in range(0, len(rows), max(4, len(rows) // 64)):
        if sum(map(len, texts)) > wanted:
            break
        ids = [identity for row in rows[start : start + 4]["input_ids"] for identity in row]
        texts.append(str(tokenizer.decode(ids, skip_special_tokens=True)).encode())
    text = b"".join(texts)[:wanted]
    parts = [text[start : start + part] for start in range(0, len(text), part)]
    whole = [one for one in parts if len(one) == part] or parts
    return 8 * sum(len(lzma.compress(one, preset=6)) for one in whole) / max(1, sum(map(len, whole)))


class Workbench:
    """Counts, measures and rehearses the sizes of a run; all its processes do it together."""

    def __init__(self, args: PretrainArguments, *, rows: DatasetDict, passport: Passport, tokenizer: PreTrainedTokenizerFast):
        self.args, self.rows, self.passport, self.tokenizer = args, rows, passport, tokenizer
        self.began = time.time()
        self.row_tokens = int(passport.settings["context_length"])
        counts = passport.splits["train"]
        tokens = len(rows["train"]) * self.row_tokens
        self.text = Text(
            tokens=tokens,
            bytes_per_token=counts["bytes"] / tokens,
            row_tokens=self.row_tokens,
            difficulty=difficulty_of(rows["train"], tokenizer),
        )
        self.memory: int = decided_by_the_first(self.free_memory)
        self.held_out_rows = {name: len(rows[name]) for name in HELD_OUT if name in rows}

    def candidate(self, depth: int, overrides: Mapping[str, object]) -> Candidate:
        """A model, counted without building it."""
        with torch.device("meta"):
            model = self.model(depth, overrides)
        embedding = cast(torch.nn.Embedding, model.get_input_embeddings()).weight
        apart = cast(torch.nn.Linear, model.get_output_embeddings()).weight is not embedding
        return Candidate(
            depth=depth,
            width=model.config.hidden_size,
            overrides=dict(overrides),
            parameters=model.num_parameters(),
            tables=embedding.numel() * (2 if apart else 1),
            flops_per_token=ModelFlops.of(model).per_token(self.row_tokens),
        )

    def model(self, depth: int, overrides: Mapping[str, object]):
        """The model of the run with this depth and these fields."""
        args = self.args
        return build_model(
            self.tokenizer,
            context_length=self.row_tokens,
            family=args.family,
            depth=depth,
            size=args.size,
            overrides=overrides,
            seed=args.seed,
            attn_implementation=args.attn_implementation,
        )

    def batches(self) -> list[int]:
        """The tokens per step that the given arguments leave open."""
        args = self.args
        if "per_device_train_batch_size" in args.explicit or "gradient_accumulation_steps" in args.explicit:
            return [args.train_batch_size * args.gradient_accumulation_steps * args.world_size * self.row_tokens]
        return planning.batches(self.text, processes=args.world_size)

    def measure_speed(self, candidate: Candidate) -> Speed:
        """The speed of a size, from two batches if the batch is open."""
        try:
            measured = [(float(size), self._step_seconds(candidate, size)) for size in self._probe_sizes()]
        except torch.OutOfMemoryError:
            logger.info(f"plan: {candidate.parameters:,} parameters do not fit into the memory of this GPU")
            return TOO_LARGE
        first, last = measured[0], measured[-1]
        speed = Speed.through(first, last) if first is not last else Speed(0.0, first[1] / first[0])
        return decided_by_the_first(lambda: speed)

    def seconds_of_measuring(self, speed: Speed) -> float:
        """About how long `measure_speed` takes for a size of this speed, besides setting it up."""
        return (1 + PROBE_STEPS) * sum(map(speed.step, self._probe_sizes()))

    def _probe_sizes(self) -> list[int]:
        sizes = self.batches()
        return sizes if len(sizes) == 1 else list(dict.fromkeys(min(sizes, key=lambda size: abs(size - n)) for n in PROBE_TOKENS))

    def _step_seconds(self, candidate: Candidate, batch: int) -> float:
        clock = StepClock(self.args.device)
        with self.trainer(candidate, batch, steps=1 + PROBE_STEPS, callbacks=[clock]) as trainer:
            trainer.train()
            trainer.signals.pass_on()  # nothing has been written yet
        return min(clock.seconds())

    def rehearse(self, choice: Choice) -> Rehearsal:
        """A short version of the chosen run: some steps, an evaluation of some rows with everything that belongs to it, a
        checkpoint."""
        args = self.args
        wanted = 0.02 * args.time_budget / choice.step_seconds if args.time_budget else 4
        steps = decided_by_the_first(lambda: int(max(3, min(20, wanted))))
        validation = self.rows.get("validation")
        rows = validation.select(range(min(len(validation), TIMED_ROWS))) if validation is not None else None
        clock = StepClock(args.device)
        sample_tokens = min(args.sample_tokens, self.row_tokens // 2)
        callbacks = [
            SamplesCallback(self.tokenizer, args.sample_prompts, max_new_tokens=sample_tokens),
            LossPictureCallback(),
            clock,
        ]
        more: dict[str, Any] = dict(
            eval_steps=steps, save_steps=steps, eval_strategy=args.eval_strategy, save_strategy=args.save_strategy
        )
        with self.trainer(
            choice.candidate, choice.batch, steps=1 + steps, callbacks=callbacks, eval_dataset=rows, **more
        ) as trainer:
            trainer.train()
            trainer.signals.pass_on()  # nothing has been written yet
            row = 0.0
            if rows is not None:
                trainer.remove_callback(SamplesCallback)
                began = time.perf_counter()
                trainer.evaluate_as_loaded(rows, name="test")
                row = (time.perf_counter() - began) / len(rows)
            memory = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
        *steps_taken, last = clock.seconds()  # the evaluation comes before the last step
        step = sum(steps_taken) / len(steps_taken)
        evaluation = max(0.0, last - step - (len(rows) * row if rows is not None else 0.0))
        return decided_by_the_first(lambda: Rehearsal(step=step, evaluation=evaluation, row=row, memory_bytes=memory))

    @contextmanager
    def trainer(self, candidate: Candidate, batch: int, *, steps: int, callbacks: list[TrainerCallback], **settings) -> Iterator:
        """The Trainer of the run with this model and batch, in a temporary folder and without output."""
        args = self.args
        eval_dataset = settings.pop("eval_dataset", None)
        with tempfile.TemporaryDirectory(prefix="hfgpt-plan-") as folder:
            quiet: dict[str, Any] = dict(
                **(dict(eval_strategy="no", save_strategy="no") | settings),
                **self.batch_settings(candidate, batch),
                **{name: value for name, value in self.rates(candidate).items() if name not in args.explicit},
            )
            quiet |= dict(output_dir=folder, max_steps=steps, disable_tqdm=True, report_to=[], push_to_hub=False)
            quiet |= dict(logging_strategy="no", logging_first_step=False)  # log lines take time, which is counted separately
            run = changed(args, **quiet)
            trainer = LanguageModelTrainer(
                model=self.model(candidate.depth, candidate.overrides),
                args=run,
                keep="last",
                train_dataset=training_rows(
                    self.rows["train"], self.tokenizer, repack=args.repack, max_masked_tokens=args.max_masked_tokens, seed=args.seed
                ),
                eval_dataset=eval_dataset,
                processing_class=self.tokenizer,
                data_collator=PackedRowsCollator(cast(int, self.tokenizer.pad_token_id)),
                optimizer_cls_and_kwargs=trainer_optimizer(run.optimizer, run.optimizer_settings()),
                callbacks=callbacks,
            )
            for printing in (PrinterCallback, ProgressCallback):
                trainer.remove_callback(printing)
            try:
                yield trainer
            finally:
                trainer.accelerator.free_memory()
                del trainer
                gc.collect()
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()
                    torch.cuda.reset_peak_memory_stats()

    def rates(self, candidate: Candidate) -> dict[str, float]:
        """Peak rates for a model, from its width and the optimizer."""
        return planning.rates(candidate.width, muon=self.args.optimizer == "muon")

    def batch_settings(self, candidate: Candidate, batch: int) -> dict[str, int]:
        """Rows per device and batches per step that give this many tokens per step and fit into memory."""
        args = self.args
        if {"per_device_train_batch_size", "gradient_accumulation_steps"} & args.explicit:
            return {}
        rows = max(1, batch // (self.row_tokens * args.world_size))
        together = rows
        while together > 1 and self.memory_of(candidate, together) > 0.7 * self.memory:
            together //= 2
        return {"per_device_train_batch_size": together, "gradient_accumulation_steps": rows // together}

    def rows_of_a_device(self, candidate: Candidate, batch: int) -> int:
        """Rows that a device processes at once."""
        return self.batch_settings(candidate, batch).get("per_device_train_batch_size", self.args.per_device_train_batch_size)

    def memory_of(self, candidate: Candidate, rows: int) -> int:
        """Bytes for a step with this many rows on one device."""
        plain = self.args.attn_implementation == "eager"  # other kernels never store the probabilities
        heads = max(1, candidate.width // planning.HEAD_WIDTH) if plain else 0
        sizes = dict(row_tokens=self.row_tokens, device_tokens=rows * self.row_tokens, heads=heads)
        return planning.expected_memory(candidate, vocab_size=len(self.tokenizer), **sizes)

    def free_memory(self) -> int:
        """Bytes that this process may use: of the GPU, or its share of the machine's memory."""
        if torch.cuda.is_available() and not self.args.use_cpu:
            return torch.cuda.mem_get_info()[0]
        return psutil.virtual_memory().available // max(1, self.args.world_size)
