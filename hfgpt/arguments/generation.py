"""The arguments of recipes/generate.py."""

from dataclasses import dataclass, field

from hfgpt.artifacts import check_model_folder
from hfgpt.errors import UserError
from hfgpt.files import expand_home


@dataclass
class GenerateArguments:
    """recipes/generate.py"""

    model: str = field(default="", metadata={"help": "Folder or Hub id of the model; the first argument without dashes."})
    prompt: list[str] = field(
        default_factory=lambda: [""], metadata={"help": "One or several prompts; an empty one starts a text."}
    )
    chat: bool = field(
        default=False,
        metadata={"help": "Talk with an assistant in the terminal; with prompt, answer each as a message of its own."},
    )
    max_new_tokens: int | None = field(
        default=None,
        metadata={
            "help": "Most tokens to add; 100 (in a chat 512) or half the context without it. The separator ends a text earlier."
        },
    )
    temperature: float = field(default=0.8, metadata={"help": "0 is greedy; higher is more varied."})
    top_k: int | None = field(default=50, metadata={"help": "Draw from the k likeliest tokens; 0 from all."})
    top_p: float | None = field(
        default=None, metadata={"help": "Draw from the likeliest tokens that together have this probability."}
    )
    num_samples: int = field(default=1, metadata={"help": "Continuations for each prompt."})
    seed: int = field(default=0, metadata={"help": "The same seed, the same text."})
    stream: bool = field(default=True, metadata={"help": "Print the text while it is made."})
    trust_remote_code: bool = field(default=False, metadata={"help": "Run the code that a foreign repository brings."})

    def __post_init__(self):
        expand_home(self, "model")
        if not self.model:
            raise UserError("model is missing; give a folder or a Hub id first: recipes/generate.py MODEL --prompt ...")
        check_model_folder(self.model)
        for name, smallest in (("max_new_tokens", 1), ("num_samples", 1), ("temperature", 0), ("top_k", 0)):
            if getattr(self, name) is not None and getattr(self, name) < smallest:
                raise UserError(f"{name} is {getattr(self, name)}; {smallest} or more is needed.")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise UserError(f"top_p is {self.top_p}; a probability above 0, up to 1, is needed.")
        if self.in_terminal and self.num_samples > 1:
            raise UserError(f"num_samples is {self.num_samples}; a conversation has one answer a turn, --prompt may have several.")

    @property
    def in_terminal(self) -> bool:
        """Whether a conversation is had, instead of single prompts continued or answered."""
        return self.chat and self.prompt == [""]
