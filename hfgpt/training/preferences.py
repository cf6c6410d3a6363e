"""Preferences from their pairs to the trainer: splits, token ids, TRL's losses, and our own measure of held-out pairs.

TRL brings the losses and their training steps; it gets token ids from us, so what an answer says never becomes a special token.
"""

import logging
import random
import time
import warnings
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields

import numpy as np
from datasets import Dataset, DatasetDict, concatenate_datasets
from peft import PeftModel
from transformers import AutoConfig, PreTrainedModel, PreTrainedTokenizerFast, Trainer, TrainingArguments

from hfgpt.arguments.methods import Method
from hfgpt.arguments.preferences import PreferenceArguments
from hfgpt.chat_templates import set_prompt_style, style_of
from hfgpt.data.chat_encoding import ConversationEncoder
from hfgpt.data.collators import SupervisedCollator
from hfgpt.data.conversations import Conversation, conversation_dataset, whole_texts
from hfgpt.data.messages import Message
from hfgpt.data.passport import Passport
from hfgpt.data.preferences import read_preferences
from hfgpt.data.records import RecordOptions, identities, read_records
from hfgpt.data.row_errors import RowErrors
from hfgpt.data.splitting import split_conversations
from hfgpt.data.supervised import IGNORED
from hfgpt.errors import UserError, require
from hfgpt.training.advice import before_training
from hfgpt.training.assistants import AnswersCallback, build_assistant
from hfgpt.training.callbacks import LossPictureCallback, StopOnSignalCallback
from hfgpt.training.finetuning import Base, decontaminated
from hfgpt.training.methods import apply_method
from hfgpt.training.optimizers import trainer_optimizer
from hfgpt.training.run import LanguageModelTrainer, keep_best, keep_freed_memory

logger = logging.getLogger(__name__)

REFERENCE_ADAPTER = "ref"  # TRL's name for its copy of the adapter


@dataclass
class PairCounts:
    """pairs = rows + dropped_too_long."""

    pairs: int = 0
    rows: int = 0
    dropped_too_long: int = 0
    prompt_tokens: int = 0
    chosen_tokens: int = 0
    rejected_tokens: int = 0


@dataclass(frozen=True)
class Pair:
    """Token ids of a prompt and of two answers to it, each with the token that ends it; of a single answer the other is None."""

    prompt: list[int]
    chosen: list[int] | None
    rejected: list[int] | None

    @property
    def answers(self) -> list[list[int]]:
        """The answers that there are, the chosen one first."""
        return [answer for answer in (self.chosen, self.rejected) if answer is not None]


def settle_style(base: Base, args: PreferenceArguments) -> str:
    """The prompt style of the assistant, which is kept; a model without one gets the style that was asked for.

    Returns: the style by which Alpaca rows are worded.
    Raises: ValueError for a model without a chat template where none was asked for.
    """
    if args.prompt_style == "base" and base.tokenizer.chat_template is None:
        raise UserError(
            f"model {base.name} has no chat template, so it is no assistant yet; make it one with "
            "recipes/finetune_instructions.py, or give prompt_style: chat or alpaca."
        )
    base.new_tokens += set_prompt_style(base.tokenizer, args.prompt_style)
    return style_of(base.tokenizer)


def load_pairs(args: PreferenceArguments, passport: Passport, *, style: str) -> DatasetDict:
    """Pairs of all sources, each split by itself; what copies a held-out one is dropped from training.

    Columns: `messages` (the prompt and the chosen answer), `rejected`, `source`, `row_id`, `place`, `unlearned`. Of a single
    answer, `messages` ends with it, `rejected` is None, and `label` says whether it is wanted; pairs have no `label`.
    Raises: ValueError and FileNotFoundError for what cannot be read, named with file and line, and where no pair prefers anything.
    """
    given = {"validation": args.validation_sources, "test": args.test_sources}
    with_files = {name for name, sources in given.items() if sources}
    parts = [_read([source], args, "train", passport, style) for source in args.sources]
    divided = [
        split_conversations(
            part,
            texts=whole_texts(part),
            validation_share=args.validation_share,
            test_share=args.test_share,
            seed=args.split_seed,
            method=args.split_method,
            near_copy_similarity=args.near_copy_similarity if args.decontaminate else None,
            given=with_files,
        )
        for part in parts
    ]
    splits = {name: [part[name] for part in divided if name in part] for name in ("train", *given)}
    for name in with_files:
        splits[name] = [_read(given[name], args, name, passport, style)]
    if len({"label" in part.column_names for parts in splits.values() for part in parts}) > 1:
        raise UserError("some of the files hold single answers, the others pairs of chosen and rejected; give one kind a run.")
    held_out = {name: concatenate_datasets(splits[name]) for name in given if splits[name]}
    train = decontaminated(concatenate_datasets(splits["train"]), held_out, args, passport, texts_of=whole_texts)
    return DatasetDict({"train": train, **held_out})


def _read(names: list[str], args: PreferenceArguments, split: str, passport: Passport, style: str) -> Dataset:
    start = time.perf_counter()
    options, errors = RecordOptions(**args.record_options(split)), RowErrors(args.on_error)
    passport.inputs += identities(names, options)
    records = read_records(names, options, errors)
    found, counts = read_preferences(records, style=style, unpaired=args.loss == "kto", errors=errors)
    errors.finish([preference.source for preference in found], passport)
    if not found:
        raise UserError(
            f"{', '.join(names)} holds no preference: of {counts.records:,} rows, {counts.equal:,} have the same answer as "
            "chosen and as rejected; give pairs that differ."
        )
    unpaired = [preference for preference in found if preference.chosen is None or preference.rejected is None]
    if unpaired and len(unpaired) < len(found):
        row = unpaired[0]
        raise UserError(
            f"{row.source}, {row.place}: a single answer among pairs of chosen and rejected; give the pairs and the single answers "
            "in runs of their own."
        )
    answers = [Conversation([*p.prompt, _answer(p.chosen or p.rejected)], p.source, p.row_id, p.place) for p in found]
    pairs = conversation_dataset(answers)
    if unpaired:
        pairs = pairs.add_column("rejected", [None] * len(found)).add_column("label", [p.rejected is None for p in found])
        what, wanted = "answers", sum(pairs["label"])
        logger.info(f"{', '.join(names)}: single answers, {wanted:,} wanted and {len(pairs) - wanted:,} not")
    else:
        pairs, what = pairs.add_column("rejected", [p.rejected for p in found]), "pairs"
    step = f"read {', '.join(names)}" + (f", {counts.equal:,} pairs of equal answers dropped" if counts.equal else "")
    passport.record(step, None, len(pairs), start, what=what, equal=counts.equal)
    return pairs


def _answer(text: str) -> Message:
    return {"role": "assistant", "content": text}


def encode_pairs(
    splits: DatasetDict, tokenizer: PreTrainedTokenizerFast, args: PreferenceArguments
) -> tuple[dict[str, list[Pair]], dict[str, dict]]:
    """Token ids of every split and their counts; a pair is dropped where its prompt with the longer answer exceeds `max_length`.

    Nothing is cut: half an answer is not what was preferred, and its end is what a model learns to stop by.

    Raises: ValueError where a split is left without a pair.
    """
    longest = min(args.max_length or tokenizer.model_max_length, tokenizer.model_max_length)
    pairs: dict[str, list[Pair]] = {}
    counts = {}
    for name, split in splits.items():
        count, pairs[name] = PairCounts(), []
        for pair in _encoded(split, ConversationEncoder(tokenizer)):
            count.pairs += 1
            if len(pair.prompt) + max(map(len, pair.answers)) > longest:
                count.dropped_too_long += 1
                continue
            pairs[name].append(pair)
            count.prompt_tokens += len(pair.prompt)
            count.chosen_tokens += len(pair.chosen or [])
            count.rejected_tokens += len(pair.rejected or [])
        count.rows = len(pairs[name])
        if not pairs[name]:
            raise UserError(
                f"all {count.pairs:,} pairs of the {name} split are longer than {longest:,} tokens; give a larger max_length."
            )
        counts[name] = asdict(count)
        what = "pairs"
        if unpaired_labels(pairs[name]) is not None:
            counts[name] = {"examples": counts[name].pop("pairs"), **counts[name]}
            what = "answers"
        logger.info(
            f"{name}: {count.rows:,} {what}, {count.chosen_tokens:,} tokens chosen, {count.rejected_tokens:,} rejected"
            + (f"; {count.dropped_too_long:,} dropped, longer than {longest:,} tokens" if count.dropped_too_long else "")
        )
    return pairs, counts


def _encoded(split: Dataset, encoder: ConversationEncoder) -> Iterable[Pair]:
    for row in split:
        *prompt, chosen = row["messages"]
        try:
            (prompt_ids,) = encoder.encode_prompts([prompt])
            others = [] if row["rejected"] is None else [[*prompt, _answer(row["rejected"])]]
            encoded = encoder.encode([[*prompt, chosen], *others])
        except UserError as error:
            raise UserError(f"{row['source']}, {row['place']}: {error}") from None
        start = len(prompt_ids)
        # What a template writes after the end of a turn is not learned, and belongs to neither answer.
        answers = [[id for id, is_answer in zip(ids[start:], learned[start:]) if is_answer] for ids, learned in encoded]
        if "label" in row:
            answers = [answers[0], None] if row["label"] else [None, answers[0]]
        yield Pair(prompt_ids, *answers)


def training_rows(pairs: list[Pair], args: PreferenceArguments) -> Dataset:
    """The columns that TRL's trainer of this loss reads.

    KTO takes single answers with a label, in one drawn order for all epochs, because each stands beside the answer before it in
    its batch: how likely that one is after the wrong prompt tells how far the model has moved altogether.
    """
    if args.loss == "dpo":
        return Dataset.from_list([{"prompt_ids": p.prompt, "chosen_ids": p.chosen, "rejected_ids": p.rejected} for p in pairs])
    if args.loss == "orpo":
        rows = []
        for pair in pairs:
            row = {"prompt_input_ids": pair.prompt, "prompt_attention_mask": [1] * len(pair.prompt)}
            for name, answer in (("chosen", pair.chosen), ("rejected", pair.rejected)):
                row[f"{name}_input_ids"], row[f"{name}_labels"] = _with_labels(pair.prompt, answer).values()
                row[f"{name}_attention_mask"] = [1] * len(row[f"{name}_input_ids"])
            rows.append(row)
        return Dataset.from_list(rows)
    rows = [
        {"prompt_ids": pair.prompt, "completion_ids": answer, "label": answer is pair.chosen}
        for pair in pairs
        for answer in pair.answers
    ]
    random.Random(args.seed).shuffle(rows)
    size = args.per_device_train_batch_size
    for start in range(0, len(rows), size):
        batch = rows[start : start + size]
        for row, before in zip(batch, [batch[-1], *batch]):
            row["KL_completion_ids"] = before["completion_ids"]
    return Dataset.from_list(rows)


def _with_labels(prompt: list[int], answer: list[int]) -> dict[str, list[int]]:
    return {"input_ids": prompt + answer, "labels": [IGNORED] * len(prompt) + answer}


def measured_rows(pairs: list[Pair], *, loss: str) -> Dataset:
    """What the model's log-likelihood of held-out pairs is measured on: all chosen answers, all rejected, with their prompts.

    For KTO, the chosen and rejected answers after the next pair's prompt follow. Single answers are measured after their own
    prompts, and then after the next one's.
    """
    if unpaired_labels(pairs) is not None:
        answers = [pair.answers[0] for pair in pairs]
        rows = [_with_labels(pair.prompt, answer) for pair, answer in zip(pairs, answers)]
        return Dataset.from_list(rows + [_with_labels(pair.prompt, one) for pair, one in zip(pairs, [answers[-1], *answers])])
    rows = [_with_labels(pair.prompt, pair.chosen) for pair in pairs] + [_with_labels(pair.prompt, pair.rejected) for pair in pairs]
    if loss == "kto":
        for answers in ([pair.chosen for pair in pairs], [pair.rejected for pair in pairs]):
            rows += [_with_labels(pair.prompt, answer) for pair, answer in zip(pairs, [answers[-1], *answers])]
    return Dataset.from_list(rows)


def unpaired_labels(pairs: list[Pair]) -> np.ndarray | None:
    """Which of single answers are wanted; None for pairs."""
    return np.array([pair.rejected is None for pair in pairs]) if len(pairs[0].answers) == 1 else None


class PreferenceTrainer(LanguageModelTrainer):
    """What our trainers of all three losses do otherwise than TRL's, which they are made from.

    Held-out pairs are measured by Trainer's own loop, as likelihoods of texts, and `preference_metrics`.
    """

    def _prepare_dataset(self, dataset, *args, **kwargs):
        return dataset  # TRL would tokenise texts here; ours are token ids

    @staticmethod
    def tokenize_row(row, model=None):
        return {}  # the same, of ORPO

    def _precompute_ref_logps(self, dataset, name, batch_size):
        return super()._precompute_ref_logps(dataset, name, batch_size) if name == "train" else dataset

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix="eval"):
        return Trainer.evaluate(self, eval_dataset, ignore_keys, metric_key_prefix)

    def create_model_card(self, *args, **kwargs):
        pass  # TRL writes its card over whatever README.md lies in the folder

    def _send_telemetry(self):
        pass  # a run here tells nobody

    def likelihoods(self, pairs: list[Pair], *, loss: str) -> np.ndarray:
        """Nats and tokens (K, N, 2) of the answers of `measured_rows`, as the model is now and in the precision of the run."""
        measure, self.compute_metrics = self.compute_metrics, None
        sums = self.predict(measured_rows(pairs, loss=loss)).predictions
        self.compute_metrics = measure
        return sums.reshape(-1, len(pairs), 2)


class PreferenceCollator:
    """TRL's own collator for training rows, ours for the rows of held-out pairs."""

    def __init__(self, training, held_out: SupervisedCollator):
        self.training, self.held_out = training, held_out

    def __call__(self, rows: list[dict]) -> dict:
        return self.held_out(rows) if "labels" in rows[0] else self.training(rows)


def preference_classes(loss: str) -> tuple[type, type]:
    """The trainer of a loss, TRL's with our doors, and the class of its settings.

    Raises: ValueError with the command that installs TRL.
    """
    purpose = f"loss {loss} is learned with TRL"
    trl = require("trl", extra="preferences", purpose=purpose)
    if loss == "orpo":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it is experimental
            trl = require("trl.experimental.orpo", extra="preferences", purpose=purpose)
    name = loss.upper()
    trainer_class = type(f"Our{name}Trainer", (PreferenceTrainer, getattr(trl, f"{name}Trainer")), {})
    return trainer_class, getattr(trl, f"{name}Config")


def build_policy(base: Base, args: PreferenceArguments) -> PreTrainedModel:
    """The assistant as it was, with all dropout off in its config: its likelihoods are compared with its own earlier ones.

    TRL turns off the modules only; attention reads its dropout from the config.

    Raises: ValueError for a model of another kind.
    """
    config = AutoConfig.from_pretrained(base.location, revision=args.revision, trust_remote_code=args.trust_remote_code)
    if config.architectures and not any("CausalLM" in name or "LMHead" in name for name in config.architectures):
        raise UserError(
            f"model {base.name} is a {', '.join(config.architectures)}; answers are preferred by causal language models, give "
            "the folder of an assistant (recipes/finetune_instructions.py) or a chat model of the Hub."
        )
    dropouts = {name: 0.0 for name, value in config.to_dict().items() if "drop" in name and isinstance(value, float)}
    return build_assistant(base, args, **dropouts)


def build_trainer(
    model: PreTrainedModel, pairs: dict[str, list[Pair]], *, splits: DatasetDict, base: Base, args: PreferenceArguments
) -> PreferenceTrainer:
    """TRL's trainer for `args.loss`; `model` is frozen or adapted as `args.method` says.

    The base's likelihoods of the training answers are computed once, here, so no second model is kept and a step takes one pass.
    """
    trainer_class, config_class = preference_classes(args.loss)
    if args.use_cpu:
        keep_freed_memory()
    model = apply_method(
        model, Method(**args.method_settings(), new_tokens=sorted({*base.new_tokens} - {base.tokenizer.pad_token_id}))
    )
    if "validation" not in pairs:
        args.eval_strategy = "no"
    settings = {field.name: getattr(args, field.name) for field in fields(TrainingArguments) if field.init}
    settings |= dict(beta=args.beta, max_length=None, remove_unused_columns=False)
    if args.loss == "dpo":
        settings |= dict(precompute_ref_log_probs=True, loss_type=["sigmoid_norm" if args.length_normalised else "sigmoid"])
    elif args.loss == "kto":
        settings |= dict(precompute_ref_log_probs=True, train_sampling_strategy="sequential")
    else:
        settings |= dict(max_length=base.tokenizer.model_max_length)  # only read to say that it is missing
    config = config_class(**settings)
    keep_best(config, args.keep)
    trainer = trainer_class(
        model=model,
        args=config,
        train_dataset=training_rows(pairs["train"], args),
        eval_dataset=measured_rows(pairs["validation"], loss=args.loss) if "validation" in pairs else None,
        processing_class=base.tokenizer,
    )
    if isinstance(model, PeftModel) and args.loss != "orpo":
        trainer.model.delete_adapter(REFERENCE_ADAPTER)  # it has done its work
    trainer.optimizer_cls_and_kwargs = trainer_optimizer(args.optimizer, args.optimizer_settings())
    trainer.data_collator = PreferenceCollator(trainer.data_collator, SupervisedCollator(base.tokenizer.pad_token_id))
    trainer.add_callback(StopOnSignalCallback())
    prompts = [turns[:-1] for turns in splits.get("validation", splits["train"])["messages"][: args.num_samples]]
    trainer.add_callback(AnswersCallback(base.tokenizer, prompts, max_new_tokens=args.max_new_tokens))
    trainer.add_callback(LossPictureCallback(unit=args.loss.upper()))
    for warning in before_training(args, len(trainer.train_dataset), unit="answers" if args.loss == "kto" else "pairs"):
        logger.warning(warning)
    return trainer
