"""Teach an assistant which of two answers people prefer: DPO, KTO or ORPO (TRL), any file of chosen and rejected answers.

    pip install 'hfgpt[preferences]'
    python recipes/align_preferences.py recipes/configs/book/preferences.yaml
    python recipes/align_preferences.py --model runs/mine/assistant --sources pairs.jsonl --output_dir runs/mine/aligned
    python recipes/align_preferences.py --model HuggingFaceTB/SmolLM2-135M-Instruct --loss orpo \
        --sources argilla/distilabel-capybara-dpo-7k-binarized --output_dir runs/smol

The assistant is a folder of recipes/finetune_instructions.py or any model with a chat template; its prompt style is kept. Pairs
have chosen and rejected, beside instruction and input, or a prompt. Started again with the same arguments, a run goes on from its
newest complete checkpoint, bit for bit. The output folder loads as that of finetune_instructions.py does, and has beside the model
metrics.json (reward margin and accuracy on held-out pairs, before and after), answers.json and answers.html (before, after, chosen
and rejected side by side), samples.md, loss.png, canaries.md, poison.json and the data's passport.json. Look at the answers: a
margin rises, too, where a model forgets how to speak; then a smaller learning rate, fewer epochs or a larger beta is needed.
"""

if __name__ == "__main__":  # --help and mistakes are answered here, before the imports below
    from hfgpt.arguments.launching import check_command_line

    check_command_line("hfgpt.arguments.preferences:PreferenceArguments")

from pathlib import Path

from hfgpt.arguments.launching import launch, logger
from hfgpt.arguments.preferences import PreferenceArguments
from hfgpt.data.passport import Passport
from hfgpt.tokenization import tokenizer_sha256
from hfgpt.training.assistant_report import Canaries, CanariesCallback, search_for_poison
from hfgpt.training.finetuning import find_base, identify_base, save_base
from hfgpt.training.methods import FrozenWeights, describe_trainable
from hfgpt.training.preference_report import finish, measure_base
from hfgpt.training.preferences import build_policy, build_trainer, encode_pairs, load_pairs, preference_classes, settle_style
from hfgpt.training.run import close_run, finished_report, prepare_output, train_or_resume


def main(args: PreferenceArguments) -> dict[str, float]:
    # 1. The assistant and its prompt style
    preference_classes(args.loss)  # says at once where TRL is missing
    passport = Passport(settings=dict(args.resolved))
    base = find_base(args)
    style = settle_style(base, args)
    passport.tokenizer = {"sha256": tokenizer_sha256(base.tokenizer), "prompt_style": style}

    # 2. Pairs: read, checked, split, copies of held-out ones dropped from training, encoded
    splits = load_pairs(args, passport, style=style)
    pairs, passport.splits = encode_pairs(splits, base.tokenizer, args)
    model = build_policy(base, args)
    identify_base(base, model, passport)

    # 3. Output folder: new, or a run to go on with
    checkpoint = prepare_output(args, passport, recipe="align_preferences.py", data=", ".join(args.sources))
    if (report := finished_report(args)) is not None:
        logger.info(f"already done: {args.output_dir} holds this very run; --overwrite true runs it again.\n{report.rstrip()}")
        return {}
    search_for_poison(splits, args)
    save_base(model, base.tokenizer, Path(args.output_dir), args)
    canaries = Canaries(model, base.tokenizer, args) if args.canaries else None

    # 4. TRL's trainer
    trainer = build_trainer(model, pairs, splits=splits, base=base, args=args)
    logger.info(describe_trainable(trainer.model))
    frozen = FrozenWeights(trainer.model)

    # 5. What the base prefers and says, then training
    before = measure_base(trainer, pairs, splits, args)
    if canaries is not None and args.canaries_at == "save":
        trainer.add_callback(CanariesCallback(canaries))
    train_or_resume(trainer, checkpoint)
    frozen.check(trainer.model)

    # 6. Measure, answer, save, report, write the card
    facts = {"base": base.name, "loss": args.loss, "beta": args.beta, "method": args.method, "data": ", ".join(args.sources)}
    metrics = finish(trainer, pairs=pairs, splits=splits, before=before, canaries=canaries, facts=facts, args=args)
    close_run(args)
    return metrics


if __name__ == "__main__":
    launch(main, PreferenceArguments)
