"""Fine-tune a text classifier: any causal language model, any table of texts and labels.

    python recipes/finetune_classification.py recipes/configs/quickstart/classification.yaml
    python recipes/finetune_classification.py --model runs/mine/base --sources reviews.csv --text_column review \\
        --label_column stars --output_dir runs/mine/classifier
    python recipes/finetune_classification.py --model runs/mine/base --sources reviews.csv --method likelihood \\
        --num_shots 4 --output_dir runs/mine/few-shot          # no training: which label does the model find most likely?

Several seeds give several runs (seed-0/, seed-1/, ...); the best on the validation set is kept, and the test set is used once per
seed, after its training. Started again with the same arguments, the recipe resumes where it stopped, bit for bit. With LoRA, the
output folder is a loadable adapter that contains base/ (its base model) and merged/ (the same function without an adapter). Beside
them are the model card README.md, errors.md and errors.csv (the test set's errors to read), confusion.png, metrics.json,
report.txt, poison.json, trigger_flips.json and the data's passport.json.
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

    check_command_line("hfgpt.arguments.finetuning:ClassificationArguments")

from dataclasses import replace
from functools import partial

import torch
from transformers import DataCollatorWithPadding

from hfgpt.arguments.finetuning import ClassificationArguments
from hfgpt.arguments.launching import launch
from hfgpt.arguments.methods import METHODS, Method
from hfgpt.data.classification import LabelledOptions
from hfgpt.data.passport import Passport
from hfgpt.evaluation.likelihood import LikelihoodOptions
from hfgpt.tokenization import tokenizer_sha256
from hfgpt.training import classification_report, classifiers
from hfgpt.training.callbacks import LossPictureCallback
from hfgpt.training.examples import Examples, HeldOutShares
from hfgpt.training.finetuning import find_base, identify_base, save_base
from hfgpt.training.methods import apply_method
from hfgpt.training.optimizers import trainer_optimizer
from hfgpt.training.run import announce, finish_run
from hfgpt.training.run_folder import Run, already_done, claim_run
from hfgpt.training.trainer import HfGptTrainer, changed
from hfgpt.training.trigger_probe import TriggerProbe


def main(args: ClassificationArguments) -> dict[str, float]:
    # 1. The base and its tokenizer; nothing to do if this exact run is finished
    base = find_base(args.model, revision=args.revision, trust_remote_code=args.trust_remote_code)
    shares = HeldOutShares(args.validation_share, args.test_share, args.split_method, args.split_seed)
    examples = Examples(**args.example_files(), shares=shares)
    run = Run("finetune_classification.py", data=", ".join(args.sources), base_files=base.files, **args.run_settings())
    if already_done(run, examples.known):
        return {}

    # 2. Examples: read, duplicates dropped, split, copies of held-out ones dropped from training, encoded
    passport = Passport(settings=dict(args.resolved))
    splits, task = classifiers.load_splits(
        examples,
        passport,
        options=LabelledOptions(**args.labelled_options()),
        deduplicate=args.deduplicate,
        balance=args.balance,
        balance_before_split=args.balance_before_split,
    )
    tokenizer = base.tokenizer
    classifiers.fit_tokenizer(tokenizer, max_length=args.max_length)
    passport.tokenizer = {"sha256": tokenizer_sha256(tokenizer)}
    rows = classifiers.tokenize(splits, tokenizer, passport)

    # 3. The base's weights and the loss; then the output folder: new, or a run to resume
    loading = args.loading_settings()
    labeller = classifiers.build_labeller(base, task, **loading) if args.method == "likelihood" else None
    if labeller is not None:
        passport.base = identify_base(base, labeller)
    else:
        method = Method(**args.method_settings())
        classifier = classifiers.build_classifier(base, task, seed=args.seeds[0], **loading)
        passport.base = classifiers.inspect_base(base, classifier, method)
        del classifier  # every seed loads its own
    loss = classifiers.build_loss(rows["train"], task, balance=args.balance, label_smoothing=args.label_smoothing_factor)
    claim = claim_run(run, passport)
    if claim.finished:
        return {}
    if args.poison_report:
        classification_report.search_for_poison(splits, task, args.folder)

    # 4. No training: which label the model finds most likely
    results: dict[int, dict] = {}
    if labeller is not None:
        options = LikelihoodOptions(**args.likelihood_options())
        judge = partial(classification_report.judge_by_likelihood, labeller, tokenizer, splits, task=task)
        results = {seed: judge(options=replace(options, seed=seed)) for seed in args.seeds}

    # 5. Or one training per seed; the best on validation is saved
    probes = []
    if args.canaries and labeller is None and not task.multi_label:
        probes = [TriggerProbe(splits["validation"]["text"], names=task.names, tokenizer=tokenizer, **args.trigger_settings())]

    def train(seed: int) -> dict:
        model = classifiers.build_classifier(base, task, seed=seed, **loading)
        if METHODS[args.method].is_adapter and seed == args.seeds[0]:
            save_base(model, tokenizer, args.folder, sha256=passport.base["sha256"])
        trainer = HfGptTrainer(
            model=apply_method(model, method),
            args=changed(args, output_dir=str(classifiers.seed_folder(args.folder, seed)), seed=seed),
            keep=args.keep,
            best_by=f"eval_{args.best_by}",
            greater_is_better=args.best_by != "log_loss",
            early_stopping_patience=args.early_stopping_patience,
            skip_loss_spikes=args.skip_loss_spikes,
            train_dataset=rows["train"],
            eval_dataset=rows["validation"],
            processing_class=tokenizer,
            data_collator=DataCollatorWithPadding(tokenizer, pad_to_multiple_of=8 if torch.cuda.is_available() else None),
            compute_metrics=task.compute_metrics,
            compute_loss_func=loss,
            optimizer_cls_and_kwargs=trainer_optimizer(args.optimizer, args.optimizer_settings()),
            callbacks=[LossPictureCallback(unit="nats per text"), *probes],
        )
        announce(trainer, f"seed {seed}: {args.describe_hardware()}", unit="texts", warn=not results)
        return classifiers.run_seed(trainer, results, claim=claim, rows=rows, task=task, probes=probes, best_by=args.best_by)

    for seed in args.seeds if labeller is None else []:
        results[seed] = classifiers.finished_seed(classifiers.seed_folder(args.folder, seed)) or train(seed)

    # 6. Figures over the seeds, errors to read, report
    metrics = classification_report.final_metrics(results, splits, task=task, best_by=args.best_by, tfidf=args.tfidf_baseline)
    classification_report.write_errors_to_read(results[metrics["kept_seed"]], splits, task=task, folder=args.folder)
    report = classification_report.build_report(metrics, results, args.folder, texts=splits["test"]["text"][:20])
    finish_run(run, report, card=labeller is None)
    return {name: value["mean"] for name, value in metrics["test"].items() if "mean" in value}


if __name__ == "__main__":
    launch(main, ClassificationArguments)
