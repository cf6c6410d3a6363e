"""An assistant from its conversations to its answers: splits, rows, the trainer, what it said before and after."""

import logging
import time
from dataclasses import asdict
from pathlib import Path

from datasets import Dataset, DatasetDict, concatenate_datasets
from transformers import (
    AutoModelForCausalLM,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    TrainerCallback,
    set_seed,
)

from hfgpt.arguments.finetuning import InstructionArguments
from hfgpt.arguments.methods import Method
from hfgpt.chat_templates import stop_token_ids, style_token_ids
from hfgpt.data.chat_encoding import ConversationEncoder
from hfgpt.data.collators import SupervisedCollator
from hfgpt.data.conversations import Conversation, conversation_dataset, mix, read_conversations, whole_texts
from hfgpt.data.messages import Message
from hfgpt.data.passport import Passport
from hfgpt.data.records import RecordOptions, identities, read_records
from hfgpt.data.row_errors import RowErrors
from hfgpt.data.splitting import split_conversations
from hfgpt.data.supervised import pack_supervised, supervised_rows
from hfgpt.errors import UserError
from hfgpt.evaluation.answers import Answer, generate_answers
from hfgpt.evaluation.language_modeling import language_modeling_metrics
from hfgpt.training.advice import before_training
from hfgpt.training.callbacks import LossPictureCallback, StopOnSignalCallback
from hfgpt.training.finetuning import Base, decontaminated, load_model
from hfgpt.training.methods import apply_method
from hfgpt.training.optimizers import trainer_optimizer
from hfgpt.training.run import LanguageModelTrainer, keep_best, keep_freed_memory

logger = logging.getLogger(__name__)


def load_splits(args: InstructionArguments, passport: Passport) -> DatasetDict:
    """Conversations of all sources, each split by itself; what copies a held-out one is dropped from training.

    Columns: `messages`, `source`, `row_id`, `place`, `unlearned`.
    Raises: ValueError and FileNotFoundError for what cannot be read, named with file and line.
    """
    given = {"validation": args.validation_sources, "test": args.test_sources}
    parts = [_read([source], args, "train", passport) for source in args.sources]
    divided = [
        split_conversations(
            part,
            texts=whole_texts(part),
            validation_share=args.validation_share,
            test_share=args.test_share,
            seed=args.split_seed,
            method=args.split_method,
            near_copy_similarity=args.near_copy_similarity if args.decontaminate else None,
            given=[name for name, sources in given.items() if sources],
        )
        for part in parts
    ]
    splits = {name: [part[name] for part in divided if name in part] for name in ("train", "validation", "test")}
    for name, sources in given.items():
        if sources:
            splits[name] = [_read(sources, args, name, passport)]
    held_out = {name: concatenate_datasets(splits[name]) for name in given if splits[name]}
    train = [decontaminated(part, held_out, args, passport, texts_of=whole_texts) for part in splits["train"]]
    if args.source_weights is not None:
        mixed, counts = mix(train, args.source_weights, seed=args.split_seed)
        passport.steps.append({"step": "mix", "sources": counts})
    else:
        mixed = concatenate_datasets(train)
    return DatasetDict({"train": mixed, **held_out})


def _read(names: list[str], args: InstructionArguments, split: str, passport: Passport) -> Dataset:
    start = time.perf_counter()
    options, errors = RecordOptions(**args.record_options(split)), RowErrors(args.on_error)
    passport.inputs += identities(names, options)
    format = None if args.conversation_format == "auto" else args.conversation_format
    read = read_conversations(read_records(names, options, errors), style=args.prompt_style, format=format, errors=errors)
    conversations = conversation_dataset(read)
    errors.finish(conversations["source"], passport)
    if not len(conversations):
        raise UserError(f"{', '.join(names)} holds no conversation; give a file with some.")
    passport.record(f"read {', '.join(names)}", None, len(conversations), start, what="conversations")
    return conversations


def conversations_of(dataset: Dataset) -> list[Conversation]:
    """The rows of `hfgpt.data.conversations.conversation_dataset` as what they were made of."""
    return [Conversation(**row) for row in dataset]


def encode_splits(
    splits: DatasetDict, tokenizer: PreTrainedTokenizerFast, args: InstructionArguments
) -> tuple[DatasetDict, dict[str, dict]]:
    """Rows of every split and their counts; training rows are packed where asked for, held-out ones never.

    Raises: ValueError where no training conversation is left.
    """
    longest = min(args.max_length or tokenizer.model_max_length, tokenizer.model_max_length)
    rows, counts = {}, {}
    for name, split in splits.items():
        columns, count = supervised_rows(
            conversations_of(split), tokenizer, max_length=longest, too_long=args.too_long, loss_on=args.loss_on
        )
        if name == "train" and not columns["input_ids"]:
            raise UserError(
                f"all {len(split):,} training conversations are longer than {longest:,} tokens; give a larger max_length, or "
                "too_long: cut."
            )
        if args.packing and name == "train":
            columns = pack_supervised(columns, context_length=longest, pad=tokenizer.pad_token_id)
            count.packed_rows = len(columns["input_ids"])
            count.padding = count.packed_rows * longest - count.tokens
        else:
            columns["length"] = [len(ids) for ids in columns["input_ids"]]
        rows[name] = Dataset.from_dict(columns)
        counts[name] = asdict(count)
        lost = count.dropped_too_long + count.dropped_without_answer
        logger.info(
            f"{name}: {count.conversations:,} conversations, {count.tokens:,} tokens, {count.learned_tokens:,} of them learned"
            + (f", in {count.packed_rows:,} rows of {longest:,}" if count.packed_rows else "")
            + (f"; {lost:,} dropped and {count.cut:,} cut, being longer than {longest:,} tokens" if lost or count.cut else "")
        )
    return DatasetDict(rows), counts


def build_assistant(base: Base, args: InstructionArguments, **config) -> PreTrainedModel:
    """The base as a language model that stops where its tokenizer's template ends a turn.

    Args: `config` goes into the model's config.
    """
    set_seed(args.seed)  # LoRA's first matrices are drawn from it
    model = load_model(base, AutoModelForCausalLM, args, **config)
    settings = model.generation_config.to_dict() if model.generation_config is not None else {}
    settings.pop("_from_model_config", None)  # not any more
    settings |= dict(
        bos_token_id=base.tokenizer.bos_token_id,
        eos_token_id=stop_token_ids(base.tokenizer),
        pad_token_id=base.tokenizer.pad_token_id,
    )
    model.generation_config = GenerationConfig(**settings)
    model.config.use_cache = False
    return model


def build_trainer(
    model: PreTrainedModel,
    rows: DatasetDict,
    *,
    splits: DatasetDict,
    base: Base,
    args: InstructionArguments,
) -> LanguageModelTrainer:
    """The trainer; `model` is frozen or adapted as `args.method` says.

    The embeddings of what ends and begins a turn are trained with every method: where the base is one of ours, they were reserved
    in its vocabulary and have never been seen.
    """
    tokenizer = base.tokenizer
    new_tokens = sorted({*base.new_tokens, *style_token_ids(tokenizer, args.prompt_style)} - {tokenizer.pad_token_id})
    if args.use_cpu:
        keep_freed_memory()
    model = apply_method(model, Method(**args.method_settings(), new_tokens=new_tokens))
    if "validation" not in rows:
        args.eval_strategy = "no"
    keep_best(args, args.keep)
    if args.packing and args.train_sampling_strategy == "group_by_length":
        args.train_sampling_strategy = "random"  # packed rows are all of one length
    trainer = LanguageModelTrainer(
        model=model,
        args=args,
        train_dataset=rows["train"],
        eval_dataset=rows.get("validation"),
        processing_class=tokenizer,
        data_collator=SupervisedCollator(tokenizer.pad_token_id),
        optimizer_cls_and_kwargs=trainer_optimizer(args.optimizer, args.optimizer_settings()),
        compute_metrics=lambda prediction: language_modeling_metrics(*prediction.predictions.astype("float64").sum(axis=0)),
    )
    trainer.add_callback(StopOnSignalCallback())
    prompts = [turns[:-1] for turns in splits.get("validation", splits["train"])["messages"][: args.num_samples]]
    trainer.add_callback(AnswersCallback(tokenizer, prompts, max_new_tokens=args.max_new_tokens))
    trainer.add_callback(LossPictureCallback(unit=f"nats per token{' of the assistant' * (args.loss_on == 'assistant')}"))
    unit = f"rows of {len(rows['train'][0]['input_ids']):,} tokens" if args.packing else "conversations"
    for warning in before_training(args, len(rows["train"]), unit=unit):
        logger.warning(warning)
    return trainer


class AnswersCallback(TrainerCallback):
    """Answers a fixed set of prompts at every evaluation and adds the texts to `samples.md` in the output folder."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, messages: list[list[Message]], *, max_new_tokens: int):
        self.tokenizer = tokenizer
        self.messages = messages
        self.max_new_tokens = max_new_tokens

    def on_evaluate(self, args, state, control, model=None, **kwargs):
        if not (state.is_world_process_zero and self.messages):
            return
        lines = [f"\n## Step {state.global_step:,}\n"]
        answers = answer(model, self.tokenizer, self.messages, max_new_tokens=self.max_new_tokens)
        for messages, said in zip(self.messages, answers, strict=True):
            ending = "" if said.stopped else "\n[not ended]"
            # four backquotes: an answer may hold three
            lines.append(f"````text\n{messages[-1]['content']}\n----\n{said.text}{ending}\n````\n")
        with (Path(args.output_dir) / "samples.md").open("a", encoding="utf-8") as file:
            file.write("\n".join(lines))


def answer(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    prompts: list[list[Message]],
    *,
    max_new_tokens: int,
    batch_size: int = 16,
    show_progress: bool = False,
) -> list[Answer]:
    """The model's greedy answers to conversations that end with the user's message, encoded as in training."""
    return generate_answers(
        model,
        tokenizer,
        ConversationEncoder(tokenizer).encode_prompts(prompts),
        max_new_tokens=max_new_tokens,
        stop_token_ids=stop_token_ids(tokenizer),
        batch_size=batch_size,
        show_progress=show_progress,
    )
