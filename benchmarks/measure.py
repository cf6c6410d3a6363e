"""How the benchmarks measure: candidates alternate, so a busy machine slows all of them equally, and memory by allocation."""

import gc
import time
from collections.abc import Callable

import torch


def seconds_in_turns(candidates: dict[str, Callable[[], object]], *, rounds: int) -> dict[str, list[float]]:
    """Seconds of every call: each round calls every candidate once, in rotating order; a warm-up round is not counted."""
    names = list(candidates)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds + 1):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            synchronize()
            start = time.perf_counter()
            candidates[name]()
            synchronize()
            if number:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def peak_bytes(step: Callable[[], object]) -> int:
    """Peak bytes of live tensors during `step`, beyond those alive before; exact, from the allocator's own statistics."""
    step()  # anything allocated once and kept (caches, gradient buffers) does not count
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        step()
    alive = peak = 0
    for event in sorted(profile.profiler.kineto_results.events(), key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            alive += event.nbytes()
            peak = max(peak, alive)
    return peak
