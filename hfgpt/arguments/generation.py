"""The arguments of recipes/generate.py."""

from dataclasses import dataclass

from hfgpt.arguments.keys import ModelKeys, generation_key
from hfgpt.artifacts import check_model_folder
from hfgpt.errors import UserError
from hfgpt.files import expand_home


@dataclass
class GenerateArguments(ModelKeys):
    """recipes/generate.py"""

    prompt: list[str] = generation_key([""], "One or several prompts; an empty one starts a text.")
    chat: bool = generation_key(False, "Talk with an assistant in the terminal; with prompt, answer each as a message of its own.")
    max_new_tokens: int | None = generation_key(None, "Most tokens to add; without it 100 (chat: 512), at most half the context.")
    temperature: float = generation_key(0.8, "0 is greedy; higher is more varied.")
    top_k: int | None = generation_key(50, "Draw from the k likeliest tokens; 0 from all.")
    top_p: float | None = generation_key(None, "Draw from the likeliest tokens that together have this probability.")
    num_samples: int = generation_key(1, "Continuations for each prompt.")
    seed: int = generation_key(0, "The same seed, the same text.")
    stream: bool = generation_key(True, "Print the text while it is made.")

    def __post_init__(self):
        expand_home(self, "model")
        self.require(model="give a folder or a Hub id first: recipes/generate.py MODEL --prompt ...")
        check_model_folder(self.model)
        self.check_least(max_new_tokens=1, num_samples=1, temperature=0, top_k=0)
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise UserError(f"top_p is {self.top_p}; a probability above 0, up to 1, is needed.")
        if self.in_terminal and self.num_samples > 1:
            raise UserError(f"num_samples is {self.num_samples}; a conversation has one answer a turn, --prompt may have several.")

    @property
    def in_terminal(self) -> bool:
        """Whether a conversation is had, instead of single prompts continued or answered."""
        return self.chat and self.prompt == [""]
