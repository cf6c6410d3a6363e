"""The arguments of recipes/pretrain.py."""

import json
from dataclasses import dataclass, field
from typing import Literal

from hfgpt.arguments.optimizers import OPTIMIZERS
from hfgpt.arguments.run import RunArguments
from hfgpt.errors import UserError
from hfgpt.files import expand_home


@dataclass
class PretrainArguments(RunArguments):
    """recipes/pretrain.py"""

    dataset: str = field(default="", metadata={"help": "Folder of rows that recipes/prepare_data.py wrote."})
    family: Literal["modern", "gpt2"] = field(
        default="modern", metadata={"help": "'modern' (set by depth) or 'gpt2' (set by size)."}
    )
    depth: int = field(default=12, metadata={"help": "Layers of a modern model; the rest of its shape follows."})
    size: str = field(default="124M", metadata={"help": "Published size of a gpt2 model: 124M, 355M, 774M, 1558M."})
    config_overrides: dict | str | None = field(
        default=None, metadata={"help": "Fields of HfGptConfig to set otherwise, as JSON or a YAML mapping."}
    )
    optimizer: str = field(
        default="muon",
        metadata={"choices": OPTIMIZERS, "help": "Muon for the blocks' matrices and AdamW for the rest, or AdamW alone."},
    )
    muon_learning_rate: float = field(default=0.02, metadata={"help": "Peak learning rate of the matrices under Muon."})
    sample_prompts: list[str] = field(
        default_factory=lambda: [""],
        metadata={"help": "Prompts continued at every evaluation, into samples.md; an empty one starts a text."},
    )
    sample_tokens: int = field(default=80, metadata={"help": "Most tokens of such a sample."})

    learning_rate: float = field(default=3e-3, metadata={"help": "Peak learning rate of AdamW."})
    adam_beta2: float = field(default=0.95, metadata={"help": "Beta2 of AdamW."})
    num_train_epochs: float = field(default=1.0, metadata={"help": "Times over the training rows."})
    eval_strategy: str = field(default="steps", metadata={"help": "'steps', 'epoch' or 'no'."})
    eval_steps: float | None = field(default=0.1, metadata={"help": "Steps between evaluations; below 1 a share of all steps."})
    save_steps: float = field(default=0.1, metadata={"help": "Steps between checkpoints; below 1 a share of all steps."})

    def __post_init__(self):
        expand_home(self, "dataset")
        if not self.dataset:
            raise UserError("dataset is missing; name the folder of prepared rows with --dataset (recipes/prepare_data.py).")
        if isinstance(self.config_overrides, str):
            try:
                self.config_overrides = json.loads(self.config_overrides)
            except json.JSONDecodeError as error:
                raise UserError(f"config_overrides is no JSON object ({error}): {self.config_overrides!r}.") from None
        if not isinstance(self.config_overrides or {}, dict):
            raise UserError(f"config_overrides is {self.config_overrides!r}; a mapping of HfGptConfig fields is needed.")
        super().__post_init__()
