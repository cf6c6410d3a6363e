"""Keys that do nothing by themselves: a table of what each needs beside it, checked in one place.

Only what was given is looked at. A key that has no effect beside the others, such as `leak_tokens` where leaks are ignored, would
otherwise be read, noted and forgotten, and whoever gave it would believe that it was heeded.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from hfgpt.errors import UserError


@dataclass(frozen=True)
class Wanted:
    """What another key has to be. Args: `cure` is what to do with it, with {} for its name."""

    holds: Callable[[object], bool]
    cure: str


def _is_given(value: object) -> bool:
    return value is not None and value is not False and value not in ([], "")


def _one_of(*values: str) -> Wanted:
    """One of these values; of a list, that one of them is in it."""

    def holds(value: object) -> bool:
        return any(one in values for one in value) if isinstance(value, list) else value in values

    return Wanted(holds, f"set {{}} to {' or '.join(values)}")


GIVEN = Wanted(_is_given, "give {}")
NOT_GIVEN = Wanted(lambda value: not _is_given(value), "leave {} out")
ABOVE_ZERO = Wanted(bool, "set {} above 0")
TRUE = Wanted(bool, "set {} to true")


@dataclass(frozen=True)
class Need:
    """What each of some keys needs beside it: that one of `others` is what is wanted of it."""

    keys: tuple[str, ...]
    others: Mapping[str, Wanted]


NEEDS: tuple[Need, ...] = (
    # Documents
    Need(("filter_settings", "languages"), {"filters": _one_of("light", "web")}),
    Need(("perplexity_sigmas",), {"perplexity_model": GIVEN}),
    Need(("personal_data_types", "phone_regions", "privacy_model"), {"personal_data": _one_of("mask", "drop")}),
    Need(("phone_regions",), {"personal_data_types": _one_of("phone")}),
    Need(("split_seed",), {"split_by": _one_of("document", "group", "auto")}),  # a cut by position is not drawn
    Need(("lzma_baseline",), {"test_share": ABOVE_ZERO}),
    Need(("compare_with", "report_languages"), {"validation_share": ABOVE_ZERO, "test_share": ABOVE_ZERO}),  # held-out text
    Need(("leak_tokens",), {"leaks": _one_of("drop", "count"), "decontaminate_against": GIVEN}),
    Need(("canary_counts", "canaries_per_count", "canary_seed"), {"plant_canaries": TRUE}),
    Need(("mixture_tokens",), {"source_weights": GIVEN, "mixture_alpha": GIVEN}),
    Need(("shuffle_documents",), {"source_weights": NOT_GIVEN}),  # a mixture has a random order of its own
    Need(("shuffle_documents",), {"mixture_alpha": NOT_GIVEN}),
    Need(("mixture_seed",), {"shuffle_documents": TRUE, "source_weights": GIVEN, "mixture_alpha": GIVEN}),
    Need(("stride",), {"window": GIVEN}),
    Need(("packing",), {"window": NOT_GIVEN}),  # windows are not packed
    Need(("num_tasks", "engine_settings"), {"engine": _one_of("ray", "slurm")}),
    Need(("num_tasks",), {"max_documents": NOT_GIVEN}),  # which one task alone can count
    Need(("keep_dropped",), {"engine": _one_of("local")}),  # a cluster's tasks keep no dropped documents
    # Training
    Need(("depth",), {"family": _one_of("modern")}),
    Need(("size",), {"family": _one_of("gpt2")}),
    Need(("family", "depth", "size"), {"model": NOT_GIVEN}),  # whose shape is what it is
    Need(("time_budget", "token_budget", "flop_budget"), {"model": NOT_GIVEN}),  # they choose the shape of a new one
    Need(("revision", "trust_remote_code", "old_dataset", "rewarm_to"), {"model": GIVEN}),
    Need(("sample_tokens",), {"sample_prompts": GIVEN}),
    # "no" switches off for one run what its file says; "epoch" contradicts it.
    Need(("eval_steps",), {"eval_strategy": _one_of("steps", "no")}),
    Need(("save_steps",), {"save_strategy": _one_of("steps", "no")}),
    Need(("logging_steps",), {"logging_strategy": _one_of("steps", "no")}),
    Need(("hub_model_id", "hub_strategy", "hub_private_repo", "hub_always_push", "hub_revision"), {"push_to_hub": TRUE}),
)


def check_needs(given: Mapping[str, object], values: Mapping[str, object], *, unsettled: Collection[str] = ()) -> None:
    """Refuse a key that would do nothing beside the others.

    Args:
        given: the keys that were given, with their values.
        values: those of all keys of the recipe.
        unsettled: keys whose values may yet come from elsewhere; what has to do with one of them is not checked.
    Raises: UserError with the others, and what to do.
    """
    for need in NEEDS:
        found = {other: values[other] for other in need.others if other in values}
        if {*need.keys, *need.others} & {*unsettled} or any(need.others[other].holds(value) for other, value in found.items()):
            continue
        for key in need.keys:
            if found and key in given:
                others = " and ".join(f"{other} is {_shown(value)}" for other, value in found.items())
                cures = ", ".join(need.others[other].cure.format(other) for other in found)
                raise UserError(
                    f"{key} is {_shown(given[key])}, but {others}, so it would do nothing; {cures}, or leave {key} out."
                )


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if not _is_given(value):
        return "not given"
    return " ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
