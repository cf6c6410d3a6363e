"""The optimizers that a recipe can be asked for: a table. Nothing here imports torch."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from hfgpt.tables import Table


@dataclass(frozen=True)
class OptimizerSettings:
    """What a recipe says about its optimizer.

    Args:
        learning_rate: the peak rate; of Muon that of the parameters which AdamW moves.
        muon_learning_rate: the peak rate of the matrices under Muon.
        embedding_learning_rate: the peak rate of a token embedding that is not the head; None is `learning_rate`.
        weight_decay: decoupled.
        betas, eps: of AdamW.
        in_float32: all is computed in float32, whatever the processor is fast in.
    """

    learning_rate: float
    muon_learning_rate: float
    embedding_learning_rate: float | None
    weight_decay: float
    betas: tuple[float, float]
    eps: float
    in_float32: bool = False


@dataclass(frozen=True)
class Optimizer:
    """One entry of `OPTIMIZERS`; its key is the name in the line at the start of a run.

    Args:
        make: takes the `OptimizerSettings` and returns what Trainer's `optimizer_cls_and_kwargs` takes: a class (or a factory that
            is called with the model) and its keyword arguments. It is the function, or its name "module:function"; None leaves
            the choice to Trainer's own `optim`.
        refuses: options of a recipe that would do nothing beside it, with the reason.
        whole_matrices: it moves whole matrices, so it goes only with a tuning method that trains everything.
    """

    make: Callable[[OptimizerSettings], tuple[Any, dict[str, Any]]] | str | None
    refuses: Mapping[str, str] = field(default_factory=dict)
    whole_matrices: bool = False


_TRAINERS_OWN = "it chooses among Trainer's optimizers, which go with optimizer: adamw."

OPTIMIZERS: Table[Optimizer] = Table(
    "optimizer",
    {
        "muon": Optimizer(
            "hfgpt.training.optimizers:muon_with_adamw",
            refuses=dict.fromkeys(("optim", "optim_args", "optim_target_modules"), _TRAINERS_OWN),
            whole_matrices=True,
        ),
        "adamw": Optimizer(
            None,
            refuses=dict.fromkeys(
                ("muon_learning_rate", "embedding_learning_rate"), "it is for optimizer: muon; learning_rate is the rate of AdamW."
            ),
        ),
    },
)
