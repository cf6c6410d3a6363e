"""Fine-tune an assistant that follows instructions: any causal language model, any file of instructions or conversations.

    python recipes/finetune_instructions.py recipes/configs/quickstart/instructions.yaml
    python recipes/finetune_instructions.py --model runs/mine/base --sources mine.json --output_dir runs/mine/assistant
    python recipes/finetune_instructions.py --model openai-community/gpt2-medium --sources tatsu-lab/alpaca \
        --prompt_style alpaca --method full --learning_rate 5e-5 --output_dir runs/alpaca

Started again with the same arguments, a run goes on from its newest complete checkpoint, bit for bit. With LoRA the output folder
is an adapter that loads as it is, with base/ (what it sits on) and merged/ (the same function without an adapter) in it. Beside
them lie the model card README.md, answers.json and answers.html (the test set's answers and references side by side), samples.md,
loss.png, metrics.json, canaries.md, poison.json and the data's passport.json.
"""

if __name__ == "__main__":  # --help and mistakes are answered here, before the imports below
    from hfgpt.arguments.launching import check_command_line

    check_command_line("hfgpt.arguments.finetuning:InstructionArguments")

from pathlib import Path

from hfgpt.arguments.finetuning import InstructionArguments
from hfgpt.arguments.launching import launch, logger
from hfgpt.chat_templates import set_prompt_style
from hfgpt.data.passport import Passport
from hfgpt.tokenization import tokenizer_sha256
from hfgpt.training.assistant_report import Canaries, CanariesCallback, finish, measure_base, search_for_poison
from hfgpt.training.assistants import build_assistant, build_trainer, encode_splits, load_splits
from hfgpt.training.finetuning import find_base, identify_base, save_base
from hfgpt.training.methods import FrozenWeights, describe_trainable
from hfgpt.training.pretraining import check_isolation
from hfgpt.training.run import close_run, finished_report, prepare_output, train_or_resume


def main(args: InstructionArguments) -> dict[str, float]:
    # 1. Conversations: read, checked, split, copies of held-out ones dropped from training
    passport = Passport(settings=dict(args.resolved))
    splits = load_splits(args, passport)

    # 2. The base, its tokenizer, and the one prompt style of training, evaluation and serving
    base = find_base(args)
    base.new_tokens += set_prompt_style(base.tokenizer, args.prompt_style)
    passport.tokenizer = {"sha256": tokenizer_sha256(base.tokenizer), "prompt_style": args.prompt_style}
    rows, counts = encode_splits(splits, base.tokenizer, args)
    passport.splits = counts
    model = build_assistant(base, args)
    identify_base(base, model, passport)

    # 3. Output folder: new, or a run to go on with
    checkpoint = prepare_output(args, passport, recipe="finetune_instructions.py", data=", ".join(args.sources))
    if (report := finished_report(args)) is not None:
        logger.info(f"already done: {args.output_dir} holds this very run; --overwrite true runs it again.\n{report.rstrip()}")
        return {}
    search_for_poison(splits, args)
    if args.packing:
        check_isolation(model, rows["train"])
    save_base(model, base.tokenizer, Path(args.output_dir), args)
    canaries = Canaries(model, base.tokenizer, args) if args.canaries else None

    # 4. Trainer
    trainer = build_trainer(model, rows, splits=splits, base=base, args=args)
    logger.info(describe_trainable(trainer.model))
    frozen = FrozenWeights(trainer.model)

    # 5. The base's own losses and answers, then training
    before = measure_base(trainer, rows, splits, args)
    if canaries is not None and args.canaries_at == "save":
        trainer.add_callback(CanariesCallback(canaries))
    train_or_resume(trainer, checkpoint)
    frozen.check(trainer.model)

    # 6. Test once, answer, save, report, write the card
    facts = {"base": base.name, "method": args.method, "prompt style": args.prompt_style, "data": ", ".join(args.sources)}
    metrics = finish(trainer, rows=rows, splits=splits, before=before, canaries=canaries, facts=facts, args=args)
    close_run(args)
    return metrics


if __name__ == "__main__":
    launch(main, InstructionArguments)
