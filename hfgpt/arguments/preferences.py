"""The arguments of recipes/align_preferences.py."""

from dataclasses import dataclass, field
from typing import Literal

from hfgpt.arguments.finetuning import FinetuneArguments
from hfgpt.errors import UserError


@dataclass
class PreferenceArguments(FinetuneArguments):
    """recipes/align_preferences.py"""

    loss: Literal["dpo", "kto", "orpo"] = field(
        default="dpo",
        metadata={"help": "DPO and KTO hold the model to the base that it began with; ORPO learns the chosen answers besides."},
    )
    beta: float = field(
        default=0.1,
        metadata={"help": "DPO, KTO: how dear it is to leave the base, 0.1 to 0.5. ORPO: weight of the preference, its lambda."},
    )
    length_normalised: bool = field(
        default=False, metadata={"help": "DPO with log-likelihoods per token instead of their sums, as the book has it."}
    )
    prompt_style: Literal["base", "chat", "alpaca"] = field(
        default="base", metadata={"help": "base keeps the chat template of the assistant; the others give one to a model without."}
    )
    validation_share: float = field(default=0.05, metadata={"help": "Share of the pairs for validation."})
    test_share: float = field(default=0.1, metadata={"help": "Share of the pairs for the one test at the end."})
    split_method: Literal["random", "order"] = field(
        default="random", metadata={"help": "Draw the splits, or cut the file in its order: train, test, validation, as the book."}
    )
    split_seed: int = field(default=123, metadata={"help": "Seed of the split."})
    num_samples: int = field(default=3, metadata={"help": "Validation prompts answered at every evaluation, into samples.md."})
    max_new_tokens: int = field(default=128, metadata={"help": "Most tokens of an answer."})
    max_answers: int | None = field(default=None, metadata={"help": "Answer at most this many test prompts; all without it."})

    learning_rate: float = field(default=2e-4, metadata={"help": "Peak learning rate; LoRA wants ten times that of full."})
    num_train_epochs: float = field(default=2.0, metadata={"help": "Times over the training pairs; many make a model babble."})
    train_sampling_strategy: str = field(
        default="random", metadata={"help": "Order of the training pairs; held-out ones are read in theirs, so no other will do."}
    )

    def __post_init__(self):
        if not 0 < self.beta < float("inf"):  # also False for NaN
            raise UserError(f"beta is {self.beta}; a number above 0 is needed, with 0 nothing would be preferred.")
        if self.length_normalised and self.loss != "dpo":
            raise UserError(f"length_normalised is for loss: dpo, which is {self.loss} (ORPO always is, KTO never); leave it out.")
        if self.train_sampling_strategy != "random":
            raise UserError(f"train_sampling_strategy is {self.train_sampling_strategy}; pairs are drawn at random, leave it out.")
        if self.label_smoothing_factor:
            raise UserError(
                f"label_smoothing_factor is {self.label_smoothing_factor}; it smooths the loss of a text, and preferences compare "
                "two: leave it out."
            )
        if self.loss == "kto" and self.per_device_train_batch_size < 2:
            raise UserError("per_device_train_batch_size is 1; KTO compares the answers of a batch, 2 or more are needed.")
        if self.lora_dropout:
            raise UserError(
                f"lora_dropout is {self.lora_dropout}; preferences are learned without dropout, because the model is compared with "
                "its base token by token; leave it out."
            )
        for name, smallest in (("num_samples", 0), ("max_new_tokens", 1), ("max_answers", 1)):
            if getattr(self, name) is not None and getattr(self, name) < smallest:
                raise UserError(f"{name} is {getattr(self, name)}; {smallest} or more is needed.")
        super().__post_init__()
        if self.keep == "best" and self.eval_strategy != "no" and self.eval_strategy != self.save_strategy:
            raise UserError(
                f"keep is best, but eval_strategy is {self.eval_strategy.value} and save_strategy {self.save_strategy.value}; the "
                "best state can only be kept where it was saved: give both the same, or keep: last."
            )
