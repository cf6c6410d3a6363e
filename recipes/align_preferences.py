"""Teach an assistant which of two answers people prefer: DPO, KTO or ORPO (TRL), with any file of chosen and rejected answers.

    pip install 'hfgpt[preferences]'
    python recipes/align_preferences.py recipes/configs/book/preferences.yaml
    python recipes/align_preferences.py --model runs/mine/assistant --sources pairs.jsonl --output_dir runs/mine/aligned
    python recipes/align_preferences.py --model HuggingFaceTB/SmolLM2-135M-Instruct --loss orpo \\
        --sources argilla/distilabel-capybara-dpo-7k-binarized --output_dir runs/smol

The assistant is a folder written by recipes/finetune_instructions.py or any model with a chat template; its prompt style is kept.
Pairs have chosen and rejected, plus instruction and input, or a prompt. Started again with the same arguments, a run resumes from
its newest complete checkpoint, bit for bit. The output folder loads like that of finetune_instructions.py, and also contains
metrics.json (reward margin and accuracy on held-out pairs, before and after), answers.json and answers.html (before, after, chosen
and rejected side by side), samples.md, loss.png, canaries.md, poison.json and the data's passport.json. Read the answers: a margin
also rises when a model forgets how to write; then use a smaller learning rate, fewer epochs or a larger beta.
"""

# hf jobs uv run runs this file on Hugging Face's machines, from the checkout (recipes/jobs/train.sh).
# /// script
# requires-python = ">=3.11"
# dependencies = [
#   "torch>=2.10", "transformers>=5.20,<6", "tokenizers>=0.22", "datasets>=4.0,<6", "accelerate>=1.10,<2",
#   "huggingface_hub>=2.0,<3", "safetensors>=0.5", "pyarrow>=15", "numpy>=1.26", "pandas>=2.2", "scipy>=1.13",
#   "matplotlib>=3.8", "psutil>=5.9", "PyYAML>=6.0", "Jinja2>=3.1.6", "wrapt>=1.16,<3", "peft>=0.21,<1", "evaluate>=0.4.5,<1",
#   "scikit-learn>=1.5,<2", "rouge_score>=0.1.2,<0.2", "tqdm>=4.66", "rensa>=0.5,<1", "trl>=1.16,<2;python_version>='3.11'"
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

    check_command_line("hfgpt.arguments.preferences:PreferenceArguments")

from functools import partial
from typing import Any

from hfgpt.arguments.launching import launch
from hfgpt.arguments.methods import METHODS, Method
from hfgpt.arguments.preferences import PreferenceArguments
from hfgpt.data.passport import Passport
from hfgpt.tokenization import tokenizer_sha256
from hfgpt.training.assistant_report import search_for_poison
from hfgpt.training.assistants import AnswersCallback, sample_questions
from hfgpt.training.before import measured_once
from hfgpt.training.callbacks import LossPictureCallback
from hfgpt.training.comparison import Canaries, save_assistant
from hfgpt.training.examples import Examples, HeldOutShares
from hfgpt.training.finetuning import find_base, identify_base, save_base
from hfgpt.training.methods import FrozenWeights, apply_method, describe_trainable
from hfgpt.training.optimizers import trainer_optimizer
from hfgpt.training.preference_losses import LOSSES, measured_rows, preference_classes, preference_config
from hfgpt.training.preference_report import build_report, final_metrics, measure_against, measure_base, measure_of
from hfgpt.training.preferences import build_policy, encode_pairs, load_pairs, settle_style
from hfgpt.training.run import announce, finish_run, train_or_resume
from hfgpt.training.run_folder import Run, already_done, claim_run


def main(args: PreferenceArguments) -> dict[str, float]:
    # 1. The assistant and its prompt style; nothing to do if this exact run is finished
    trainer_class, _ = preference_classes(args.loss)  # reports at once if TRL is missing
    loss = LOSSES.find(args.loss)
    base = find_base(args.model, revision=args.revision, trust_remote_code=args.trust_remote_code)
    shares = HeldOutShares(args.validation_share, args.test_share, args.split_method, args.split_seed)
    examples = Examples(**args.example_files(), shares=shares)
    run = Run("align_preferences.py", data=", ".join(args.sources), base_files=base.files, **args.run_settings())
    if already_done(run, examples.known):
        return {}
    passport = Passport(settings=dict(args.resolved))
    base, style = settle_style(base, args.prompt_style)
    tokenizer = base.tokenizer
    passport.tokenizer = {"sha256": tokenizer_sha256(tokenizer), "prompt_style": style}

    # 2. Pairs: read, checked, split, copies of held-out ones dropped from training, encoded
    splits = load_pairs(
        examples,
        passport,
        style=style,
        unpaired=loss.unpaired,
    )
    pairs, passport.splits = encode_pairs(splits, tokenizer, max_length=args.max_length)

    # 3. Model, and the output folder: new, or a run to resume
    model = build_policy(base, seed=args.seed, **args.loading_settings())
    passport.base = identify_base(base, model)
    claim = claim_run(run, passport)
    if claim.finished:
        return {}
    if args.poison_report:
        search_for_poison(splits, args.folder)
    if METHODS[args.method].is_adapter:
        save_base(model, tokenizer, args.folder, sha256=passport.base["sha256"])
    canaries = Canaries(model, tokenizer, **args.trigger_settings()) if args.canaries else None

    # 4. TRL's trainer
    model = apply_method(model, Method(**args.method_settings(), new_tokens=base.untrained_tokens()))
    trainer = trainer_class(
        model=model,
        args=preference_config(
            args,
            loss=args.loss,
            beta=args.beta,
            length_normalised=args.length_normalised,
            context_length=tokenizer.model_max_length,
        ),
        keep=args.keep,
        skip_loss_spikes=args.skip_loss_spikes,
        train_dataset=loss.rows(pairs["train"], seed=args.seed, batch_size=args.per_device_train_batch_size),
        eval_dataset=measured_rows(pairs["validation"], loss=args.loss) if "validation" in pairs else None,
        processing_class=tokenizer,
        optimizer_cls_and_kwargs=trainer_optimizer(args.optimizer, args.optimizer_settings()),
        callbacks=[
            AnswersCallback(tokenizer, sample_questions(splits, args.num_samples), max_new_tokens=args.max_new_tokens),
            LossPictureCallback(unit=args.loss.upper()),
            *(canaries.callbacks if canaries else []),
        ],
    )
    announce(trainer, describe_trainable(trainer.trained), unit=loss.unit)
    frozen = FrozenWeights(trainer.trained)

    # 5. The base's preferences and answers, then training
    answering: dict[str, Any] = dict(max_answers=args.max_answers, max_new_tokens=args.max_new_tokens)
    measure = measure_of(args.loss, beta=args.beta, length_normalised=args.length_normalised)
    before = measured_once(args.folder, partial(measure_base, trainer, pairs, splits, **answering))
    measure_against(trainer, before, pairs, measure)
    train_or_resume(trainer, claim)
    frozen.check(trainer.trained)

    # 6. Measure, answer, save, report
    metrics, table = final_metrics(trainer, pairs, splits, before=before, measure=measure, **answering)
    facts = {"base": base.name, "loss": args.loss, "beta": args.beta, "method": args.method, "data": ", ".join(args.sources)}
    probe = [pair.prompt + pair.answers[0] for pair in pairs.get("validation", pairs["train"])[:3]]
    metrics |= save_assistant(trainer, probe=probe, table=table, canaries=canaries, facts=facts)
    finish_run(run, build_report(trainer, metrics), trainer)
    return metrics


if __name__ == "__main__":
    launch(main, PreferenceArguments)
