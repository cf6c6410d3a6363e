"""What a run says of itself before and after it trains: that it is too short, where validation was best, which key helps.

Every function is pure: numbers in, one sentence out, or None where there is nothing to say.
"""

import math
from collections.abc import Sequence

from transformers import TrainingArguments

# Below this many optimizer steps a run has taught nobody anything here: the first tenth of them is warm-up.
# Tried: LoRA on 60 labelled rows (9 steps) and on 40 question-answer pairs (3 steps), pretraining on 20 KB (3 steps).
FEWEST_STEPS = 50
# A validation figure that is worse by less at the end is noise.
NOTEWORTHY_SHARE = 0.01
# More right answers than naming one label gives by luck, by a binomial test.
LARGEST_CHANCE = 0.05


def too_short(
    steps: int,
    *,
    rows: int,
    rows_per_step: int,
    unit: str = "examples",
    max_steps: int = -1,
    fewest: int = FEWEST_STEPS,
    also: str = "",
) -> str | None:
    """The warning of a run with fewer than `fewest` optimizer steps, with the keys and values that give it enough.

    Args:
        steps: optimizer steps that will be made.
        rows: training rows (examples, packed rows).
        rows_per_step: over all devices and accumulated batches.
        unit: what the rows are called.
        max_steps: the key's value; above 0 it decides the steps, and the epochs don't.
        also: what else makes more steps of the same data.
    """
    if steps >= fewest:
        return None
    if max_steps > 0:
        cure = f"give max_steps {fewest} or more"
    else:
        # Every epoch makes at least one step, however few the rows are.
        epochs = math.ceil(fewest / max(math.ceil(rows / rows_per_step), 1))
        smaller = max(rows_per_step // 4, 1)
        cure = f"give num_train_epochs {epochs:,} or more"
        if smaller < rows_per_step:
            cure += f", a smaller per_device_train_batch_size (now {rows_per_step:,} {unit} per step)"
        if also:
            cure += f", {also}"
    return (
        f"this run is short: {_steps(steps)} on {rows:,} {unit}; with fewer than {fewest} the model has learned next to nothing. "
        f"{cure[0].upper()}{cure[1:]}, or more data."
    )


def before_training(args: TrainingArguments, rows: int, *, unit: str, also: str = "") -> list[str]:
    """What should be said of a run before it trains for nothing; `rows` are those of the training set."""
    rows_per_step = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
    steps = planned_steps(args, rows)
    # The schedule "constant" has no warm-up, whatever warmup_steps says.
    warmup_steps = 0 if args.lr_scheduler_type == "constant" else args.get_warmup_steps(steps)
    said = (
        too_short(steps, rows=rows, rows_per_step=rows_per_step, unit=unit, max_steps=args.max_steps, also=also),
        all_warmup(steps, warmup_steps=warmup_steps),
    )
    return [sentence for sentence in said if sentence]


def planned_steps(args: TrainingArguments, rows: int) -> int:
    """Optimizer steps of a run over a training set, as Trainer counts them: the last one of an epoch may be smaller."""
    if args.max_steps > 0:
        return args.max_steps
    batches = math.ceil(rows / (args.train_batch_size * args.world_size))
    return math.ceil(args.num_train_epochs * math.ceil(batches / args.gradient_accumulation_steps))


def all_warmup(steps: int, *, warmup_steps: int) -> str | None:
    """The warning of a run that ends before its learning rate has reached its peak."""
    if warmup_steps < steps:
        return None
    return (
        f"the learning rate never reaches its peak: warmup_steps is {warmup_steps:,}, the run has {_steps(steps)}. Give a smaller "
        "warmup_steps (below 1 it is a share of all steps)."
    )


def best_step(
    log_history: Sequence[dict],
    *,
    metric: str = "eval_loss",
    greater_is_better: bool = False,
    kept: str | None = None,
) -> str | None:
    """Where validation was best, if that was noticeably before the end: from there on the run has learned its data by heart.

    Args:
        log_history: `trainer.state.log_history`, in the order of the steps.
        metric: the key that goes by.
        kept: the key `keep`, "best" or "last"; None leaves out which state was kept.
    """
    found = [(entry["step"], float(entry[metric])) for entry in log_history if metric in entry]
    if len(found) < 2:
        return None
    choose = max if greater_is_better else min
    step, best = choose(found, key=lambda point: point[1])  # the first of equals
    end, last = found[-1]
    worse = best - last if greater_is_better else last - best
    if step >= end or not worse > NOTEWORTHY_SHARE * abs(best):  # also False for NaN
        return None
    name = metric.removeprefix("eval_").replace("_", " ")
    state = {
        "best": f"; the state of step {step:,} is kept (keep: last keeps the end)",
        "last": "; the end is kept (keep: best keeps that state)",
        None: "",
    }[kept]
    return (
        f"validation was best at step {step:,} of {end:,}: {name} {best:.4f}, at the end {last:.4f}{state}. More data, fewer "
        "num_train_epochs or a smaller learning_rate help."
    )


def no_better_than_majority(accuracy: float, majority: float, *, texts: int, trained: bool = True) -> str | None:
    """What to say of a classifier that does no better on the test set than to name its most frequent label every time.

    Args:
        accuracy, majority: shares from 0 to 1 of the same `texts`.
        trained: False where no classifier was trained (likelihood).
    """
    right = round(accuracy * texts)
    by_chance = sum(
        math.comb(texts, count) * majority**count * (1 - majority) ** (texts - count) for count in range(right, texts + 1)
    )
    if accuracy > majority and by_chance < LARGEST_CHANCE:
        return None
    cure = "More num_train_epochs, a larger learning_rate or more data may help, and balance: weights where one label is frequent."
    return (
        f"{'hardly' if accuracy > majority else 'no'} better than always the most frequent label ({100 * accuracy:.2f} % against "
        f"{100 * majority:.2f} % of {texts:,} texts). "
        + (cure if trained else "Examples (num_shots), another prompt_template, calibrate: true or method: lora may help.")
    )


def no_better_than_base(before: float, after: float, *, what: str = "test loss") -> str | None:
    """What to say of a model whose loss on held-out data training has not lowered."""
    if after < before:
        return None
    return (
        f"no better than the base: {what} {before:.4f} before, {after:.4f} after. A smaller learning_rate, fewer "
        "num_train_epochs or more data may help."
    )


def _steps(count: int) -> str:
    return f"{count:,} step{'s' * (count != 1)}"
