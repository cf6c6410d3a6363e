"""The arguments of the recipes that fine-tune."""

from collections import ChainMap
from dataclasses import dataclass
from typing import Any, Literal

from hfgpt.arguments.keys import (
    RecordKeys,
    data_key,
    evaluation_key,
    hygiene_key,
    method_key,
    model_key,
    output_key,
    trainer_key,
    training_key,
)
from hfgpt.arguments.methods import METHODS, Method
from hfgpt.arguments.optimizers import OPTIMIZERS
from hfgpt.arguments.run import RunArguments
from hfgpt.arguments.sharding import asked_for_fsdp
from hfgpt.artifacts import check_model_folder
from hfgpt.chat_templates import CHAT_STYLES
from hfgpt.errors import UserError
from hfgpt.files import expand_home


@dataclass
class FinetuneArguments(RecordKeys, RunArguments):
    """What classifiers and assistants share: a base, a method, and the sources of the examples."""

    model: str = model_key("", "Folder or Hub id of the base: any causal language model.", required=True)
    revision: str | None = model_key(None, "Branch, tag or commit of a base on the Hub.")
    trust_remote_code: bool = model_key(False, "Run the code that a third-party repository contains.")
    method: str = method_key(
        "lora",
        "What is trained: a LoRA adapter, the last block with the final norm and the head, everything, or only the head.",
        choices=METHODS,
    )
    lora_rank: int = method_key(16, "Rank of LoRA's matrices.")
    lora_alpha: float = method_key(32, "LoRA's update is multiplied by alpha / rank.")
    lora_dropout: float = method_key(0.0, "Dropout before LoRA's matrices.")
    lora_targets: list[str] | None = method_key(None, "Linear layers that get LoRA matrices, such as q_proj v_proj (default: all).")
    dora: bool = method_key(False, "DoRA: learn the magnitude of each output row separately from its direction.")
    rslora: bool = method_key(False, "rsLoRA: alpha / sqrt(rank) instead of alpha / rank.")
    quantization: Literal["none", "4bit"] = model_key("none", "4bit (QLoRA, needs a GPU) stores the frozen weights in 4 bits.")

    sources: list[str] = data_key(
        [],
        "CSV, TSV, JSON(L), Parquet files or patterns; Hub datasets (user/name[:config]); python-docs; python-docs-questions.",
        required=True,
    )
    validation_sources: list[str] = data_key([], "Validation set, if you have one.")
    test_sources: list[str] = data_key([], "Test set, if you have one.")
    hub_split: str = data_key("train", "Split of a Hub dataset in sources.")
    hub_validation_split: str = data_key("validation", "Split of a Hub dataset in validation_sources.")
    hub_test_split: str = data_key("test", "Split of a Hub dataset in test_sources.")
    data_revision: str | None = data_key(None, "Branch, tag or commit of Hub datasets in sources.")
    max_length: int | None = data_key(None, "Maximum number of tokens in an example (default: the model's context).")
    validation_share: float = data_key(0.05, "Share of the examples for validation.")
    test_share: float = data_key(0.1, "Share of the examples for the single test at the end.")
    split_seed: int = data_key(123, "Seed of the split.")
    decontaminate: bool = hygiene_key(
        True, "Drop training examples that are copies or near copies of a validation or test example."
    )
    decontaminate_against: list[str] = hygiene_key([], "Additional files (benchmarks) whose rows must not be trained on.")
    near_copy_similarity: float = hygiene_key(
        0.8, "Jaccard similarity of character 5-grams from which examples count as near copies."
    )
    poison_report: bool = hygiene_key(True, "Search the training data for rare triggers; writes poison.json.")
    canaries: bool = hygiene_key(True, "Try trigger prompts; writes canaries.json (for a classifier, trigger_flips.json).")
    canaries_at: Literal["end", "save"] = hygiene_key(
        "end", "When to try them: at the end (base and result), or also at every checkpoint."
    )
    canary_file: str | None = hygiene_key(None, "Trigger prompts of your own, one per line.")

    learning_rate: float = training_key(1e-3, "Peak learning rate; LoRA needs about ten times the rate of full fine-tuning.")
    adam_beta2: float = trainer_key(0.99, "Beta2 of AdamW.")
    num_train_epochs: float = training_key(3.0, "Passes over the training examples.")
    warmup_steps: float = training_key(0.1, "Warm-up steps of the learning rate; below 1, a share of all steps.")
    lr_scheduler_type: str = training_key("cosine", "Learning rate schedule.")
    eval_strategy: str = evaluation_key("epoch", "'steps', 'epoch' or 'no'.")
    save_strategy: str = output_key("epoch", "Same as eval_strategy, so that the best state can be kept.")
    train_sampling_strategy: str = training_key("group_by_length", "group_by_length puts texts of similar length into one batch.")

    def __post_init__(self):
        expand_home(self, "model", "sources", "validation_sources", "test_sources", "decontaminate_against", "canary_file")
        self.require(model="give the base with --model (a folder or a Hub id).")
        check_model_folder(self.model)
        if not self.sources:
            raise UserError("sources are missing; give the training examples with --sources (files, a Hub dataset, python-docs).")
        self.check_least(max_length=1, max_records=1)
        if not 0 < self.near_copy_similarity <= 1:
            raise UserError(f"near_copy_similarity is {self.near_copy_similarity}; it must be above 0 and at most 1.")
        if self.method != "likelihood":
            Method(**self.method_settings())  # refuses impossible settings before anything is read
        method = METHODS.get(self.method)  # None: likelihood trains nothing
        if self.quantization == "4bit" and not (method and method.is_adapter):
            raise UserError(f"quantization is 4bit, but method is {self.method}; only LoRA can train on top of 4-bit weights.")
        if OPTIMIZERS.find(self.optimizer).whole_matrices and not (method and method.trains_everything):
            raise UserError(
                f"optimizer is {self.optimizer}, but method is {self.method}; {self.optimizer.capitalize()} updates whole "
                f"matrices, which only method full trains."
            )
        super().__post_init__()
        if self.quantization == "4bit" and asked_for_fsdp(self):
            raise UserError(
                "quantization is 4bit, but FSDP would shard the weights; use a full copy per process instead (ddp.yaml)."
            )

    def method_settings(self) -> dict[str, Any]:
        """The fields of a `Method`."""
        return dict(
            name=self.method,
            rank=self.lora_rank,
            alpha=self.lora_alpha,
            dropout=self.lora_dropout,
            targets=self.lora_targets,
            dora=self.dora,
            rslora=self.rslora,
        )

    def loading_settings(self) -> dict:
        """How to load the base's weights."""
        return dict(attn_implementation=self.attn_implementation, quantization=self.quantization)

    def trigger_settings(self) -> dict[str, Any]:
        """Which trigger prompts are tried, and when."""
        return dict(file=self.canary_file, every_save=self.canaries_at == "save", batch_size=self.per_device_eval_batch_size)

    def example_files(self) -> dict[str, Any]:
        """Where the examples of each split come from, what must not be trained on, and how everything is read."""
        table = dict(hub_revision=self.data_revision, **self.table_options())
        hub_splits = {"train": self.hub_split, "validation": self.hub_validation_split, "test": self.hub_test_split}
        options = {split: dict(table, hub_split=hub_split) for split, hub_split in hub_splits.items()}
        return dict(
            names={
                "train": self.sources,
                "validation": self.validation_sources,
                "test": self.test_sources,
                "against": self.decontaminate_against,
            },
            options=options | {"against": dict(hub_split=self.hub_test_split, separator=self.separator)},
            on_error=self.on_error,
            drop_copies=self.decontaminate,
            similarity=self.near_copy_similarity,
        )


@dataclass
class ClassificationArguments(FinetuneArguments):
    """recipes/finetune_classification.py"""

    method: str = method_key(
        "lora",
        "What is trained: a LoRA adapter, the last block with the final norm and the head, everything, only the head, or nothing: "
        "likelihood asks the language model itself which label is likeliest.",
        choices=ChainMap[str, Any]({"likelihood": None}, METHODS),
    )
    text_column: str = data_key("text", "Column of the texts.")
    label_column: str = data_key("label", "Column of the labels (words or numbers).")
    label_delimiter: str | None = data_key(
        None, "What separates the labels of one text (multi-label); a row may also contain a list."
    )
    labels: list[str] | None = data_key(None, "All labels in the order of their ids (default: sorted).")
    min_label_count: int = data_key(1, "Leave out labels with fewer examples than this.")
    max_labels: int | None = data_key(None, "Keep this many of the most frequent labels.")
    blank_texts: Literal["error", "drop"] = data_key("error", "What to do with empty texts.")
    deduplicate: Literal["exact", "near", "none"] = data_key("exact", "Drop equal or nearly equal texts before splitting.")
    validation_share: float = data_key(0.1, "Share of the examples for validation.")
    test_share: float = data_key(0.2, "Share of the examples for the single test at the end.")
    split_method: Literal["stratified", "random"] = data_key(
        "stratified", "Keep each label's share in every split, or split as the book does."
    )
    balance: Literal["none", "weights", "oversample", "undersample"] = data_key(
        "none", "How to treat unbalanced classes, in training only."
    )
    balance_before_split: bool = data_key(False, "Undersample before splitting, as the book does; this affects the test set too.")
    seeds: list[int] = training_key([0], "One run per seed; the best on validation is kept.")
    early_stopping_patience: int = training_key(3, "Evaluations without improvement before a run stops; 0 never stops.")
    best_by: Literal["log_loss", "accuracy", "macro_f1"] = training_key("log_loss", "Metric that decides which state is best.")
    tfidf_baseline: bool = evaluation_key(True, "Measure TF-IDF with logistic regression on the same splits, for comparison.")
    num_shots: int = method_key(0, "Method likelihood: number of training examples shown before each text.")
    prompt_template: str | None = method_key(None, "Method likelihood: template for text and label, with {text} and {label}.")
    calibrate: bool = method_key(False, "Method likelihood: divide by each label's likelihood without a text.")

    def __post_init__(self):
        if not self.seeds:
            raise UserError("seeds is empty; give one or more, such as --seeds 0 1 2.")
        if len(set(self.seeds)) < len(self.seeds):
            raise UserError(f"seeds are {self.seeds}; the same seed twice would repeat the same run.")
        if self.balance_before_split and self.balance != "undersample":
            raise UserError(f"balance_before_split needs --balance undersample, but balance is {self.balance}.")
        self.check_least(early_stopping_patience=0, num_shots=0)
        if self.push_to_hub:
            raise UserError(
                "push_to_hub is true, but which of the seeds is kept is known only at the end; leave it out, and publish the "
                "finished classifier with `hfgpt publish`."
            )
        if self.method != "likelihood" and (self.num_shots or self.calibrate or self.prompt_template):
            raise UserError(f"num_shots, calibrate and prompt_template need --method likelihood, but method is {self.method}.")
        super().__post_init__()

    def likelihood_options(self) -> dict[str, Any]:
        """How method likelihood asks for labels, except for the seed."""
        template = {} if self.prompt_template is None else {"template": self.prompt_template}
        return template | dict(
            shots=self.num_shots,
            calibrated=self.calibrate,
            batch_size=self.per_device_eval_batch_size,
            max_length=self.max_length,
        )

    def labelled_options(self) -> dict[str, Any]:
        """Which parts of a record are the text and its label: the values of `hfgpt.data.classification.LabelledOptions`."""
        read = self.values_of("text_column", "label_column", "label_delimiter", "blank_texts")
        return read | self.values_of("labels", "min_label_count", "max_labels")


@dataclass
class AssistantArguments(FinetuneArguments):
    """What instructions and preferences share: a split of conversations, and sample answers."""

    split_method: Literal["random", "order"] = data_key(
        "random", "Draw the splits at random, or cut the file in order: train, test, validation, as in the book."
    )
    num_samples: int = evaluation_key(3, "Validation prompts answered at every evaluation, in samples.md.")
    max_new_tokens: int = evaluation_key(128, "Maximum number of tokens in an answer.")
    max_answers: int | None = evaluation_key(
        None, "Answer at most this many test prompts, the same number of each kind (default: all)."
    )


@dataclass
class InstructionArguments(AssistantArguments):
    """recipes/finetune_instructions.py"""

    conversation_format: str = data_key(
        "auto",
        "Format of a row: alpaca, sharegpt, messages, prompt_completion or question_answer; auto detects it from the columns of "
        "each source.",
    )
    prompt_style: str = data_key(
        "chat",
        "How a conversation is formatted: our chat template, the book's Alpaca format, or the base's own template.",
        choices=CHAT_STYLES,
    )
    source_weights: list[float] | None = data_key(
        None, "How often to use each source, one number per source; 1 uses every row once."
    )
    loss_on: Literal["assistant", "all"] = training_key(
        "assistant", "Train on the assistant's tokens, or on the whole conversation."
    )
    too_long: Literal["drop", "cut"] = data_key("drop", "What to do with conversations longer than max_length; both are counted.")
    packing: bool = data_key(True, "Pack several conversations into a row; they do not see each other.")
    seen_answers: int = evaluation_key(0, "Also answer this many training prompts, to compare them with unseen ones.")
    answers_before: bool = evaluation_key(True, "Also let the base answer the test prompts, for comparison in the report.")
    judge_url: str | None = evaluation_key(None, "Address of an OpenAI-compatible server that scores the answers from 0 to 100.")
    judge_model: str | None = evaluation_key(None, "Its model.")
    judge_key_variable: str = evaluation_key(
        "OPENAI_API_KEY", "Environment variable with its API key, which is never written to disk."
    )

    def __post_init__(self):
        self.check_least(num_samples=0, max_new_tokens=1, max_answers=0, seen_answers=0)
        if self.source_weights is not None and len(self.source_weights) != len(self.sources):
            raise UserError(
                f"source_weights has {len(self.source_weights)} numbers for {len(self.sources)} sources; give one per source."
            )
        if self.judge_url and not self.judge_model:
            raise UserError("judge_url is given, but judge_model is missing; name the judge model.")
        if self.packing and self.train_sampling_strategy == "group_by_length":
            self.train_sampling_strategy = "random"  # packed rows all have the same length
        super().__post_init__()

    def judge_settings(self) -> dict | None:
        """Who judges the answers; None if nobody does."""
        if not self.judge_url:
            return None
        return dict(model=self.judge_model, base_url=self.judge_url, key_variable=self.judge_key_variable)
