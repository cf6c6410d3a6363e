"""Muon for the matrices of the blocks and AdamW for the rest, as one torch optimizer."""

import math
from dataclasses import asdict
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from hfgpt.arguments.optimizers import OPTIMIZERS, OptimizerSettings
from hfgpt.arguments.run import bfloat16_is_fast
from hfgpt.errors import UserError
from hfgpt.tables import resolve


class MuonInFloat32(torch.optim.Muon):
    """`torch.optim.Muon`, adjusted as "original", with its Newton-Schulz iterations in float32.

    torch multiplies there in bfloat16 whatever the machine; a processor that only emulates it spends most of a step on that.
    The state is that of `torch.optim.Muon`.

    Measured: make quickstart PRETRAIN_ARGS="--max_steps 12", two cores with AVX2, 547 -> 3,433 tokens/s, 2026-11-21.
    """

    @torch.no_grad()
    def step(self, closure=None):
        loss = closure() if closure is not None else None
        for group in self.param_groups:
            for parameter in group["params"]:
                gradient = parameter.grad
                if gradient is None:
                    continue
                if "momentum_buffer" not in self.state[parameter]:
                    self.state[parameter]["momentum_buffer"] = torch.zeros_like(gradient)
                momentum = self.state[parameter]["momentum_buffer"].lerp_(gradient, 1 - group["momentum"])
                update = gradient.lerp(momentum, group["momentum"]) if group["nesterov"] else momentum
                update = orthogonalize(
                    update.float(), coefficients=group["ns_coefficients"], steps=group["ns_steps"], eps=group["eps"]
                )
                rows, columns = parameter.shape
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(update.to(parameter.dtype), alpha=-group["lr"] * math.sqrt(max(1.0, rows / columns)))
        return loss


def orthogonalize(matrix: torch.Tensor, *, coefficients: tuple[float, float, float], steps: int, eps: float) -> torch.Tensor:
    """The matrix (M, N) with all its singular values near 1, in its own dtype.

    Source: Jordan et al. (2024), the Newton-Schulz iteration of Muon.
    """
    a, b, c = coefficients
    tall = matrix.shape[0] > matrix.shape[1]
    matrix = matrix.T if tall else matrix  # the product with its own transpose is then the smaller one
    matrix = matrix / matrix.norm().clamp(min=eps)
    for _ in range(steps):
        gram = matrix @ matrix.T
        matrix = torch.addmm(matrix, torch.addmm(gram, gram, gram, beta=b, alpha=c), matrix, beta=a)
    return matrix.T if tall else matrix


class MuonWithAdamW(torch.optim.Optimizer):
    """`torch.optim.Muon` and `torch.optim.AdamW` behind one `step`, one state and one list of parameter groups.

    Schedulers, gradient clipping and checkpoints see a single optimizer; the two inner ones borrow its groups and its state
    at each step, so what is loaded is what is used.

    Args:
        matrices: 2-D weights of linear layers inside the blocks.
        others: embeddings, head, norms and biases.
        muon_learning_rate, learning_rate: peak rates of the two; a schedule scales both alike.
        weight_decay: decoupled, on the matrices only.
        betas, eps: of AdamW.
        muon_in_bfloat16: Newton-Schulz in bfloat16, as torch has it; False where the processor is slow in it.
    Source: Jordan et al. (2024), Muon: an optimizer for hidden layers in neural networks.
    """

    def __init__(
        self,
        matrices: list[torch.Tensor],
        others: list[torch.Tensor],
        *,
        muon_learning_rate: float,
        learning_rate: float,
        weight_decay: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        muon_in_bfloat16: bool = True,
    ):
        muon_class = torch.optim.Muon if muon_in_bfloat16 else MuonInFloat32
        self._muon = muon_class([{"params": matrices}], lr=muon_learning_rate, weight_decay=weight_decay, adjust_lr_fn="original")
        self._adamw = torch.optim.AdamW([{"params": others}], lr=learning_rate, betas=betas, eps=eps, weight_decay=0.0, fused=True)
        groups = [{**group, "method": "muon"} for group in self._muon.param_groups]
        groups += [{**group, "method": "adamw"} for group in self._adamw.param_groups]
        super().__init__(groups, {"lr": learning_rate})  # the schedules with a lowest rate (min_lr) go by it

    @torch.no_grad()
    def step(self, closure=None):
        loss = closure() if closure is not None else None
        for optimizer, method in ((self._muon, "muon"), (self._adamw, "adamw")):
            optimizer.param_groups = [group for group in self.param_groups if group["method"] == method]
            optimizer.state = self.state
            optimizer.step()
        return loss


class MuonWithAdamWFactory:
    """What Trainer's `optimizer_cls_and_kwargs` takes: called with the model, it makes the optimizer for it."""

    def __call__(self, model: PreTrainedModel, **settings) -> MuonWithAdamW:
        matrices, others = matrices_and_others(model)
        return MuonWithAdamW(matrices, others, **settings)


def matrices_and_others(model: PreTrainedModel) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """The trainable weights of linear layers in the body, less the head and the embeddings; and everything else trainable.

    The head of a classifier stands outside the body, and is AdamW's as that of a language model is.

    Raises: ValueError for a model without such matrices.
    """
    head = model.get_output_embeddings()
    matrices = [
        module.weight
        for module in model.base_model.modules()
        if isinstance(module, nn.Linear) and module is not head and module.weight.requires_grad
    ]
    if not matrices:
        raise UserError(f"{type(model).__name__} has no trainable linear layer for Muon; use optimizer: adamw.")
    chosen = {id(parameter) for parameter in matrices}
    others: list[torch.Tensor] = [p for p in model.parameters() if p.requires_grad and id(p) not in chosen]
    return matrices, others


def muon_with_adamw(settings: OptimizerSettings) -> tuple[type[MuonWithAdamWFactory], dict[str, Any]]:
    """`MuonWithAdamW` in the form of Trainer's `optimizer_cls_and_kwargs`."""
    return MuonWithAdamWFactory, dict(asdict(settings), muon_in_bfloat16=bfloat16_is_fast())


def trainer_optimizer(name: str, settings: OptimizerSettings) -> tuple[Any, dict[str, Any]] | None:
    """What Trainer's `optimizer_cls_and_kwargs` takes for an entry of `OPTIMIZERS`; None leaves the choice to Trainer's `optim`."""
    make = OPTIMIZERS.find(name).make
    return resolve(make)(settings) if make is not None else None
