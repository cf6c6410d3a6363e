"""The arguments of recipes/evaluate.py. Nothing here imports torch, so a mistake on the command line is answered at once."""

import shlex
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Literal

from hfgpt.arguments.documents import ON_ERROR_HELP
from hfgpt.artifacts import check_model_folder, is_unfinished
from hfgpt.errors import UserError
from hfgpt.files import expand_home, public_name

# Which keys a result depends on, beside those of the model, by the key that names what is evaluated on.
READING = ("hub_split", "hub_revision")
KEYS = {
    "text": ("text_field", "text_documents", "join_with", "max_documents", "streaming", "context_length", "stride", *READING),
    "dataset": ("split",),
    "test_sources": ("header", "columns", "separator", "on_error", "max_records", "text_column", "label_column", "label_delimiter",
                     "deduplicate",
                     "max_length", "conversation_format", "max_new_tokens", "max_answers", *READING),
    "tasks": ("num_fewshot", "limit"),
}  # fmt: skip
AS_TRAINED = "as the model's own run had it"
# What a key is where neither it nor the model's own run says anything.
UNLESS_TRAINED_OTHERWISE = {
    "text_column": "text",
    "label_column": "label",
    "label_delimiter": None,
    "deduplicate": "exact",
    "max_length": None,
    "conversation_format": "auto",
    "max_new_tokens": 128,
    "max_answers": None,
}


@dataclass
class EvaluateArguments:
    """recipes/evaluate.py"""

    model: str = field(default="", metadata={"help": "Folder or Hub id of the model; the first argument without dashes."})
    revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of a model on the Hub."})
    trust_remote_code: bool = field(default=False, metadata={"help": "Run the code that a foreign repository brings."})
    dtype: Literal["float32", "bfloat16", "float16"] = field(default="float32", metadata={"help": "What the weights are held in."})
    output_dir: str = field(
        default="", metadata={"help": "Folder that evaluation.json is written to: the model's own without it; needed for a Hub id."}
    )
    batch_size: int = field(default=8, metadata={"help": "Windows, rows or texts at a time; it changes the speed, not the result."})

    text: list[str] = field(
        default_factory=list,
        metadata={"help": "Text to predict: text, JSON(L), Parquet files or patterns; Hub datasets (user/name[:config])."},
    )
    text_field: str = field(default="text", metadata={"help": "Column that holds the text in JSON, Parquet and Hub rows."})
    text_documents: str = field(
        default="file",
        metadata={"help": "One document of a text file: 'file', 'paragraph', 'line', or the line that separates documents."},
    )
    join_with: str | None = field(
        default=None, metadata={"help": "Make one document of all, with this between them (may be empty): held in memory whole."}
    )
    max_documents: int | None = field(default=None, metadata={"help": "Stop after this many documents."})
    streaming: bool = field(default=False, metadata={"help": "Read Hub datasets as they come, without storing them."})
    context_length: int | None = field(default=None, metadata={"help": "Most tokens that the model reads at once."})
    stride: int | None = field(
        default=None,
        metadata={"help": "Tokens scored a window: fewer give more context to each and take longer; half the context without it."},
    )

    dataset: str = field(default="", metadata={"help": "Folder of recipes/prepare_data.py, whose rows are predicted."})
    split: str = field(default="test", metadata={"help": "Which of its splits."})

    test_sources: list[str] = field(
        default_factory=list,
        metadata={"help": "Labelled texts for a classifier, conversations for an assistant: tables of any kind, Hub datasets."},
    )
    hub_split: str = field(default="test", metadata={"help": "Split of Hub datasets in text and test_sources."})
    hub_revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of these Hub datasets."})
    header: bool = field(default=True, metadata={"help": "The first line of CSV and TSV files names the columns."})
    columns: list[str] | None = field(default=None, metadata={"help": "Names of the columns where no header names them."})
    separator: str | None = field(
        default=None,
        metadata={"help": "What separates columns: comma, semicolon, tab or a character; told from the header without it."},
    )
    on_error: Literal["stop", "skip"] = field(default="stop", metadata={"help": ON_ERROR_HELP})
    max_records: int | None = field(default=None, metadata={"help": "Read at most this many rows of test_sources."})
    text_column: str | None = field(default=None, metadata={"help": f"Column of the texts; {AS_TRAINED}, else text."})
    label_column: str | None = field(
        default=None, metadata={"help": f"Column of the labels, names or ids that the model knows; {AS_TRAINED}, else label."}
    )
    label_delimiter: str | None = field(
        default=None, metadata={"help": f"What separates several labels of one text; {AS_TRAINED}."}
    )
    deduplicate: Literal["exact", "near", "none"] | None = field(
        default=None, metadata={"help": f"Drop equal or nearly equal labelled texts, and contradictions; {AS_TRAINED}, else exact."}
    )
    max_length: int | None = field(default=None, metadata={"help": f"Most tokens of a text or conversation; {AS_TRAINED}."})
    conversation_format: Literal["auto", "alpaca", "sharegpt", "messages", "prompt_completion"] | None = field(
        default=None,
        metadata={"help": f"What a row holds; auto tells it by the columns of each source; {AS_TRAINED}, else auto."},
    )
    max_new_tokens: int | None = field(default=None, metadata={"help": f"Most tokens of an answer; {AS_TRAINED}, else 128."})
    max_answers: int | None = field(
        default=None, metadata={"help": f"Answer at most this many of the conversations; {AS_TRAINED}, else all."}
    )

    tasks: list[str] = field(
        default_factory=list,
        metadata={"help": "Benchmarks: FILE.jsonl:TASK on a file of yours (hellaswag, lambada, arc, or any of lm_eval), or TASK."},
    )
    num_fewshot: int | None = field(default=None, metadata={"help": "Solved examples before each question; the task's own number."})
    limit: int | None = field(default=None, metadata={"help": "Only the first questions of each task, to try it out."})

    memorization: bool = field(
        default=False, metadata={"help": "Measure what the model says by heart of the training rows of dataset; memorization.json."}
    )
    num_samples: int = field(default=64, metadata={"help": "Texts drawn from the model for memorization."})
    sample_tokens: int = field(default=128, metadata={"help": "Tokens of each."})
    seed: int = field(default=0, metadata={"help": "Of the texts that are drawn."})

    def __post_init__(self):
        expand_home(self, "model", "output_dir", "text", "dataset", "test_sources", "tasks")
        if not self.model:
            raise UserError("model is missing; give a folder or a Hub id first: recipes/evaluate.py MODEL --text test.txt")
        if not (self.text or self.dataset or self.test_sources or self.tasks):
            raise UserError(
                "there is nothing to evaluate on; give --text (any text), --dataset (rows of prepare_data.py), --test_sources "
                "(labelled texts or conversations) or --tasks (benchmarks)."
            )
        if self.memorization and not self.dataset:
            raise UserError("memorization is true, and dataset is missing; name the folder of the rows that the model learned.")
        positive = ("batch_size", "context_length", "max_documents", "max_records", "max_length", "max_new_tokens", "max_answers",
                    "limit", "num_samples", "sample_tokens")  # fmt: skip
        for name in positive:
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}; 1 or more is needed.")
        if self.num_fewshot is not None and self.num_fewshot < 0:
            raise UserError(f"num_fewshot is {self.num_fewshot}; 0 or more is needed.")
        if self.stride is not None and not 1 <= self.stride <= (self.context_length or self.stride):
            raise UserError(
                f"stride is {self.stride}, context_length {self.context_length or 'not given'}; a stride from 1 to the context is "
                "needed, or tokens would not be scored."
            )
        if not Path(self.model).is_dir() or is_unfinished(Path(self.model)):
            check_model_folder(self.model)
        if not self.output_dir and not Path(self.model).is_dir():
            raise UserError(
                f"model {self.model!r} is no folder here (looked from {Path.cwd()}); for a Hub id, name the folder of the "
                "results with --output_dir."
            )

    def reading_options(self) -> dict:
        """How the sources of `text` are read."""
        return dict(
            text_field=self.text_field,
            text_documents=self.text_documents,
            hub_split=self.hub_split,
            hub_revision=self.hub_revision,
            streaming=self.streaming,
            max_documents=self.max_documents,
        )

    def record_options(self) -> dict:
        """How `test_sources` are read."""
        return dict(
            hub_split=self.hub_split,
            hub_revision=self.hub_revision,
            header=self.header,
            columns=self.columns,
            separator=self.separator,
            max_records=self.max_records,
        )

    def take_over(self, settings: dict) -> dict:
        """Fill in what was not given of the keys that `test_sources` go by: from the settings of the model's run, else defaults.

        Returns: what was taken from the run.
        """
        missing = {name: default for name, default in UNLESS_TRAINED_OTHERWISE.items() if getattr(self, name) is None}
        taken = {name: settings[name] for name in missing if settings.get(name) is not None}
        for name, value in (missing | taken).items():
            setattr(self, name, value)
        return taken

    def command(self, kind: str) -> str:
        """The command line that measures the same thing again; it is published, so files go by their names alone.

        Args: `kind` names the key of what was evaluated on, one of `KEYS`.
        """
        words = ["python", "recipes/evaluate.py", public_name(self.model)]
        relevant = ("revision", "trust_remote_code", "dtype", "batch_size", kind, *KEYS[kind])
        for one in fields(self):
            value = getattr(self, one.name)
            default = one.default if one.default is not MISSING else one.default_factory()
            if one.name not in relevant or value in (default, UNLESS_TRAINED_OTHERWISE.get(one.name, default)):
                continue
            values = value if isinstance(value, list) else [value]
            words += [f"--{one.name}", *(public_name(item) if one.name == kind else _as_word(item) for item in values)]
        return shlex.join(words)


def _as_word(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
