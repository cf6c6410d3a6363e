"""What a run with a budget reports about its plan: the reasons before training, and how accurate it was afterwards."""

from collections.abc import Mapping, Sequence
from typing import Any

from hfgpt.counting import in_words
from hfgpt.training.plan import MANY_EPOCHS, MOST_EPOCHS, Choice, Text

# Smaller and larger sizes that the table shows beside the chosen one.
BESIDE = 2


def describe_plan(
    plan: Mapping[str, Any],
    choice: Choice,
    choices: Sequence[Choice],
    *,
    text: Text,
    step: float,
    given: Sequence[str],
    free_memory: int,
) -> list[str]:
    """Describe the plan in lines.

    Args:
        choices: the best of each size, in order; some besides the chosen one are shown.
        step: seconds per step in the rehearsal.
        given: the given keys that the plan was made around.
        free_memory: bytes.
    """
    chosen, expected = plan["chosen"], plan["expected"]
    parts, epochs, candidate = expected["seconds_by_part"], expected["epochs"], choice.candidate
    steps = chosen["max_steps"]
    as_good = "token_budget" not in plan["asked"] and choice.bits_per_byte > min(one.bits_per_byte for one in choices)
    rates = ", ".join(f"{name} {chosen[name]:g}" for name in ("learning_rate", "muon_learning_rate") if name in chosen)
    lines = [
        f"plan for {_budget_in_words(plan)}" + (f", with {', '.join(given)} as given:" if given else ":"),
        *_table(choice, choices, text),
        f"  size: {in_words(candidate.parameters)} parameters, depth {candidate.depth}, width {candidate.width}"
        + ("; larger ones would hardly be better with this little text" if as_good else ""),
        f"  steps: {steps:,} of {choice.batch:,} tokens ({1000 * step:,.0f} ms each): {in_words(expected['tokens'])} tokens, "
        f"{epochs:.1f} passes over the text",
        f"  rates: {rates or 'as given'}, rising for a tenth of the steps, then falling to 0",
        f"  memory: about {expected['memory_bytes'] / 2**20:,.0f} MiB of {free_memory / 2**20:,.0f} free",
        f"  time: about {expected['seconds']:,.0f} s: so far {parts['start']:.0f}, training {parts['training']:.0f}, evaluations "
        f"and checkpoints {parts['evaluations']:.0f}, test and saving {parts['end']:.0f}",
        f"  expected: {expected['bits_per_byte']:.2f} bits per byte on unseen text (lzma needs {text.difficulty:.2f} for pieces of "
        "32 KiB)",
    ]
    if epochs > MANY_EPOCHS:
        ends = f", so the run ends after {epochs:.1f}" if 0.9 * MOST_EPOCHS < epochs <= MOST_EPOCHS else ""
        lines.append(
            f"  the text is small for this: after {MANY_EPOCHS:.0f} passes, a model memorizes it rather than learning its "
            f"language{ends}; more text would help more than more time"
        )
    return lines


def _budget_in_words(plan: Mapping[str, Any]) -> str:
    ((name, amount),) = plan["asked"].items()
    return {
        "time_budget": f"{amount:,.0f} seconds",
        "token_budget": f"{in_words(amount)} tokens",
        "flop_budget": f"{amount:.3g} FLOPs",
    }[name]


def _table(choice: Choice, choices: Sequence[Choice], text: Text) -> list[str]:
    """The sizes around the chosen one, and the expected result of each."""
    place = next(number for number, one in enumerate(choices) if one.candidate == choice.candidate)
    shown = choices[max(0, place - BESIDE) : place + BESIDE + 1]
    if len(shown) == 1:
        return []
    lines = ["   parameters  depth  width  tokens/step    steps  tokens/s  epochs  expected bits per byte"]
    for one in shown:
        candidate = one.candidate
        lines.append(
            f"  {candidate.parameters:>11,}  {candidate.depth:>5}  {candidate.width:>5}  {one.batch:>11,}  {one.steps:>7,}  "
            f"{one.batch / one.step_seconds:>8,.0f}  {one.tokens / text.tokens:>6.1f}  {one.bits_per_byte:.3f}"
            + ("  <- chosen" if one.candidate == candidate and one is shown[min(place, BESIDE)] else "")
        )
    return lines


def outcome(plan: Mapping[str, Any], *, seconds: float | None, bits_per_byte: float | None) -> dict[str, Any]:
    """The plan beside the outcome, for metrics.json.

    Args:
        seconds: the duration of the command; None if it resumed a stopped run.
        bits_per_byte: on the test set, or on the validation set if there is no test set.
    """
    came = {"seconds": None if seconds is None else round(seconds, 1), "bits_per_byte": bits_per_byte}
    return {"asked": plan["asked"], "expected": plan["expected"], "came": came}


def describe_outcome(plan: Mapping[str, Any]) -> str:
    """How accurate the plan was, in one line; `plan` is an `outcome`."""
    said = []
    for key, unit, digits in (("seconds", "s", 0), ("bits_per_byte", "bits per byte", 3)):
        expected, came = plan["expected"][key], plan["came"][key]
        if came is not None:
            said.append(
                f"{expected:,.{digits}f} {unit} expected, {came:,.{digits}f} measured ({100 * (came / expected - 1):+.1f} %)"
            )
    if "time_budget" in plan["asked"] and plan["came"]["seconds"] is not None:
        said.insert(0, f"{plan['asked']['time_budget']:,.0f} s given")
    return "plan: " + ("; ".join(said) or "the run was stopped and resumed, so its total time was not measured")
