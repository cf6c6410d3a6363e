"""Keys that have no effect by themselves: a table of what else each one needs, checked in one place.

Only given keys are checked. A key that has no effect given the others, such as `leak_tokens` when leaks are ignored, would
otherwise be accepted and ignored, and the user would believe that it worked.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from hfgpt.errors import UserError


@dataclass(frozen=True)
class Wanted:
    """What another key has to be. Args: `cure` says what to do with it, with {} for its name."""

    holds: Callable[[object], bool]
    cure: str


def _is_given(value: object) -> bool:
    return value is not None and value is not False and value not in ([], "")


def _one_of(*values: str) -> Wanted:
    """One of these values; for a list, that it contains one of them."""

    def holds(value: object) -> bool:
        return any(one in values for one in value) if isinstance(value, list) else value in values

    return Wanted(holds, f"set {{}} to {' or '.join(values)}")


GIVEN = Wanted(_is_given, "give {}")
NOT_GIVEN = Wanted(lambda value: not _is_given(value), "leave {} out")
NO_STEPS = Wanted(lambda value: value == -1, "set {} to -1")  # Trainer's word for not given
ABOVE_ZERO = Wanted(bool, "set {} above 0")
TRUE = Wanted(bool, "set {} to true")


@dataclass(frozen=True)
class Need:
    """What each of some keys needs: that at least one of `others` has the wanted value."""

    keys: tuple[str, ...]
    others: Mapping[str, Wanted]


NEEDS: tuple[Need, ...] = (
    # Documents
    Need(("filter_settings", "languages"), {"filters": _one_of("light", "web")}),
    Need(("perplexity_sigmas",), {"perplexity_model": GIVEN}),
    Need(("personal_data_types", "phone_regions", "privacy_model"), {"personal_data": _one_of("mask", "drop")}),
    Need(("phone_regions",), {"personal_data_types": _one_of("phone")}),
    Need(("split_seed",), {"split_by": _one_of("document", "group", "auto")}),  # a cut by position is not random
    Need(("lzma_baseline",), {"test_share": ABOVE_ZERO}),
    Need(("compare_with", "report_languages"), {"validation_share": ABOVE_ZERO, "test_share": ABOVE_ZERO}),  # held-out text
    Need(("leak_tokens",), {"leaks": _one_of("drop", "count"), "decontaminate_against": GIVEN}),
    Need(("canary_counts", "canaries_per_count", "canary_seed"), {"plant_canaries": TRUE}),
    Need(("mixture_tokens",), {"source_weights": GIVEN, "mixture_alpha": GIVEN}),
    Need(("shuffle_documents",), {"source_weights": NOT_GIVEN}),  # a mixture has its own random order
    Need(("shuffle_documents",), {"mixture_alpha": NOT_GIVEN}),
    Need(("mixture_seed",), {"shuffle_documents": TRUE, "source_weights": GIVEN, "mixture_alpha": GIVEN}),
    Need(("stride",), {"window": GIVEN}),
    Need(("packing",), {"window": NOT_GIVEN}),  # windows are not packed
    Need(("num_tasks", "engine_settings"), {"engine": _one_of("ray", "slurm")}),
    Need(("num_tasks",), {"max_documents": NOT_GIVEN}),  # only a single task can count them
    Need(("keep_dropped",), {"engine": _one_of("local")}),  # a cluster's tasks keep no dropped documents
    # Training
    Need(("depth",), {"family": _one_of("modern")}),
    Need(("size",), {"family": _one_of("gpt2")}),
    Need(("family", "depth", "size"), {"model": NOT_GIVEN}),  # its shape is fixed
    Need(("time_budget", "token_budget", "flop_budget"), {"model": NOT_GIVEN}),  # they choose the shape of a new one
    Need(("revision", "trust_remote_code", "old_dataset", "rewarm_to"), {"model": GIVEN}),
    Need(("num_train_epochs",), {"max_steps": NO_STEPS}),
    Need(("sample_tokens",), {"sample_prompts": GIVEN}),
    Need(("canary_file",), {"canaries": TRUE}),
    Need(("judge_model", "judge_key_variable"), {"judge_url": GIVEN}),
    # "no" switches off for one run what its file sets; "epoch" contradicts it.
    Need(("eval_steps",), {"eval_strategy": _one_of("steps", "no")}),
    Need(("save_steps",), {"save_strategy": _one_of("steps", "no")}),
    Need(("logging_steps",), {"logging_strategy": _one_of("steps", "no")}),
    Need(("hub_model_id", "hub_strategy", "hub_private_repo", "hub_always_push", "hub_revision"), {"push_to_hub": TRUE}),
)


def check_needs(
    given: Mapping[str, object],
    values: Mapping[str, object],
    *,
    needs: Collection[Need] = NEEDS,
    unsettled: Collection[str] = (),
) -> None:
    """Refuse a key that would have no effect given the others.

    Args:
        given: the keys that were given, with their values.
        values: the values of all keys of the recipe.
        needs: what the keys need.
        unsettled: keys whose values may still come from elsewhere; needs that involve them are not checked.
    Raises: UserError that names the other keys and what to do.
    """
    for need in needs:
        found = {other: values[other] for other in need.others if other in values}
        if {*need.keys, *need.others} & {*unsettled} or any(need.others[other].holds(value) for other, value in found.items()):
            continue
        for key in need.keys:
            if found and key in given:
                others = " and ".join(f"{other} is {_shown(value)}" for other, value in found.items())
                cures = ", ".join(need.others[other].cure.format(other) for other in found)
                raise UserError(
                    f"{key} is {_shown(given[key])}, but {others}, so it would have no effect; {cures}, or leave {key} out."
                )


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if not _is_given(value):
        return "not given"
    return " ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
