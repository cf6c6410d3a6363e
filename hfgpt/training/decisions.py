"""Decisions that the first of several processes takes for all of them."""

from collections.abc import Callable
from typing import Any, TypeVar

from accelerate import PartialState
from accelerate.utils import broadcast_object_list

Decision = TypeVar("Decision")


def decided_by_the_first(decide: Callable[[], Decision]) -> Decision:
    """The decision of the first of several processes; the others wait for it, and exit with it if it refuses."""
    decision: list[Any] = [None, False]
    try:
        if PartialState().is_main_process:
            decision = [decide(), False]
    except BaseException:
        if PartialState().num_processes > 1:
            broadcast_object_list([None, True])
        raise
    if PartialState().num_processes > 1:
        broadcast_object_list(decision)
    if decision[1]:
        raise SystemExit(1)  # the first process says why
    return decision[0]
