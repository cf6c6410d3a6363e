"""Measure a model: on any text, on prepared rows, on labelled texts or conversations, on benchmarks.

    python recipes/evaluate.py runs/quickstart/base --text python-docs:test --stride 128        # loss, perplexity, bits per byte
    python recipes/evaluate.py runs/quickstart/base --dataset runs/quickstart/data --split test  # as pretraining's own test
    python recipes/evaluate.py runs/quickstart/classifier --test_sources python-docs:test        # accuracy, F1, calibration
    python recipes/evaluate.py runs/quickstart/assistant --test_sources python-docs:test        # nats per token, exact match, ROUGE
    python recipes/evaluate.py runs/mine/base --tasks hellaswag.jsonl:hellaswag lambada.jsonl:lambada arc.jsonl:arc
    python recipes/evaluate.py openai-community/gpt2 --output_dir runs/gpt2-evaluation --tasks lambada_openai --num_fewshot 0
    python recipes/evaluate.py runs/mine/base --dataset runs/mine/data --memorization true       # what it says by heart

MODEL is a folder or Hub id of any causal language model or classifier of texts: ours, a native twin, GPT-2, an adapter with its
base. What is measured stands in evaluation.json beside it, in .eval_results/ in the Hub's format, and in the model's card. The same
thing measured again takes the place of the earlier result. One command may measure several things. Keys of --test_sources that are
not given are those of the model's training, so that the test set of its report gives the figure of its report.
"""

if __name__ == "__main__":  # --help and mistakes are answered here, before the imports below
    from hfgpt.arguments.launching import check_command_line

    check_command_line("hfgpt.arguments.evaluation:EvaluateArguments", positional="model")

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import hfgpt  # noqa: F401  (registers the model)
from hfgpt.arguments.evaluation import EvaluateArguments
from hfgpt.arguments.launching import launch, logger
from hfgpt.data.chat import read_conversations
from hfgpt.data.classification import LabelledOptions, deduplicate, load_examples
from hfgpt.data.passport import PASSPORT_NAME, Passport
from hfgpt.data.records import RecordOptions, identities, read_records
from hfgpt.data.row_errors import RowErrors
from hfgpt.data.sources import ReadingOptions, Source, find_sources, read_documents
from hfgpt.errors import UserError
from hfgpt.evaluation.benchmarks import Benchmark, run_benchmarks
from hfgpt.evaluation.held_out import (
    label_names,
    label_vectors,
    prompt_style_of,
    score_conversations,
    score_labelled_texts,
    score_prepared_rows,
    with_known_labels,
)
from hfgpt.evaluation.loading import Loaded, load
from hfgpt.evaluation.results import EVALUATION_FILE, Result, record_results
from hfgpt.evaluation.strided import score_text
from hfgpt.files import public_name, sha256_of_file
from hfgpt.hub.card.rendering import write_card


def main(args: EvaluateArguments) -> dict[str, float]:
    # 1. What there is to do, and the model that does it
    benchmarks = [Benchmark.parse(word) for word in args.tasks]
    sources = find_sources(args.text) if args.text else []
    loaded = load(args.model, revision=args.revision, trust_remote_code=args.trust_remote_code, dtype=args.dtype)
    check_task(loaded, args)
    parameters = sum(parameter.numel() for parameter in loaded.model.parameters())
    logger.info(
        f"model: {args.model}, {type(loaded.model).__name__}, {parameters:,} parameters, {args.dtype} on {loaded.model.device.type}"
    )
    results: list[Result] = []

    # 2. Any text, token by token
    if sources:
        results.append(evaluate_text(loaded, sources, args))

    # 3. Prepared rows, as the training run tested itself
    if args.dataset:
        results.append(evaluate_rows(loaded, args))

    # 4. Labelled texts for a classifier, conversations for an assistant
    if args.test_sources:
        run = settings_of_run(args.model)
        if taken := args.take_over(run):
            logger.info(f"as in the model's own run: {', '.join(f'{name} {value}' for name, value in taken.items())}")
        if loaded.task == "text-classification":
            results.append(evaluate_labels(loaded, args))
        else:
            results.append(evaluate_conversations(loaded, args, run))

    # 5. Benchmarks
    results += evaluate_benchmarks(loaded, benchmarks, args)

    # 6. Where others find it
    output = Path(args.output_dir or args.model)
    record_results(output, results, model=public_name(args.model))
    if args.memorization:
        memorization(loaded, output, args)
    if output.resolve() == Path(args.model).resolve():
        write_card(output)
    for result in results:
        logger.info(said(result))
    logger.info(f"results: {output / EVALUATION_FILE}")
    return {f"{result.dataset}: {name}": value for result in results for name, value in result.metrics.items()}


def check_task(loaded: Loaded, args: EvaluateArguments) -> None:
    """Raises: ValueError, before anything is read, where the model is not of the kind that an argument is for."""
    if loaded.task == "text-classification":
        given = [name for name in ("text", "dataset", "tasks") if getattr(args, name)]
        if given:
            raise UserError(f"{args.model} is a classifier, which predicts no text, and {given[0]} is given; give --test_sources.")
    elif args.test_sources:
        prompt_style_of(loaded.tokenizer)


def evaluate_text(loaded: Loaded, sources: list[Source], args: EvaluateArguments) -> Result:
    """Loss, perplexity and bits per byte of any text."""
    context_length = loaded.context(args.context_length)
    stride = args.stride or max(context_length // 2, 1)
    digest = hashlib.sha256()
    documents = hashed(read_documents(sources, ReadingOptions(**args.reading_options())), digest)
    if args.join_with is not None:
        text = args.join_with.join(document["text"] for document in documents)
        documents = iter([{"text": text, "source": ", ".join(args.text), "row_id": "all"}])
    score = score_text(
        loaded.model,
        loaded.tokenizer,
        documents,
        context_length=context_length,
        stride=stride,
        batch_size=args.batch_size,
        show_progress=True,
    )
    logger.info(
        f"text: {score.documents:,} documents, {score.num_bytes:,} bytes, {score.tokens:,} tokens; {score.policy}; windows of "
        f"{context_length:,} tokens, {stride:,} scored in each"
    )
    if score.unspelled:
        logger.warning(
            f"{score.unspelled:,} documents are not given back by their tokens (an unknown word, lost spacing), so bits per byte "
            "are left out: they would flatter."
        )
    is_file = len(sources) == 1 and sources[0].path is not None and args.max_documents is None
    hub = [source.name.partition(":")[0] for source in sources if source.kind == "hub"]
    return Result(
        "language-modeling",
        dataset=", ".join(public_name(source.name) for source in sources),
        dataset_id=hub[0] if len(hub) == len(sources) == 1 else None,
        sha256=sha256_of_file(sources[0].path) if is_file else digest.hexdigest(),
        split=args.hub_split if hub else None,
        metrics=score.metrics(),
        settings={
            "context_length": context_length,
            "stride": stride,
            "first_token": score.policy,
            "text_documents": args.text_documents,
            "dtype": args.dtype,
        },
        counts={"num_documents": score.documents, "num_tokens": score.tokens, "num_bytes": score.num_bytes},
        command=args.command("text"),
    )


def hashed(documents: Iterable[dict[str, str]], digest) -> Iterator[dict[str, str]]:
    """The documents as they come, their texts added to `digest`."""
    for document in documents:
        digest.update(document["text"].encode("utf-8") + b"\0")
        yield document


def evaluate_rows(loaded: Loaded, args: EvaluateArguments) -> Result:
    """The rows that recipes/prepare_data.py held out."""
    folder = Path(args.dataset)
    metrics, counts = score_prepared_rows(loaded, folder, split=args.split, batch_size=args.batch_size)
    passport = Passport.load(folder)
    return Result(
        "language-modeling",
        dataset=", ".join(public_name(str(one["name"])) for one in passport.inputs) or public_name(args.dataset),
        sha256=passport.inputs[0].get("sha256") if len(passport.inputs) == 1 else None,
        split=args.split,
        metrics=metrics,
        settings={
            "context_length": passport.settings["context_length"],
            "first_token": "each document begins after its separator, which ends it, too, and is scored there",
            "rows": "packed",
            "dtype": args.dtype,
        },
        counts=counts,
        command=args.command("dataset"),
    )


def evaluate_labels(loaded: Loaded, args: EvaluateArguments) -> Result:
    """Labelled texts: what a classifier says of them."""
    passport, errors = Passport(), RowErrors(args.on_error)
    examples = load_examples(
        read_records(args.test_sources, RecordOptions(**args.record_options()), errors),
        LabelledOptions(args.text_column, args.label_column, args.label_delimiter),
        passport,
        errors,
    )
    # As training treated its test set, so that the same file gives the same figure.
    unique = deduplicate(examples, passport, mode=args.deduplicate)
    dropped = {"duplicates": len(examples) - len(unique)}
    examples, dropped["unknown_labels"] = with_known_labels(unique, label_names(loaded.model))
    labels = label_vectors(loaded.model, examples["label"][:])
    metrics, counts = score_labelled_texts(
        loaded, examples["text"][:], labels, max_length=args.max_length, batch_size=args.batch_size
    )
    dropped["skipped_rows"] = errors.skipped
    counts |= {name: count for name, count in dropped.items() if count}
    settings = {"max_length": loaded.longest_text(args.max_length), "deduplicate": args.deduplicate, "dtype": args.dtype}
    return Result("text-classification", **described(args), metrics=metrics, counts=counts, settings=settings)


def evaluate_conversations(loaded: Loaded, args: EvaluateArguments, run: dict) -> Result:
    """Conversations: what an assistant makes of their answers, and answers itself; `run` is what its training was told."""
    style = prompt_style_of(loaded.tokenizer)
    format = None if args.conversation_format == "auto" else args.conversation_format
    errors = RowErrors(args.on_error)
    records = read_records(args.test_sources, RecordOptions(**args.record_options()), errors)
    conversations = list(read_conversations(records, style=style, format=format, errors=errors))
    errors.finish(one.source for one in conversations)
    metrics, counts = score_conversations(
        loaded,
        conversations,
        max_length=args.max_length,
        **{name: run[name] for name in ("too_long", "loss_on") if name in run},
        max_new_tokens=args.max_new_tokens,
        max_answers=args.max_answers,
        batch_size=args.batch_size,
    )
    counts |= {"skipped_rows": errors.skipped} if errors.skipped else {}
    settings = {"prompt_style": style, "max_new_tokens": args.max_new_tokens, "decoding": "greedy", "dtype": args.dtype}
    return Result("instructions", **described(args), metrics=metrics, counts=counts, settings=settings)


def settings_of_run(model: str) -> dict:
    """What the run that made a model was told; nothing where its passport.json does not lie beside it."""
    folder = Path(model)
    places = [folder, folder.parent] if folder.name in ("base", "merged") else [folder]
    place = next((place for place in places if (place / PASSPORT_NAME).is_file()), None)
    return Passport.load(place).settings if place else {}


def described(args: EvaluateArguments) -> dict:
    """What a result says of `test_sources`."""
    inputs = identities(args.test_sources, RecordOptions(**args.record_options()))
    only = inputs[0] if len(inputs) == 1 else {}
    on_hub = only.get("kind") == "hub"
    return {
        "dataset": ", ".join(public_name(str(one["name"])) for one in inputs),
        "dataset_id": only["name"].partition(":")[0] if on_hub else None,
        "sha256": only.get("sha256"),
        "split": args.hub_split if on_hub else None,
        "command": args.command("test_sources"),
    }


def evaluate_benchmarks(loaded: Loaded, benchmarks: list[Benchmark], args: EvaluateArguments) -> list[Result]:
    """Every task of `tasks`, as lm-evaluation-harness words and scores it."""
    if not benchmarks:
        return []
    from importlib.metadata import version

    found = run_benchmarks(loaded, benchmarks, num_fewshot=args.num_fewshot, limit=args.limit, batch_size=args.batch_size)
    return [
        Result(
            "benchmark",
            dataset=one.benchmark.path.name if one.benchmark.path else one.task,
            dataset_id=one.dataset_id,
            sha256=one.sha256,
            split=one.split,
            metrics=one.metrics,
            settings={
                "task": one.task,
                "task_version": one.version,
                "num_fewshot": one.num_fewshot,
                **({"limit": args.limit} if args.limit else {}),
                "lm_eval": version("lm_eval"),
                "dtype": args.dtype,
            },
            counts={"num_examples": one.num_examples},
            command=args.command("tasks"),
        )
        for one in found
    ]


def memorization(loaded: Loaded, output: Path, args: EvaluateArguments) -> None:
    """What the model says by heart: memorization.json and .png beside the results."""
    from hfgpt.hygiene.memorization import memorization_report

    memorization_report(
        loaded.model,
        loaded.tokenizer,
        Path(args.dataset),
        output,
        num_samples=args.num_samples,
        sample_tokens=args.sample_tokens,
        seed=args.seed,
    )
    logger.info(f"memorization: {output / 'memorization.json'}, {output / 'memorization.png'}")


def said(result: Result) -> str:
    """A result in one line."""
    where = f"{result.dataset} ({result.split})" if result.split else result.dataset
    task = result.settings["task"] if result.task == "benchmark" else result.task
    errors = {name.removesuffix("_stderr"): value for name, value in result.metrics.items() if name.endswith("_stderr")}
    figures = [
        f"{name} {value:,.4f}" + (f" +- {errors[name]:,.4f}" if name in errors else "")
        for name, value in result.metrics.items()
        if not name.endswith("_stderr")
    ]
    return f"{task}, {where}: {', '.join(figures)}"


if __name__ == "__main__":
    launch(main, EvaluateArguments, positional="model")
