"""The arguments of recipes/align_preferences.py."""

from dataclasses import dataclass

from transformers.trainer_utils import IntervalStrategy, SaveStrategy

from hfgpt.arguments.finetuning import AssistantArguments
from hfgpt.arguments.keys import data_key, method_key, training_key
from hfgpt.chat_templates import CHAT_STYLES
from hfgpt.errors import UserError


@dataclass
class PreferenceArguments(AssistantArguments):
    """recipes/align_preferences.py"""

    loss: str = method_key(
        "dpo",
        "dpo, kto or orpo: DPO and KTO keep the model close to its base; ORPO also trains on the chosen answers.",
    )
    beta: float = method_key(
        0.1, "DPO, KTO: how strongly the model is kept close to its base (0.1 to 0.5). ORPO: weight of the preference."
    )
    length_normalised: bool = method_key(False, "DPO with log-likelihoods per token instead of their sums, as in the book.")
    prompt_style: str = data_key(
        "base", "base keeps the assistant's chat template; the others add one to a model that has none.", choices=CHAT_STYLES
    )

    learning_rate: float = training_key(2e-4, "Peak learning rate; LoRA needs about ten times the rate of full fine-tuning.")
    num_train_epochs: float = training_key(2.0, "Passes over the training pairs; too many make a model ramble.")
    train_sampling_strategy: str = training_key("random", "Order of the training pairs; must be random.")

    def __post_init__(self):
        if not 0 < self.beta < float("inf"):  # also False for NaN
            raise UserError(f"beta is {self.beta}; it must be above 0, because with 0 nothing would be preferred.")
        if self.length_normalised and self.loss != "dpo":
            raise UserError(
                f"length_normalised needs loss: dpo, but loss is {self.loss} (ORPO is always normalised, KTO never); leave it out."
            )
        if self.train_sampling_strategy != "random":
            raise UserError(f"train_sampling_strategy is {self.train_sampling_strategy}; pairs are drawn at random; leave it out.")
        if self.label_smoothing_factor:
            raise UserError(
                f"label_smoothing_factor is {self.label_smoothing_factor}; it smooths the loss of a single text, but preferences "
                f"compare two; leave it out."
            )
        if self.loss == "kto" and self.per_device_train_batch_size < 2:
            raise UserError("per_device_train_batch_size is 1; KTO compares the answers in a batch and needs at least 2.")
        if self.lora_dropout:
            raise UserError(
                f"lora_dropout is {self.lora_dropout}; preferences are trained without dropout, because the model is compared with "
                f"its base token by token; leave it out."
            )
        self.check_least(num_samples=0, max_new_tokens=1, max_answers=1)
        super().__post_init__()
        if self.keep == "best" and self.eval_strategy != "no" and self.eval_strategy != self.save_strategy:
            evaluated, saved = IntervalStrategy(self.eval_strategy).value, SaveStrategy(self.save_strategy).value
            raise UserError(
                f"keep is best, but eval_strategy is {evaluated} and save_strategy {saved}; the best state can only be kept if it "
                f"was saved: give both the same value, or --keep last."
            )
