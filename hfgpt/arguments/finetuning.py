"""The arguments of the recipes that fine-tune."""

from collections import ChainMap
from dataclasses import dataclass, field
from typing import Literal

from hfgpt.arguments.documents import ON_ERROR_HELP
from hfgpt.arguments.methods import METHODS, Method
from hfgpt.arguments.optimizers import OPTIMIZERS
from hfgpt.arguments.run import RunArguments
from hfgpt.artifacts import check_model_folder
from hfgpt.errors import UserError
from hfgpt.files import expand_home


@dataclass
class FinetuneArguments(RunArguments):
    """What classifiers and assistants have in common: a base, a method, and where the examples are."""

    model: str = field(default="", metadata={"help": "Folder or Hub id of the base: any causal language model."})
    revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of a base on the Hub."})
    trust_remote_code: bool = field(default=False, metadata={"help": "Run the code that a foreign repository brings."})
    method: str = field(
        default="lora",
        metadata={
            "choices": METHODS,
            "help": "What is trained: a LoRA, the last block with the final norm and the head, everything, the head alone.",
        },
    )
    lora_rank: int = field(default=16, metadata={"help": "Rank of LoRA's matrices."})
    lora_alpha: float = field(default=32, metadata={"help": "LoRA's update is multiplied by alpha / rank."})
    lora_dropout: float = field(default=0.0, metadata={"help": "Dropout before LoRA's matrices."})
    lora_targets: list[str] | None = field(
        default=None, metadata={"help": "Linear layers that LoRA goes beside, e.g. q_proj v_proj; all of the blocks without it."}
    )
    dora: bool = field(default=False, metadata={"help": "DoRA: learn the length of each output row apart from its direction."})
    rslora: bool = field(default=False, metadata={"help": "rsLoRA: alpha / sqrt(rank) instead of alpha / rank."})
    quantization: Literal["none", "4bit"] = field(
        default="none", metadata={"help": "4bit (QLoRA, needs a GPU) keeps the frozen weights in 4 bits."}
    )
    sources: list[str] = field(
        default_factory=list,
        metadata={"help": "CSV, TSV, JSON(L), Parquet files or patterns; Hub datasets (user/name[:configuration]); python-docs."},
    )
    validation_sources: list[str] = field(default_factory=list, metadata={"help": "Validation set, where it is given."})
    test_sources: list[str] = field(default_factory=list, metadata={"help": "Test set, where it is given."})
    hub_split: str = field(default="train", metadata={"help": "Split of a Hub dataset in sources."})
    hub_validation_split: str = field(default="validation", metadata={"help": "Split of a Hub dataset in validation_sources."})
    hub_test_split: str = field(default="test", metadata={"help": "Split of a Hub dataset in test_sources."})
    data_revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of Hub datasets in sources."})
    header: bool = field(default=True, metadata={"help": "The first line of CSV and TSV files names the columns."})
    columns: list[str] | None = field(default=None, metadata={"help": "Names of the columns where no header names them."})
    separator: str | None = field(
        default=None,
        metadata={"help": "What separates columns: comma, semicolon, tab or a character; told from the header without it."},
    )
    on_error: Literal["stop", "skip"] = field(default="stop", metadata={"help": ON_ERROR_HELP})
    max_records: int | None = field(default=None, metadata={"help": "Read at most this many rows."})
    max_length: int | None = field(default=None, metadata={"help": "Most tokens of an example; the model's context without it."})
    decontaminate: bool = field(
        default=True, metadata={"help": "Drop from training what is a copy or nearly one of a validation or test example."}
    )
    decontaminate_against: list[str] = field(
        default_factory=list, metadata={"help": "More files (benchmarks) whose rows must not be trained on."}
    )
    near_copy_similarity: float = field(
        default=0.8, metadata={"help": "Jaccard similarity of 5-grams of characters from which a text is nearly a copy."}
    )
    poison_report: bool = field(default=True, metadata={"help": "Search the training data for rare triggers; poison.json."})
    canaries: bool = field(
        default=True, metadata={"help": "Try trigger prompts; canaries.json, of a classifier trigger_flips.json."}
    )
    canaries_at: Literal["end", "save"] = field(
        default="end", metadata={"help": "When they run: at the end (on base and result), or on every checkpoint besides."}
    )
    canary_file: str | None = field(default=None, metadata={"help": "Trigger prompts of your own, one a line."})

    learning_rate: float = field(default=1e-3, metadata={"help": "Peak learning rate; LoRA wants ten times that of full."})
    adam_beta2: float = field(default=0.99, metadata={"help": "Beta2 of AdamW."})
    num_train_epochs: float = field(default=3.0, metadata={"help": "Times over the training examples."})
    warmup_steps: float = field(default=0.1, metadata={"help": "Steps of rising learning rate; below 1 a share of all steps."})
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "Course of the learning rate."})
    eval_strategy: str = field(default="epoch", metadata={"help": "'steps', 'epoch' or 'no'."})
    save_strategy: str = field(default="epoch", metadata={"help": "As eval_strategy, so that the best state can be kept."})
    train_sampling_strategy: str = field(
        default="group_by_length", metadata={"help": "group_by_length makes batches of texts of like length: little padding."}
    )

    def __post_init__(self):
        expand_home(self, "model", "sources", "validation_sources", "test_sources", "decontaminate_against", "canary_file")
        if not self.model:
            raise UserError("model is missing; name the base with --model (a folder or a Hub id).")
        check_model_folder(self.model)
        if not self.sources:
            raise UserError("sources are missing; name the training examples with --sources (files, a Hub dataset, python-docs).")
        for name in ("max_length", "max_records"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}; 1 or more is needed.")
        if not 0 < self.near_copy_similarity <= 1:
            raise UserError(f"near_copy_similarity is {self.near_copy_similarity}; above 0, up to 1 is needed.")
        if self.method != "likelihood":
            Method(**self.method_settings())  # refuses what cannot be before anything is read
        method = METHODS.get(self.method)  # None: likelihood trains nothing
        if self.quantization == "4bit" and not (method and method.is_adapter):
            raise UserError(f"quantization is 4bit, method is {self.method}; only LoRA trains beside weights of 4 bits.")
        if OPTIMIZERS.find(self.optimizer).whole_matrices and not (method and method.trains_everything):
            raise UserError(
                f"optimizer is {self.optimizer}, method is {self.method}; {self.optimizer.capitalize()} is for the whole matrices "
                "that method full trains."
            )
        super().__post_init__()

    def method_settings(self) -> dict:
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

    def trigger_settings(self) -> dict:
        """Which trigger prompts are tried, and when."""
        return dict(file=self.canary_file, every_save=self.canaries_at == "save", batch_size=self.per_device_eval_batch_size)

    def example_files(self) -> dict:
        """Where the examples of each split come from, what must not be trained on, and how all of it is read."""
        table = dict(
            hub_revision=self.data_revision,
            header=self.header,
            columns=self.columns,
            separator=self.separator,
            max_records=self.max_records,
        )
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
        )


@dataclass
class ClassificationArguments(FinetuneArguments):
    """recipes/finetune_classification.py"""

    method: str = field(
        default="lora",
        metadata={
            "choices": ChainMap({"likelihood": None}, METHODS),
            "help": "What is trained: a LoRA, the last block with the final norm and the head, everything, the head alone; or "
            "nothing: likelihood asks the language model itself which label it finds likeliest.",
        },
    )
    text_column: str = field(default="text", metadata={"help": "Column of the texts."})
    label_column: str = field(default="label", metadata={"help": "Column of the labels, words or numbers."})
    label_delimiter: str | None = field(
        default=None, metadata={"help": "What separates several labels of one text (multi-label); a list in the row is one too."}
    )
    labels: list[str] | None = field(default=None, metadata={"help": "All labels in the order of their ids; sorted without it."})
    min_label_count: int = field(default=1, metadata={"help": "Leave out labels with fewer examples."})
    max_labels: int | None = field(default=None, metadata={"help": "Keep this many of the most frequent labels."})
    blank_texts: Literal["error", "drop"] = field(default="error", metadata={"help": "What becomes of texts without a character."})
    deduplicate: Literal["exact", "near", "none"] = field(
        default="exact", metadata={"help": "Drop equal texts, or nearly equal ones, before splitting."}
    )
    validation_share: float = field(default=0.1, metadata={"help": "Share of the examples for validation."})
    test_share: float = field(default=0.2, metadata={"help": "Share of the examples for the one test at the end."})
    split_seed: int = field(default=123, metadata={"help": "Seed of sampling and splitting."})
    split_method: Literal["stratified", "random"] = field(
        default="stratified", metadata={"help": "Keep each label's share in every split, or divide as the book does."}
    )
    balance: Literal["none", "weights", "oversample", "undersample"] = field(
        default="none", metadata={"help": "How unequal classes are treated, in training alone."}
    )
    balance_before_split: bool = field(
        default=False, metadata={"help": "Undersample all data before splitting, as the book does; the test set is balanced too."}
    )
    seeds: list[int] = field(default_factory=lambda: [0], metadata={"help": "One run a seed; the best on validation is kept."})
    early_stopping_patience: int = field(
        default=3, metadata={"help": "Evaluations without a better one before a run stops; 0 never stops."}
    )
    best_by: Literal["log_loss", "accuracy", "macro_f1"] = field(
        default="log_loss", metadata={"help": "What the best state is chosen by, on the validation set."}
    )
    tfidf_baseline: bool = field(
        default=True, metadata={"help": "Measure TF-IDF with logistic regression on the same splits, for comparison."}
    )
    num_shots: int = field(default=0, metadata={"help": "Method likelihood: examples before each text, from the training set."})
    prompt_template: str | None = field(
        default=None, metadata={"help": "Method likelihood: how a text and its label are written, with {text} and {label}."}
    )
    calibrate: bool = field(default=False, metadata={"help": "Method likelihood: divide by the labels' likelihood without a text."})

    def __post_init__(self):
        if not self.seeds:
            raise UserError("seeds is empty; give one or more, such as seeds: [0, 1, 2].")
        if len(set(self.seeds)) < len(self.seeds):
            raise UserError(f"seeds are {self.seeds}; the same one twice is the same run twice.")
        if self.balance_before_split and self.balance != "undersample":
            raise UserError(f"balance_before_split goes with balance: undersample, which is {self.balance}.")
        for name in ("early_stopping_patience", "num_shots"):
            if getattr(self, name) < 0:
                raise UserError(f"{name} is {getattr(self, name)}; 0 or more is needed.")
        if self.method != "likelihood" and (self.num_shots or self.calibrate or self.prompt_template):
            raise UserError(f"num_shots, calibrate and prompt_template are for method: likelihood, which is {self.method}.")
        super().__post_init__()

    def likelihood_options(self) -> dict:
        """How method likelihood asks for labels, but for the seed."""
        template = {} if self.prompt_template is None else {"template": self.prompt_template}
        return template | dict(
            shots=self.num_shots,
            calibrated=self.calibrate,
            batch_size=self.per_device_eval_batch_size,
            max_length=self.max_length,
        )

    def labelled_options(self) -> dict:
        """What in a record is the text and what its label."""
        return dict(
            text_column=self.text_column,
            label_column=self.label_column,
            label_delimiter=self.label_delimiter,
            labels=self.labels,
            min_label_count=self.min_label_count,
            max_labels=self.max_labels,
            blank_texts=self.blank_texts,
        )


@dataclass
class InstructionArguments(FinetuneArguments):
    """recipes/finetune_instructions.py"""

    conversation_format: Literal["auto", "alpaca", "sharegpt", "messages", "prompt_completion"] = field(
        default="auto", metadata={"help": "What a row holds; auto tells it by the columns of each source."}
    )
    prompt_style: Literal["chat", "alpaca", "base"] = field(
        default="chat",
        metadata={"help": "How a conversation is written: our chat template, the book's Alpaca text, or the base's own template."},
    )
    source_weights: list[float] | None = field(
        default=None, metadata={"help": "How often each source is taken, one number a source; 1 takes every row once."}
    )
    loss_on: Literal["assistant", "all"] = field(
        default="assistant", metadata={"help": "Learn the assistant's tokens, or every token of the conversation."}
    )
    too_long: Literal["drop", "cut"] = field(
        default="drop", metadata={"help": "What becomes of conversations above max_length; both are counted."}
    )
    packing: bool = field(default=True, metadata={"help": "Several conversations a row, which do not see each other."})
    validation_share: float = field(default=0.05, metadata={"help": "Share of the conversations for validation."})
    test_share: float = field(default=0.1, metadata={"help": "Share of the conversations for the one test at the end."})
    split_method: Literal["random", "order"] = field(
        default="random", metadata={"help": "Draw the splits, or cut the file in its order: train, test, validation, as the book."}
    )
    split_seed: int = field(default=123, metadata={"help": "Seed of the split."})
    num_samples: int = field(default=3, metadata={"help": "Validation prompts answered at every evaluation, into samples.md."})
    max_new_tokens: int = field(default=128, metadata={"help": "Most tokens of an answer."})
    max_answers: int | None = field(default=None, metadata={"help": "Answer at most this many test prompts; all without it."})
    seen_answers: int = field(default=0, metadata={"help": "Answer this many training prompts too, to compare with unseen ones."})
    answers_before: bool = field(default=True, metadata={"help": "Let the base answer the test prompts too, for the page."})
    judge_url: str | None = field(
        default=None, metadata={"help": "Address of an OpenAI-compatible server that judges the answers from 0 to 100."}
    )
    judge_model: str | None = field(default=None, metadata={"help": "Its model."})
    judge_key_variable: str = field(
        default="OPENAI_API_KEY", metadata={"help": "Environment variable that holds its key, which is written nowhere."}
    )

    def __post_init__(self):
        for name, smallest in (("num_samples", 0), ("max_new_tokens", 1), ("seen_answers", 0)):
            if getattr(self, name) < smallest:
                raise UserError(f"{name} is {getattr(self, name)}; {smallest} or more is needed.")
        if self.source_weights is not None and len(self.source_weights) != len(self.sources):
            raise UserError(
                f"source_weights has {len(self.source_weights)} numbers for {len(self.sources)} sources; give one for each."
            )
        if self.judge_url and not self.judge_model:
            raise UserError("judge_url is given, judge_model is missing; name the model that judges.")
        if self.packing and self.train_sampling_strategy == "group_by_length":
            self.train_sampling_strategy = "random"  # packed rows are all of one length
        super().__post_init__()

    def judge_settings(self) -> dict | None:
        """Who judges the answers; None where nobody does."""
        if not self.judge_url:
            return None
        return dict(model=self.judge_model, base_url=self.judge_url, key_variable=self.judge_key_variable)
