"""From texts to a trained model: the jobs of the recipes as functions, in the order in which a model goes through them.

Each runs what the recipe of the same job runs (recipes/ says which files it leaves), takes the recipe's keys as keyword arguments,
the ones that matter most by name and all others as `options`, and returns a result of hfgpt/api/results.py. All raise `UserError`
(hfgpt.errors), which says what was got, what is allowed, why, and what to do; what it calls `--overwrite true` is `overwrite=True`
here. A job that is called again with the same arguments and the same `output_dir` goes on where it was stopped, or returns what it
made before.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from hfgpt.api.calls import Place, run_recipe
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
        output_dir: folder that it is written to.
        algorithm: "bpe", "unigram" or "wordpiece", which are made of bytes and lose nothing, or "wordlevel", the book's.
        vocab_size: tokens, the special ones included; None and "auto" take as many as suit the size of the text.
        max_documents: stop reading after this many.
        overwrite: replace what output_dir holds.
        options: further keys of recipes/train_tokenizer.py: pattern, digits, compare_with, text_field, split_by, test_share, ...
    Raises: UserError for sources that are missing, unreadable or empty, and for a tokenizer that does not load as it was saved.
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
    """Make a GPT of a text: tokenizer, rows, model and report, within the minutes that are given.

    Args:
        sources: text, JSON(L) or Parquet files, patterns or folders; Hub datasets ("user/name[:configuration]").
        output_dir: folder of the steps, each with its YAML and its result; the model is in `base`.
        minutes: that the call may take; size, steps and rates are chosen for them, and of a large text the share that is read.
        text_documents: what one document of a text file is: "file", "paragraph", "line", or the line that separates documents.
        overwrite: replace what output_dir holds.
        options: further keys of recipes/from_text.py: text_field, card.
    Returns: the result of `pretrain`, whose folder is `output_dir`/base.
    Raises: as `pretrain`, and UserError for minutes that are too few for this text.
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
        output_dir: folder that the rows are written to.
        sources: as for `train_tokenizer`; without it those of the tokenizer, read and split as they were for it.
        context_length: tokens per row; None is 1,024, or less where the text would fill too few rows.
        window, stride: cut the training documents into sliding windows of `window` tokens, which start every `stride` tokens,
            instead of packing them.
        deduplicate: which copies are dropped, "near" for equal and nearly equal documents; None as for the tokenizer, else "near".
        overwrite: replace what output_dir holds.
        options: further keys of recipes/prepare_data.py: group_field, leaks, decontaminate_against, repeated_passage_bytes, ...
    Raises: UserError for missing sources, and for a text that fills no row.
    Cost: linear in the bytes, on all cores; memory stays constant.
    """
    given = dict(tokenizer=tokenizer, output_dir=output_dir, sources=sources, context_length=context_length, window=window)
    given |= dict(stride=stride, deduplicate=deduplicate, overwrite=overwrite)
    arguments, _ = run_recipe("prepare_data", given | options, where="prepare_data()")
    return DataResult.read(Path(arguments.output_dir))


def verify_data(folder: Place) -> list[Finding]:
    """Compare prepared data with its passport: rows, counts, tokenizer, and the sources that are still where it names them.

    Args: `folder` is one of `prepare_data`, or a downloaded copy.
    Returns: what was compared, each with `what`, `outcome` ("matches", "differs", or "missing" for a source that is not here) and
        `detail`.
    Raises: UserError for a folder without a passport of prepared data.
    Cost: reads rows and sources once; memory stays constant.
    """
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
    """Pretrain a GPT, from zero or from `model`, keep the state that is best on the validation rows, and test it once.

    Args:
        dataset: folder of `prepare_data`.
        output_dir: folder of the run and of its model.
        model: folder or Hub id of a causal language model to go on from, with whose tokenizer the rows were prepared; its shape is
            what it is. Without it a new model is made.
        old_dataset: rows of text that `model` was trained on; their held-out loss before and after is reported.
        family: "modern" (its shape follows from `depth`, its number of layers) or "gpt2" (a published `size`).
        time_budget: seconds that this call may take; depth, steps, batch and rates that are as their defaults here are then chosen
            for this machine and text (docs/budgets.md). `token_budget` and `flop_budget` are further options.
        max_steps: optimizer steps; -1 takes `num_train_epochs` times over the rows instead.
        per_device_train_batch_size: rows per device and step.
        learning_rate: peak rate of AdamW; Muon's, for the matrices, is `muon_learning_rate`, that of an embedding beside a head of
            its own `embedding_learning_rate`. With `model` they rise to their share `rewarm_to` of it.
        overwrite: forget what output_dir holds and start again.
        options: further keys of recipes/pretrain.py, those of transformers' `TrainingArguments` among them.
    Returns: metrics with `parameters`, `validation_loss` and `test_loss` (nats per token), `..._perplexity`, `..._bits_per_byte`,
        `tokens_per_second`, `peak_memory_bytes`, ...
    Raises: UserError for what cannot be; RunStopped, with a checkpoint written, where Ctrl-C or SIGTERM stopped the training.
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
    """Fine-tune a language model into a classifier of texts; one run per seed, the best on validation is kept.

    Args:
        model: folder or Hub id of any causal language model.
        sources: CSV, TSV, JSON(L) or Parquet files, Hub datasets, "python-docs".
        output_dir: folder of the run; of a LoRA it is an adapter, with its base and its merged twin in it.
        text_column, label_column: columns of the texts and of their labels, words or numbers.
        label_delimiter: what separates several labels of one text; None is one label per text.
        method: what is trained, of `METHODS`: "lora", "last_block", "full", "head"; "likelihood" trains nothing and asks the
            language model which label it finds likeliest.
        max_steps: optimizer steps; -1 takes `num_train_epochs` times over the examples instead.
        overwrite: forget what output_dir holds and start again.
        options: further keys of recipes/finetune_classification.py: validation_sources, test_sources, balance, lora_rank, ...
    Returns: metrics with `labels`, and for `validation` and `test` the `mean` and `standard_deviation` over the seeds of
        `accuracy`, `macro_f1`, `log_loss`, ...; each seed's own under `seeds`.
    Raises: UserError for what cannot be; RunStopped, with a checkpoint written, where Ctrl-C or SIGTERM stopped the training.
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
    """Fine-tune a language model into an assistant that answers; the loss is on the answers alone.

    Args:
        model: folder or Hub id of any causal language model.
        sources: instructions (Alpaca), conversations (ShareGPT, OpenAI's messages) or prompts and completions, in the files that
            `finetune_classifier` reads.
        output_dir: folder of the run; of a LoRA it is an adapter, with its base and its merged twin in it.
        prompt_style: the chat template that the tokenizer keeps, of `CHAT_STYLES`; "base" is the one that it has.
        method, max_steps, overwrite: as for `finetune_classifier`.
        options: further keys of recipes/finetune_instructions.py: max_length, source_weights, lora_rank, max_answers, ...
    Returns: metrics with losses before and after in nats per learned token, and how the answers to the test set compare with the
        references.
    Raises: as `finetune_classifier`.
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
        sources: rows with chosen and rejected, beside instruction and input, or a prompt; for "kto" also answers with a label.
        output_dir: folder of the run.
        loss, beta: which loss of TRL, and how dear it is to leave the base (for "orpo" the weight of the preference).
        max_steps, overwrite: as for `finetune_classifier`.
        options: further keys of recipes/align_preferences.py.
    Returns: metrics with reward margins and accuracies on held-out pairs, before and after.
    Raises: as `finetune_classifier`, and UserError with the command that installs TRL.
    """
    given = dict(model=model, sources=sources, output_dir=output_dir, loss=loss, beta=beta, num_train_epochs=num_train_epochs)
    given |= dict(max_steps=max_steps, learning_rate=learning_rate, seed=seed, overwrite=overwrite)
    return _train("align_preferences", given | options, where="align()")


def _train(recipe: str, given: dict[str, Any], *, where: str) -> TrainingResult:
    arguments, _ = run_recipe(recipe, given, where=where)
    return TrainingResult.read(Path(arguments.output_dir))
