"""Numbers that are not finite: a step that produces one is not taken; and gradient spikes, which are skipped on request."""

import logging
import math
from itertools import islice
from statistics import median
from typing import Any, NoReturn, cast

import torch
from accelerate.utils import gather_object
from torch import distributed
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

from hfgpt.counting import listed
from hfgpt.errors import UserError
from hfgpt.training.checkpoints import whole_checkpoints
from hfgpt.training.saving import SavingTrainer
from hfgpt.training.sharding import part_here

logger = logging.getLogger(__name__)

SHOWN = 20  # rows listed in a message
WINDOW, LEAST = 100, 20  # norms that a spike is compared with, and the minimum before any step is skipped


class GradientNorms(TrainerCallback, ExportableState):
    """The last gradient norms and the number of skipped steps; both are in the checkpoints, so a resumed run skips the same steps.

    Norms of skipped steps count, too: if gradients have become permanently larger, the median follows within half a window.
    """

    def __init__(self):
        self.norms: list[float] = []
        self.skipped = 0

    def is_spike(self, norm: float, *, factor: float) -> bool:
        """Whether the norm of a step exceeds `factor` times the median of the previous ones; records the norm."""
        spike = len(self.norms) >= LEAST and norm > factor * median(self.norms)
        self.norms = [*self.norms, norm][-WINDOW:]
        self.skipped += spike
        return spike

    def state(self) -> dict[str, dict]:
        return {"args": {}, "attributes": {"norms": self.norms, "skipped": self.skipped}}


class FiniteTrainer(SavingTrainer):
    """Trainer that takes no step with a loss or gradient that is not finite, and saves no such weights.

    All processes make the same decision, based on one number that they exchange before each update. With fp16, a gradient that is
    not finite is not an error: the scaler skips the step and lowers the scale.

    Attributes: `skip_loss_spikes` is the factor above the median at which a step is skipped (`GradientNorms`); 0 skips none.
    Cost: the loss and the norm of each step are read from the GPU before its update.
    """

    skip_loss_spikes = 0.0
    _losses: list[torch.Tensor]  # of the batches of a step
    _place = (0, 1)  # the epoch and the step within it

    @property
    def spikes(self) -> GradientNorms | None:
        """The norms that spikes are compared with, if they are skipped; a resumed run restores them from its checkpoint."""
        return next((one for one in self.callback_handler.callbacks if isinstance(one, GradientNorms)), None)

    def train(self, resume_from_checkpoint=None, **kwargs):
        if self.skip_loss_spikes and self.spikes is None:
            self.add_callback(GradientNorms())
        result = super().train(resume_from_checkpoint, **kwargs)
        self._require_finite_weights("the model is not saved")
        return result

    def _run_epoch(self, *, epoch, num_update_steps_per_epoch, **kwargs):
        self._losses, self._place = [], (epoch, num_update_steps_per_epoch)
        super()._run_epoch(epoch=epoch, num_update_steps_per_epoch=num_update_steps_per_epoch, **kwargs)

    def training_step(self, model, inputs, num_items_in_batch=None):
        loss = super().training_step(model, inputs, num_items_in_batch)
        self._losses.append(loss)
        return loss

    def _get_grad_norm(self, model, grad_norm=None):
        norm = super()._get_grad_norm(model, grad_norm)
        losses, self._losses = self._losses, []
        whole = norm.full_tensor() if isinstance(norm, DTensor) else torch.as_tensor(0.0 if norm is None else norm)
        device = self.args.device
        values = torch.stack([one.detach().to(device, torch.float32) for one in (*losses, whole)])
        finite = values.isfinite()
        if self.accelerator.scaler is not None:
            finite[-1] = True  # the scaler skips the step by itself
        seen = self._largest_of_all(torch.stack([(~finite).any().float(), values[-1].nan_to_num(posinf=-1)]))
        if seen[0]:
            self._stop_before_update(dict(zip(range(len(losses)), values.tolist())), norm=float(whole))
        spikes = self.spikes
        if spikes is not None and seen[1] >= 0 and spikes.is_spike(seen[1], factor=self.skip_loss_spikes):
            logger.warning(f"step {self.state.global_step + 1:,} is skipped: its gradient norm, {seen[1]:,.3g}, is a spike.")
            model.zero_grad(set_to_none=True)  # without gradients, an optimizer updates nothing and decays nothing
        return norm

    def _largest_of_all(self, numbers: torch.Tensor) -> list[float]:
        """The maximum of each number over all processes."""
        if self.args.world_size > 1:
            distributed.all_reduce(numbers, distributed.ReduceOp.MAX)
        return numbers.tolist()

    def _stop_before_update(self, losses: dict[int, float], *, norm: float) -> NoReturn:
        """Raises: UserError in all processes, with the rows of the batches whose loss is not finite, or else those of the step."""
        rows = self._rows_of_step(len(losses))
        bad = {number: loss for number, loss in losses.items() if not math.isfinite(loss)}
        mine = [(loss, sorted(rows[number]) if number < len(rows) else []) for number, loss in bad.items()]
        told = cast(list[tuple[float, list[int]]], gather_object(mine))
        what = f"the loss is {told[0][0]}" if told else f"the norm of the gradient is {norm}"
        if not told:
            told = cast(Any, gather_object([(0.0, [row for batch in rows for row in batch])]))
        raise UserError(
            f"step {self.state.global_step + 1:,} is not taken: {what}{_named(sorted({row for _, rows in told for row in rows}))}. "
            f"{self._what_is_left()} Check these rows, or give a smaller --learning_rate (--allow_change learning_rate)."
        )

    def _what_is_left(self) -> str:
        self._wait_for_checkpoint()
        found = whole_checkpoints(self.folder, run=self.run_id)
        if not found:
            return "There is no checkpoint yet; the same command starts from the beginning."
        return f"The newest checkpoint, {found[-1]}, is finite; the same command resumes from it."

    def _rows_of_step(self, num_batches: int) -> list[list[int]]:
        """The numbers of the training rows in each batch that this process reads in the current step."""
        epoch, steps = self._place
        loader = self.callback_handler.train_dataloader
        batches = getattr(loader, "batch_sampler", None)
        if batches is None:
            return []
        set_epoch_of_sampler(loader, epoch)
        first = (self.state.global_step - epoch * steps) * self.args.gradient_accumulation_steps
        number_of_rows = len(cast(Any, self.train_dataset))
        return [[row % number_of_rows for row in batch] for batch in islice(iter(batches), first, first + num_batches)]

    def _save_checkpoint(self, model, trial):
        self._require_finite_weights("no checkpoint is written")
        super()._save_checkpoint(model, trial)

    def _require_finite_weights(self, consequence: str) -> None:
        """Raises: UserError in all processes if a trained weight is not finite in one of them."""
        weights = [one.detach() for one in cast(torch.nn.Module, self.model).parameters() if one.requires_grad]
        if not weights:
            return
        # A sum with non-finite terms is not finite either, and summing is faster than checking every weight.
        sums = [part_here(one).sum(dtype=torch.float32) for one in weights]
        bad = ~torch.stack(sums).isfinite().all()
        if self._largest_of_all(bad.float().reshape(1))[0]:
            raise UserError(
                f"the weights after step {self.state.global_step:,} are not finite, so {consequence}. {self._what_is_left()} Give "
                "a smaller --learning_rate (--allow_change learning_rate), or --precision bf16 or fp32 instead of fp16."
            )

    def evaluation_loop(self, *args, **kwargs):
        output = super().evaluation_loop(*args, **kwargs)
        for name, value in (output.metrics or {}).items():
            if name.endswith("loss") and not math.isfinite(value):
                raise UserError(
                    f"{name} after step {self.state.global_step:,} is {value}, although the weights are finite: check the rows of "
                    f"that split, or give a smaller --learning_rate. {self._what_is_left()}"
                )
        return output


def _named(rows: list[int]) -> str:
    return f" (rows {listed(rows, most=SHOWN)} of the training set, counted from 0)" if rows else ""


def set_epoch_of_sampler(dataloader: Any, epoch: int) -> None:
    """Pass the epoch to the innermost sampler.

    Trainer's own call does not reach it below both the skipping of batches and their division among processes: with two processes,
    a run resumed within its second epoch would read the first one's order.
    """
    place = dataloader
    while (inner := getattr(place, "batch_sampler", None) or getattr(place, "sampler", None)) is not None:
        place = inner
    if hasattr(place, "set_epoch"):
        place.set_epoch(epoch)
