"""The arguments of recipes/from_text.py."""

import os
from dataclasses import dataclass
from typing import ClassVar, Literal

from hfgpt.arguments.keys import ON_ERROR_HELP, OutputKeys, data_key, hygiene_key, machine_key, output_key, training_key
from hfgpt.arguments.privacy import PERSONAL_DATA_HELP
from hfgpt.errors import UserError
from hfgpt.files import expand_home

# Startup, tokenizer, rows and the plan already take a good part of it.
FEWEST_MINUTES = 1.0


@dataclass
class FromTextArguments(OutputKeys):
    """recipes/from_text.py"""

    positional: ClassVar[str | None] = "sources"

    sources: list[str] = data_key(
        [],
        "Text, mail (.mbox, .eml, Maildir), JSON(L), Parquet files, patterns or folders, or Hub datasets; the first argument(s).",
        required=True,
    )
    minutes: float = training_key(10.0, "Minutes that the whole command may take.")
    text_documents: str | None = data_key(
        None,
        "What counts as a document in a text file: 'file' (default), 'paragraph', 'line', or the line that separates documents.",
    )
    text_field: str | None = data_key(None, "Column with the text in JSON, Parquet and Hub rows (default: 'text').")
    on_error: Literal["stop", "skip"] = data_key("stop", ON_ERROR_HELP)

    personal_data: Literal["keep", "mask", "drop"] | None = hygiene_key(None, PERSONAL_DATA_HELP)
    cpu_threads: int | None = machine_key(
        None, "Threads for training on a CPU (default: OMP_NUM_THREADS if set, else all cores that other programs leave free)."
    )

    resume: Literal["auto", "never"] = output_key("auto", "Continue a training run that was stopped, or refuse to.")

    def __post_init__(self):
        expand_home(self, "output_dir")
        self.check_output()
        if (processes := int(os.environ.get("WORLD_SIZE", 1))) > 1:
            raise UserError(
                f"{processes} processes were started; from-text uses one. To train with several, use the pretrain.yaml it wrote: "
                "torchrun --nproc_per_node 2 recipes/pretrain.py runs/mine/pretrain.yaml"
            )
        if not self.sources:
            raise UserError(
                "sources are missing; give your texts, for example: hfgpt from-text 'my_texts/*.txt' --output_dir runs/mine"
            )
        self.check_least(cpu_threads=1)
        if not self.minutes >= FEWEST_MINUTES:
            raise UserError(
                f"minutes is {self.minutes:g}; it must be at least {FEWEST_MINUTES:g}, about half of which is for training."
            )

    def asked(self) -> dict[str, object]:
        """What identifies a folder of this recipe."""
        others = ("output_dir", "overwrite", "card", "resume", "cpu_threads")
        return {name: value for name, value in self.given().items() if name not in others}
