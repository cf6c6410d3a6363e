"""Fine-tune an assistant that follows instructions: any causal language model, any file of instructions or conversations.

    python recipes/finetune_instructions.py recipes/configs/quickstart/instructions.yaml
    python recipes/finetune_instructions.py --model runs/mine/base --sources mine.json --output_dir runs/mine/assistant
    python recipes/finetune_instructions.py --model openai-community/gpt2-medium --sources tatsu-lab/alpaca \\
        --prompt_style alpaca --method full --learning_rate 5e-5 --output_dir runs/alpaca

Started again with the same arguments, a run resumes from its newest complete checkpoint, bit for bit. With LoRA, the output folder
is a loadable adapter that contains base/ (its base model) and merged/ (the same function without an adapter). Beside them are the
model card README.md, answers.json and answers.html (the test set's answers and references side by side), samples.md, loss.png,
metrics.json, canaries.md, poison.json and the data's passport.json.
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
# timeout = "6h"
# secrets = ["HF_TOKEN"]
# env = { PYTHONPATH = "/code" }
# volumes = ["./hfgpt:/code/hfgpt", "./recipes:/code/recipes", "./model_cards:/code/model_cards"]
# ///

if __name__ == "__main__":  # --help and mistakes are answered here, before the imports below
    from hfgpt.arguments.launching import check_command_line

    check_command_line("hfgpt.arguments.finetuning:InstructionArguments")

from functools import partial
from typing import cast

from hfgpt.arguments.finetuning import InstructionArguments
from hfgpt.arguments.launching import launch
from hfgpt.arguments.methods import METHODS, Method
from hfgpt.chat_templates import style_token_ids
from hfgpt.data.collators import SupervisedCollator
from hfgpt.data.passport import Passport
from hfgpt.evaluation.judge import judge_answers
from hfgpt.tokenization import tokenizer_sha256
from hfgpt.training import assistant_report, assistants
from hfgpt.training.before import measured_once
from hfgpt.training.callbacks import LossPictureCallback
from hfgpt.training.comparison import Canaries, save_assistant
from hfgpt.training.examples import Examples, HeldOutShares
from hfgpt.training.finetuning import adopt_style, find_base, identify_base, save_base
from hfgpt.training.methods import FrozenWeights, apply_method, describe_trainable
from hfgpt.training.optimizers import trainer_optimizer
from hfgpt.training.pretraining import check_isolation, check_positions
from hfgpt.training.run import announce, finish_run, train_or_resume
from hfgpt.training.run_folder import Run, already_done, claim_run
from hfgpt.training.trainer import LanguageModelTrainer, token_metrics


def main(args: InstructionArguments) -> dict[str, float]:
    # 1. The base and its tokenizer; nothing to do if this exact run is finished
    base = find_base(args.model, revision=args.revision, trust_remote_code=args.trust_remote_code)
    shares = HeldOutShares(args.validation_share, args.test_share, args.split_method, args.split_seed)
    examples = Examples(**args.example_files(), shares=shares)
    run = Run("finetune_instructions.py", data=", ".join(args.sources), base_files=base.files, **args.run_settings())
    if already_done(run, examples.known):
        return {}

    # 2. Conversations: read, checked, split, copies of held-out ones dropped from training; the same style in training and serving
    passport = Passport(settings=dict(args.resolved))
    splits = assistants.load_splits(
        examples,
        passport,
        style=args.prompt_style,
        format=None if args.conversation_format == "auto" else args.conversation_format,
        weights=args.source_weights,
    )
    base = adopt_style(base, args.prompt_style)
    tokenizer = base.tokenizer
    passport.tokenizer = {"sha256": tokenizer_sha256(tokenizer), "prompt_style": args.prompt_style}
    rows, passport.splits = assistants.encode_splits(
        splits, tokenizer, max_length=args.max_length, too_long=args.too_long, loss_on=args.loss_on, packing=args.packing
    )

    # 3. Model, and the output folder: new, or a run to resume
    model = assistants.build_assistant(base, seed=args.seed, **args.loading_settings())
    passport.base = identify_base(base, model)
    if args.packing:
        check_positions(model, args.model, cure="set --packing false")
    claim = claim_run(run, passport)
    if claim.finished:
        return {}
    if args.poison_report:
        assistant_report.search_for_poison(splits, args.folder)
    if args.packing:
        check_isolation(model, rows["train"])
    if METHODS[args.method].is_adapter:
        save_base(model, tokenizer, args.folder, sha256=passport.base["sha256"])
    canaries = Canaries(model, tokenizer, **args.trigger_settings()) if args.canaries else None

    # 4. Trainer
    new_tokens = base.untrained_tokens(*style_token_ids(tokenizer, args.prompt_style))
    model = apply_method(model, Method(**args.method_settings(), new_tokens=new_tokens))
    trainer = LanguageModelTrainer(
        model=model,
        args=args,
        keep=args.keep,
        skip_loss_spikes=args.skip_loss_spikes,
        train_dataset=rows["train"],
        eval_dataset=rows.get("validation"),
        processing_class=tokenizer,
        data_collator=SupervisedCollator(cast(int, tokenizer.pad_token_id)),
        optimizer_cls_and_kwargs=trainer_optimizer(args.optimizer, args.optimizer_settings()),
        compute_metrics=token_metrics(),
        callbacks=[
            assistants.AnswersCallback(
                tokenizer, assistants.sample_questions(splits, args.num_samples), max_new_tokens=args.max_new_tokens
            ),
            LossPictureCallback(unit=f"nats per token{' of the assistant' * (args.loss_on == 'assistant')}"),
            *(canaries.callbacks if canaries else []),
        ],
    )
    unit = f"rows of {len(rows['train'][0]['input_ids']):,} tokens" if args.packing else "conversations"
    announce(trainer, describe_trainable(model), unit=unit)
    frozen = FrozenWeights(model)

    # 5. The base's own losses and answers, then training
    questions = assistant_report.choose_questions(splits, max_answers=args.max_answers, seen_answers=args.seen_answers)
    asked_before = questions if args.answers_before else {}
    measure = partial(assistant_report.measure_base, trainer, rows, questions=asked_before, max_new_tokens=args.max_new_tokens)
    before = measured_once(args.folder, measure)
    train_or_resume(trainer, claim)
    frozen.check(trainer.trained)

    # 6. Test once, answer, save, report
    judge = args.judge_settings()
    if judge is not None:
        judge = partial(judge_answers, path=args.folder / "judge.jsonl", show_progress=True, **judge)
    metrics, table = assistant_report.final_metrics(
        trainer, rows, before=before, questions=questions, max_new_tokens=args.max_new_tokens, judge=judge
    )
    facts = {"base": base.name, "method": args.method, "prompt style": args.prompt_style, "data": ", ".join(args.sources)}
    probe = rows.get("validation", rows["train"])[:3]["input_ids"]
    metrics |= save_assistant(trainer, probe=probe, table=table, canaries=canaries, facts=facts)
    finish_run(run, assistant_report.build_report(trainer, metrics), trainer)
    return metrics


if __name__ == "__main__":
    launch(main, InstructionArguments)
