"""Measure a model: on any text, on prepared rows, on labelled texts or conversations, on benchmarks.

    python recipes/evaluate.py runs/quickstart/base                 # its own test split: the figures of its report
    python recipes/evaluate.py runs/quickstart/base --text python-docs:test --stride 128        # loss, perplexity, bits per byte
    python recipes/evaluate.py runs/quickstart/base --dataset runs/quickstart/data --split test  # same as pretraining's own test
    python recipes/evaluate.py runs/quickstart/classifier --test_sources python-docs:test        # accuracy, F1, calibration
    python recipes/evaluate.py runs/quickstart/assistant --test_sources python-docs-questions:test   # right answers by kind
    python recipes/evaluate.py runs/mine/base --tasks hellaswag.jsonl:hellaswag lambada.jsonl:lambada arc.jsonl:arc
    python recipes/evaluate.py openai-community/gpt2 --output_dir runs/gpt2-evaluation --tasks lambada_openai --num_fewshot 0
    python recipes/evaluate.py runs/mine/base --dataset runs/mine/data --memorization true       # what it has memorized

MODEL is a folder or Hub id of any causal language model or text classifier: an hfgpt model, a native twin, GPT-2, or an adapter
with its base. The results are written to evaluation.json beside it, to .eval_results/ in the Hub's format, and to the model's card.
Measuring the same thing again replaces the earlier result. One command can measure several things. Without any data, the model is
measured on the test split that its own run held out. Keys for --test_sources default to those of the model's training.
"""

if __name__ == "__main__":  # --help and mistakes are answered here, before the imports below
    from hfgpt.arguments.launching import check_command_line

    check_command_line("hfgpt.arguments.evaluation:EvaluateArguments")

from dataclasses import replace
from pathlib import Path
from typing import Any

import hfgpt  # noqa: F401  (registers the model)
from hfgpt.arguments.evaluation import EvaluateArguments
from hfgpt.arguments.launching import launch, logger
from hfgpt.arguments.terminal import RESULT
from hfgpt.data.classification import LabelledOptions
from hfgpt.data.markers import refuse_absent_separator
from hfgpt.data.records import RecordOptions
from hfgpt.data.sources import ReadingOptions, find_sources
from hfgpt.errors import UserError
from hfgpt.evaluation.benchmarks import Benchmark, run_benchmarks
from hfgpt.evaluation.held_out import evaluate_conversations, evaluate_labels, evaluate_rows, prompt_style_of
from hfgpt.evaluation.loading import Loaded, load
from hfgpt.evaluation.results import EVALUATION_FILE, Result, figures_of, record_results, refuse_others_results
from hfgpt.evaluation.seen_texts import passport_of_run
from hfgpt.evaluation.strided import evaluate_text
from hfgpt.files import public_name
from hfgpt.hub.card.rendering import write_card
from hfgpt.hygiene.memorization import memorization_report


def main(args: EvaluateArguments) -> dict[str, float]:
    # 1. What to measure, and the model
    benchmarks = [Benchmark.parse(word) for word in args.tasks]
    sources = find_sources(args.text) if args.text else []
    refuse_absent_separator(sources, args.text_documents)
    output, name = Path(args.output_dir or args.model), public_name(args.model)
    if not (is_own := output.resolve() == Path(args.model).resolve()):
        refuse_others_results(output, model=name)
    loaded = load(args.model, revision=args.revision, trust_remote_code=args.trust_remote_code, dtype=args.dtype)
    check_task(loaded, args)
    model = loaded.model
    logger.info(
        f"model: {args.model}, {type(model).__name__}, {model.num_parameters():,} parameters, {args.dtype} on {model.device.type}"
    )
    found: dict[str, list[Result]] = {}  # by the key of the evaluation data

    # 2. Any text, token by token
    if sources:
        result = evaluate_text(
            loaded,
            sources,
            ReadingOptions(**args.reading_options()),
            context_length=args.context_length,
            stride=args.stride,
            join_with=args.join_with,
            batch_size=args.batch_size,
        )
        found["text"] = [result]

    # 3. Prepared rows, as in the training run's own test
    if args.dataset:
        found["dataset"] = [evaluate_rows(loaded, Path(args.dataset), split=args.split, batch_size=args.batch_size)]

    # 4. Labelled texts for a classifier, conversations for an assistant
    if args.test_sources:
        run = passport_of_run(args.model).settings
        if taken := args.take_over(run):
            logger.info(f"as in the model's own run: {', '.join(f'{name} {value}' for name, value in taken.items())}")
        reading = RecordOptions(**args.record_options())
        settings: dict[str, Any] = dict(on_error=args.on_error, max_length=args.max_length, batch_size=args.batch_size)
        if loaded.task == "text-classification":
            columns = LabelledOptions(**args.labelled_options())
            result = evaluate_labels(loaded, args.test_sources, reading, columns, deduplicated=args.deduplicate, **settings)
        else:
            settings |= {name: run[name] for name in ("too_long", "loss_on") if name in run}
            result = evaluate_conversations(
                loaded,
                args.test_sources,
                reading,
                format=None if args.conversation_format == "auto" else args.conversation_format,
                max_new_tokens=args.max_new_tokens,
                max_answers=args.max_answers,
                **settings,
            )
        found["test_sources"] = [result]

    # 5. Benchmarks, as phrased and scored by lm-evaluation-harness
    if benchmarks:
        found["tasks"] = run_benchmarks(
            loaded, benchmarks, num_fewshot=args.num_fewshot, limit=args.limit, batch_size=args.batch_size
        )

    # 6. Without any of these, the test split that the model's own run held out
    if args.measures_own_test:
        from hfgpt.training.own_test import measure_own_test  # imports Trainer, which takes seconds

        found[""] = [measure_own_test(loaded, batch_size=args.batch_size)]

    # 7. Write the results where others can find them
    results = [
        replace(result, settings=result.settings | {"dtype": args.dtype}, command=args.command(key))
        for key, of_key in found.items()
        for result in of_key
    ]
    record_results(output, results, model=name)
    if args.memorization:
        options = dict(num_samples=args.num_samples, sample_tokens=args.sample_tokens, seed=args.seed)
        memorization_report(loaded.model, loaded.tokenizer, Path(args.dataset), output, **options)
    if is_own:
        write_card(output)
    for result in results:
        logger.log(RESULT, result.line())
    if seen := [result.named for result in results if result.seen_in_training]:
        logger.warning(
            f"warning: the model was trained on {', '.join(dict.fromkeys(seen))}, or on part of it, so these figures do not say "
            f"how well it does on new texts. The card marks them, and the model-index and .eval_results/ leave them out; evaluate "
            f"on texts that it has not seen."
        )
    logger.log(RESULT, f"results: {output / EVALUATION_FILE}")
    return figures_of(results)


def check_task(loaded: Loaded, args: EvaluateArguments) -> None:
    """Raises: UserError, before anything is read, if the model is not of the kind that an argument needs."""
    if loaded.task == "text-classification":
        given = [name for name in ("text", "dataset", "tasks") if getattr(args, name)]
        if given:
            raise UserError(
                f"{args.model} is a classifier, which does not predict text, but {given[0]} is given; give --test_sources."
            )
    elif args.test_sources:
        prompt_style_of(loaded.tokenizer)


if __name__ == "__main__":
    launch(main, EvaluateArguments)
