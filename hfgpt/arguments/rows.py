"""Keys of rows: how documents are packed into them, and what of them changes from epoch to epoch."""

from dataclasses import dataclass
from typing import Literal

from hfgpt.arguments.keys import RecipeArguments, data_key, training_key
from hfgpt.errors import UserError


@dataclass
class PackingKeys(RecipeArguments):
    """How recipes/prepare_data.py makes rows of training documents; held-out ones are packed by best fit, whatever is asked."""

    packing: Literal["best_fit", "best_fit_split", "in_order"] = data_key(
        "best_fit",
        "Training documents into rows: best_fit cuts none that fits into a row; best_fit_split cuts some, and leaves no padding; "
        "in_order joins all and cuts where a row is full.",
    )
    window: int | None = data_key(None, "Cut training documents into the book's sliding windows of this many tokens instead.")
    stride: int | None = data_key(None, "Tokens between window starts; window - 1 without it.")

    def check_packing(self) -> None:
        """Give the stride its default. Raises: UserError for keys that contradict each other."""
        if self.window is not None:
            if self.window < 2:
                raise UserError(f"window is {self.window}; 2 tokens or more are needed, an input and its target.")
            if self.stride is None:
                self.stride = self.window - 1
            if not 1 <= self.stride <= self.window:
                raise UserError(
                    f"stride is {self.stride}, window {self.window}; a stride from 1 to the window is needed, or tokens get lost."
                )


@dataclass
class EpochKeys(RecipeArguments):
    """How the rows that recipes/pretrain.py trains on change from epoch to epoch."""

    repack: bool = training_key(
        False, "Put the documents into another order and cut them at other places in every epoch (rows packed in_order)."
    )
    max_masked_tokens: int = training_key(
        0, "Hide 1 to this many random tokens of each training row from the model, others in every epoch, against memorisation."
    )

    def check_epochs(self) -> None:
        """Raises: UserError for a number of tokens below 0."""
        self.check_least(max_masked_tokens=0)
