"""Pretrain a GPT from zero on prepared rows.

    python recipes/pretrain.py recipes/configs/quickstart/pretrain.yaml
    python recipes/pretrain.py recipes/configs/quickstart/pretrain.yaml --learning_rate 2e-3 --output_dir runs/other
    python recipes/pretrain.py --dataset runs/mine/data --depth 6 --output_dir runs/mine/base
    torchrun --nproc_per_node 2 recipes/pretrain.py ...        # several processes: one a GPU, or two on one processor

Started again with the same arguments, a run goes on from its newest complete checkpoint, bit for bit. The output folder is a
model that the Auto classes load; beside it lie its card (README.md; `card` says what only you know, as the licence), loss.png,
samples.md, metrics.json, the data's passport.json, and run.yaml, which alone repeats the run.
"""

if __name__ == "__main__":  # --help and mistakes are answered here, before the imports below
    from hfgpt.arguments.launching import check_command_line

    check_command_line("hfgpt.arguments.pretraining:PretrainArguments")

from pathlib import Path

from hfgpt.arguments.launching import launch, logger
from hfgpt.arguments.pretraining import PretrainArguments
from hfgpt.errors import UserError
from hfgpt.tokenization import load_tokenizer, tokenizer_sha256
from hfgpt.training.pretraining import build_model, build_trainer, check_isolation, finish, load_rows
from hfgpt.training.run import close_run, finished_report, prepare_output, train_or_resume


def main(args: PretrainArguments) -> dict[str, float]:
    # 1. Data and its tokenizer
    rows, passport = load_rows(args.dataset)
    tokenizer = load_tokenizer(Path(args.dataset) / "tokenizer")
    if tokenizer_sha256(tokenizer) != passport.tokenizer["sha256"]:
        raise UserError(f"the tokenizer in {args.dataset} is not the one that made its rows; prepare the data again.")

    # 2. Model
    context_length = passport.settings["context_length"]
    tokenizer.model_max_length = context_length
    model = build_model(args, tokenizer, context_length=context_length)

    # 3. Output folder: new, or a run to go on with
    checkpoint = prepare_output(args, passport, recipe="pretrain.py", data=args.dataset)
    if (report := finished_report(args)) is not None:
        logger.info(f"already done: {args.output_dir} holds this very run; --overwrite true runs it again.\n{report.rstrip()}")
        return {}

    # 4. Trainer
    trainer = build_trainer(args, model=model, tokenizer=tokenizer, rows=rows, passport=passport)
    check_isolation(model, rows["train"])

    # 5. Train
    train_or_resume(trainer, checkpoint)

    # 6. Test once, save, report, write the card
    metrics = finish(trainer, rows=rows, passport=passport)
    close_run(args)
    return metrics


if __name__ == "__main__":
    launch(main, PretrainArguments)
