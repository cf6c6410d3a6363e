"""What a run says about itself before and after training: that it is too short, where validation was best, which key helps.

Every function is pure: numbers in, one sentence out, or None if there is nothing to say.
"""

import math
from collections.abc import Sequence

from transformers import TrainingArguments

from hfgpt.counting import counted
from hfgpt.errors import UserError
from hfgpt.training.last_screen import ADVICE

# With fewer optimizer steps than this, models learn next to nothing: the first tenth of the steps is warm-up.
# Tried: LoRA on 60 labelled rows (9 steps) and on 40 question-answer pairs (3 steps), pretraining on 20 KB (3 steps).
FEWEST_STEPS = 50
# A smaller increase of the validation figure by the end is noise.
NOTEWORTHY_SHARE = 0.01
# More correct answers than always naming one label would give by chance, by a binomial test.
LARGEST_CHANCE = 0.05


def too_short(
    steps: int,
    *,
    rows: int,
    rows_per_step: int,
    unit: str = "examples",
    max_steps: int = -1,
    also: str = "",
) -> str | None:
    """The warning for a run with fewer than `FEWEST_STEPS` optimizer steps, with keys and values that would give it enough.

    Args:
        steps: optimizer steps the run will take.
        rows: training rows (examples, packed rows).
        rows_per_step: over all devices and accumulated batches.
        unit: what the rows are called.
        max_steps: the key's value; above 0, it decides the number of steps instead of the epochs.
        also: what else gives more steps on the same data.
    """
    if steps >= FEWEST_STEPS:
        return None
    if max_steps > 0:
        cure = f"give --max_steps {FEWEST_STEPS} or more"
    else:
        # Every epoch makes at least one step, however few the rows are.
        epochs = math.ceil(FEWEST_STEPS / max(math.ceil(rows / rows_per_step), 1))
        smaller = max(rows_per_step // 4, 1)
        cure = f"give --num_train_epochs {epochs:,} or more"
        if smaller < rows_per_step:
            cure += f", a smaller --per_device_train_batch_size (now {rows_per_step:,} {unit} per step)"
        if also:
            cure += f", {also}"
    return (
        f"this run is short: {counted(steps, 'steps')} on {rows:,} {unit}; with fewer than {FEWEST_STEPS}, the model learns next "
        f"to nothing. {cure[0].upper()}{cure[1:]}, or use more data."
    )


def before_training(args: TrainingArguments, rows: int, *, unit: str, also: str = "") -> list[str]:
    """Warnings about a run before it trains in vain; `rows` is the size of the training set."""
    rows_per_step = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
    steps = planned_steps(args, rows)
    # The schedule "constant" has no warm-up, whatever warmup_steps is.
    warmup_steps = 0 if args.lr_scheduler_type == "constant" else args.get_warmup_steps(steps)
    said = (
        too_short(steps, rows=rows, rows_per_step=rows_per_step, unit=unit, max_steps=args.max_steps, also=also),
        all_warmup(steps, warmup_steps=warmup_steps),
    )
    return [sentence for sentence in said if sentence]


def planned_steps(args: TrainingArguments, rows: int) -> int:
    """Optimizer steps of a run over a training set, as Trainer counts them: the last step of an epoch may be smaller.

    Raises: UserError if incomplete batches are dropped and there is no other.
    """
    at_once = args.train_batch_size * args.world_size
    batches = rows // at_once if args.dataloader_drop_last else math.ceil(rows / at_once)
    if not batches and args.dataloader_drop_last:
        raise UserError(
            f"dataloader_drop_last is true, but the {rows:,} training rows do not fill one batch of {at_once:,}; leave it out, or "
            f"give a smaller --per_device_train_batch_size."
        )
    if args.max_steps > 0:
        return args.max_steps
    return math.ceil(args.num_train_epochs * math.ceil(batches / args.gradient_accumulation_steps))


def all_warmup(steps: int, *, warmup_steps: int) -> str | None:
    """The warning for a run that ends before its learning rate reaches its peak."""
    if warmup_steps < steps:
        return None
    return (
        f"the learning rate never reaches its peak: warmup_steps is {warmup_steps:,}, but the run has only "
        f"{counted(steps, 'steps')}. Give a smaller --warmup_steps (below 1, it is a share of all steps)."
    )


def best_step(
    log_history: Sequence[dict],
    *,
    metric: str = "eval_loss",
    greater_is_better: bool = False,
    kept: str | None = None,
) -> str | None:
    """Where validation was best, if that was noticeably before the end: from then on the run has memorized its data.

    Args:
        log_history: `trainer.state.log_history`, in the order of the steps.
        metric: the key that decides.
        kept: the key `keep`, "best" or "last"; None omits which state was kept.
    """
    found = [(entry["step"], float(entry[metric])) for entry in log_history if metric in entry]
    if len(found) < 2:
        return None
    choose = max if greater_is_better else min
    step, best = choose(found, key=lambda point: point[1])  # the first in a tie
    end, last = found[-1]
    worse = best - last if greater_is_better else last - best
    if step >= end or not worse > NOTEWORTHY_SHARE * abs(best):  # also False for NaN
        return None
    name = metric.removeprefix("eval_").replace("_", " ")
    state = {
        "best": f"; the state at step {step:,} is kept (--keep last would keep the last one)",
        "last": "; the last state is kept (--keep best would keep the best one)",
        None: "",
    }[kept]
    return (
        f"{ADVICE} validation was best at step {step:,} of {end:,}: {name} {best:.4f}, at the end {last:.4f}{state}. More data, "
        f"a shorter run or a smaller --learning_rate may help."
    )


def no_better_than_majority(accuracy: float, majority: float, *, texts: int, trained: bool = True) -> str | None:
    """The warning for a classifier that does no better on the test set than always naming the most frequent label.

    Args:
        accuracy, majority: shares from 0 to 1, for the same `texts`.
        trained: False if no classifier was trained (likelihood).
    """
    from scipy.special import bdtrc  # here, because most runs need no statistics

    by_chance = bdtrc(round(accuracy * texts) - 1, texts, majority)  # as many correct, or more
    if accuracy > majority and by_chance < LARGEST_CHANCE:
        return None
    cure = (
        "More --num_train_epochs (or --max_steps), a larger --learning_rate or more data may help, as may --balance weights if one "
        "label dominates."
    )
    return (
        f"{ADVICE} {'hardly' if accuracy > majority else 'no'} better than always naming the most frequent label "
        f"({100 * accuracy:.2f} % against {100 * majority:.2f} % of {texts:,} texts). "
        + (cure if trained else "Examples (--num_shots), another --prompt_template, --calibrate true or --method lora may help.")
    )


def no_better_than_base(before: float, after: float, *, what: str = "test loss") -> str | None:
    """The warning for a model whose loss on held-out data did not improve."""
    if after < before:
        return None
    return (
        f"{ADVICE} no better than the base: {what} {before:.4f} before, {after:.4f} after. A smaller --learning_rate, "
        "a shorter run or more data may help."
    )
