"""Pretrain a GPT on prepared rows, from scratch or from another model.

    python recipes/pretrain.py recipes/configs/quickstart/pretrain.yaml
    python recipes/pretrain.py recipes/configs/quickstart/pretrain.yaml --learning_rate 2e-3 --output_dir runs/other
    python recipes/pretrain.py --dataset runs/mine/data --depth 6 --output_dir runs/mine/base
    python recipes/pretrain.py --dataset runs/mine/data --time_budget 180 --output_dir runs/mine/base    # chooses everything else
    python recipes/pretrain.py --model runs/mine/base --dataset runs/new/data --output_dir runs/new/base    # continues from another
    torchrun --nproc_per_node 2 recipes/pretrain.py ...        # several processes: one per GPU, or two on one CPU

Started again with the same arguments, a run resumes from its newest complete checkpoint, bit for bit. The output folder is a model
that the Auto classes load; beside it are its card (README.md; set `card` to add what only you know, such as the licence),
report.html (curves, samples, data on one page), loss.png, samples.md, metrics.json, the data's passport.json, and run.yaml, which
alone repeats the run.
"""

# hf jobs uv run runs this file on Hugging Face's machines, from the checkout (recipes/jobs/train.sh).
# /// script
# requires-python = ">=3.10"
# dependencies = [
#   "torch>=2.10", "transformers>=5.20,<6", "tokenizers>=0.22", "datasets>=4.0,<6", "accelerate>=1.10,<2",
#   "huggingface_hub>=2.0,<3", "safetensors>=0.5", "pyarrow>=15", "numpy>=1.26", "pandas>=2.2", "scipy>=1.13",
#   "matplotlib>=3.8", "psutil>=5.9", "PyYAML>=6.0", "Jinja2>=3.1.6", "wrapt>=1.16,<3", "peft>=0.21,<1", "evaluate>=0.4.5,<1",
#   "scikit-learn>=1.5,<2", "rouge_score>=0.1.2,<0.2", "tqdm>=4.66", "rensa>=0.5,<1"
# ]
# [tool.hf-jobs]
# flavor = "a10g-large"
# timeout = "1d"
# secrets = ["HF_TOKEN"]
# env = { PYTHONPATH = "/code" }
# volumes = ["./hfgpt:/code/hfgpt", "./recipes:/code/recipes", "./model_cards:/code/model_cards"]
# ///

if __name__ == "__main__":  # --help and mistakes are answered here, before the imports below
    from hfgpt.arguments.launching import check_command_line

    check_command_line("hfgpt.arguments.pretraining:PretrainArguments")

from dataclasses import asdict
from pathlib import Path
from typing import cast

from hfgpt.arguments.launching import launch
from hfgpt.arguments.pretraining import PretrainArguments
from hfgpt.data.collators import PackedRowsCollator
from hfgpt.data.verification import check_tokenizer
from hfgpt.evaluation.language_modeling import bytes_of
from hfgpt.tokenization import load_tokenizer
from hfgpt.training import continued
from hfgpt.training.budgets import within_budget
from hfgpt.training.callbacks import LossPictureCallback, SamplesCallback
from hfgpt.training.next_steps import opening_of_rows
from hfgpt.training.optimizers import trainer_optimizer
from hfgpt.training.pretraining import (
    announce_sources,
    build_model,
    build_report,
    check_isolation,
    describe_start,
    final_metrics,
    load_rows,
    save_model,
    training_rows,
)
from hfgpt.training.run import announce, finish_run, train_or_resume
from hfgpt.training.run_folder import Run, already_done, claim_run
from hfgpt.training.trainer import LanguageModelTrainer, token_metrics


def main(args: PretrainArguments) -> dict[str, float]:
    # 1. Data and its tokenizer
    rows, passport = load_rows(args.dataset)
    tokenizer = load_tokenizer(Path(args.dataset) / "tokenizer")
    check_tokenizer(tokenizer, Path(args.dataset), passport)
    base = continued.find_base(args.dataset, passport, tokenizer, **args.base_settings()) if args.model else None
    args = within_budget(args, rows=rows, passport=passport, tokenizer=tokenizer)
    run = Run("pretrain.py", data=args.dataset, base_files=base.files if base else {}, **args.run_settings())
    if already_done(run, lambda: asdict(passport)):
        return {}

    # 2. Model: a new one, or the base
    overrides = cast(dict, args.config_overrides or {})
    context_length = passport.settings["context_length"]
    tokenizer.model_max_length = context_length
    if base is not None:
        model = continued.load_model(base, passport, attn_implementation=args.attn_implementation, overrides=overrides)
    else:
        model = build_model(
            tokenizer,
            context_length=context_length,
            family=args.family,
            depth=args.depth,
            size=args.size,
            overrides=overrides,
            seed=args.seed,
            attn_implementation=args.attn_implementation,
        )

    # 3. Output folder: new, or a run to resume
    claim = claim_run(run, passport)
    if claim.finished:
        return {}

    # 4. Trainer
    optimizer = continued.optimizer_for(model, args.optimizer, given=args.resolved)
    sample_tokens = min(args.sample_tokens, context_length // 2)  # at most half the context: the other half is for the prompt
    trainer = LanguageModelTrainer(
        model=model,
        args=args,
        keep=args.keep,
        skip_loss_spikes=args.skip_loss_spikes,
        train_dataset=training_rows(
            rows["train"], tokenizer, repack=args.repack, max_masked_tokens=args.max_masked_tokens, seed=args.seed
        ),
        eval_dataset=rows.get("validation"),
        processing_class=tokenizer,
        data_collator=PackedRowsCollator(cast(int, tokenizer.pad_token_id)),
        optimizer_cls_and_kwargs=trainer_optimizer(optimizer, args.optimizer_settings()),
        compute_metrics=token_metrics(bytes_of("validation", passport, tokenizer)),
        callbacks=[SamplesCallback(tokenizer, args.sample_prompts, max_new_tokens=sample_tokens), LossPictureCallback()],
    )
    start = describe_start(trainer, context_length=context_length, optimizer=optimizer, hardware=args.describe_hardware())
    unit = f"rows of {context_length:,} tokens"
    announce(trainer, start, unit=unit, also="a smaller context_length of prepare_data.py", warn=not args.plan)
    announce_sources(trainer, passport)
    check_isolation(model, rows["train"])

    # 5. The base's figures on old and new text, then training
    before = continued.measure_before(trainer, base, rows=rows, passport=passport) if base else {}
    train_or_resume(trainer, claim)

    # 6. Test once, save, report
    metrics = final_metrics(trainer, rows=rows, passport=passport)
    if base is not None:
        metrics |= before | continued.measure_after(trainer, base)
    save_model(trainer)
    prompt = opening_of_rows(rows, tokenizer)
    more = continued.compare(metrics)
    report = build_report(metrics, passport, args.folder, log_history=trainer.state.log_history, prompt=prompt, more=more)
    finish_run(run, report, trainer)
    return metrics


if __name__ == "__main__":
    launch(main, PretrainArguments)
