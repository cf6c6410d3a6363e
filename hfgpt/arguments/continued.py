"""The keys of a pretraining run that continues from a base."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from hfgpt.arguments.keys import RecipeArguments, data_key, model_key, training_key
from hfgpt.artifacts import check_model_folder
from hfgpt.errors import UserError
from hfgpt.files import expand_home

# Warming up again to a lower peak; see rewarm_to.
REWARM_STEPS = 0.1
_IS_DROPOUT = "drop"  # in the names of such fields: residual_dropout, resid_pdrop, attention_dropout, embd_pdrop


@dataclass
class ContinuedKeys(RecipeArguments):
    """A base to continue from instead of a new model, and how far the learning rate is warmed up again.

    The base's training ended at a rate near zero. A peak as high as the first one learns new text fastest but forgets most of the
    old; without a warm-up, or at a rate that stays low, it learns little. So the rates rise again, over a tenth of the steps, to a
    fraction of their peak.
    Source: Ibrahim et al. (2024), Simple and scalable strategies to continually pre-train large language models, section 6.1;
    Gupta et al. (2023), Continual pre-training of large language models: how to (re)warm your model?
    """

    model: str = model_key("", "Folder or Hub id of a causal language model to continue from (default: start a new one).")
    revision: str | None = model_key(None, "Branch, tag or commit of a model on the Hub.")
    trust_remote_code: bool = model_key(False, "Run the code that a third-party repository contains.")
    old_dataset: str = data_key(
        "", "Rows of text that the model was trained on before: their held-out loss before and after is reported."
    )
    rewarm_to: float = training_key(
        0.3, "With model: the fraction of every peak learning rate to warm up to again, over 0.1 of the steps by default."
    )

    def check_continued(self, overrides: Mapping[str, object]) -> None:
        """Refuse keys that do not apply to a base, and warm the rates up again if there is one.

        Args: `overrides` are the fields of the config that were given.
        Raises: UserError, FileNotFoundError.
        """
        expand_home(self, "model", "old_dataset")
        if not self.model:
            return
        check_model_folder(self.model)
        for name in overrides:
            if _IS_DROPOUT not in name:
                raise UserError(
                    f"config_overrides has {name}, but model is {self.model}, whose weights fix what it computes; only dropout can "
                    f"be changed. Leave {name} out."
                )
        if not 0 < self.rewarm_to <= 1:
            raise UserError(f"rewarm_to is {self.rewarm_to}; it must be a fraction of the peak rates, above 0 and up to 1.")

    def base_settings(self) -> dict[str, Any]:
        """Which base, and which rows its loss before and after is measured on."""
        return dict(name=self.model, **self.values_of("revision", "trust_remote_code", "old_dataset"))

    def warm_up_again(self) -> None:
        """Lower the peak of every rate to its fraction, and warm up to it unless something else was asked for.

        The embedding of a base moves at AdamW's rate unless set otherwise: a new model's faster rate would erase what it has
        learned.
        """
        values, rates = vars(self), [one.name for one in fields(self) if one.name.endswith("learning_rate")]
        given = {name: values[name] for name in (*rates, "warmup_steps") if name in values["explicit"]}
        # In run.yaml even if they are the defaults, which mean something else here; the card shows the fraction beside them.
        values["resolved"] |= {**given, "rewarm_to": self.rewarm_to}
        values |= {"embedding_learning_rate": None, "warmup_steps": REWARM_STEPS} | given
        for name in rates:
            if values[name] is not None:
                values[name] *= self.rewarm_to
