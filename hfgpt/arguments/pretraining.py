"""The arguments of recipes/pretrain.py."""

from dataclasses import dataclass
from typing import Literal

from hfgpt.arguments.budget import BudgetKeys
from hfgpt.arguments.continued import ContinuedKeys
from hfgpt.arguments.keys import data_key, evaluation_key, method_key, model_key, output_key, trainer_key, training_key
from hfgpt.arguments.mappings import read_mapping
from hfgpt.arguments.optimizers import OPTIMIZERS
from hfgpt.arguments.rows import EpochKeys
from hfgpt.arguments.run import RunArguments
from hfgpt.errors import UserError
from hfgpt.files import expand_home


@dataclass
class PretrainArguments(EpochKeys, BudgetKeys, ContinuedKeys, RunArguments):
    """recipes/pretrain.py"""

    dataset: str = data_key("", "Folder of rows that recipes/prepare_data.py wrote.", required=True)
    family: Literal["modern", "gpt2"] = model_key("modern", "'modern' (set by depth) or 'gpt2' (set by size).")
    depth: int = model_key(12, "Layers of a modern model; the rest of its shape follows.")
    size: str = model_key("124M", "Published size of a gpt2 model: 124M, 355M, 774M or 1558M.")
    config_overrides: dict | str | None = model_key(None, "Fields of HfGptConfig to override, such as {num_hidden_layers: 2}.")
    optimizer: str = method_key("muon", "Muon for the blocks' matrices and AdamW for the rest, or only AdamW.", choices=OPTIMIZERS)
    muon_learning_rate: float = method_key(0.02, "Peak learning rate of the matrices that Muon updates.")
    embedding_learning_rate: float | None = method_key(
        0.2, "With Muon: peak learning rate of a token embedding that is not tied to the head."
    )
    sample_prompts: list[str] = evaluation_key([""], "Prompts continued at every evaluation, in samples.md; '' starts a new text.")
    sample_tokens: int = evaluation_key(80, "Maximum number of tokens in such a sample.")

    learning_rate: float = training_key(3e-3, "Peak learning rate of AdamW.")
    adam_beta2: float = trainer_key(0.95, "Beta2 of AdamW.")
    num_train_epochs: float = training_key(1.0, "Passes over the training rows.")
    eval_strategy: str = evaluation_key("steps", "'steps', 'epoch' or 'no'.")
    eval_steps: float | None = evaluation_key(0.1, "Steps between evaluations; below 1, a share of all steps.")
    save_steps: float = output_key(0.1, "Steps between checkpoints; below 1, a share of all steps.")

    def __post_init__(self):
        expand_home(self, "dataset")
        self.require(dataset="give the folder of prepared rows with --dataset (recipes/prepare_data.py).")
        self.check_epochs()
        self.config_overrides = read_mapping(self.config_overrides, "config_overrides", example="'{num_hidden_layers: 2}'")
        self.check_budget(self.explicit, overrides=self.config_overrides or {})
        if self.model and (budget := next(iter(self.budget()), None)):
            raise UserError(
                f"model is {self.model!r} and {budget} is given; a budget chooses the size of a new model, but this one already "
                f"has a size. Give --max_steps or --num_train_epochs instead."
            )
        self.check_continued(self.config_overrides or {})
        self.check_least(depth=1)
        if self.train_sampling_strategy not in ("random", "sequential"):
            raise UserError(
                f"train_sampling_strategy is {self.train_sampling_strategy}, but all rows of prepared data have the same length; "
                f"leave it out, or give sequential."
            )
        super().__post_init__()
        if self.model:
            self.warm_up_again()
