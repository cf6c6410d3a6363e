"""Pretraining that continues from a base: its weights, rows made with its tokenizer, and how much of the old text it forgets."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import cast

from accelerate import PartialState
from datasets import Dataset, DatasetDict
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast
from transformers.pytorch_utils import Conv1D

from hfgpt.arguments.documents import SPLIT_DEFAULTS
from hfgpt.arguments.optimizers import OPTIMIZERS
from hfgpt.arguments.options import refuse_options
from hfgpt.arguments.parsing import check_key
from hfgpt.data.passport import HELD_OUT, Passport, held_out_split
from hfgpt.data.verification import check_rows, open_rows
from hfgpt.errors import UserError
from hfgpt.evaluation.language_modeling import bytes_of
from hfgpt.evaluation.loading import check_task, open_folder
from hfgpt.evaluation.seen_texts import texts_in
from hfgpt.tokenization import load_or_wrap_tokenizer, tokenizer_sha256
from hfgpt.training import finetuning
from hfgpt.training.advice import no_better_than_base
from hfgpt.training.before import measured_once
from hfgpt.training.callbacks import SamplesCallback
from hfgpt.training.pretraining import check_positions, figures_of
from hfgpt.training.run_folder import check_base_files
from hfgpt.training.trainer import LanguageModelTrainer

logger = logging.getLogger(__name__)

OLD = "old"  # prefix of the figures for the old text, in metrics.json and in the log


@dataclass(frozen=True)
class OldText:
    """Held-out rows of text that the base was trained on; `num_bytes` as in `bytes_of`."""

    rows: Dataset
    split: str
    num_bytes: int | None


@dataclass(frozen=True)
class ContinuedBase(finetuning.Base):
    """A base to continue from, with the rows that show what it forgets, if some were given."""

    old_text: OldText | None = None


def find_base(
    dataset: str,
    passport: Passport,
    tokenizer: PreTrainedTokenizerFast,
    *,
    name: str,
    revision: str | None,
    trust_remote_code: bool,
    old_dataset: str,
) -> ContinuedBase:
    """The base of a run on the rows in `dataset`, before its weights are loaded; the old text to measure is recorded in `passport`.

    Args:
        passport, tokenizer: those of the rows; the run continues with this tokenizer.
        name: folder or Hub id.
        old_dataset: folder of rows of the text that the base was trained on, or an empty string.
    Raises: UserError for a base that does not generate text, for rows made with a different tokenizer, and for rows longer than its
        context; FileNotFoundError for missing files.
    """
    opened = open_folder(name, revision=revision, trust_remote_code=trust_remote_code, merged=True)
    check_task(opened, "text-generation")
    check_base_files(Path(opened.source))
    sha256 = tokenizer_sha256(load_or_wrap_tokenizer(opened.source, revision=revision))
    if tokenizer_sha256(tokenizer) != sha256:
        raise UserError(
            f"the rows in {dataset} were made with a different tokenizer than {name}'s (SHA-256 "
            f"{tokenizer_sha256(tokenizer)[:16]}…, its own {sha256[:16]}…), so the ids would mean different words; prepare the "
            f"data with --tokenizer {name}."
        )
    _check_length(dataset, passport, name=name, longest=opened.context_length)
    if opened.context_length:
        tokenizer.model_max_length = opened.context_length
    old_text = None
    if old_dataset:
        old_passport = Passport.load(Path(old_dataset))
        if old_passport.tokenizer.get("sha256") != sha256:
            raise UserError(
                f"the rows in old_dataset {old_dataset} were made with a different tokenizer than {name}'s; give rows that were "
                f"prepared with --tokenizer {name}."
            )
        _check_length(old_dataset, old_passport, name=name, longest=opened.context_length)
        _check_split(old_dataset, old_passport, dataset, passport)
        old_text = _read_old_text(Path(old_dataset), old_passport, tokenizer)
        passport.settings["old_rows"] = old_passport.rows[old_text.split]["sha256"]
    where = name, opened.source, tokenizer, revision, trust_remote_code
    return ContinuedBase(*where, commit=opened.commit, old_text=old_text)


def _check_length(dataset: str, passport: Passport, *, name: str, longest: int | None) -> None:
    length = passport.settings["context_length"]
    if longest is not None and length > longest:
        raise UserError(
            f"the rows in {dataset} are {length:,} tokens long, but {name} reads at most {longest:,} at once "
            f"(max_position_embeddings); prepare the data with --context_length {longest} or less."
        )


def _check_split(old_dataset: str, old: Passport, dataset: str, new: Passport) -> None:
    """Raises: UserError if text that the old rows hold out may be among the new training rows, which would flatter the base."""
    contents = set().union(*map(texts_in, old.inputs))
    shared = [one for one in new.inputs if texts_in(one) & contents]
    keys = [*SPLIT_DEFAULTS, "group_field"]
    if any(one.get("kind") == "text" for one in shared):
        keys.append("text_documents")
    for key in keys if shared else ():
        was, now = (one.settings.get(key) for one in (old, new))
        if was != now:
            raise UserError(
                f"{shared[0]['name']} is read in {dataset} and in old_dataset {old_dataset}, but with {key} {now} and {was}: what "
                f"the old rows hold out may now be training text. Prepare the rows with --{key} {was}, or leave out --old_dataset."
            )


def _read_old_text(folder: Path, passport: Passport, tokenizer: PreTrainedTokenizerFast) -> OldText:
    """The test rows, or else the validation rows. Raises: UserError if nothing was held out, or the rows do not match the
    passport."""
    split = held_out_split(passport.splits)
    if split is None:
        raise UserError(f"old_dataset {folder} has only training rows; give prepared data with a test or validation split.")
    if PartialState().is_local_main_process:
        check_rows(folder, passport, splits=[split])
    rows = open_rows(folder)[split]
    return OldText(rows, split, bytes_of(split, passport, tokenizer))


def load_model(
    base: ContinuedBase, passport: Passport, *, attn_implementation: str | None, overrides: Mapping[str, object]
) -> PreTrainedModel:
    """The base with its own class, in float32, with an embedding row for every token; its weights are recorded in `passport`.

    Args: `overrides` are fields of its config.
    Raises: UserError for an unknown field, for a tokenizer with a different vocabulary, and for a model that takes no positions.
    """
    opened = open_folder(base.location, revision=base.revision, trust_remote_code=base.trust_remote_code)
    for key in overrides:
        check_key(key, opened.config.to_dict(), where=f"config_overrides, for {opened.config.model_type}")
    model = finetuning.load_model(base, AutoModelForCausalLM, attn_implementation=attn_implementation, **cast(dict, overrides))
    check_positions(model, base.name, cure="choose a model that takes them, such as GPT-2, Llama or Qwen")
    rows = opened.config.get_text_config().vocab_size
    if model.config.get_text_config().vocab_size > rows:
        logger.info(f"base: {rows:,} -> {model.config.vocab_size:,} embedding rows, for the tokenizer's special tokens")
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        if model.generation_config is not None and getattr(model.generation_config, name) is None:
            setattr(model.generation_config, name, getattr(base.tokenizer, name))
    passport.base = finetuning.identify_base(base, model)
    logger.info(f"base: {base.name}, {type(model).__name__}, weights SHA-256 {passport.base['sha256'][:16]}…")
    return model


def optimizer_for(model: PreTrainedModel, name: str, *, given: Mapping[str, object]) -> str:
    """The optimizer for this model: the requested one, or AdamW if Muon does not support the layers.

    GPT2LMHeadModel and similar models store their matrices transposed and fused (Conv1D), so Muon's update would have a different
    scale and treat query, key and value as one matrix.

    Args: `given` are the keys that were given; keys for Muon are refused.
    """
    if not OPTIMIZERS.find(name).whole_matrices or not any(isinstance(module, Conv1D) for module in model.modules()):
        return name
    logger.info(
        f"optimizer: adamw, because Muon does not support the fused, transposed matrices (Conv1D) of {type(model).__name__}; "
        "`hfgpt convert` makes an equivalent hfgpt model, which Muon can train"
    )
    refuse_options(given, OPTIMIZERS.find("adamw").refuses)
    return "adamw"


def measure_before(
    trainer: LanguageModelTrainer, base: ContinuedBase, *, rows: DatasetDict, passport: Passport
) -> dict[str, float]:
    """The base's figures on the old text and on the held-out new text, as `old_loss_before` and so on; measured once per run."""
    found = measured_once(trainer.folder, partial(_measure_before, trainer, base, rows, passport))
    logger.info(f"before: {_figures_in_words(found, '_before')}")
    return found


def _measure_before(trainer: LanguageModelTrainer, base: ContinuedBase, rows: DatasetDict, passport: Passport) -> dict[str, float]:
    samples = next((one for one in trainer.callback_handler.callbacks if isinstance(one, SamplesCallback)), None)
    if samples is not None:
        trainer.remove_callback(samples)  # evaluations generate samples, but this is not a step of the run
    found = measure_after(trainer, base)
    for name in HELD_OUT:
        if name in rows:
            found |= figures_of(trainer, rows[name], name=name, num_bytes=bytes_of(name, passport, base.tokenizer))
    if samples is not None:
        trainer.add_callback(samples)
    return {f"{key}_before": value for key, value in found.items()}


def measure_after(trainer: LanguageModelTrainer, base: ContinuedBase) -> dict[str, float]:
    """The model's figures on the old text now: `old_loss` and so on; empty if none was given."""
    if base.old_text is None:
        return {}
    return figures_of(trainer, base.old_text.rows, name=OLD, num_bytes=base.old_text.num_bytes)


def compare(metrics: Mapping[str, object]) -> list[str]:
    """Lines for the report: old and new text before and after, side by side; none for a run from scratch."""
    new = held_out_split(metrics, "_loss_before")
    if new is None:
        return []
    said = [_figures_in_words(metrics)]
    before, after = (cast(float, metrics[f"{new}_loss{end}"]) for end in ("_before", ""))
    if sentence := no_better_than_base(before, after, what=f"{new} loss"):
        said.append(sentence)
    return said


def _figures_in_words(metrics: Mapping[str, object], *ends: str) -> str:
    """`old text 1.72 -> 1.75 bits per byte, new text (test) 2.10 -> 1.80 bits per byte`; with `ends`, only those."""
    said = []
    for name, what in ((OLD, "old text"), (new := held_out_split(metrics, "_loss_before"), f"new text ({new})")):
        key = next((key for key in ("bits_per_byte", "loss") if f"{name}_{key}_before" in metrics), None)
        if key is not None:
            values = (metrics[f"{name}_{key}{end}"] for end in ends or ("_before", ""))
            unit = "bits per byte" if key == "bits_per_byte" else "nats per token"
            said.append(f"{what} {' -> '.join(f'{value:.4f}' for value in values)} {unit}")
    return ", ".join(said) or "no held-out text to measure it on"
