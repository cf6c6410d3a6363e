"""The arguments of recipes/generate.py."""

import math
from dataclasses import dataclass

from hfgpt.arguments.keys import ModelKeys, generation_key
from hfgpt.artifacts import check_model_folder
from hfgpt.errors import UserError
from hfgpt.files import expand_home

LEAST_TEMPERATURE = 1e-6  # logits divided by less are infinite


@dataclass
class GenerateArguments(ModelKeys):
    """recipes/generate.py"""

    prompt: list[str] = generation_key([""], "One or more prompts; an empty one starts a new text.")
    chat: bool = generation_key(
        False, "Chat with an assistant in the terminal; with prompt, answer each prompt as a separate message."
    )
    max_new_tokens: int | None = generation_key(
        None, "Maximum number of new tokens (default: 100, chat: 512; at most half the context)."
    )
    temperature: float = generation_key(0.8, "0 is greedy; higher is more varied.")
    top_k: int | None = generation_key(50, "Sample from the k most likely tokens; 0 means all.")
    top_p: float | None = generation_key(None, "Sample from the most likely tokens that together have this probability.")
    num_samples: int = generation_key(1, "Continuations per prompt.")
    seed: int = generation_key(0, "Random seed; the same seed gives the same text.")
    stream: bool = generation_key(True, "Print the text while it is generated.")

    def __post_init__(self):
        expand_home(self, "model")
        self.check_model()
        self.check_least(max_new_tokens=1, num_samples=1, temperature=0, top_k=0, seed=0)
        if 0 < self.temperature < LEAST_TEMPERATURE or self.temperature == math.inf:
            raise UserError(f"temperature is {self.temperature}; it must be 0, which is greedy, or at least {LEAST_TEMPERATURE}.")
        if self.seed >= 2**63:
            raise UserError(f"seed is {self.seed}; it must be below 2**63.")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise UserError(f"top_p is {self.top_p}; it must be a probability above 0 and at most 1.")
        if self.in_terminal and self.num_samples > 1:
            raise UserError(
                f"num_samples is {self.num_samples}; a conversation has one answer per turn, but --prompt can have several."
            )

    def check_model(self) -> None:
        """Raises: UserError if no model was given, or the folder has none."""
        self.require(model="give a folder or a Hub id first: recipes/generate.py MODEL --prompt ...")
        check_model_folder(self.model)

    @property
    def in_terminal(self) -> bool:
        """Whether this is an interactive conversation rather than single prompts."""
        return self.chat and self.prompt == [""]
