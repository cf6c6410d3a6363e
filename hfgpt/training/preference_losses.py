"""How a model learns from pairs: TRL's trainers and their rows, a table of losses, and our metrics for held-out pairs.

TRL provides the losses and their training steps; it gets token ids from us, so the text of an answer never becomes a special token.
"""

import random
import warnings
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, cast

import numpy as np
from datasets import Dataset
from peft import PeftModel
from transformers import Trainer, TrainingArguments

from hfgpt.data.collators import SupervisedCollator
from hfgpt.data.supervised import IGNORED
from hfgpt.errors import require
from hfgpt.files import PARTIAL
from hfgpt.tables import Table
from hfgpt.training.preferences import Pair, unpaired_labels
from hfgpt.training.trainer import LanguageModelTrainer

REFERENCE_ADAPTER = "ref"  # TRL's name for its copy of the adapter


def dpo_rows(pairs: list[Pair], *, seed: int, batch_size: int) -> Dataset:
    """Both answers, separate from their prompt."""
    return Dataset.from_list([{"prompt_ids": p.prompt, "chosen_ids": p.chosen, "rejected_ids": p.rejected} for p in pairs])


def orpo_rows(pairs: list[Pair], *, seed: int, batch_size: int) -> Dataset:
    """Each answer after the prompt, which is not trained on."""
    rows = []
    for pair in pairs:
        row = {"prompt_input_ids": pair.prompt, "prompt_attention_mask": [1] * len(pair.prompt)}
        for name, answer in zip(("chosen", "rejected"), pair.answers):
            row[f"{name}_input_ids"], row[f"{name}_labels"] = _with_labels(pair.prompt, answer).values()
            row[f"{name}_attention_mask"] = [1] * len(row[f"{name}_input_ids"])
        rows.append(row)
    return Dataset.from_list(rows)


def kto_rows(pairs: list[Pair], *, seed: int, batch_size: int) -> Dataset:
    """Single answers with a label, in one random order for all epochs, because each is compared with the previous answer in its
    batch.

    The likelihood of that answer after the wrong prompt shows how far the model has moved overall.
    """
    rows: list[dict[str, Any]] = [
        {"prompt_ids": pair.prompt, "completion_ids": answer, "label": answer is pair.chosen}
        for pair in pairs
        for answer in pair.answers
    ]
    random.Random(seed).shuffle(rows)
    for start in range(0, len(rows), batch_size):
        batch = rows[start : start + batch_size]
        for row, before in zip(batch, [batch[-1], *batch]):
            row["KL_completion_ids"] = before["completion_ids"]
    return Dataset.from_list(rows)


@dataclass(frozen=True)
class Loss:
    """How to train with a loss in TRL.

    Args:
        name: the name of TRL's trainer and configuration classes, without "Trainer" and "Config".
        module: where they are.
        rows: makes the columns for TRL's trainer from `Pair`s, the seed and the batch size.
        settings: makes further configuration values from `length_normalised` and the context length.
        unit: what its training rows are called.
        unpaired: whether it can also learn from single answers.
    """

    name: str
    module: str
    rows: Callable[..., Dataset]
    settings: Callable[[bool, int], dict[str, Any]]
    unit: str = "pairs"
    unpaired: bool = False


# Reference likelihoods are computed once, before training: no second model is kept, and a step needs one pass.
LOSSES: Table[Loss] = Table(
    "loss",
    {
        "dpo": Loss(
            "DPO",
            "trl",
            dpo_rows,
            lambda length_normalised, _: {
                "precompute_ref_log_probs": True,
                "loss_type": ["sigmoid_norm" if length_normalised else "sigmoid"],
            },
        ),
        "kto": Loss(
            "KTO",
            "trl",
            kto_rows,
            lambda *_: {"precompute_ref_log_probs": True, "train_sampling_strategy": "sequential"},
            unit="answers",
            unpaired=True,
        ),
        # Its max_length is only read for a warning that it is missing.
        "orpo": Loss("ORPO", "trl.experimental.orpo", orpo_rows, lambda _, context_length: {"max_length": context_length}),
    },
)


def _with_labels(prompt: list[int], answer: list[int]) -> dict[str, list[int]]:
    return {"input_ids": prompt + answer, "labels": [IGNORED] * len(prompt) + answer}


def measured_rows(pairs: list[Pair], *, loss: str) -> Dataset:
    """The rows for measuring the log-likelihood of held-out pairs: all chosen answers, then all rejected ones, with their prompts.

    For KTO, the chosen and rejected answers after the next pair's prompt follow. Single answers are measured after their own
    prompts, and then after the next one's.
    """
    if unpaired_labels(pairs) is not None:
        answers = [pair.answers[0] for pair in pairs]
        rows = [_with_labels(pair.prompt, answer) for pair, answer in zip(pairs, answers)]
        return Dataset.from_list(rows + [_with_labels(pair.prompt, one) for pair, one in zip(pairs, [answers[-1], *answers])])
    chosen, rejected = ([pair.answers[which] for pair in pairs] for which in (0, 1))
    rows = [_with_labels(pair.prompt, answer) for answers in (chosen, rejected) for pair, answer in zip(pairs, answers)]
    if loss == "kto":
        for answers in (chosen, rejected):
            rows += [_with_labels(pair.prompt, answer) for pair, answer in zip(pairs, [answers[-1], *answers])]
    return Dataset.from_list(rows)


class PreferenceTrainer(LanguageModelTrainer):
    """What our trainers for all losses do differently from the TRL trainers they are made from.

    Held-out pairs are measured by Trainer's own loop, as likelihoods of texts, and `preference_metrics`.

    Args: as for `HfGptTrainer`; TRL's trainers do not accept `optimizer_cls_and_kwargs`, and use their own collator for training
    rows.
    """

    loss: str  # a key of LOSSES

    def __init__(self, model, args, *, optimizer_cls_and_kwargs: tuple[Any, dict] | None = None, **settings):
        super().__init__(model, args, **settings)
        if isinstance(self.model, PeftModel) and REFERENCE_ADAPTER in self.model.peft_config:
            self.model.delete_adapter(REFERENCE_ADAPTER)  # no longer needed
        self.optimizer_cls_and_kwargs = optimizer_cls_and_kwargs
        held_out = SupervisedCollator(cast(int, self.text_tokenizer.pad_token_id))
        self.data_collator = PreferenceCollator(self.data_collator, held_out)

    def _prepare_dataset(self, dataset, *args, **kwargs):
        return dataset  # TRL would tokenise texts here, but ours are token ids

    @staticmethod
    def tokenize_row(row, model=None):
        return {}  # the same for ORPO

    def _precompute_ref_logps(self, dataset, name, batch_size):
        if name != "train":
            return dataset
        # TRL lets the first process write a file that all others read, but in a folder that datasets creates per process.
        shared = self.folder / f".reference{PARTIAL}"
        dataset._get_cache_file_path = lambda fingerprint: str(shared)
        rows = cast(Any, super())._precompute_ref_logps(dataset, name, batch_size)
        rows = Dataset.from_dict(rows.to_dict(), features=rows.features)  # in memory, so that the file can be deleted
        self.accelerator.wait_for_everyone()
        if self.is_world_process_zero():
            shared.unlink()
        return rows

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix="eval"):
        return Trainer.evaluate(self, eval_dataset, ignore_keys, metric_key_prefix)

    def create_model_card(self, *args, **kwargs):
        pass  # TRL would overwrite any README.md in the folder with its card

    def _send_telemetry(self):
        pass  # a run here sends no telemetry

    def likelihoods(self, pairs: list[Pair]) -> np.ndarray:
        """Nats and tokens (K, N, 2) of the answers of `measured_rows` under the current model, in the precision of the run."""
        with self.measured_by(None):
            sums = self.predict(cast(Any, measured_rows(pairs, loss=self.loss))).predictions
        return cast(np.ndarray, sums).reshape(-1, len(pairs), 2)

    def measure_evaluations(self, metrics: Callable[[np.ndarray], dict], *, shape: tuple[int, ...]) -> None:
        """From now on, evaluations use `metrics`, which takes likelihoods in the same shape as those of the base."""
        self.compute_metrics = lambda prediction: metrics(cast(np.ndarray, prediction.predictions).reshape(shape))


class PreferenceCollator:
    """TRL's own collator for training rows, ours for the rows of held-out pairs."""

    def __init__(self, training, held_out: SupervisedCollator):
        self.training, self.held_out = training, held_out

    def __call__(self, rows: list[dict]) -> dict:
        return self.held_out(rows) if "labels" in rows[0] else self.training(rows)


def preference_classes(loss: str) -> tuple[type[PreferenceTrainer], type]:
    """The trainer for a loss (TRL's, with our extensions) and its configuration class.

    Raises: ValueError with the command that installs TRL.
    """
    entry = LOSSES.find(loss)
    purpose = f"loss {loss} uses TRL, which needs Python 3.11 or later"
    require("trl", extra="preferences", purpose=purpose)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the warning that a loss is experimental
        module = require(entry.module, extra="preferences", purpose=purpose)
    bases = (PreferenceTrainer, getattr(module, f"{entry.name}Trainer"))
    return type(f"Our{entry.name}Trainer", bases, {"loss": loss}), getattr(module, f"{entry.name}Config")


def preference_config(
    args: TrainingArguments, *, loss: str, beta: float, length_normalised: bool, context_length: int
) -> TrainingArguments:
    """A run's Trainer arguments as TRL's configuration for a loss."""
    settings = {one.name: getattr(args, one.name) for one in fields(TrainingArguments) if one.init}
    settings |= dict(beta=beta, max_length=None, remove_unused_columns=False)
    settings |= LOSSES.find(loss).settings(length_normalised, context_length)
    return preference_classes(loss)[1](**settings)
