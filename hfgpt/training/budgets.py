"""From a budget to a plan: measure ever larger sizes, choose one, rehearse it, and store it in run.yaml."""

import logging
import time
from collections.abc import Mapping
from typing import Any, cast

import psutil
import torch
import yaml
from datasets import DatasetDict
from transformers import PreTrainedTokenizerFast

from hfgpt.arguments.pretraining import PretrainArguments
from hfgpt.artifacts import RUN_FILE
from hfgpt.counting import counted
from hfgpt.data.passport import Passport
from hfgpt.errors import TooLittleTimeError
from hfgpt.files import claim_output
from hfgpt.training import plan as planning
from hfgpt.training.decisions import decided_by_the_first
from hfgpt.training.flops import measured_ceiling
from hfgpt.training.plan import Budget, Candidate, Choice, Speed
from hfgpt.training.plan_measuring import Rehearsal, Workbench
from hfgpt.training.plan_report import describe_plan
from hfgpt.training.trainer import changed

logger = logging.getLogger(__name__)

# The share of a time budget for measuring sizes, and the maximum seconds with a budget of tokens or FLOPs.
SHARE_OF_MEASURING, MOST_SECONDS_OF_MEASURING = 0.06, 20.0
# The maximum number of sizes to measure; each costs about a second to set up.
MOST_MEASURED = 5
# Seconds from the last measurement to the end: weights, fingerprint, card, page.
SECONDS_OF_SAVING = 3.0
# Memory of Python with torch, transformers and datasets loaded. Measured: this program on a CPU, 2026-11-26.
BYTES_OF_THE_PROGRAM = 700 << 20
# A process that gets less than this share of its threads' time shares the cores with other programs; the seconds to find out.
QUIET_SHARE, SECONDS_OF_LISTENING = 0.8, 0.5
# The share of warm-up steps, as in the runs that the law was fitted to (docs/lab_notes.md).
WARMUP = 0.1
# The keys that a plan chooses if they are not given.
FITTED = (
    *("depth", "config_overrides", "per_device_train_batch_size", "gradient_accumulation_steps", "learning_rate"),
    *("muon_learning_rate", "warmup_steps", "eval_steps", "save_steps", "logging_steps"),
)
# Fields of HfGptConfig that define a shape: if one is given, the others follow from the depth.
SHAPE_FIELDS = ("num_hidden_layers", "hidden_size", "num_attention_heads", "num_key_value_heads", "intermediate_size", "head_dim")


def within_budget(
    args: PretrainArguments, *, rows: DatasetDict, passport: Passport, tokenizer: PreTrainedTokenizerFast
) -> PretrainArguments:
    """The arguments of a run with the keys that its budget leaves open filled in; without a budget, the arguments unchanged.

    The plan comes from the arguments, or else from the run.yaml in the output folder, written at the first start, or else from
    measuring. It is part of `resolved`, so that run.yaml alone repeats the run, on any machine.

    Raises: UserError if the output folder cannot be used, or the budget is too small for any run.
    Cost: without a plan, 5 to 10 seconds, or a tenth of the time budget if that is more.
    """
    if not args.budget():
        return args
    plan = cast("dict | None", args.plan) or decided_by_the_first(lambda: _written_plan(args))
    if plan is None:
        threads = threads_beside_others(args)
        if threads is not None:
            torch.set_num_threads(threads)
        plan = Planner(args, Workbench(args, rows=rows, passport=passport, tokenizer=tokenizer)).plan()
        if threads is not None:
            plan["chosen"]["cpu_threads"] = threads
    elif not args.plan:
        logger.info(f"plan: taken from {args.folder / RUN_FILE}, written when the run began; nothing is measured again")
    if plan.get("chosen") is None:  # the folder holds another run, which will be refused with the differences
        return args
    chosen = dict(plan["chosen"])
    if args.cpu_threads:  # a key of the machine: it makes no other run
        chosen.pop("cpu_threads", None)
    elif threads := chosen.get("cpu_threads"):
        torch.set_num_threads(threads)
    if not args.plan:  # a key given beside the folder's plan is compared with the run's, and refused or allowed like any other
        chosen = {name: value for name, value in chosen.items() if name not in args.explicit or name == "config_overrides"}
        if "config_overrides" in chosen:
            chosen["config_overrides"] = chosen["config_overrides"] | (args.config_overrides or {})
    return changed(args, **chosen, plan=plan, resolved=args.resolved | {"plan": plan})


def threads_beside_others(args: PretrainArguments) -> int | None:
    """Fewer threads than usual, on a CPU whose cores other programs use; None if all cores are free, or the user decided.

    Threads wait for each other after every product, so a core that is taken away from one of them slows down all. Measured:
    docs/lab_notes.md, "Alongside other programs".
    """
    threads = torch.get_num_threads()
    if args.device.type != "cpu" or args.world_size > 1 or args.cpu_threads or threads == 1:
        return None
    begun, own, everybody = time.perf_counter(), time.process_time(), _busy_seconds()
    while time.perf_counter() - begun < SECONDS_OF_LISTENING:
        measured_ceiling(args.device, torch.float32)
    seconds, own = time.perf_counter() - begun, time.process_time() - own
    got, others = own / seconds, (_busy_seconds() - everybody - own) / seconds
    # A process alone can use less than its threads, too: matrix units beside the cores, threads that sleep while they wait.
    if got > QUIET_SHARE * threads or others < 1 - QUIET_SHARE:
        return None
    fewer = max(1, int(got))
    logger.info(
        f"plan: other programs use this machine's cores ({got:.1f} of {threads} were left), so the run is planned for "
        f"{counted(fewer, 'CPU threads')}; --cpu_threads {threads} takes all cores"
    )
    return fewer


def _busy_seconds() -> float:
    """Seconds of all cores that were not idle since the machine started."""
    times = psutil.cpu_times()
    return sum(times) - times.idle - sum(getattr(times, name, 0.0) for name in ("iowait", "guest", "guest_nice"))


def _written_plan(args: PretrainArguments) -> dict | None:
    """The plan of the run in the output folder, `{}` if that run has none for this budget, None if there is no run."""
    path = args.folder / RUN_FILE
    if args.overwrite or not path.is_file():
        claim_output(str(args.folder), overwrite=args.overwrite, marker=RUN_FILE)  # refuses before anything is measured
        return None
    plan = (yaml.safe_load(path.read_text(encoding="utf-8")) or {}).get("plan") or {}
    return plan if plan.get("asked") == args.budget() else {}


class Planner:
    """Makes the plan of a run; all its processes take part together."""

    def __init__(self, args: PretrainArguments, workbench: Workbench):
        self.args, self.workbench, self.text = args, workbench, workbench.text
        self.line_seconds = 0.0

    def plan(self) -> dict[str, Any]:
        """Measure, choose and rehearse; log what was chosen and why. Returns: the plan as stored in run.yaml."""
        candidates = self.candidates()
        speeds = self.measure_speeds(candidates)
        choice = decided_by_the_first(lambda: self.choose(candidates, speeds))
        rehearsal = self.workbench.rehearse(choice)
        return decided_by_the_first(lambda: self.settle(choice, rehearsal, self.choices(candidates, speeds)))

    def candidates(self) -> list[Candidate]:
        """The models that are still possible given the arguments, smallest first.

        Raises: UserError if none fits into memory, or the arguments contradict each other.
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
            shapes = shapes or [(args.depth, 128 * ((args.depth + 1) // 2))]  # the default width for the depth
            tried = [(depth, planning.shape(depth, width) | given) for depth, width in shapes]
        most = 0.5 * self.workbench.memory
        candidates: dict[int, Candidate] = {}
        for depth, overrides in tried:
            candidate = self.workbench.candidate(depth, overrides)
            if 18 * candidate.parameters < most or not candidates:
                candidates.setdefault(candidate.parameters, candidate)
        return [candidates[size] for size in sorted(candidates)]

    def measure_speeds(self, candidates: list[Candidate]) -> dict[Candidate, Speed]:
        """Start at the size that this machine's matrix products suggest and move towards the best one, measuring on the way."""
        dtype = torch.bfloat16 if self.args.bf16 else torch.float16 if self.args.fp16 else torch.float32
        begun = time.perf_counter()
        ceiling = measured_ceiling(self.args.device, dtype)
        self.line_seconds = time.perf_counter() - begun  # every log line measures it again
        guess = {one: Speed(0.01, one.flops_per_token / (0.3 * ceiling * self.args.world_size)) for one in candidates}
        speeds: dict[Candidate, Speed] = {}
        most = SHARE_OF_MEASURING * self.args.time_budget if self.args.time_budget else MOST_SECONDS_OF_MEASURING
        while len(speeds) < min(MOST_MEASURED, len(candidates)):

            def next_one() -> int | None:
                known = {one: planning.foreseen_speed(one, speeds) for one in candidates} if speeds else guess
                best = self.choose(candidates, known).candidate
                if not speeds:  # the first measurement must be short, too, whatever the guess is worth
                    short = [one for one in candidates if self.workbench.seconds_of_measuring(guess[one]) <= most]
                    best = best if best in short else short[-1] if short else candidates[0]
                taken = time.perf_counter() - begun
                late = speeds and taken * (1 + 1 / len(speeds)) > most  # the next one would take about as long as the previous ones
                return None if best in speeds or late else candidates.index(best)

            number = decided_by_the_first(next_one)
            if number is None:
                break
            speeds[candidates[number]] = self.workbench.measure_speed(candidates[number])
        return speeds

    def choose(self, candidates: list[Candidate], speeds: Mapping[Candidate, Speed]) -> Choice:
        """The best of all candidates at these speeds, measured or predicted."""
        return planning.best_choice(self.choices(candidates, speeds), self.text, self.budget())

    def choices(self, candidates: list[Candidate], speeds: Mapping[Candidate, Speed]) -> list[Choice]:
        """The best choice for each candidate."""
        sizes, budget = self.workbench.batches(), self.budget()
        return [
            planning.choice_for(one, speeds.get(one) or planning.foreseen_speed(one, speeds), self.text, budget, sizes=sizes)
            for one in candidates
        ]

    def budget(self) -> Budget:
        """Roughly what is left for training steps: a time budget minus the startup and a tenth for everything else."""
        args = self.args
        if args.time_budget is None:
            return Budget(tokens=args.token_budget, flops=args.flop_budget)
        start = self.workbench.began - args.started
        return Budget(seconds=max(1.0, (1 - SHARE_OF_MEASURING - planning.SHARE_OF_EVALUATIONS) * args.time_budget - start - 3))

    def settle(self, choice: Choice, rehearsal: Rehearsal, choices: list[Choice]) -> dict[str, Any]:
        """The plan for the choice, based on the rehearsal. Raises: UserError if the budget is too small for it."""
        args, text = self.args, self.text
        held_out = sum(self.workbench.held_out_rows.values())
        end = held_out * rehearsal.row + SECONDS_OF_SAVING
        validation = self.workbench.held_out_rows.get("validation", 0)
        each = rehearsal.evaluation + validation * rehearsal.row
        most_steps = max(planning.FEWEST_STEPS, int(planning.MOST_EPOCHS * text.tokens / choice.batch))
        passed = time.time() - args.started
        if args.time_budget is not None:
            left = args.time_budget - passed - end
            num_lines = planning.number_of_log_lines(left, each=self.line_seconds)
            left -= num_lines * self.line_seconds
            steps, evaluations = planning.allotted_steps(left, step=rehearsal.step, evaluation=each, most=most_steps)
            if steps < planning.FEWEST_STEPS:
                least = passed + end + each + planning.FEWEST_STEPS * rehearsal.step
                raise TooLittleTimeError(
                    f"time_budget is {args.time_budget:g} seconds; here the startup takes {passed:.0f} and the final test on "
                    f"{held_out:,} rows {end:.0f}, which leaves time for {steps:,} steps",
                    cure=f"give {2 * least:.0f} or more"
                    + (", or hold out less text (validation_share, test_share)." if end > least / 3 else "."),
                    missing=2 * least - args.time_budget,
                )
        else:
            num_lines = planning.number_of_log_lines(choice.steps * rehearsal.step, each=self.line_seconds)
            evaluations = planning.number_of_evaluations(choice.steps * rehearsal.step, each=each)
            steps = max(evaluations, choice.steps - choice.steps % evaluations)
        tokens = steps * choice.batch
        bits = planning.expected_bits_per_byte(choice.candidate, text, tokens=tokens, batch=choice.batch)
        seconds = {
            "start": passed,
            "training": steps * rehearsal.step,
            "evaluations": evaluations * each + num_lines * self.line_seconds,
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
        chosen = self.chosen(choice, steps, evaluations) | self.log_lines(steps, num_lines)
        plan = {"asked": args.budget(), "chosen": chosen, "expected": expected}
        given = [name for name in FITTED if name in args.explicit]
        lines = describe_plan(plan, choice, choices, text=text, step=rehearsal.step, given=given, free_memory=self.workbench.memory)
        logger.info("\n".join(lines))
        return plan

    def chosen(self, choice: Choice, steps: int, evaluations: int) -> dict[str, Any]:
        """The keys that the plan sets: all those that were not given."""
        args, candidate = self.args, choice.candidate
        values: dict[str, Any] = {
            "max_steps": steps,
            **self.workbench.batch_settings(candidate, choice.batch),
            **self.workbench.rates(candidate),
        }
        values |= {"warmup_steps": WARMUP}
        if args.family == "modern":
            values |= {"depth": candidate.depth}
        for name in ("eval", "save"):
            if getattr(args, f"{name}_strategy") == "steps":
                values[f"{name}_steps"] = steps // evaluations
        values = {name: value for name, value in values.items() if name not in args.explicit}
        # The given ones are among them; the rest of the shape comes from the plan.
        return values | ({"config_overrides": dict(candidate.overrides)} if candidate.overrides else {})

    def log_lines(self, steps: int, lines: int) -> dict[str, int]:
        """The logging key, if it was not given."""
        return {} if "logging_steps" in self.args.explicit else {"logging_steps": max(1, steps // lines)}

    def expected_memory(self, choice: Choice, rehearsal: Rehearsal) -> int:
        """Maximum bytes: as measured on a GPU, otherwise what the program uses now plus what a step adds."""
        if rehearsal.memory_bytes:
            return rehearsal.memory_bytes
        candidate = choice.candidate
        rows = self.workbench.rows_of_a_device(candidate, choice.batch)
        return self.workbench.memory_of(candidate, rows) + BYTES_OF_THE_PROGRAM
