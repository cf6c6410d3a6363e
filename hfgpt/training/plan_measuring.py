"""From a budget to a plan: measure a few real steps of a few sizes on this machine, choose, rehearse the choice, and write it down.

What is measured is the Trainer of the run itself, with its data, its optimizer and all its processes; only its folder is a
temporary one. In several processes the first one decides, and all measure together.
"""

import gc
import logging
import lzma
import signal
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import psutil
import torch
import yaml
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from datasets import Dataset, DatasetDict
from transformers import PreTrainedTokenizerFast, PrinterCallback, ProgressCallback, TrainerCallback

from hfgpt.arguments.pretraining import PretrainArguments
from hfgpt.data.collators import PackedRowsCollator
from hfgpt.data.passport import Passport
from hfgpt.errors import UserError
from hfgpt.files import claim_output
from hfgpt.training import plan as planning
from hfgpt.training.callbacks import LossPictureCallback, SamplesCallback
from hfgpt.training.flops import ModelFlops, measured_ceiling
from hfgpt.training.optimizers import trainer_optimizer
from hfgpt.training.plan import Budget, Candidate, Choice, Speed, Text
from hfgpt.training.plan_report import describe_plan
from hfgpt.training.pretraining import build_model, training_rows
from hfgpt.training.run import RUN_FILE
from hfgpt.training.trainer import LanguageModelTrainer, changed

logger = logging.getLogger(__name__)

# Of a time budget, the share in which sizes are measured, and the most seconds for budgets of tokens and FLOPs.
SHARE_OF_MEASURING, MOST_SECONDS_OF_MEASURING = 0.06, 20.0
# Sizes that are measured at most; each costs about a second to set up.
MOST_MEASURED = 5
# Tokens per step of the two measurements of a size.
PROBE_TOKENS = (1024, 4096)
# Steps of a measurement after the first, which prepares kernels and memory.
PROBE_STEPS = 2
# Rows that evaluations are timed with.
TIMED_ROWS = 16
# Seconds from the last figure to the end: weights, fingerprint, card. Measured: 4 million parameters on one core, 2026-11-26.
SECONDS_OF_SAVING = 2.0
# What a plan chooses where it is not given.
FITTED = (
    *("depth", "config_overrides", "per_device_train_batch_size", "gradient_accumulation_steps", "learning_rate"),
    *("muon_learning_rate", "eval_steps", "save_steps"),
)
# Memory of Python with torch, transformers and datasets loaded. Measured: this program on a CPU, 2026-11-26.
BYTES_OF_THE_PROGRAM = 700 << 20
# Fields of HfGptConfig that make up a shape: whoever gives one has the others from the depth.
SHAPE_FIELDS = ("num_hidden_layers", "hidden_size", "num_attention_heads", "num_key_value_heads", "intermediate_size", "head_dim")


def within_budget(
    args: PretrainArguments, *, rows: DatasetDict, passport: Passport, tokenizer: PreTrainedTokenizerFast
) -> PretrainArguments:
    """The arguments of a run with what its budget leaves open filled in; those of a run without a budget as they are.

    The plan comes from the arguments, else from the run.yaml in the output folder, which has it from the first start, else from
    measuring. It is part of `resolved`, so that run.yaml alone repeats the run, on any machine.

    Raises: UserError where the output folder cannot be used, or the budget is too small for any run.
    Cost: without a plan 5 to 10 seconds, of a time budget at most a tenth where that is more.
    """
    if not args.budget():
        return args
    plan = cast("dict | None", args.plan) or _first_decides(lambda: _written_plan(args))
    if plan is None:
        plan = Planner(args, rows=rows, passport=passport, tokenizer=tokenizer).plan()
    elif not args.plan:
        logger.info(f"plan: as written in {args.folder / RUN_FILE} when the run began; nothing is measured again")
    if plan.get("chosen") is None:  # the folder holds another run, which will be refused with what differs
        return args
    resolved = args.resolved | {"plan": plan}
    return changed(args, **plan["chosen"], plan=plan, resolved=resolved)


def _written_plan(args: PretrainArguments) -> dict | None:
    """The plan of the run in the output folder, `{}` where that run has none for this budget, None where there is no run."""
    path = args.folder / RUN_FILE
    if args.overwrite or not path.is_file():
        claim_output(str(args.folder), overwrite=args.overwrite, marker=RUN_FILE)  # refuses before anything is measured
        return None
    plan = (yaml.safe_load(path.read_text(encoding="utf-8")) or {}).get("plan") or {}
    return plan if plan.get("asked") == args.budget() else {}


def _first_decides(decide):
    """What the first process decides, in all of them; its UserError too."""
    decision: list[Any] = [None, None]
    if PartialState().is_main_process:
        try:
            decision[0] = decide()
        except UserError as error:
            decision[1] = error
    broadcast_object_list(decision)
    if decision[1] is not None:
        raise decision[1]
    return decision[0]


@dataclass(frozen=True)
class Rehearsal:
    """What the chosen run was measured to take, in seconds.

    Args:
        step: of training.
        evaluation: of one evaluation but for its rows: samples, picture, log, checkpoint.
        row: of the evaluation of one row.
        memory_bytes: at most, on a GPU; 0 on a CPU.
    """

    step: float
    evaluation: float
    row: float
    memory_bytes: int


def _stop_if_asked(trainer: LanguageModelTrainer) -> None:
    """A signal that came while something was measured ends the command: nothing has been written yet."""
    if trainer.signals.received:
        signal.raise_signal(trainer.signals.received)


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
        """Of each step but the first, with whatever stood between it and the one before."""
        return [end - begin for begin, end in zip(self.ends, self.ends[1:])]


def difficulty_of(rows: Dataset, tokenizer: PreTrainedTokenizerFast) -> float:
    """Bits per byte that lzma needs for parts of the text of 32 KiB each, so that short and long texts compare; 0 for no text.

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


class Planner:
    """Makes the plan of one run; all its processes go through it together."""

    def __init__(self, args: PretrainArguments, *, rows: DatasetDict, passport: Passport, tokenizer: PreTrainedTokenizerFast):
        self.args, self.rows, self.passport, self.tokenizer = args, rows, passport, tokenizer
        self.began = time.time()
        self.row_tokens = int(passport.settings["context_length"])
        counts = passport.splits["train"]
        tokens = counts["tokens"] + counts["documents"]  # each document's end is learned, too
        self.text = Text(
            tokens=tokens,
            bytes_per_token=counts["bytes"] / max(1, tokens),
            row_tokens=self.row_tokens,
            difficulty=difficulty_of(rows["train"], tokenizer),
        )
        self.held_out_rows = {name: len(rows[name]) for name in ("validation", "test") if name in rows}

    def plan(self) -> dict[str, Any]:
        """Measure, choose, rehearse; says what was chosen and why. Returns: the plan as run.yaml keeps it."""
        candidates = self.candidates()
        speeds = self.measure_speeds(candidates)
        choice = self.choose(candidates, speeds)
        rehearsal = self.rehearse(choice)
        return _first_decides(lambda: self.settle(choice, rehearsal, self.choices(candidates, speeds)))

    # What there is to choose from

    def candidates(self) -> list[Candidate]:
        """The models that what was given leaves open, smallest first.

        Raises: UserError where none fits into memory, or what was given contradicts itself.
        """
        args = self.args
        given = cast(dict, args.config_overrides or {})
        if args.family != "modern":
            tried: list[tuple[int, dict]] = [(args.depth, given)]
        elif any(name in given for name in SHAPE_FIELDS):
            depths = [args.depth] if "depth" in args.explicit else sorted({depth for depth, _ in planning.SHAPES})
            tried = [(depth, given) for depth in depths]
        else:
            shapes = [shape for shape in planning.SHAPES if "depth" not in args.explicit or shape[0] == args.depth]
            shapes = shapes or [(args.depth, 128 * ((args.depth + 1) // 2))]  # the width that the depth has by itself
            tried = [(depth, planning.shape(depth, width) | given) for depth, width in shapes]
        most = 0.5 * self.free_memory()
        candidates: dict[int, Candidate] = {}
        for depth, overrides in tried:
            candidate = self.candidate(depth, overrides)
            if 18 * candidate.parameters < most or not candidates:
                candidates.setdefault(candidate.parameters, candidate)
        return [candidates[size] for size in sorted(candidates)]

    def candidate(self, depth: int, overrides: Mapping[str, object]) -> Candidate:
        """A model, counted without making it."""
        with torch.device("meta"):
            model = self._model(depth, overrides)
        parameters = sum(parameter.numel() for parameter in model.parameters())
        embedding = cast(torch.nn.Embedding, model.get_input_embeddings()).weight
        apart = cast(torch.nn.Linear, model.get_output_embeddings()).weight is not embedding
        return Candidate(
            depth=depth,
            width=model.config.hidden_size,
            overrides=dict(overrides),
            parameters=parameters,
            looked_up=embedding.numel() if apart else 0,
            flops_per_token=ModelFlops.of(model).per_token(self.row_tokens),
        )

    def _model(self, depth: int, overrides: Mapping[str, object]):
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
        """Tokens per step that what was given leaves open."""
        args = self.args
        if "per_device_train_batch_size" in args.explicit or "gradient_accumulation_steps" in args.explicit:
            return [args.train_batch_size * args.gradient_accumulation_steps * args.world_size * self.row_tokens]
        return planning.batches(self.text, processes=args.world_size)

    # Measuring

    def measure_speeds(self, candidates: list[Candidate]) -> dict[Candidate, Speed]:
        """Climb from the size that this machine's matrix products suggest to the one that looks best, measuring on the way."""
        dtype = torch.bfloat16 if self.args.bf16 else torch.float16 if self.args.fp16 else torch.float32
        ceiling = measured_ceiling(self.args.device, dtype)
        guess = {one: Speed(0.01, one.flops_per_token / (0.3 * ceiling * self.args.world_size)) for one in candidates}
        speeds: dict[Candidate, Speed] = {}
        begun = time.perf_counter()
        most = SHARE_OF_MEASURING * self.args.time_budget if self.args.time_budget else MOST_SECONDS_OF_MEASURING
        while len(speeds) < min(MOST_MEASURED, len(candidates)):

            def next_one() -> int | None:
                known = {one: planning.foreseen_speed(one, speeds) for one in candidates} if speeds else guess
                best = self.choose(candidates, known).candidate
                taken = time.perf_counter() - begun
                late = speeds and taken * (1 + 1 / len(speeds)) > most  # the next one would take as long as those before
                return None if best in speeds or late else candidates.index(best)

            number = _first_decides(next_one)
            if number is None:
                break
            speeds[candidates[number]] = self.measure_speed(candidates[number])
        return speeds

    def measure_speed(self, candidate: Candidate) -> Speed:
        """The speed of a size, from two batches where the batch is open."""
        sizes = self.batches()
        tokens = sizes if len(sizes) == 1 else [min(sizes, key=lambda size: abs(size - wanted)) for wanted in PROBE_TOKENS]
        measured = [(float(size), self._step_seconds(candidate, size)) for size in dict.fromkeys(tokens)]
        if len(measured) == 1:
            return Speed(0.0, measured[0][1] / measured[0][0])
        return Speed.through(measured[0], measured[-1])

    def _step_seconds(self, candidate: Candidate, batch: int) -> float:
        clock = StepClock(self.args.device)
        with self.trainer(candidate, batch, steps=1 + PROBE_STEPS, callbacks=[clock]) as trainer:
            trainer.train()
            _stop_if_asked(trainer)
        return min(clock.seconds())

    def choose(self, candidates: list[Candidate], speeds: Mapping[Candidate, Speed]) -> Choice:
        """The best of all candidates at these speeds, measured or foreseen."""
        return planning.best_choice(self.choices(candidates, speeds), self.text, self.budget())

    def choices(self, candidates: list[Candidate], speeds: Mapping[Candidate, Speed]) -> list[Choice]:
        """The best that each candidate could do."""
        sizes, budget = self.batches(), self.budget()
        return [
            planning.choice_for(one, speeds.get(one) or planning.foreseen_speed(one, speeds), self.text, budget, sizes=sizes)
            for one in candidates
        ]

    def budget(self) -> Budget:
        """What is left for training steps, roughly: of a time budget less the start and a tenth for all that is no step."""
        args = self.args
        if args.time_budget is None:
            return Budget(tokens=args.token_budget, flops=args.flop_budget)
        start = self.began - args.started
        return Budget(seconds=max(1.0, (1 - SHARE_OF_MEASURING - planning.SHARE_OF_EVALUATIONS) * args.time_budget - start - 3))

    def rehearse(self, choice: Choice) -> Rehearsal:
        """The chosen run in small: some steps, an evaluation of some rows with all that belongs to it, a checkpoint."""
        args = self.args
        wanted = 0.02 * args.time_budget / choice.step_seconds if args.time_budget else 4
        steps = _first_decides(lambda: int(max(3, min(20, wanted))))
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
            _stop_if_asked(trainer)
            row = 0.0
            if rows is not None:
                trainer.remove_callback(callbacks[0])
                began = time.perf_counter()
                trainer.evaluate_as_loaded(rows, name="test")
                row = (time.perf_counter() - began) / len(rows)
            memory = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
        *steps_taken, last = clock.seconds()  # the evaluation stands before the last step
        step = sum(steps_taken) / len(steps_taken)
        evaluation = max(0.0, last - step - (len(rows) * row if rows is not None else 0.0))
        return _first_decides(lambda: Rehearsal(step=step, evaluation=evaluation, row=row, memory_bytes=memory))

    @contextmanager
    def trainer(self, candidate: Candidate, batch: int, *, steps: int, callbacks: list[TrainerCallback], **settings) -> Iterator:
        """The Trainer of the run with this model and batch, in a folder that is removed; quiet."""
        args = self.args
        eval_dataset = settings.pop("eval_dataset", None)
        with tempfile.TemporaryDirectory(prefix="hfgpt-plan-") as folder:
            quiet: dict[str, Any] = dict(
                **(dict(eval_strategy="no", save_strategy="no") | settings),
                **self.batch_settings(batch),
                **{name: value for name, value in planning.rates(candidate.width).items() if name not in args.explicit},
            )
            quiet |= dict(output_dir=folder, max_steps=steps, disable_tqdm=True, report_to=[], push_to_hub=False)
            run = changed(args, **quiet)
            trainer = LanguageModelTrainer(
                model=self._model(candidate.depth, candidate.overrides),
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
            yield trainer
            trainer.accelerator.free_memory()
            del trainer
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()

    def batch_settings(self, batch: int) -> dict[str, int]:
        """Rows per device and batches per step that make up a step of so many tokens."""
        args = self.args
        if self.batches() == [batch] and {"per_device_train_batch_size", "gradient_accumulation_steps"} & args.explicit:
            return {}
        rows = max(1, batch // (self.row_tokens * args.world_size))
        together = rows
        while together > 1 and self._memory_of_rows(together) > 0.4 * self.free_memory():
            together = -(-together // 2)
        return {"per_device_train_batch_size": together, "gradient_accumulation_steps": -(-rows // together)}

    def _memory_of_rows(self, rows: int) -> int:
        # Of the widest model that anybody would take with so many rows; the logits are most of it in the small ones.
        return rows * self.row_tokens * (3 * len(self.tokenizer) + 12 * 40 * 768) * 2

    def free_memory(self) -> int:
        """Bytes that this process may fill: of the GPU, or its share of the machine's."""
        if torch.cuda.is_available() and not self.args.use_cpu:
            return torch.cuda.mem_get_info()[0]
        return psutil.virtual_memory().available // max(1, self.args.world_size)

    # The plan

    def settle(self, choice: Choice, rehearsal: Rehearsal, choices: list[Choice]) -> dict[str, Any]:
        """The plan of the choice, as the rehearsal was measured. Raises: UserError where the budget is too small for it."""
        args, text = self.args, self.text
        held_out = sum(self.held_out_rows.values())
        end = held_out * rehearsal.row + SECONDS_OF_SAVING
        validation = self.held_out_rows.get("validation", 0)
        each = rehearsal.evaluation + validation * rehearsal.row
        most_steps = max(1, int(planning.MOST_EPOCHS * text.tokens / choice.batch))
        passed = time.time() - args.started
        if args.time_budget is not None:
            left = args.time_budget - passed - end
            steps, evaluations = planning.allotted_steps(left, step=rehearsal.step, evaluation=each, most=most_steps)
            if steps < planning.FEWEST_STEPS:
                least = passed + end + each + planning.FEWEST_STEPS * rehearsal.step
                raise UserError(
                    f"time_budget is {args.time_budget:g} seconds; the start takes {passed:.0f} here, {steps:,} steps are left, "
                    f"and the test on {held_out:,} rows at the end takes {end:.0f}. Give {2 * least:.0f} or more"
                    + (", or hold out less text (validation_share, test_share)." if end > least / 3 else ".")
                )
        else:
            evaluations = planning.number_of_evaluations(choice.steps * rehearsal.step, each=each)
            steps = max(evaluations, choice.steps - choice.steps % evaluations)
        tokens = steps * choice.batch
        bits = planning.expected_bits_per_byte(choice.candidate, text, tokens=tokens, batch=choice.batch)
        seconds = {
            "start": passed,
            "training": steps * rehearsal.step,
            "evaluations": evaluations * each,
            "end": end,
        }
        expected = {
            "parameters": choice.candidate.parameters,
            "tokens": tokens,
            "epochs": round(tokens / text.tokens, 2),
            "seconds": round(sum(seconds.values()), 1),
            "seconds_by_part": {name: round(value, 1) for name, value in seconds.items()},
            "bits_per_byte": round(bits, 3),
            "memory_bytes": self.expected_memory(choice, rehearsal),
        }
        chosen = self.chosen(choice, steps, evaluations)
        plan = {"asked": args.budget(), "chosen": chosen, "expected": expected}
        given = [name for name in FITTED if name in args.explicit]
        lines = describe_plan(plan, choice, choices, text=text, step=rehearsal.step, given=given, free_memory=self.free_memory())
        logger.info("\n".join(lines))
        return plan

    def chosen(self, choice: Choice, steps: int, evaluations: int) -> dict[str, Any]:
        """The keys that the plan sets: all that were not given."""
        args, candidate = self.args, choice.candidate
        values: dict[str, Any] = {"max_steps": steps, **self.batch_settings(choice.batch), **planning.rates(candidate.width)}
        if args.optimizer != "muon":
            del values["muon_learning_rate"]
        if args.family == "modern":
            values |= {"depth": candidate.depth}
        for name in ("eval", "save"):
            if getattr(args, f"{name}_strategy") == "steps":
                values[f"{name}_steps"] = steps // evaluations
        values = {name: value for name, value in values.items() if name not in args.explicit}
        # What was given is among them; the shape around it is the plan's.
        return values | ({"config_overrides": dict(candidate.overrides)} if candidate.overrides else {})

    def expected_memory(self, choice: Choice, rehearsal: Rehearsal) -> int:
        """Bytes at most: as measured on a GPU, else what the program has now and the step adds."""
        if rehearsal.memory_bytes:
            return rehearsal.memory_bytes
        candidate = choice.candidate
        rows = self.batch_settings(choice.batch).get("per_device_train_batch_size", self.args.per_device_train_batch_size)
        heads = cast(int, candidate.overrides.get("num_attention_heads", max(1, candidate.width // planning.HEAD_WIDTH)))
        shape: dict[str, int] = dict(row_tokens=self.row_tokens, device_tokens=rows * self.row_tokens, heads=heads)
        step = planning.expected_memory(candidate, vocab_size=len(self.tokenizer), **shape)
        return step + BYTES_OF_THE_PROGRAM
