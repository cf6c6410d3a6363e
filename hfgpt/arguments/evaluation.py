"""The arguments of recipes/evaluate.py."""

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from hfgpt.arguments.keys import (
    ModelKeys,
    ReadingKeys,
    RecordKeys,
    as_words,
    data_key,
    evaluation_key,
    hygiene_key,
    model_key,
    output_key,
)
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
class EvaluateArguments(ModelKeys, ReadingKeys, RecordKeys):
    """recipes/evaluate.py"""

    revision: str | None = model_key(None, "Branch, tag or commit of a model on the Hub.")
    dtype: Literal["float32", "bfloat16", "float16"] = model_key("float32", "What the weights are held in.")
    output_dir: str = output_key("", "Folder that evaluation.json is written to: the model's own without it; needed for a Hub id.")
    batch_size: int = evaluation_key(8, "Windows, rows or texts at a time; it changes the speed, not the result.")

    text: list[str] = data_key([], "Text to predict: text, JSON(L), Parquet files or patterns; Hub datasets (user/name[:config]).")
    text_field: str | None = data_key("text", "Column that holds the text in JSON, Parquet and Hub rows.")
    text_documents: str | None = data_key(
        "file", "One document of a text file: 'file', 'paragraph', 'line', or the line that separates documents."
    )
    join_with: str | None = data_key(None, "Make one document of all, with this between them (may be empty): held in memory whole.")
    context_length: int | None = model_key(None, "Most tokens that the model reads at once.")
    stride: int | None = evaluation_key(
        None, "Tokens scored a window: fewer give more context to each and take longer; half the context without it."
    )

    dataset: str = data_key("", "Folder of recipes/prepare_data.py, whose rows are predicted.")
    split: str = data_key("test", "Which of its splits.")

    test_sources: list[str] = data_key([], "Labelled texts for a classifier, conversations for an assistant: tables, Hub datasets.")
    hub_split: str | None = data_key("test", "Split of Hub datasets in text and test_sources.")
    text_column: str | None = data_key(None, f"Column of the texts; {AS_TRAINED}, else text.")
    label_column: str | None = data_key(None, f"Column of the labels, names or ids that the model knows; {AS_TRAINED}, else label.")
    label_delimiter: str | None = data_key(None, f"What separates several labels of one text; {AS_TRAINED}.")
    deduplicate: Literal["exact", "near", "none"] | None = data_key(
        None, f"Drop equal or nearly equal labelled texts, and contradictions; {AS_TRAINED}, else exact."
    )
    max_length: int | None = data_key(None, f"Most tokens of a text or conversation; {AS_TRAINED}.")
    conversation_format: str | None = data_key(
        None, f"What a row holds; auto tells it by the columns of each source; {AS_TRAINED}, else auto."
    )
    max_new_tokens: int | None = evaluation_key(None, f"Most tokens of an answer; {AS_TRAINED}, else 128.")
    max_answers: int | None = evaluation_key(None, f"Answer at most this many of the conversations; {AS_TRAINED}, else all.")

    tasks: list[str] = data_key([], "Benchmarks: TASK, or FILE.jsonl:TASK on your file (hellaswag, lambada, arc, any of lm_eval).")
    num_fewshot: int | None = data_key(None, "Solved examples before each question; the task's own number.")
    limit: int | None = data_key(None, "Only the first questions of each task, to try it out.")

    memorization: bool = hygiene_key(False, "Measure which training rows of dataset the model knows by heart; memorization.json.")
    num_samples: int = hygiene_key(64, "Texts drawn from the model for memorization.")
    sample_tokens: int = hygiene_key(128, "Tokens of each.")
    seed: int = hygiene_key(0, "Of the texts that are drawn.")

    def __post_init__(self):
        expand_home(self, "model", "output_dir", "text", "dataset", "test_sources", "tasks")
        self.require(model="give a folder or a Hub id first: recipes/evaluate.py MODEL --text test.txt")
        if not (self.text or self.dataset or self.test_sources or self.tasks):
            raise UserError(
                "there is nothing to evaluate on; give --text (any text), --dataset (rows of prepare_data.py), --test_sources "
                "(labelled texts or conversations) or --tasks (benchmarks)."
            )
        if self.memorization and not self.dataset:
            raise UserError("memorization is true, and dataset is missing; name the folder of the rows that the model learned.")
        positive = ("batch_size", "context_length", "max_documents", "max_records", "max_length", "max_new_tokens", "max_answers",
                    "limit", "num_samples", "sample_tokens")  # fmt: skip
        self.check_least(**dict.fromkeys(positive, 1), num_fewshot=0)
        if self.stride is not None and not 1 <= self.stride <= (self.context_length or self.stride):
            raise UserError(
                f"stride is {self.stride}, context_length {self.context_length or 'not given'}; a stride from 1 to the context is "
                "needed, or tokens would not be scored."
            )
        if not Path(self.model).is_dir() or is_unfinished(Path(self.model)):
            check_model_folder(self.model)
        if not self.output_dir and not Path(self.model).is_dir():
            raise UserError(
                f"model {self.model!r} is not a folder here (looked from {Path.cwd()}); for a Hub id, name the folder of the "
                "results with --output_dir."
            )

    def record_options(self) -> dict[str, Any]:
        """How `test_sources` are read, as `hfgpt.data.records.RecordOptions` takes it."""
        return dict(hub_split=self.hub_split, hub_revision=self.hub_revision, **self.table_options())

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
        for name, value in self.given().items():
            if name not in relevant or value == UNLESS_TRAINED_OTHERWISE.get(name):
                continue
            if name == kind:
                value = [public_name(item) for item in value] if isinstance(value, list) else public_name(value)
            words += as_words(name, value)
        return shlex.join(words)
