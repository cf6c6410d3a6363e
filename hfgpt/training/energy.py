"""What training has used: the energy according to this machine's own counters, and on which processors.

A counter that is missing or may not be read gives no number; nothing is estimated. That is why this does not use codecarbon, which
reads the same counters: without one, it guesses the processor's power, it always guesses the memory's (20 W on a machine with two
cores), and transformers' CodeCarbonCallback uses its online tracker, which asks servers for this machine's location.
Measured: codecarbon 3.3.2, offline, 5 s on two cores without a counter: 140 J "consumed", all of them guessed; 2026-11-26.
"""

import importlib
import platform
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from transformers import TrainerCallback

from hfgpt.arguments.processes import available_processors
from hfgpt.counting import counted

POWERCAP = Path("/sys/class/powercap")


@dataclass
class Counter:
    """One energy counter of the machine.

    Args:
        source: its name on the card.
        read: joules since some moment in the past.
        period: joules after which it wraps around to 0; None if it does not.
    """

    source: str
    read: Callable[[], float]
    period: float | None = None


class EnergyCallback(TrainerCallback):
    """Adds up the counters from the beginning of training to its last log line, including evaluations and checkpoints.

    Counters cover whole devices, so the number includes everything else that ran on them. A resumed run only measures its own part.

    Args: `counters` of this process (default: those that the machine has).
    """

    def __init__(self, counters: list[Counter] | None = None):
        self._given = counters
        self.counters = counters or []
        self.joules: dict[str, float] = {}
        self._last: list[float] = []

    def on_train_begin(self, args, state, control, **kwargs):
        if self._given is None:
            self.counters = find_counters(args.device, counts_processors=args.local_process_index == 0)
        self.joules = {counter.source: 0.0 for counter in self.counters}
        self._last = [counter.read() for counter in self.counters]

    def on_step_end(self, args, state, control, **kwargs):
        self.read()  # at every step: a processor's counter wraps around after some minutes at full power

    def read(self) -> None:
        """Add the energy used since the last reading."""
        for index, counter in enumerate(self.counters):
            now = counter.read()
            difference = now - self._last[index]
            if difference < 0:
                difference += counter.period or 0.0
            self.joules[counter.source] += max(0.0, difference)
            self._last[index] = now


def find_counters(device: torch.device, *, counts_processors: bool, powercap: Path = POWERCAP) -> list[Counter]:
    """The counters that this process may read: of its GPU through NVML, of the processors through RAPL.

    Args: `counts_processors` is True in one process per machine, or the processors would be counted several times.
    """
    gpu = _nvml_counter(device) if device.type == "cuda" else None
    return [*([gpu] if gpu else []), *(_rapl_counters(powercap) if counts_processors else [])]


def _nvml_counter(device: torch.device) -> Counter | None:
    try:
        pynvml = importlib.import_module("pynvml")
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
        # By its UUID: NVML counts all cards, CUDA only those that CUDA_VISIBLE_DEVICES shows.
        card = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(device).uuid}")
        pynvml.nvmlDeviceGetTotalEnergyConsumption(card)  # cards before Volta have no counter
    except pynvml.NVMLError:
        return None
    return Counter("GPU (NVML)", lambda: pynvml.nvmlDeviceGetTotalEnergyConsumption(card) / 1000)


def _rapl_counters(powercap: Path) -> list[Counter]:
    counters = []
    for package in sorted(powercap.glob("intel-rapl:*")):
        if package.name.count(":") != 1:
            continue  # intel-rapl:0:0 and the like are parts of intel-rapl:0
        try:
            if not (package / "name").read_text().startswith("package"):
                continue  # psys is the whole machine, which includes the processors again
            period = int((package / "max_energy_range_uj").read_text()) / 1e6
            int((package / "energy_uj").read_text())  # readable only by root on most machines
        except (OSError, ValueError):
            continue
        read = lambda package=package: int((package / "energy_uj").read_text()) / 1e6  # noqa: E731
        counters.append(Counter("CPU (RAPL)", read, period))
    return counters


def joules_everywhere(meter: EnergyCallback) -> dict[str, float]:
    """Joules of every source, of all processes together; called in each of them."""
    joules: dict[str, float] = {}
    for of_one in gather_object([meter.joules]):
        for source, value in of_one.items():
            joules[source] = joules.get(source, 0.0) + value
    return joules


def energy_metrics(meter: EnergyCallback) -> dict[str, float | str | None]:
    """The energy and machine entries of `metrics.json`; called in every process, the sums cover all of them.

    Returns: `energy_joules` and `energy_source` (None if no counter can be read), `device` and `num_devices`.
    """
    joules = joules_everywhere(meter)
    state = PartialState()
    return {
        "energy_joules": sum(joules.values()) if joules else None,
        "energy_source": " + ".join(sorted(joules)) or None,
        "device": device_name(cast(torch.device, state.device)),
        "num_devices": state.num_processes,
    }


def device_name(device: torch.device) -> str:
    """The device of a process, as its maker names it; for a CPU, also the number of cores this process may use."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{processor_name()}, {counted(available_processors(), 'cores')}"


def processor_name() -> str:
    """The model of the CPU, as its maker names it, or else its architecture."""
    file = Path("/proc/cpuinfo")  # only on Linux
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines() if file.is_file() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())
