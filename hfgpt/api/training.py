"""From texts to a trained model: the recipes as functions, in the order in which they are used.

Each one runs the corresponding recipe (recipes/ documents the files it writes), takes the recipe's keys as keyword arguments, the
most important ones by name and all others as `options`, and returns a result of hfgpt/api/results.py. All raise `UserError`
(hfgpt.errors), which says what was given, what is allowed, why, and what to do, in Python's words: `overwrite=True`. Calling a
function again with the same arguments and the same `output_dir` continues where it stopped, or returns the earlier result.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from hfgpt.api.calls import Place, run_recipe, worded_for_python
from hfgpt.api.results import DataResult, TokenizerResult, TrainingResult
from hfgpt.data.verification import Finding, verify_folder


def train_tokenizer(
    sources: Place | Sequence[Place],
    *,
    output_dir: Place,
    algorithm: str = "bpe",
    vocab_size: int | Literal["auto"] | None = None,
    max_documents: int | None = None,
    overwrite: bool = False,
    **options: Any,
) -> TokenizerResult:
    """Train a tokenizer on the training documents of `sources`; those held out for validation and test are not read.

    Args:
        sources: text, JSON(L) or Parquet files, patterns or folders; Hub datasets ("user/name[:configuration]"); "python-docs".
        output_dir: folder for the tokenizer.
        algorithm: "bpe", "unigram" or "wordpiece", which work on bytes and are lossless, or "wordlevel", the book's.
        vocab_size: number of tokens, including special ones; None and "auto" choose a number that suits the size of the text.
        max_documents: stop reading after this many.
        overwrite: replace what output_dir holds.
        options: further keys of recipes/train_tokenizer.py: pattern, digits, compare_with, text_field, split_by, test_share, ...
    Raises: UserError for sources that are missing, unreadable or empty, and for a tokenizer that does not reload correctly.
    Cost: linear in the bytes; the counts of distinct words stay in memory.
    """
    given = dict(sources=sources, output_dir=output_dir, algorithm=algorithm, vocab_size=vocab_size)
    given |= dict(max_documents=max_documents, overwrite=overwrite)
    arguments, _ = run_recipe("train_tokenizer", given | options, where="train_tokenizer()")
    return TokenizerResult.read(Path(arguments.output_dir))


def from_text(
    sources: Place | Sequence[Place],
    *,
    output_dir: Place,
    minutes: float = 10.0,
    text_documents: str | None = None,
    overwrite: bool = False,
    **options: Any,
) -> TrainingResult:
    """Train a GPT on a text: tokenizer, rows, model and report, within the given minutes.

    Args:
        sources: text, JSON(L) or Parquet files, patterns or folders; Hub datasets ("user/name[:configuration]").
        output_dir: folder of the steps, each with its YAML and its result; the model is in `base`.
        minutes: the maximum duration of the call; size, steps and rates are chosen to fit, and for a large text also the share that
            is read.
        text_documents: what counts as a document in a text file: "file", "paragraph", "line", or the line that separates documents.
        overwrite: replace what output_dir holds.
        options: further keys of recipes/from_text.py: text_field, on_error, card.
    Returns: the result of `pretrain`, whose folder is `output_dir`/base.
    Raises: see `pretrain`; also UserError if the minutes are too few for this text.
    """
    given = dict(sources=sources, output_dir=output_dir, minutes=minutes, text_documents=text_documents, overwrite=overwrite)
    arguments, _ = run_recipe("from_text", given | options, where="from_text()")
    return TrainingResult.read(Path(arguments.output_dir) / "base")


def prepare_data(
    tokenizer: Place,
    *,
    output_dir: Place,
    sources: Place | Sequence[Place] = (),
    context_length: int | None = None,
    window: int | None = None,
    stride: int | None = None,
    deduplicate: Literal["none", "exact", "near"] | None = None,
    overwrite: bool = False,
    **options: Any,
) -> DataResult:
    """Turn documents into training rows of one length, with a passport that accounts for every token.

    Args:
        tokenizer: folder or Hub id of the tokenizer.
        output_dir: folder for the rows.
        sources: as for `train_tokenizer` (default: those of the tokenizer, read and split in the same way).
        context_length: tokens per row; None means 1,024, or fewer if the text would fill too few rows.
        window, stride: instead of packing, cut the training documents into sliding windows of `window` tokens that start every
            `stride` tokens.
        deduplicate: which copies are dropped, "near" for equal and nearly equal documents; None uses the tokenizer's setting, or
            else "near".
        overwrite: replace what output_dir holds.
        options: further keys of recipes/prepare_data.py: group_field, leaks, decontaminate_against, repeated_passage_bytes, ...
    Raises: UserError for missing sources, and for a text that does not fill a row.
    Cost: linear in the bytes, on all cores; memory grows by about 60 bytes per document.
    """
    given = dict(tokenizer=tokenizer, output_dir=output_dir, sources=sources, context_length=context_length, window=window)
    given |= dict(stride=stride, deduplicate=deduplicate, overwrite=overwrite)
    arguments, _ = run_recipe("prepare_data", given | options, where="prepare_data()")
    return DataResult.read(Path(arguments.output_dir))


def verify_data(folder: Place) -> list[Finding]:
    """Compare prepared data with its passport: rows, counts, tokenizer, and those sources that are still at their recorded paths.

    Args: `folder` was written by `prepare_data`, or is a downloaded copy.
    Returns: the comparisons, each with `what`, `outcome` ("matches", "differs", or "missing" for a source that is not here) and
    `detail`.
    Raises: UserError for a folder without a passport of prepared data.
    Cost: reads rows and sources once; memory stays constant.
    """
    with worded_for_python():
        return verify_folder(Path(folder))


def pretrain(
    dataset: Place,
    *,
    output_dir: Place,
    model: Place = "",
    old_dataset: Place = "",
    family: Literal["modern", "gpt2"] = "modern",
    depth: int = 12,
    size: str = "124M",
    time_budget: float | None = None,
    max_steps: int = -1,
    num_train_epochs: float = 1.0,
    per_device_train_batch_size: int = 16,
    learning_rate: float = 3e-3,
    seed: int = 42,
    overwrite: bool = False,
    **options: Any,
) -> TrainingResult:
    """Pretrain a GPT, from scratch or from `model`, keep the best state on the validation rows, and test it once.

    Args:
        dataset: folder of `prepare_data`.
        output_dir: folder of the run and of its model.
        model: folder or Hub id of a causal language model to continue from; the rows must be prepared with its tokenizer, and its
            shape is fixed. By default, a new model is created.
        old_dataset: rows of text that `model` was trained on before; their held-out loss before and after is reported.
        family: "modern" (its shape follows from `depth`, its number of layers) or "gpt2" (a published `size`).
        time_budget: seconds this call may take; depth, steps, batch and rates that have their default values are then chosen for
            this machine and text (docs/budgets.md). `token_budget` and `flop_budget` are further options.
        max_steps: optimizer steps; -1 uses `num_train_epochs` passes over the rows instead.
        per_device_train_batch_size: rows per device per step.
        learning_rate: peak rate of AdamW; `muon_learning_rate` is Muon's, for the matrices, and `embedding_learning_rate` that of
            an untied embedding. With `model`, they rise to the fraction `rewarm_to` of it.
        overwrite: discard the contents of output_dir and start again.
        options: further keys of recipes/pretrain.py, including those of transformers' `TrainingArguments`.
    Returns: metrics with `parameters`, `validation_loss` and `test_loss` (nats per token), `..._perplexity`, `..._bits_per_byte`,
        `tokens_per_second`, `peak_memory_bytes`, ...
    Raises: UserError for impossible settings; RunStopped, after writing a checkpoint, if Ctrl-C or SIGTERM stopped the training.
    """
    given = dict(dataset=dataset, output_dir=output_dir, family=family, depth=depth, size=size, max_steps=max_steps)
    given |= dict(time_budget=time_budget, model=model, old_dataset=old_dataset)
    given |= dict(num_train_epochs=num_train_epochs, per_device_train_batch_size=per_device_train_batch_size)
    given |= dict(learning_rate=learning_rate, seed=seed, overwrite=overwrite)
    return _train("pretrain", given | options, where="pretrain()")


def finetune_classifier(
    model: Place,
    sources: Place | Sequence[Place],
    *,
    output_dir: Place,
    text_column: str = "text",
    label_column: str = "label",
    label_delimiter: str | None = None,
    method: str = "lora",
    num_train_epochs: float = 3.0,
    max_steps: int = -1,
    learning_rate: float = 1e-3,
    seeds: Sequence[int] = (0,),
    overwrite: bool = False,
    **options: Any,
) -> TrainingResult:
    """Fine-tune a language model into a text classifier; one run per seed, the best on validation is kept.

    Args:
        model: folder or Hub id of any causal language model.
        sources: CSV, TSV, JSON(L) or Parquet files, Hub datasets, "python-docs".
        output_dir: folder of the run; with LoRA, an adapter that contains its base and its merged model.
        text_column, label_column: columns of the texts and of their labels (words or numbers).
        label_delimiter: what separates several labels of one text; None means one label per text.
        method: what is trained, one of `METHODS`: "lora", "last_block", "full", "head"; "likelihood" trains nothing and asks the
            language model which label is most likely.
        max_steps: optimizer steps; -1 uses `num_train_epochs` passes over the examples instead.
        overwrite: discard the contents of output_dir and start again.
        options: further keys of recipes/finetune_classification.py: validation_sources, test_sources, balance, lora_rank, ...
    Returns: metrics with `labels` and, for `validation` and `test`, the `mean` and `standard_deviation` over the seeds of
        `accuracy`, `macro_f1`, `log_loss`, ...; those of each seed are under `seeds`.
    Raises: UserError for impossible settings; RunStopped, after writing a checkpoint, if Ctrl-C or SIGTERM stopped the training.
    """
    given = dict(model=model, sources=sources, output_dir=output_dir, text_column=text_column, label_column=label_column)
    given |= dict(label_delimiter=label_delimiter, method=method, num_train_epochs=num_train_epochs, max_steps=max_steps)
    given |= dict(learning_rate=learning_rate, seeds=seeds, overwrite=overwrite)
    return _train("finetune_classification", given | options, where="finetune_classifier()")


def finetune_assistant(
    model: Place,
    sources: Place | Sequence[Place],
    *,
    output_dir: Place,
    prompt_style: str = "chat",
    method: str = "lora",
    num_train_epochs: float = 3.0,
    max_steps: int = -1,
    learning_rate: float = 1e-3,
    seed: int = 42,
    overwrite: bool = False,
    **options: Any,
) -> TrainingResult:
    """Fine-tune a language model into an assistant; the loss only covers the answers.

    Args:
        model: folder or Hub id of any causal language model.
        sources: instructions (Alpaca), conversations (ShareGPT, OpenAI's messages) or prompts and completions, in the same kinds of
            files as for `finetune_classifier`.
        output_dir: folder of the run; with LoRA, an adapter that contains its base and its merged model.
        prompt_style: the chat template for the tokenizer, one of `CHAT_STYLES`; "base" keeps its own.
        method, max_steps, overwrite: as for `finetune_classifier`.
        options: further keys of recipes/finetune_instructions.py: max_length, source_weights, lora_rank, max_answers, ...
    Returns: metrics with losses before and after, in nats per answer token, and scores of the answers to the test set against the
        references.
    Raises: see `finetune_classifier`.
    """
    given = dict(model=model, sources=sources, output_dir=output_dir, prompt_style=prompt_style, method=method)
    given |= dict(
        num_train_epochs=num_train_epochs, max_steps=max_steps, learning_rate=learning_rate, seed=seed, overwrite=overwrite
    )
    return _train("finetune_instructions", given | options, where="finetune_assistant()")


def align(
    model: Place,
    sources: Place | Sequence[Place],
    *,
    output_dir: Place,
    loss: str = "dpo",
    beta: float = 0.1,
    num_train_epochs: float = 2.0,
    max_steps: int = -1,
    learning_rate: float = 2e-4,
    seed: int = 42,
    overwrite: bool = False,
    **options: Any,
) -> TrainingResult:
    """Teach an assistant which of two answers people prefer; needs the extra `hfgpt[preferences]`.

    Args:
        model: folder or Hub id of an assistant, or of any model with a chat template.
        sources: rows with chosen and rejected, plus instruction and input, or a prompt; for "kto", also answers with a label.
        output_dir: folder of the run.
        loss, beta: the TRL loss, and how strongly the model is kept close to its base (for "orpo", the weight of the preference).
        max_steps, overwrite: as for `finetune_classifier`.
        options: further keys of recipes/align_preferences.py.
    Returns: metrics with reward margins and accuracies on held-out pairs, before and after.
    Raises: see `finetune_classifier`, and UserError with the command that installs TRL.
    """
    given = dict(model=model, sources=sources, output_dir=output_dir, loss=loss, beta=beta, num_train_epochs=num_train_epochs)
    given |= dict(max_steps=max_steps, learning_rate=learning_rate, seed=seed, overwrite=overwrite)
    return _train("align_preferences", given | options, where="align()")


def _train(recipe: str, given: dict[str, Any], *, where: str) -> TrainingResult:
    arguments, _ = run_recipe(recipe, given, where=where)
    return TrainingResult.read(Path(arguments.output_dir))
