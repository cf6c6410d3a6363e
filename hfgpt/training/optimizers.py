"""Muon for the matrices of the blocks and AdamW for the rest, as one torch optimizer."""

import math
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from typing import Any, cast

import torch
from torch import nn
from transformers import PreTrainedModel

from hfgpt.arguments.optimizers import OPTIMIZERS, OptimizerSettings
from hfgpt.arguments.run import bfloat16_is_fast
from hfgpt.errors import UserError
from hfgpt.tables import resolve
from hfgpt.training.divided_work import divided, in_turns


class MuonInFloat32(torch.optim.Muon):
    """`torch.optim.Muon`, adjusted as "original", with its Newton-Schulz iterations in float32.

    torch always multiplies there in bfloat16; a processor that only emulates it spends most of a step on that. The state is that of
    `torch.optim.Muon`. With several processes, each orthogonalizes its part of the matrices (divided_work.py).

    Measured: make quickstart PRETRAIN_ARGS="--max_steps 12", two cores with AVX2, 547 -> 3,433 tokens/s, 2026-11-21.
    """

    dtype = torch.float32

    @torch.no_grad()
    def step(self, closure=None):
        loss = closure() if closure is not None else None
        for group in self.param_groups:
            orthogonal = partial(orthogonalize, coefficients=group["ns_coefficients"], steps=group["ns_steps"], eps=group["eps"])
            for parameters in in_turns(group["params"]):
                updates = [self._momentum(parameter, group).to(self.dtype) for parameter in parameters]
                for parameter, update in zip(parameters, divided(updates, orthogonal)):
                    rows, columns = parameter.shape
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    parameter.add_(update.to(parameter.dtype), alpha=-group["lr"] * math.sqrt(max(1.0, rows / columns)))
        return loss

    def _momentum(self, parameter: torch.Tensor, group: dict[str, Any]) -> torch.Tensor:
        gradient = cast(torch.Tensor, parameter.grad)
        if "momentum_buffer" not in self.state[parameter]:
            self.state[parameter]["momentum_buffer"] = torch.zeros_like(gradient)
        momentum = self.state[parameter]["momentum_buffer"].lerp_(gradient, 1 - group["momentum"])
        return gradient.lerp(momentum, group["momentum"]) if group["nesterov"] else momentum


class MuonInBfloat16(MuonInFloat32):
    """The same with the iterations in bfloat16, as in `torch.optim.Muon`."""

    dtype = torch.bfloat16


def orthogonalize(matrix: torch.Tensor, *, coefficients: tuple[float, float, float], steps: int, eps: float) -> torch.Tensor:
    """The matrix (M, N) with all its singular values near 1, in its own dtype.

    For a matrix at least twice as long as wide, the iteration only runs on its small Gram matrix G = X X^T: with the polynomial P =
    a I + b G + c G^2, X becomes P X and G becomes P G P, so X is multiplied once, by the product of all P.

    Source: Jordan et al. (2024), the Newton-Schulz iteration of Muon.
    Measured: a step of Muon at 128, 256 and 384 wide, one thread, float32: 34 -> 30, 240 -> 196, 1,155 -> 941 ms; the results
    differ by 7e-7.
    """
    a, b, c = coefficients
    tall = matrix.shape[0] > matrix.shape[1]
    matrix = matrix.T if tall else matrix  # then the product with its own transpose is the smaller one
    matrix = matrix / matrix.norm().clamp(min=eps)
    if steps and matrix.dtype == torch.float32 and matrix.shape[1] >= 2 * matrix.shape[0]:
        return _by_gram(matrix, (a, b, c), steps, tall=tall)
    for _ in range(steps):
        gram = matrix @ matrix.T
        matrix = torch.addmm(matrix, torch.addmm(gram, gram, gram, beta=b, alpha=c), matrix, beta=a)
    return matrix.T if tall else matrix


def _by_gram(matrix: torch.Tensor, coefficients: tuple[float, float, float], steps: int, *, tall: bool) -> torch.Tensor:
    a, b, c = coefficients
    gram, product = matrix @ matrix.T, None
    for step in range(steps):
        polynomial = torch.addmm(gram, gram, gram, beta=b, alpha=c)
        polynomial.diagonal().add_(a)
        product = polynomial if product is None else polynomial @ product
        if step < steps - 1:
            gram = polynomial @ gram @ polynomial
    matrix = cast(torch.Tensor, product) @ matrix
    return matrix.T if tall else matrix


class MuonWithAdamW(torch.optim.Optimizer):
    """`torch.optim.Muon` and `torch.optim.AdamW` behind one `step`, one state and one list of parameter groups.

    Schedulers, gradient clipping and checkpoints see a single optimizer; the two inner ones use its groups and its state at each
    step, so a loaded state takes effect.

    Args:
        matrices: 2-D weights of linear layers inside the blocks.
        others: head, norms and biases, and the embeddings if they have no separate rate.
        muon_learning_rate, learning_rate: peak rates of the two; a schedule scales both by the same factor.
        embeddings, embedding_learning_rate: parameters that AdamW updates at a different peak rate, and that rate.
        weight_decay: decoupled, for the matrices only.
        betas, eps: the settings of AdamW.
        muon_in_bfloat16: Newton-Schulz in bfloat16, as in torch; False if the processor is slow at it.
    Source: Jordan et al. (2024), Muon: an optimizer for hidden layers in neural networks.
    """

    def __init__(
        self,
        matrices: list[torch.Tensor],
        others: list[torch.Tensor],
        *,
        muon_learning_rate: float,
        learning_rate: float,
        embeddings: Sequence[torch.Tensor] = (),
        embedding_learning_rate: float | None = None,
        weight_decay: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        muon_in_bfloat16: bool = True,
    ):
        muon_class = MuonInBfloat16 if muon_in_bfloat16 else MuonInFloat32
        self._muon = muon_class([{"params": matrices}], lr=muon_learning_rate, weight_decay=weight_decay, adjust_lr_fn="original")
        rest: list[dict[str, Any]] = [{"params": others}]
        if embeddings:
            rest.append({"params": list(embeddings), "lr": embedding_learning_rate or learning_rate, "part": "embedding"})
        self._adamw = torch.optim.AdamW(rest, lr=learning_rate, betas=betas, eps=eps, weight_decay=0.0, fused=True)
        groups = [{**group, "method": "muon"} for group in self._muon.param_groups]
        groups += [{**group, "method": "adamw"} for group in self._adamw.param_groups]
        super().__init__(groups, {"lr": learning_rate})  # used by schedules with a minimum rate (min_lr)

    @torch.no_grad()
    def step(self, closure=None):
        loss = closure() if closure is not None else None
        for optimizer, method in ((self._muon, "muon"), (self._adamw, "adamw")):
            optimizer.param_groups = [group for group in self.param_groups if group["method"] == method]
            optimizer.state = self.state
            optimizer.step()
        return loss


class MuonWithAdamWFactory:
    """For Trainer's `optimizer_cls_and_kwargs`: called with the model, it makes the optimizer for it."""

    def __call__(self, model: PreTrainedModel, **settings) -> MuonWithAdamW:
        matrices, others = matrices_and_others(model)
        embeddings = untied_embeddings(model) if settings.get("embedding_learning_rate") is not None else []
        apart = {id(parameter) for parameter in embeddings}
        others = [parameter for parameter in others if id(parameter) not in apart]
        return MuonWithAdamW(matrices, others, embeddings=embeddings, **settings)


def matrices_and_others(model: PreTrainedModel) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """The trainable weights of linear layers in the body, without the head and the embeddings; and everything else trainable.

    The head of a classifier is outside the body, so AdamW updates it, as it does the head of a language model.

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


def untied_embeddings(model: PreTrainedModel) -> list[torch.Tensor]:
    """The trainable weight of the token embedding, if it is not tied to the head: one matrix cannot have two rates."""
    head, weight = model.get_output_embeddings(), model.get_input_embeddings().weight
    if isinstance(weight, torch.Tensor) and weight.requires_grad and weight is not getattr(head, "weight", None):
        return [weight]
    return []


def muon_with_adamw(settings: OptimizerSettings) -> tuple[type[MuonWithAdamWFactory], dict[str, Any]]:
    """`MuonWithAdamW` in the form of Trainer's `optimizer_cls_and_kwargs`."""
    given = asdict(settings)
    in_float32 = given.pop("in_float32")
    return MuonWithAdamWFactory, dict(given, muon_in_bfloat16=bfloat16_is_fast() and not in_float32)


def trainer_optimizer(name: str, settings: OptimizerSettings) -> tuple[Any, dict[str, Any]] | None:
    """The value of Trainer's `optimizer_cls_and_kwargs` for an entry of `OPTIMIZERS`; None leaves the choice to Trainer's
    `optim`."""
    make = OPTIMIZERS.find(name).make
    return resolve(make)(settings) if make is not None else None
