"""Training speed: tokens per second and MFU (model FLOPs utilization).

MFU is the arithmetic per second that the model itself needs, as a share of the matrix-product throughput measured on this
machine in the run's precision. It is measured before the first run of a process and after each, several times, and the best
counts, because other work on the machine can only make it look slower. A share above 1 is impossible and is left out.
Recomputation to save memory (gradient checkpointing) does not count, nor does the optimizer: time spent on them, on norms,
casts or waiting lowers the MFU.
"""

import contextlib
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from accelerate.utils import gather_object
from torch import nn
from transformers import PreTrainedModel, TrainerCallback

logger = logging.getLogger(__name__)

TRIES = 5  # of the largest matrix product
# Inputs that TRL's preference trainers train on have these prefixes; a prompt or a separate KL term does not.
LEARNED_PREFIXES = ("", "chosen_", "rejected_")


@dataclass(frozen=True)
class ModelFlops:
    """FLOPs of a training step: `matrices` for each token, and `attention` for each token and each token of its row.

    Source: Chowdhery et al. (2022), PaLM, appendix B: 6 N + 12 L H Q T per token, with N parameters, L layers, H heads of width Q
    and rows of T tokens; a multiplication and an addition count as two. Attention counts as if every token saw its whole row. The
    input embedding is a lookup, not a product, so N excludes it; N includes the head, even if both are one matrix. Of the 6, 2 are
    the forward pass, 2 the gradient of the activations, 2 that of the weights. A frozen weight needs no gradient (4), and below the
    first trained weight there is no backward pass at all (2): LoRA costs 4 N + 6 N_trained.
    """

    matrices: int
    attention: int

    @classmethod
    def of(cls, model: PreTrainedModel) -> "ModelFlops":
        """Count the parameters of `model` as it is, frozen or adapted, before anything wraps it."""
        head = model.get_output_embeddings()
        in_head = {id(parameter) for parameter in head.parameters()} if head is not None else set()
        tables = (module for module in model.modules() if isinstance(module, nn.Embedding))
        looked_up = {id(parameter) for table in tables for parameter in table.parameters()} - in_head
        matrices, first_trained, names = 0, None, []
        for name, parameter in model.named_parameters():  # in the order of the forward pass, except for a tied head
            names.append(name)
            if parameter.requires_grad and first_trained is None:
                first_trained = name
            if id(parameter) not in looked_up:
                passed_back = first_trained is not None or id(parameter) in in_head
                matrices += (6 if parameter.requires_grad else 4 if passed_back else 2) * _numel(parameter)
        config = model.config.get_text_config()
        layers = config.num_hidden_layers
        # Models without attention have no heads.
        heads = getattr(config, "num_attention_heads", None) or 0
        width = getattr(config, "head_dim", None) or (config.hidden_size // heads if heads else 0)
        below = _layers_before(first_trained, names, layers)
        return cls(matrices, (4 * below + 12 * (layers - below)) * heads * width)

    def per_token(self, row_tokens: float) -> float:
        """FLOPs per token of rows that are `row_tokens` long."""
        return self.matrices + self.attention * row_tokens


def _numel(parameter: nn.Parameter) -> int:
    count = getattr(parameter, "ds_numel", parameter.numel())  # DeepSpeed's ZeRO 3 leaves an empty tensor behind
    if type(parameter).__name__ == "Params4bit":  # bitsandbytes: two weights per byte, as PEFT counts them
        count *= 2 * cast(Any, parameter).quant_storage.itemsize
    return count


def _layers_before(first_trained: str | None, names: list[str], layers: int) -> int:
    """The number of layers below the first trained weight; all of them if only the head or nothing is trained."""
    numbers = {name: int(part) for name in names if (part := next((p for p in name.split(".") if p.isdigit()), None)) is not None}
    if first_trained is None:
        return layers
    if first_trained in numbers:
        return numbers[first_trained]
    in_layers = [names.index(name) for name in numbers]
    return layers if in_layers and names.index(first_trained) > max(in_layers) else 0


@torch.no_grad()
def measured_ceiling(device: torch.device, dtype: torch.dtype) -> float:
    """FLOPs per second of the fastest square matrix product here, with the threads of this process.

    The width is doubled until the product takes 5 ms or the width is 8,192, followed by a few more tries; the best of all counts.
    The global random state is not touched.

    Cost: a tenth of a second on a CPU and 3 matrices of that width.
    """
    generator = torch.Generator(device).manual_seed(0)  # random, because a GPU is faster with constant values
    best, width, fastest = 0.0, 128, 0.0
    while fastest < 0.005 and width < 8192:
        width *= 2
        left, right = (torch.randn(width, width, generator=generator, device=device).to(dtype) for _ in range(2))
        product = left @ right  # also prepares the kernel
        fastest = min(_seconds_of(left, right, product) for _ in range(2))
        best = max(best, 2 * width**3 / fastest)
    return max([best, *(2 * width**3 / _seconds_of(left, right, product) for _ in range(TRIES))])


def _seconds_of(left: torch.Tensor, right: torch.Tensor, product: torch.Tensor) -> float:
    _synchronize(product.device)
    start = time.perf_counter()
    torch.matmul(left, right, out=product)
    _synchronize(product.device)
    return time.perf_counter() - start


def _synchronize(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


class TrainingMeter(TrainerCallback):
    """Tokens and seconds of a training run, excluding evaluations, checkpoints and log lines, including data loading.

    Padding is not counted. `lap` and `total` are called in every process; the tokens are summed over all of them. A resumed run
    only measures its own part.
    """

    # The best of this process by device, dtype and threads: a second training, as of another seed, begins with it.
    _known: ClassVar[dict[tuple[torch.device, torch.dtype, int], float]] = {}

    def __init__(self):
        self.steps = 0
        self.seconds = 0.0
        self._tokens: torch.Tensor | int = 0
        self._rows = 0
        self._lap_start = (0, 0, 0.0)
        self._running_since: float | None = None
        self._flops: ModelFlops | None = None
        self._ceiling = 0.0
        self._last_ceiling, self._ceilings = 0.0, list[float]()  # over all processes: of the last figure, of each lap with an MFU
        self._device, self._dtype, self._num_devices = torch.device("cpu"), torch.float32, 1

    def prepare(self, model: PreTrainedModel, *, device: torch.device, dtype: torch.dtype, num_devices: int = 1) -> None:
        """Count the cost of a token and measure this machine's throughput; every process does so at the same time.

        Args: `num_devices` of this process; more than one if torch's DataParallel splits its batches.
        """
        self._flops = ModelFlops.of(model)
        self._device, self._dtype, self._num_devices = device, dtype, num_devices
        if (device, dtype, torch.get_num_threads()) not in self._known:
            self.measure()
        self._ceiling = self._known[device, dtype, torch.get_num_threads()] * num_devices

    def measure(self) -> None:
        """Measure this machine's throughput once more: the best of all tries counts. Called in every process at the same time."""
        self._stop()
        key = (self._device, self._dtype, torch.get_num_threads())
        self._known[key] = max(self._known.get(key, 0.0), measured_ceiling(self._device, self._dtype))
        self._ceiling = self._known[key] * self._num_devices

    def count(self, batch: dict, *, pad_token_id: int | None) -> None:
        """A training batch begins; the clock starts with the first one."""
        if self._running_since is None:
            self._running_since = time.perf_counter()
        for prefix in LEARNED_PREFIXES:
            ids, mask = batch.get(f"{prefix}input_ids"), batch.get(f"{prefix}attention_mask")
            if ids is not None:
                real = mask if mask is not None else ids != (-1 if pad_token_id is None else pad_token_id)
                if mask is None and f"{prefix}labels" in batch:  # a token hidden from the model is treated as padding
                    real = real | (batch[f"{prefix}labels"] != -100)
                self._tokens = self._tokens + real.sum()  # stays on its device: reading it would mean waiting for the GPU
                self._rows += ids.shape[0]

    def on_step_end(self, args, state, control, **kwargs):
        self.steps += 1

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Pause the clock, after waiting for pending training work on the device."""
        self._stop()
        yield
        if self._flops is not None:
            self._running_since = time.perf_counter()

    def _stop(self) -> None:
        if self._running_since is not None:
            _synchronize(self._device)
            self.seconds += time.perf_counter() - self._running_since
            self._running_since = None

    def lap(self) -> dict[str, float]:
        """`tokens_per_second` and `mfu` since the last lap, against the fastest product measured so far."""
        tokens, rows, seconds = self._lap_start
        self._lap_start = (int(self._tokens), self._rows, self.seconds)
        speed = self._speed(self._lap_start[0] - tokens, self._rows - rows, self.seconds - seconds)
        if "mfu" in speed:
            self._ceilings.append(self._last_ceiling)
        return speed

    def total(self) -> dict[str, float]:
        """`tokens_per_second` and `mfu` of the whole training so far."""
        self._stop()
        return self._speed(int(self._tokens), self._rows, self.seconds)

    def correct(self, lines: list[dict]) -> None:
        """Relate the MFU in these log lines to the ceiling of the last `total`, so that they agree with it.

        Args: `lines` of the log, of which the last are this meter's laps.
        """
        for line, ceiling in zip(reversed([line for line in lines if "mfu" in line]), reversed(self._ceilings)):
            line["mfu"] = round(line["mfu"] * ceiling / self._last_ceiling, 4)

    def _speed(self, tokens: int, rows: int, seconds: float) -> dict[str, float]:
        # Average the seconds, too, so that all processes make the same decision below.
        tokens, rows, ceiling, seconds, processes = self._everywhere(tokens, rows, self._ceiling, seconds, 1)
        if self._flops is None or not (tokens and seconds):
            return {}
        seconds /= processes
        speed = {"tokens_per_second": round(tokens / seconds, 1)}
        flops = tokens / seconds * self._flops.per_token(tokens / rows)
        if flops > ceiling:  # the ceiling was measured while something else used the machine
            self.measure()
            (ceiling,) = self._everywhere(self._ceiling)
        self._last_ceiling = ceiling
        if flops > ceiling:
            logger.info(
                f"MFU is left out: the model's {flops / 1e9:,.1f} GFLOP/s exceed the {ceiling / 1e9:,.1f} of the fastest measured "
                f"matrix product; something else was using this machine during the measurement."
            )
            return speed
        return speed | {"mfu": round(flops / ceiling, 4)}

    @staticmethod
    def _everywhere(*numbers: float) -> list[Any]:
        """The sums of these numbers over all processes."""
        return [sum(column) for column in zip(*gather_object([numbers]))]


def describe_speed(metrics: dict) -> str:
    """The speed of a run for the last line of its report, or nothing if it is unknown."""
    parts = []
    if metrics.get("tokens_per_second"):
        share = f" (MFU {100 * metrics['mfu']:.1f} %)" if metrics.get("mfu") is not None else ""
        parts.append(f"{metrics['tokens_per_second']:,.0f} tokens per second{share}, ")
    if metrics.get("energy_joules") is not None:
        parts.append(f"{metrics['energy_joules'] / 3600:,.3g} Wh, ")
    return "".join(parts)
