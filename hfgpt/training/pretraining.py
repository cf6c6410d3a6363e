"""Pretraining from its parts to its report: rows, a new model, the trainer, the numbers at the end."""

import logging
from pathlib import Path

import torch
from datasets import Dataset, DatasetDict
from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedTokenizerFast
from transformers.trainer_utils import IntervalStrategy

from hfgpt.arguments.parsing import check_key
from hfgpt.arguments.pretraining import PretrainArguments
from hfgpt.data.collators import PackedRowsCollator
from hfgpt.data.passport import Passport
from hfgpt.errors import UserError
from hfgpt.evaluation.generation import generation_settings
from hfgpt.evaluation.language_modeling import language_modeling_metrics
from hfgpt.files import write_json, write_whole
from hfgpt.fingerprint import record_fingerprint
from hfgpt.inference import evaluating, full_precision
from hfgpt.model.configuration_hfgpt import HfGptConfig
from hfgpt.model.modeling_hfgpt import HfGptForCausalLM
from hfgpt.training.advice import before_training, best_step, planned_steps
from hfgpt.training.callbacks import LossPictureCallback, SamplesCallback, StopOnSignalCallback
from hfgpt.training.flops import describe_speed
from hfgpt.training.next_steps import generate_command, opening_of_rows
from hfgpt.training.optimizers import trainer_optimizer
from hfgpt.training.run import (
    METRICS_FILE,
    REPORT_FILE,
    LanguageModelTrainer,
    keep_best,
    keep_freed_memory,
    part_company,
)

logger = logging.getLogger(__name__)

LEFT_BEHIND = (("picture", "loss.png"), ("samples", "samples.md"), ("metrics", METRICS_FILE), ("model", "."))


def load_rows(folder: str) -> tuple[DatasetDict, Passport]:
    """The rows and the passport that recipes/prepare_data.py wrote.

    Raises: FileNotFoundError for a folder that is none; ValueError where passport and rows disagree.
    """
    passport = Passport.load(Path(folder))
    rows = DatasetDict.load_from_disk(folder)
    for name, counts in passport.splits.items():
        if name not in rows or len(rows[name]) != counts["rows"]:
            found = len(rows[name]) if name in rows else 0
            raise UserError(f"{folder}: the passport says {counts['rows']:,} {name} rows, found {found:,}; prepare the data again.")
    return rows, passport


def build_model(args: PretrainArguments, tokenizer: PreTrainedTokenizerFast, *, context_length: int) -> HfGptForCausalLM:
    """A new model for this tokenizer and row length, its weights drawn from `args.seed`.

    Raises: ValueError where overrides contradict the tokenizer, the rows or each other.
    """
    overrides = dict(
        vocab_size=len(tokenizer),
        max_position_embeddings=context_length,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    ) | (args.config_overrides or {})
    for key in overrides:
        check_key(key, HfGptConfig.__dataclass_fields__, where="config_overrides")
    try:
        if args.family == "modern":
            config = HfGptConfig.modern(args.depth, **overrides)
        else:
            config = HfGptConfig.gpt2(args.size, **overrides)
    except StrictDataclassError as error:
        raise UserError(str(error.__cause__ or error)) from None
    if len(tokenizer) > config.vocab_size:
        raise UserError(
            f"the tokenizer has {len(tokenizer):,} tokens, the model's vocab_size is {config.vocab_size:,}; each needs a row."
        )
    if context_length > config.max_position_embeddings:
        raise UserError(
            f"the rows are {context_length:,} tokens long, the model's max_position_embeddings is "
            f"{config.max_position_embeddings:,}; prepare shorter rows or give the model more."
        )
    torch.manual_seed(args.seed)
    model = HfGptForCausalLM._from_config(config, attn_implementation=args.attn_implementation)
    model.generation_config = generation_settings(tokenizer, do_sample=True, temperature=0.8, top_k=50)
    return model


def check_isolation(model: HfGptForCausalLM, rows: Dataset) -> None:
    """Prove on one packed row that its documents do not see each other: change the first, and the second must not notice.

    Raises: RuntimeError where it does, as it would with an attention backend that ignores restarting positions.
    """
    for row in rows.select(range(min(len(rows), 1000))):
        starts = [index for index, position in enumerate(row["position_ids"]) if position == 0]
        if len(starts) > 1:
            break
    else:
        return  # no row holds two documents
    ids, positions = torch.tensor([row["input_ids"]]), torch.tensor([row["position_ids"]])
    changed = ids.clone()
    changed[:, : starts[1]] = (changed[:, : starts[1]] + 1) % model.config.vocab_size
    with evaluating(model):
        before, after = (model(input_ids=x.to(model.device), position_ids=positions.to(model.device), use_cache=False).logits
                         for x in (ids, changed))  # fmt: skip
    difference = (before - after)[:, starts[1] :].abs().max().item()
    if difference > 1e-4:
        raise RuntimeError(
            f"packed documents see each other: a change in one moved the logits of the next by {difference:.2e} with "
            f"attn_implementation {model.config._attn_implementation!r}; choose another one."
        )


def build_trainer(
    args: PretrainArguments, *, model: HfGptForCausalLM, tokenizer: PreTrainedTokenizerFast, rows: DatasetDict, passport: Passport
) -> LanguageModelTrainer:
    """Put the parts together and say in one line what will run."""
    context_length = passport.settings["context_length"]
    tokens_per_step = args.train_batch_size * args.gradient_accumulation_steps * args.world_size * context_length
    if args.use_cpu:
        keep_freed_memory()
    if "validation" not in rows:
        args.eval_strategy = IntervalStrategy.NO  # Trainer would refuse to start
    keep_best(args, args.keep)
    trainer = LanguageModelTrainer(
        model=model,
        args=args,
        train_dataset=rows["train"],
        eval_dataset=rows.get("validation"),
        processing_class=tokenizer,
        data_collator=PackedRowsCollator(tokenizer.pad_token_id),
        optimizer_cls_and_kwargs=trainer_optimizer(args.optimizer, args.optimizer_settings()),
    )
    trainer.split_bytes = bytes_of("validation", passport, tokenizer)
    trainer.compute_metrics = lambda prediction: language_modeling_metrics(
        *prediction.predictions.astype("float64").sum(axis=0), num_bytes=trainer.split_bytes
    )
    trainer.add_callback(StopOnSignalCallback())
    # Half the context at most: the other half is for the prompt.
    sample_tokens = min(args.sample_tokens, context_length // 2)
    trainer.add_callback(SamplesCallback(tokenizer, args.sample_prompts, max_new_tokens=sample_tokens))
    trainer.add_callback(LossPictureCallback())
    parameters = sum(parameter.numel() for parameter in model.parameters())
    steps = planned_steps(args, len(rows["train"]))
    logger.info(
        f"start: {parameters:,} parameters, all trained; {tokens_per_step:,} tokens per step, {steps:,} steps; {args.optimizer}, "
        f"{args.describe_hardware()}"
    )
    unit, shorter = f"rows of {context_length:,} tokens", "a smaller context_length of prepare_data.py"
    for warning in before_training(args, len(rows["train"]), unit=unit, also=shorter):
        logger.warning(warning)
    return trainer


def bytes_of(split: str, passport: Passport, tokenizer: PreTrainedTokenizerFast) -> int | None:
    """UTF-8 bytes of a split, for bits per byte; None where there is no such split or its tokens do not spell its text.

    A tokenizer with an unknown token loses what it does not know, and bits per byte of a text that it cannot give back would
    flatter it.
    """
    if split not in passport.splits or tokenizer.unk_token_id is not None:
        return None
    return passport.splits[split]["bytes"]


def finish(trainer: LanguageModelTrainer, *, rows: DatasetDict, passport: Passport) -> dict[str, float]:
    """Test once, save the model with everything it needs, write `metrics.json` and `report.txt`; the metrics are returned."""
    args, state = trainer.args, trainer.state
    folder = Path(args.output_dir)
    metrics: dict[str, float] = {
        "parameters": sum(parameter.numel() for parameter in trainer.model.parameters()),
        "epochs": state.epoch,
    }
    trainer.remove_callback(SamplesCallback)  # the last evaluation of the training has drawn them
    for name in ("validation", "test"):
        if name in rows:
            trainer.split_bytes = bytes_of(name, passport, trainer.processing_class)
            with full_precision(trainer.model):  # as whoever loads the saved model
                result = trainer.evaluate(rows[name], metric_key_prefix=name)
            keys = (f"{name}_{key}" for key in ("loss", "perplexity", "bits_per_byte"))
            metrics |= {key: result[key] for key in keys if key in result}
    metrics |= trainer.training_metrics()
    trainer.save_model()
    if trainer.is_world_process_zero():
        # It pickles every argument, a Hub token included, and nobody needs it to load the model.
        (folder / "training_args.bin").unlink(missing_ok=True)
        record_fingerprint(trainer.accelerator.unwrap_model(trainer.model), trainer.processing_class, folder)
        write_json(folder / METRICS_FILE, metrics)
        kept = "best" if trainer.kept_step < state.global_step else "last"
        text = describe(
            metrics,
            passport,
            folder,
            best=best_step(state.log_history, kept=kept),
            prompt=opening_of_rows(rows, trainer.processing_class),
        )
        write_whole(folder / REPORT_FILE, text)
        logger.info(text.rstrip())
    part_company(trainer)
    return metrics


def describe(
    metrics: dict[str, float], passport: Passport, folder: Path, *, best: str | None = None, prompt: str | None = None
) -> str:
    """The end of a run in a few lines: its numbers, next to lzma's where the passport has them, and where everything lies.

    Args:
        best: says where validation was best, if that was not at the end.
        prompt: what the next command has the model continue.
    """
    lines = [
        f"{name}: {metrics[f'{name}_loss']:.4f} nats per token, perplexity {metrics[f'{name}_perplexity']:,.2f}"
        + (f", {metrics[f'{name}_bits_per_byte']:.4f} bits per byte" if f"{name}_bits_per_byte" in metrics else "")
        for name in ("validation", "test")
        if f"{name}_loss" in metrics
    ]
    if passport.lzma_bits_per_byte:
        lines.append(
            f"lzma on the same test bytes: {passport.lzma_bits_per_byte['alone']:.4f} bits per byte alone, "
            f"{passport.lzma_bits_per_byte['after_training']:.4f} after reading the training documents"
        )
    if best:
        lines.append(best)
    elif metrics["kept_step"] < metrics["steps"]:
        lines.append(f"kept: step {metrics['kept_step']:,} of {metrics['steps']:,}, the best on the validation set")
    # A run that went on knows only its own part of the time.
    part = f" ({metrics['steps_timed']:,} of them since it went on)" if metrics["steps_timed"] < metrics["steps"] else ""
    lines += [
        "; ".join(f"{what}: {folder / name}" for what, name in LEFT_BEHIND if (folder / name).exists()),
        f"end: {metrics['steps']:,} steps{part} in {metrics['training_seconds']:,.0f} s, {describe_speed(metrics)}peak memory "
        f"{metrics['peak_memory_bytes'] / 2**20:,.0f} MiB",
        f"next: {generate_command(folder, prompt=prompt)}",
    ]
    return "\n".join(lines) + "\n"
