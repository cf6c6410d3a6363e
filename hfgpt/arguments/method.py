"""What a fine-tuning method is; methods.py applies it."""

from dataclasses import dataclass, field

from hfgpt.errors import UserError

METHODS = ("lora", "last_block", "full", "head")


@dataclass(frozen=True)
class Method:
    """How a model is fine-tuned.

    Args:
        name: "lora", "last_block" (the last decoder layer, the final norm and the head, as the book does it), "full", or "head".
        rank, alpha, dropout: of LoRA; its update is alpha / rank times the product of its two matrices.
        targets: names of the linear layers that LoRA goes beside, such as "q_proj"; None is every one in the decoder layers.
        dora: learn the length of each output row apart from its direction. Source: Liu et al. (2024), DoRA, eq. 5.
        rslora: divide by the root of the rank instead of by the rank. Source: Kalajdzievski (2023), rsLoRA.
    Raises: ValueError for a rank below 1 and a dropout that is no probability.
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
        if self.name not in METHODS:
            raise UserError(f"method is {self.name!r}; choose one of {', '.join(METHODS)}.")
        if self.rank < 1:
            raise UserError(f"lora_rank is {self.rank}; 1 or more is needed, a matrix of rank 0 learns nothing.")
        if self.alpha <= 0:
            raise UserError(f"lora_alpha is {self.alpha}; above 0 is needed, it multiplies what LoRA learns.")
        if not 0 <= self.dropout < 1:
            raise UserError(f"lora_dropout is {self.dropout}; a probability from 0 to below 1 is needed.")
