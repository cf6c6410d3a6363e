"""A training run from its parts to its end: build the trainer, train or go on, finish."""

import ctypes
import json
import logging
import math
import platform
import resource
import shutil
import sys
import zipfile
from pathlib import Path

import torch
import yaml
from accelerate import PartialState
from datasets import Dataset, DatasetDict
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open
from transformers import PreTrainedTokenizerFast, Trainer
from transformers.trainer_utils import IntervalStrategy

from hfgpt.data.collators import PackedRowsCollator
from hfgpt.data.passport import PASSPORT_NAME, Passport
from hfgpt.evaluation.generation import generation_settings
from hfgpt.evaluation.language_modeling import language_modeling_metrics, nats_and_tokens
from hfgpt.model.configuration_hfgpt import HfGptConfig
from hfgpt.model.modeling_hfgpt import HfGptForCausalLM
from hfgpt.training.arguments import check_key, claim_output
from hfgpt.training.callbacks import (
    LossPictureCallback,
    SamplesCallback,
    StopOnSignalCallback,
    ThroughputCallback,
    write_json,
)
from hfgpt.training.optimizers import MuonWithAdamWFactory
from hfgpt.training.trainer_arguments import PretrainArguments, bfloat16_is_fast

logger = logging.getLogger(__name__)

# May differ when a run goes on: they change what is shown or kept, not one bit of the model.
FREE_TO_CHANGE = {
    *("output_dir", "overwrite", "run_name", "report_to", "disable_tqdm", "logging_steps"),
    *("save_steps", "save_total_limit", "eval_steps", "per_device_eval_batch_size", "sample_prompts", "sample_tokens"),
}
RUN_FILE = "run.yaml"
METRICS_FILE = "metrics.json"
LEFT_BEHIND = (("picture", "loss.png"), ("samples", "samples.md"), ("metrics", METRICS_FILE), ("model", "."))
REPORT_FILE = "report.txt"  # written last: a folder that has it holds a finished run


class LanguageModelTrainer(Trainer):
    """Trainer, with an evaluation that weighs every token alike and checkpoints that generate with a cache."""

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        inputs = self._prepare_inputs(inputs)
        labels = inputs.pop("labels")
        with torch.no_grad(), self.compute_loss_context_manager():
            logits = model(**inputs).logits
        # Two sums a row are all that is gathered, whatever the vocabulary; compute_metrics divides once, at the end.
        sums = nats_and_tokens(logits, labels)
        return None, sums, sums[:, 1]

    def _save(self, output_dir=None, state_dict=None):
        # Training runs without a cache, and Trainer notes that in the config; whoever loads the model wants one.
        config = self.accelerator.unwrap_model(self.model).config
        use_cache, config.use_cache = config.use_cache, True
        super()._save(output_dir, state_dict)
        config.use_cache = use_cache


def load_rows(folder: str) -> tuple[DatasetDict, Passport]:
    """The rows and the passport that recipes/prepare_data.py wrote.

    Raises: FileNotFoundError for a folder that is none; ValueError where passport and rows disagree.
    """
    passport = Passport.load(Path(folder))
    rows = DatasetDict.load_from_disk(folder)
    for name, counts in passport.splits.items():
        if name not in rows or len(rows[name]) != counts["rows"]:
            found = len(rows[name]) if name in rows else 0
            raise ValueError(
                f"{folder}: the passport says {counts['rows']:,} {name} rows, found {found:,}; prepare the data again."
            )
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
        raise ValueError(str(error.__cause__ or error)) from None
    if len(tokenizer) > config.vocab_size:
        raise ValueError(
            f"the tokenizer has {len(tokenizer):,} tokens, the model's vocab_size is {config.vocab_size:,}; each needs a row."
        )
    if context_length > config.max_position_embeddings:
        raise ValueError(
            f"the rows are {context_length:,} tokens long, the model's max_position_embeddings is "
            f"{config.max_position_embeddings:,}; prepare shorter rows or give the model more."
        )
    torch.manual_seed(args.seed)
    model = HfGptForCausalLM._from_config(config, attn_implementation=args.attn_implementation)
    model.generation_config = generation_settings(tokenizer, do_sample=True, temperature=0.8, top_k=50)
    return model


@torch.no_grad()
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
    was_training = model.training
    model.eval()
    before, after = (model(input_ids=x.to(model.device), position_ids=positions.to(model.device), use_cache=False).logits
                     for x in (ids, changed))  # fmt: skip
    model.train(was_training)
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
    optimizer = None
    if args.optimizer == "muon":
        settings = dict(
            muon_learning_rate=args.muon_learning_rate,
            learning_rate=args.learning_rate,
            weight_decay=args.weight_decay,
            betas=(args.adam_beta1, args.adam_beta2),
            eps=args.adam_epsilon,
            muon_in_bfloat16=bfloat16_is_fast(),
        )
        optimizer = (MuonWithAdamWFactory, settings)
    if "validation" not in rows:
        args.eval_strategy = IntervalStrategy.NO  # Trainer would refuse to start
    trainer = LanguageModelTrainer(
        model=model,
        args=args,
        train_dataset=rows["train"],
        eval_dataset=rows.get("validation"),
        processing_class=tokenizer,
        data_collator=PackedRowsCollator(tokenizer.pad_token_id),
        optimizer_cls_and_kwargs=optimizer,
    )
    trainer.split_bytes = bytes_of("validation", passport, tokenizer)
    trainer.compute_metrics = lambda prediction: language_modeling_metrics(
        *prediction.predictions.astype("float64").sum(axis=0), num_bytes=trainer.split_bytes
    )
    trainer.add_callback(ThroughputCallback(tokens_per_step))
    trainer.add_callback(StopOnSignalCallback())
    # Half the context at most: the other half is for the prompt.
    sample_tokens = min(args.sample_tokens, context_length // 2)
    trainer.add_callback(SamplesCallback(tokenizer, args.sample_prompts, max_new_tokens=sample_tokens))
    trainer.add_callback(LossPictureCallback())
    parameters = sum(parameter.numel() for parameter in model.parameters())
    steps = args.max_steps
    if steps <= 0:
        batches = math.ceil(len(rows["train"]) / (args.train_batch_size * args.world_size))
        steps = math.ceil(args.num_train_epochs * math.ceil(batches / args.gradient_accumulation_steps))
    precision = "bf16" if args.bf16 else "fp16" if args.fp16 else "fp32"
    logger.info(
        f"start: {parameters:,} parameters, all trained; {tokens_per_step:,} tokens a step, {steps:,} steps; {precision} "
        f"({'chosen for this processor' if args.precision == 'auto' else 'as asked'}), {args.attn_implementation} attention, "
        f"{args.optimizer}, {args.world_size} x {args.device.type}"
        + (f", {torch.get_num_threads()} CPU threads a process" if args.device.type == "cpu" else "")
    )
    return trainer


def bytes_of(split: str, passport: Passport, tokenizer: PreTrainedTokenizerFast) -> int | None:
    """UTF-8 bytes of a split, for bits per byte; None where there is no such split or its tokens do not spell its text.

    A tokenizer with an unknown token loses what it does not know, and bits per byte of a text that it cannot give back would
    flatter it.
    """
    if split not in passport.splits or tokenizer.unk_token_id is not None:
        return None
    return passport.splits[split]["bytes"]


def keep_freed_memory() -> None:
    """Have glibc keep freed memory for the next step, where it would give large blocks back to the kernel and fault them in again.

    The logits of one step are tens of MB, allocated and freed several times; the page faults cost a CPU run a tenth of its time.
    Measured: pretrain.py quickstart/pretrain.yaml --max_steps 40 on two cores, twice in turn: 8,472 and 8,768 tokens/s without,
    10,502 and 10,877 with, and 1,319 against 1,489 MiB; 2026-11-21.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(-4, 0)  # M_MMAP_MAX: take no block straight from the kernel
        libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: give back only above 2 GiB


def prepare_output(args: PretrainArguments, passport: Passport) -> Path | None:
    """Make the output folder ready and return the newest complete checkpoint in it, or None for a fresh start.

    The resolved run is written to `run.yaml`; that file alone repeats the run. The data's passport goes beside it. A run goes on
    only as the run that it was, on the data that it had.

    Raises: ValueError where output_dir holds another run or foreign files; PermissionError where it cannot be written.
    """
    if args.process_index == 0:  # of several processes one writes, and the others wait for it
        _claim_run_folder(args, passport)
    PartialState().wait_for_everyone()
    return newest_complete_checkpoint(Path(args.output_dir))


def _claim_run_folder(args: PretrainArguments, passport: Passport) -> None:
    folder = Path(args.output_dir)
    claim_output(args.output_dir, overwrite=args.overwrite or (folder / RUN_FILE).is_file(), marker=RUN_FILE)
    if args.overwrite:
        shutil.rmtree(folder, ignore_errors=True)
    elif (folder / RUN_FILE).is_file():
        earlier = yaml.safe_load((folder / RUN_FILE).read_text(encoding="utf-8")) or {}
        changed = [
            f"{key} was {earlier.get(key, 'the default')}, is {args.resolved.get(key, 'the default')}"
            for key in sorted(set(earlier) | set(args.resolved))
            if key not in FREE_TO_CHANGE and earlier.get(key) != args.resolved.get(key)
        ]
        if changed:
            raise ValueError(
                f"output_dir {folder} holds another run ({'; '.join(changed)}); give another output_dir, or --overwrite true to "
                "replace it."
            )
        if (folder / PASSPORT_NAME).is_file():
            before = Passport.load(folder)
            if (before.inputs, before.tokenizer, before.splits) != (passport.inputs, passport.tokenizer, passport.splits):
                raise ValueError(
                    f"the rows in {args.dataset} are not those that the run in {folder} began with; prepare the same data "
                    "again, give another output_dir, or --overwrite true to replace it."
                )
    folder.mkdir(exist_ok=True)
    text = "# accelerate launch recipes/pretrain.py run.yaml --output_dir ANOTHER repeats this run.\n"
    resolved = {key: value for key, value in args.resolved.items() if key not in ("overwrite", "hub_token")}
    (folder / RUN_FILE).write_text(text + yaml.safe_dump(resolved, allow_unicode=True, sort_keys=True), encoding="utf-8")
    passport.save(folder)


def newest_complete_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint that a crash did not leave half-written; such ones are passed over with a warning."""
    checkpoints = [path for path in folder.glob("checkpoint-*") if path.name.rpartition("-")[2].isdigit()]
    for path in sorted(checkpoints, key=lambda path: int(path.name.rpartition("-")[2]), reverse=True):
        fault = _fault_of(path)
        if fault is None:
            return path
        logger.warning(f"{path} is not complete ({fault}); going back to the one before it.")
    return None


def _fault_of(checkpoint: Path) -> str | None:
    # Trainer writes trainer_state.json last, so a checkpoint with a readable one is whole unless a disk lost part of it.
    try:
        json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
        for shard in sorted(checkpoint.glob("model*.safetensors")) or [checkpoint / "model.safetensors"]:
            with safe_open(shard, framework="pt") as tensors:
                tensors.keys()
        for name in ("optimizer.pt", "scheduler.pt"):
            if not zipfile.is_zipfile(checkpoint / name):
                return f"{name} is missing or cut off"
    except FileNotFoundError as error:
        return f"{Path(error.filename or 'a file').name} is missing"
    except (ValueError, SafetensorError) as error:
        return f"unreadable: {error}"
    return None


def train_or_resume(trainer: LanguageModelTrainer, checkpoint: Path | None) -> bool:
    """Train to the end, from `checkpoint` where there is one; False where a signal stopped the run before it.

    A stopped run leaves a complete checkpoint; the same command goes on from it, bit for bit as if nothing had happened.
    """
    if checkpoint is not None:
        logger.info(f"resume: from {checkpoint}")
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    if trainer.state.global_step < trainer.state.max_steps:
        logger.info(
            f"stopped: at step {trainer.state.global_step:,} of {trainer.state.max_steps:,}; the same command goes on from there."
        )
        part_company(trainer)
        return False
    return True


def finished_report(args: PretrainArguments) -> str | None:
    """The report of a run that came to its end in this folder, or None."""
    path = Path(args.output_dir) / REPORT_FILE
    return path.read_text(encoding="utf-8") if path.is_file() else None


def finish(trainer: LanguageModelTrainer, *, rows: DatasetDict, passport: Passport) -> dict[str, float]:
    """Test once, save the model with everything it needs, write `metrics.json` and `report.txt`; the metrics are returned."""
    args, state = trainer.args, trainer.state
    folder = Path(args.output_dir)
    metrics: dict[str, float] = {
        "parameters": sum(parameter.numel() for parameter in trainer.model.parameters()),
        "steps": state.global_step,
        "epochs": state.epoch,
    }
    trainer.remove_callback(SamplesCallback)  # the last evaluation of the training has drawn them
    for name in ("validation", "test"):
        if name in rows:
            trainer.split_bytes = bytes_of(name, passport, trainer.processing_class)
            result = trainer.evaluate(rows[name], metric_key_prefix=name)
            keys = (f"{name}_{key}" for key in ("loss", "perplexity", "bits_per_byte"))
            metrics |= {key: result[key] for key in keys if key in result}
    throughput = next(c for c in trainer.callback_handler.callbacks if isinstance(c, ThroughputCallback))
    metrics |= {
        "tokens_per_second": throughput.tokens_per_second,
        "training_seconds": throughput.total_seconds,
        "steps_timed": throughput.total_steps,
        "peak_memory_bytes": peak_memory_bytes(),
    }
    trainer.save_model()
    if trainer.is_world_process_zero():
        # It pickles every argument, a Hub token included, and nobody needs it to load the model.
        (folder / "training_args.bin").unlink(missing_ok=True)
        write_json(folder / METRICS_FILE, metrics)
        text = describe(metrics, passport, folder)
        (folder / REPORT_FILE).write_text(text, encoding="utf-8")
        logger.info(text.rstrip())
    part_company(trainer)
    return metrics


def part_company(trainer: LanguageModelTrainer) -> None:
    """Leave together: a process that exits while another still talks to it takes that one down with an abort."""
    trainer.accelerator.wait_for_everyone()
    trainer.accelerator.end_training()


def describe(metrics: dict[str, float], passport: Passport, folder: Path) -> str:
    """The end of a run in a few lines: its numbers, next to lzma's where the passport has them, and where everything lies."""
    lines = [
        f"{name}: {metrics[f'{name}_loss']:.4f} nats a token, perplexity {metrics[f'{name}_perplexity']:,.2f}"
        + (f", {metrics[f'{name}_bits_per_byte']:.4f} bits per byte" if f"{name}_bits_per_byte" in metrics else "")
        for name in ("validation", "test")
        if f"{name}_loss" in metrics
    ]
    if passport.lzma_bits_per_byte:
        lines.append(
            f"lzma on the same test bytes: {passport.lzma_bits_per_byte['alone']:.4f} bits per byte alone, "
            f"{passport.lzma_bits_per_byte['after_training']:.4f} after reading the training documents"
        )
    speed = f"{metrics['tokens_per_second']:,.0f} tokens/s, " if metrics["tokens_per_second"] else ""
    # A run that went on knows only its own part of the time.
    part = f" ({metrics['steps_timed']:,} of them since it went on)" if metrics["steps_timed"] < metrics["steps"] else ""
    lines += [
        "; ".join(f"{what}: {folder / name}" for what, name in LEFT_BEHIND if (folder / name).exists()),
        f"end: {metrics['steps']:,} steps{part} in {metrics['training_seconds']:,.0f} s, {speed}peak memory "
        f"{metrics['peak_memory_bytes'] / 2**20:,.0f} MiB",
        f"next: python recipes/generate.py {folder} --prompt 'class '",
    ]
    return "\n".join(lines) + "\n"


def peak_memory_bytes() -> int:
    """Most memory so far: of the GPU where there is one, else of this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes, Linux KiB
