"""Keys for rows: how documents are packed into them, and what changes from epoch to epoch."""

from dataclasses import dataclass
from typing import Literal

from hfgpt.arguments.keys import RecipeArguments, data_key, training_key
from hfgpt.errors import UserError


@dataclass
class PackingKeys(RecipeArguments):
    """How recipes/prepare_data.py packs training documents into rows; held-out ones are always packed by best fit."""

    packing: Literal["best_fit", "best_fit_split", "in_order"] = data_key(
        "best_fit",
        "How to pack training documents into rows: best_fit cuts no document that fits into a row; best_fit_split cuts some and "
        "leaves no padding; in_order joins all and cuts when a row is full.",
    )
    window: int | None = data_key(None, "Instead, cut training documents into sliding windows of this many tokens, as in the book.")
    stride: int | None = data_key(None, "Tokens between window starts (default: window - 1).")

    def check_packing(self) -> None:
        """Give the stride its default. Raises: UserError for keys that contradict each other."""
        if self.window is not None:
            if self.window < 2:
                raise UserError(f"window is {self.window}; it must be at least 2: an input token and its target.")
            if self.stride is None:
                self.stride = self.window - 1
            if not 1 <= self.stride <= self.window:
                raise UserError(
                    f"stride is {self.stride} and window is {self.window}; the stride must be between 1 and the window, or tokens "
                    f"would be lost."
                )


@dataclass
class EpochKeys(RecipeArguments):
    """How the rows that recipes/pretrain.py trains on change from epoch to epoch."""

    repack: bool = training_key(
        False, "Reorder the documents and cut them at different places in every epoch (for rows packed in_order)."
    )
    max_masked_tokens: int = training_key(
        0, "Mask 1 to this many random tokens of each training row, different ones in every epoch, against memorisation."
    )

    def check_epochs(self) -> None:
        """Raises: UserError for a number of tokens below 0."""
        self.check_least(max_masked_tokens=0)
