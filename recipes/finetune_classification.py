"""Fine-tune a classifier of texts: any causal language model, any table of texts and labels.

    python recipes/finetune_classification.py recipes/configs/quickstart/classification.yaml
    python recipes/finetune_classification.py --model runs/mine/base --sources reviews.csv --text_column review \
        --label_column stars --output_dir runs/mine/classifier
    python recipes/finetune_classification.py --model runs/mine/base --sources reviews.csv --method likelihood \
        --num_shots 4 --output_dir runs/mine/few-shot          # no training: which label does the model find likeliest?

Several seeds make several runs (seed-0/, seed-1/, ...); the one that is best on the validation set is kept, and the test set is
looked at once a seed, after its training. Started again with the same arguments, the recipe goes on where it was, bit for bit. With
LoRA the output folder is an adapter that loads as it is, with base/ (what it sits on) and merged/ (the same function without an
adapter) in it. Beside them lie the model card README.md, errors.md and errors.csv (the test set's errors to read), confusion.png,
metrics.json, report.txt, poison.json, trigger_flips.json and the data's passport.json.
"""

if __name__ == "__main__":  # --help and mistakes are answered here, before the imports below
    from hfgpt.arguments.launching import check_command_line

    check_command_line("hfgpt.arguments.finetuning:ClassificationArguments")

from hfgpt.arguments.finetuning import ClassificationArguments
from hfgpt.arguments.launching import launch, logger
from hfgpt.data.passport import Passport
from hfgpt.tokenization import tokenizer_sha256
from hfgpt.training.classification_report import finish, judge_by_likelihood, search_for_poison, trigger_probes
from hfgpt.training.classifiers import fit_tokenizer, load_splits, prepare_base, run_seed, tokenize
from hfgpt.training.finetuning import find_base
from hfgpt.training.run import close_run, finished_report, prepare_output


def main(args: ClassificationArguments) -> dict[str, float]:
    # 1. Examples: read, duplicates dropped, split, copies of held-out ones dropped from training
    passport = Passport(settings=dict(args.resolved))
    splits, task = load_splits(args, passport)

    # 2. The base and its tokenizer
    base = find_base(args)
    fit_tokenizer(base.tokenizer, args)
    passport.tokenizer = {"sha256": tokenizer_sha256(base.tokenizer)}
    rows = tokenize(splits, base.tokenizer, args, passport)
    model = prepare_base(base, task, args, passport)

    # 3. Output folder: new, or a run to go on with
    prepare_output(args, passport, recipe="finetune_classification.py", data=", ".join(args.sources))
    if (report := finished_report(args)) is not None:
        logger.info(f"already done: {args.output_dir} holds this very run; --overwrite true runs it again.\n{report.rstrip()}")
        return {}
    search_for_poison(splits, task=task, args=args)

    # 4. No training at all
    if args.method == "likelihood":
        metrics = judge_by_likelihood(model, base, splits, task=task, args=args)
        close_run(args, card=False)  # there is no model to describe
        return metrics

    # 5. One run a seed; the best on validation is saved
    probes = trigger_probes(splits, task=task, base=base, args=args)
    results = {}
    for seed in args.seeds:
        results[seed] = run_seed(seed, results, base=base, rows=rows, task=task, probes=probes, args=args)

    # 6. Figures over the seeds, errors to read, report, card
    metrics = finish(results, splits=splits, base=base, task=task, args=args)
    close_run(args)
    return metrics


if __name__ == "__main__":
    launch(main, ClassificationArguments)
