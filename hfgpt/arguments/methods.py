"""Which part of a model fine-tuning trains: a table of methods, and the settings of one. Nothing here imports torch."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from hfgpt.errors import UserError
from hfgpt.tables import Table


@dataclass(frozen=True)
class Method:
    """A tuning method with its settings.

    Args:
        name: a key of `METHODS`.
        rank, alpha, dropout: of LoRA; its update is alpha / rank times the product of its two matrices.
        targets: names of the linear layers that get LoRA matrices, such as "q_proj"; None means all in the decoder layers.
        dora: learn the magnitude of each output row separately from its direction. Source: Liu et al. (2024), DoRA, eq. 5.
        rslora: divide by the root of the rank instead of by the rank. Source: Kalajdzievski (2023), rsLoRA.
        new_tokens: ids whose embeddings the base has never trained; they are trained with every method.
    Raises: ValueError for an unknown name, a rank below 1 and a dropout that is not a probability.
    """

    name: str = "lora"
    rank: int = 16
    alpha: float = 32
    dropout: float = 0.0
    targets: list[str] | None = None
    dora: bool = False
    rslora: bool = False
    new_tokens: list[int] = field(default_factory=list)

    def __post_init__(self):
        METHODS.find(self.name)
        if self.rank < 1:
            raise UserError(f"lora_rank is {self.rank}; it must be at least 1, because a matrix of rank 0 learns nothing.")
        if self.alpha <= 0:
            raise UserError(f"lora_alpha is {self.alpha}; it must be above 0, because it scales what LoRA learns.")
        if not 0 <= self.dropout < 1:
            raise UserError(f"lora_dropout is {self.dropout}; it must be a probability of at least 0 and below 1.")


@dataclass(frozen=True)
class TuningMethod:
    """One entry of `METHODS`.

    Args:
        prepare: takes the model and the `Method`, freezes what is not trained, and returns the model to train. It is the function,
            or its name "module:function".
        is_adapter: the trained part is a PEFT adapter, saved beside the base; only such a method can train on top of 4-bit weights.
        trains_everything: no parameter is frozen; Muon needs that, because it updates whole matrices.
    """

    prepare: Callable[[Any, Method], Any] | str
    is_adapter: bool = False
    trains_everything: bool = False


METHODS: Table[TuningMethod] = Table(
    "method",
    {
        "lora": TuningMethod("hfgpt.training.methods:add_lora", is_adapter=True),
        "last_block": TuningMethod("hfgpt.training.methods:train_last_block"),
        "full": TuningMethod("hfgpt.training.methods:train_everything", trains_everything=True),
        "head": TuningMethod("hfgpt.training.methods:train_head"),
    },
)
