"""The optimizers that a recipe can use: a table. Nothing here imports torch."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from hfgpt.tables import Table


@dataclass(frozen=True)
class OptimizerSettings:
    """What a recipe specifies about its optimizer.

    Args:
        learning_rate: the peak rate; with Muon, the rate of the parameters that AdamW updates.
        muon_learning_rate: the peak rate of the matrices that Muon updates.
        embedding_learning_rate: the peak rate of a token embedding that is not the head; None is `learning_rate`.
        weight_decay: decoupled weight decay.
        betas, eps: the settings of AdamW.
        in_float32: everything is computed in float32, even if the processor has a faster dtype.
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
    """One entry of `OPTIMIZERS`; its key is the name shown at the start of a run.

    Args:
        make: takes the `OptimizerSettings` and returns what Trainer's `optimizer_cls_and_kwargs` takes: a class (or a factory that
            is called with the model) and its keyword arguments. It is the function, or its name "module:function"; None leaves
            the choice to Trainer's own `optim`.
        refuses: options of a recipe that would have no effect with it, with the reason.
        whole_matrices: it updates whole matrices, so it only works with a tuning method that trains everything.
    """

    make: Callable[[OptimizerSettings], tuple[Any, dict[str, Any]]] | str | None
    refuses: Mapping[str, str] = field(default_factory=dict)
    whole_matrices: bool = False


_TRAINERS_OWN = "it chooses among Trainer's optimizers, which need optimizer: adamw."

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
                ("muon_learning_rate", "embedding_learning_rate"), "it needs optimizer: muon; learning_rate is the rate of AdamW."
            ),
        ),
    },
)
