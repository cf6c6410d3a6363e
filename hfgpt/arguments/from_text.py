"""The arguments of recipes/from_text.py."""

import os
from dataclasses import dataclass
from typing import ClassVar

from hfgpt.arguments.keys import OutputKeys, data_key, training_key
from hfgpt.errors import UserError
from hfgpt.files import expand_home

# Start, tokenizer, rows and the plan take a good part of it already.
FEWEST_MINUTES = 0.5


@dataclass
class FromTextArguments(OutputKeys):
    """recipes/from_text.py"""

    positional: ClassVar[str | None] = "sources"

    sources: list[str] = data_key(
        [], "Text, JSON(L), Parquet files, patterns or folders, or Hub datasets; the first argument(s).", required=True
    )
    minutes: float = training_key(10.0, "Minutes that the whole command may take.")
    text_documents: str | None = data_key(
        None, "One document of a text file: 'file' (without it), 'paragraph', 'line', or the line that separates documents."
    )
    text_field: str | None = data_key(None, "Column that holds the text in JSON, Parquet and Hub rows; 'text' without it.")

    def __post_init__(self):
        expand_home(self, "output_dir")
        self.check_output()
        if (processes := int(os.environ.get("WORLD_SIZE", 1))) > 1:
            raise UserError(
                f"{processes} processes were started; from-text runs in one, and its pretrain.yaml in several: "
                "torchrun --nproc_per_node 2 recipes/pretrain.py runs/mine/pretrain.yaml"
            )
        if not self.sources:
            raise UserError(
                "sources are missing; name your texts, such as: hfgpt from-text 'my_texts/*.txt' --output_dir runs/mine"
            )
        if not self.minutes >= FEWEST_MINUTES:
            raise UserError(
                f"minutes is {self.minutes:g}; {FEWEST_MINUTES:g} or more are needed, of which half are for the training."
            )

    def asked(self) -> dict[str, object]:
        """What a folder of this recipe is known by."""
        return {name: value for name, value in self.given().items() if name not in ("output_dir", "overwrite", "card")}
