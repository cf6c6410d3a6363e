"""Pretraining from its parts to its report: rows, a new model, the check that documents are isolated, the numbers at the end."""

import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import PartialState
from datasets import Dataset, DatasetDict
from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from hfgpt.arguments.parsing import check_key
from hfgpt.arguments.pretraining import PretrainArguments
from hfgpt.artifacts import METRICS_FILE
from hfgpt.data.epoch_rows import EpochRows
from hfgpt.data.mixture import report_sources
from hfgpt.data.passport import HELD_OUT, Passport
from hfgpt.data.verification import check_rows, open_rows
from hfgpt.errors import UserError
from hfgpt.evaluation.bounds import check_memory
from hfgpt.evaluation.generation import generation_settings
from hfgpt.evaluation.language_modeling import bytes_of, takes
from hfgpt.fingerprint import record_fingerprint
from hfgpt.inference import evaluating
from hfgpt.model.configuration_hfgpt import HfGptConfig
from hfgpt.model.modeling_hfgpt import HfGptForCausalLM
from hfgpt.training.advice import best_step, planned_steps
from hfgpt.training.callbacks import SamplesCallback
from hfgpt.training.next_steps import generate_command
from hfgpt.training.plan_report import describe_outcome, outcome
from hfgpt.training.run import RunReport, describe_training
from hfgpt.training.trainer import LanguageModelTrainer, token_metrics

LEFT_BEHIND = (("picture", "loss.png"), ("samples", "samples.md"), ("metrics", METRICS_FILE), ("model", "."))


def load_rows(folder: str) -> tuple[DatasetDict, Passport]:
    """The rows and the passport that recipes/prepare_data.py wrote.

    Raises: FileNotFoundError if there is no such folder; ValueError if passport and rows disagree.
    Cost: one process per machine reads the rows once, at about 1 GB per second.
    """
    passport = Passport.load(Path(folder))
    if PartialState().is_local_main_process:
        check_rows(Path(folder), passport)
    return open_rows(Path(folder)), passport


def training_rows(
    rows: Dataset, tokenizer: PreTrainedTokenizerFast, *, repack: bool, max_masked_tokens: int, seed: int
) -> Dataset | EpochRows:
    """The rows for training: unchanged, or changed in each epoch by `EpochRows`.

    Raises: ValueError if rows that were not packed in order are to be repacked.
    """
    if not (repack or max_masked_tokens):
        return rows
    separator, pad = cast(int, tokenizer.eos_token_id), cast(int, tokenizer.pad_token_id)
    return EpochRows(rows, separator=separator, pad=pad, seed=seed, repack=repack, max_masked_tokens=max_masked_tokens)


def build_model(
    tokenizer: PreTrainedTokenizerFast,
    *,
    context_length: int,
    family: str,
    depth: int,
    size: str,
    overrides: Mapping[str, object],
    seed: int,
    attn_implementation: str | None,
) -> HfGptForCausalLM:
    """A new model for this tokenizer and row length, with weights initialized from `seed`.

    Args:
        family: "modern", whose shape follows from `depth`, or "gpt2", with a published `size`.
        overrides: fields of HfGptConfig.
    Raises: ValueError if overrides contradict the tokenizer, the rows or each other.
    """
    settings: dict[str, Any] = dict(
        vocab_size=len(tokenizer),
        max_position_embeddings=context_length,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    ) | dict(overrides)
    for key in settings:
        check_key(key, HfGptConfig.__dataclass_fields__, where="config_overrides")
    try:
        config = HfGptConfig.modern(depth, **settings) if family == "modern" else HfGptConfig.gpt2(size, **settings)
    except StrictDataclassError as error:
        raise UserError("config_overrides: " * bool(overrides) + str(error.__cause__ or error)) from None
    if len(tokenizer) > config.vocab_size:
        raise UserError(
            f"the tokenizer has {len(tokenizer):,} tokens, but the model's vocab_size is {config.vocab_size:,}; each token needs a "
            f"row."
        )
    if context_length > config.max_position_embeddings:
        raise UserError(
            f"the rows are {context_length:,} tokens long, but the model's max_position_embeddings is "
            f"{config.max_position_embeddings:,}; prepare shorter rows or raise it."
        )
    torch.manual_seed(seed)
    check_memory(config, HfGptForCausalLM._from_config, "what hidden_size, vocab_size and the other settings say")
    model = HfGptForCausalLM._from_config(config, attn_implementation=attn_implementation)
    model.generation_config = generation_settings(tokenizer, do_sample=True, temperature=0.8, top_k=50)
    return model


def check_positions(model: PreTrainedModel, name: str, *, cure: str) -> None:
    """Raises: UserError for a model that cannot keep packed documents apart."""
    if not takes(model, "position_ids"):
        raise UserError(
            f"{name} is a {type(model).__name__}, which takes no position_ids, but packed documents are kept apart only by them; "
            f"{cure}."
        )


def check_isolation(model: PreTrainedModel, rows: Dataset) -> None:
    """Check on one packed row that its documents do not see each other: changing the first must not affect the others.

    This is checked for the model's actual attention implementation at every start of a run. If none of the first rows contains two
    documents, the halves of one are treated as two.

    Raises: RuntimeError if they see each other, as with an attention backend that ignores restarting positions.
    """
    for row in cast(list[dict], rows.select(range(min(len(rows), 1000)))):
        starts = [index for index, position in enumerate(row["position_ids"]) if position == 0]
        if len(starts) > 1:
            ids, positions, second = row["input_ids"], row["position_ids"], starts[1]
            break
    else:
        ids = rows[0]["input_ids"]
        second = len(ids) // 2
        positions = [*range(second), *range(len(ids) - second)]
    before = torch.tensor([ids])
    after = before.clone()
    after[:, :second] = (after[:, :second] + 1) % model.config.vocab_size
    with evaluating(model):
        one, other = (
            model(input_ids=x.to(model.device), position_ids=torch.tensor([positions]).to(model.device), use_cache=False).logits
            for x in (before, after)
        )
    difference = (one - other)[:, second:].abs().max().item()
    if difference > 1e-4:
        raise RuntimeError(
            f"packed documents see each other: a change in one changed the logits of the next by {difference:.2e} with "
            f"attn_implementation {model.config._attn_implementation!r}; choose another one."
        )


def describe_start(trainer: LanguageModelTrainer, *, context_length: int, optimizer: str, hardware: str) -> str:
    """Describe in one line what will run."""
    args = trainer.args
    tokens_per_step = args.train_batch_size * args.gradient_accumulation_steps * args.world_size * context_length
    steps = planned_steps(args, len(cast(Dataset, trainer.train_dataset)))
    return (
        f"start: {trainer.trained.num_parameters():,} parameters, all trained; {tokens_per_step:,} tokens per step, "
        f"{steps:,} steps; {optimizer}, {hardware}"
    )


def announce_sources(trainer: LanguageModelTrainer, passport: Passport) -> None:
    """Log how often the run reads the text of each source, and warn about those it reads too often."""
    args, rows = trainer.args, len(cast(Dataset, trainer.train_dataset))
    rows_per_step = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
    epochs = planned_steps(args, rows) / math.ceil(rows / rows_per_step)  # the last step of an epoch may be smaller
    report_sources(passport, what=f"this run reads each row {epochs:.2f} times; the text by source:", epochs=epochs)


def final_metrics(trainer: LanguageModelTrainer, *, rows: DatasetDict, passport: Passport) -> dict[str, Any]:
    """The figures of the held-out splits (the test set's for the only time) and of the training."""
    trainer.remove_callback(SamplesCallback)  # the last evaluation during training has generated them
    metrics: dict[str, Any] = {
        "parameters": trainer.trained.num_parameters(),
        "epochs": trainer.state.epoch,
    }
    for name in HELD_OUT:
        if name in rows:
            metrics |= figures_of(trainer, rows[name], name=name, num_bytes=bytes_of(name, passport, trainer.text_tokenizer))
    metrics |= trainer.training_metrics()
    if plan := getattr(trainer.args, "plan", None):
        whole = metrics["steps_timed"] == metrics["steps"]
        metrics["plan"] = outcome(
            plan,
            seconds=time.time() - cast(PretrainArguments, trainer.args).started if whole else None,
            bits_per_byte=next(
                (metrics[key] for key in ("test_bits_per_byte", "validation_bits_per_byte") if key in metrics), None
            ),
        )
    return metrics


def figures_of(trainer: LanguageModelTrainer, rows: Dataset, *, name: str, num_bytes: int | None) -> dict[str, float]:
    """NAME_loss, NAME_perplexity and, if the bytes of the text are known, NAME_bits_per_byte."""
    result = trainer.evaluate_as_loaded(rows, name=name, metrics=token_metrics(num_bytes))
    keys = (f"{name}_{key}" for key in ("loss", "perplexity", "bits_per_byte"))
    return {key: result[key] for key in keys if key in result}


def save_model(trainer: LanguageModelTrainer) -> None:
    """Write the model with everything that loading needs, and its fingerprint."""
    trainer.save_model()
    if trainer.is_world_process_zero():
        record_fingerprint(trainer.accelerator.unwrap_model(trainer.trained), trainer.text_tokenizer, trainer.folder)


def build_report(
    metrics: dict[str, Any],
    passport: Passport,
    folder: Path,
    *,
    log_history: list[dict],
    prompt: str | None = None,
    more: Sequence[str] = (),
) -> RunReport:
    """The end of a run in a few lines: its numbers, next to lzma's if the passport has them.

    Args:
        log_history: that of the training, to report where validation was best, if that was not at the end.
        prompt: the prompt in the suggested next command.
        more: lines after the figures.
    """
    lines = [
        f"{name}: {metrics[f'{name}_loss']:.4f} nats per token, perplexity {metrics[f'{name}_perplexity']:,.2f}"
        + (f", {metrics[f'{name}_bits_per_byte']:.4f} bits per byte" if f"{name}_bits_per_byte" in metrics else "")
        for name in reversed(HELD_OUT)
        if f"{name}_loss" in metrics
    ]
    lines += more
    if passport.lzma_bits_per_byte:
        lines.append(
            f"lzma: {passport.lzma_bits_per_byte['after_training']:.4f} bits per byte on the same test text after reading the "
            f"training documents, {passport.lzma_bits_per_byte['alone']:.4f} alone"
        )
    kept_earlier = metrics["kept_step"] < metrics["steps"]
    if best := best_step(log_history, kept="best" if kept_earlier else "last"):
        lines.append(best)
    elif kept_earlier:
        lines.append(f"kept: step {metrics['kept_step']:,} of {metrics['steps']:,}, the best on the validation set")
    if "plan" in metrics:
        lines.append(describe_outcome(metrics["plan"]))
    return RunReport(
        metrics=metrics,
        lines=lines,
        files=LEFT_BEHIND,
        end=describe_training(metrics),
        next_command=generate_command(folder, prompt=prompt),
    )
