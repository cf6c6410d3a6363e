"""The arguments of recipes/evaluate.py."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from hfgpt.arguments.commands import command_line
from hfgpt.arguments.keys import (
    ON_ERROR_HELP,
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
from hfgpt.arguments.needs import GIVEN, TRUE, Need
from hfgpt.artifacts import check_model_folder, is_unfinished, run_around
from hfgpt.errors import UserError
from hfgpt.files import expand_home, public_name

# Which keys a result depends on besides those of the model, by the key that names the evaluation data.
READING = ("hub_split", "hub_revision")
KEYS = {
    "text": ("text_field", "text_documents", "join_with", "max_documents", "streaming", "context_length", "stride", *READING),
    "dataset": ("split",),
    "test_sources": ("header", "columns", "separator", "on_error", "max_records", "text_column", "label_column", "label_delimiter",
                     "blank_texts", "deduplicate", "max_length", "conversation_format", "max_new_tokens", "max_answers", *READING),
    "tasks": ("num_fewshot", "limit"),
}  # fmt: skip
_KINDS_OF = {name: [kind for kind, names in KEYS.items() if name in names] for names in KEYS.values() for name in names}
EVALUATION_NEEDS = (
    *(Need((name,), dict.fromkeys(kinds, GIVEN)) for name, kinds in _KINDS_OF.items()),
    Need(("num_samples", "sample_tokens", "seed"), {"memorization": TRUE}),
)
AS_TRAINED = "as in the model's own run"
# The value of a key that neither the user nor the model's own run sets.
UNLESS_TRAINED_OTHERWISE = {
    "text_column": "text",
    "label_column": "label",
    "label_delimiter": None,
    "on_error": "stop",
    "blank_texts": "error",
    "deduplicate": "exact",
    "max_length": None,
    "conversation_format": "auto",
    "max_new_tokens": 128,
    "max_answers": None,
}


@dataclass
class EvaluateArguments(ModelKeys, ReadingKeys, RecordKeys):
    """recipes/evaluate.py"""

    needs: ClassVar[tuple[Need, ...]] = EVALUATION_NEEDS

    revision: str | None = model_key(None, "Branch, tag or commit of a model on the Hub.")
    dtype: Literal["float32", "bfloat16", "float16"] = model_key("float32", "dtype of the weights.")
    output_dir: str = output_key("", "Folder for evaluation.json (default: the model's own); required for a Hub id.")
    batch_size: int = evaluation_key(8, "Windows, rows or texts at a time; it changes only the speed, not the result.")

    text: list[str] = data_key([], "Text to predict: text, JSON(L), Parquet files or patterns; Hub datasets (user/name[:config]).")
    text_field: str | None = data_key("text", "Column with the text in JSON, Parquet and Hub rows.")
    text_documents: str | None = data_key(
        "file", "What counts as a document in a text file: 'file', 'paragraph', 'line', or the line that separates documents."
    )
    join_with: str | None = data_key(
        None, "Join all documents into one, with this text between them (may be empty); all of it is held in memory."
    )
    context_length: int | None = model_key(None, "Maximum number of tokens the model reads at once.")
    stride: int | None = evaluation_key(
        None, "Tokens scored per window: fewer give each more context and take longer (default: half the context)."
    )

    dataset: str = data_key("", "Folder written by recipes/prepare_data.py whose rows are predicted.")
    split: str = data_key("test", "Which of its splits to use.")

    test_sources: list[str] = data_key(
        [], "Labelled texts for a classifier or conversations for an assistant: tables or Hub datasets."
    )
    hub_split: str | None = data_key("test", "Split of the Hub datasets in text and test_sources.")
    text_column: str | None = data_key(None, f"Column of the texts (default: {AS_TRAINED}, else text).")
    label_column: str | None = data_key(
        None, f"Column of the labels: names or ids that the model knows (default: {AS_TRAINED}, else label)."
    )
    label_delimiter: str | None = data_key(None, f"What separates several labels of one text (default: {AS_TRAINED}).")
    on_error: Literal["stop", "skip"] | None = data_key(  # pyright: ignore[reportIncompatibleVariableOverride]
        None, f"{ON_ERROR_HELP.removesuffix('.')} (default: {AS_TRAINED}, else stop)."
    )
    blank_texts: Literal["error", "drop"] | None = data_key(
        None, f"What to do with empty labelled texts (default: {AS_TRAINED}, else error)."
    )
    deduplicate: Literal["exact", "near", "none"] | None = data_key(
        None, f"Drop equal or nearly equal labelled texts, and contradictions (default: {AS_TRAINED}, else exact)."
    )
    max_length: int | None = data_key(None, f"Maximum number of tokens in a text or conversation (default: {AS_TRAINED}).")
    conversation_format: str | None = data_key(
        None, f"Format of a row; auto detects it from the columns of each source (default: {AS_TRAINED}, else auto)."
    )
    max_new_tokens: int | None = evaluation_key(None, f"Maximum number of tokens in an answer (default: {AS_TRAINED}, else 128).")
    max_answers: int | None = evaluation_key(
        None, f"Answer at most this many of the conversations (default: {AS_TRAINED}, else all)."
    )

    tasks: list[str] = data_key(
        [], "Benchmarks: TASK, or FILE.jsonl:TASK to use your file (hellaswag, lambada, arc, any task of lm_eval)."
    )
    num_fewshot: int | None = data_key(None, "Solved examples before each question (default: the task's own number).")
    limit: int | None = data_key(None, "Use only the first questions of each task, to try it out.")

    memorization: bool = hygiene_key(
        False, "Measure which training rows of dataset the model knows by heart; writes memorization.json."
    )
    num_samples: int = hygiene_key(64, "Texts drawn from the model for memorization.")
    sample_tokens: int = hygiene_key(128, "Tokens in each of these texts.")
    seed: int = hygiene_key(0, "Seed for drawing these texts.")

    def __post_init__(self):
        expand_home(self, "model", "output_dir", "text", "dataset", "test_sources", "tasks")
        self.require(model="give a folder or a Hub id first: recipes/evaluate.py MODEL --text test.txt")
        self.check_needs(self.given())
        if self.memorization and not self.dataset:
            raise UserError(
                "memorization is true, but dataset is missing; give the folder of the rows that the model was trained on."
            )
        positive = ("batch_size", "context_length", "max_documents", "max_records", "max_length", "max_new_tokens", "max_answers",
                    "limit", "num_samples", "sample_tokens")  # fmt: skip
        self.check_least(**dict.fromkeys(positive, 1), num_fewshot=0)
        if self.stride is not None and not 1 <= self.stride <= (self.context_length or self.stride):
            raise UserError(
                f"stride is {self.stride}, context_length {self.context_length or 'not given'}; the stride must be between 1 and "
                f"the context length, or some tokens would not be scored."
            )
        if not Path(self.model).is_dir() or is_unfinished(Path(self.model)):
            check_model_folder(self.model)
        if not self.output_dir and not Path(self.model).is_dir():
            raise UserError(
                f"model {self.model!r} is not a folder here (looked from {Path.cwd()}); for a Hub id, give a folder for the "
                f"results with --output_dir."
            )
        if self.measures_own_test and run_around(self.model) is None:
            raise UserError(
                f"there is no evaluation data, and no run.yaml beside {self.model} that says what its own run held out; give "
                f"--text (any text), --dataset (prepared rows), --test_sources (labelled texts or conversations) or --tasks "
                f"(benchmarks)."
            )

    @property
    def measures_own_test(self) -> bool:
        """Whether no data are given, so that the model is measured on the test split of its own run."""
        return not (self.text or self.dataset or self.test_sources or self.tasks)

    def record_options(self) -> dict[str, Any]:
        """How `test_sources` are read, as `hfgpt.data.records.RecordOptions` takes it."""
        return dict(hub_split=self.hub_split, hub_revision=self.hub_revision, **self.table_options())

    def labelled_options(self) -> dict[str, Any]:
        """The values of `hfgpt.data.classification.LabelledOptions`, after `take_over`."""
        return self.values_of("text_column", "label_column", "label_delimiter", "blank_texts")

    def take_over(self, settings: dict) -> dict:
        """Fill in the keys for `test_sources` that were not given: from the settings of the model's run, or else defaults.

        Returns: the values taken from the run.
        """
        missing = {name: default for name, default in UNLESS_TRAINED_OTHERWISE.items() if getattr(self, name) is None}
        taken = {name: settings[name] for name in missing if settings.get(name) is not None}
        for name, value in (missing | taken).items():
            setattr(self, name, value)
        return taken

    def command(self, kind: str) -> str:
        """The command line that repeats the measurement; it is published, so it contains file names only, not paths.

        Args: `kind` is the key that names the evaluation data, one of `KEYS`; "" stands for the test split of the model's own run.
        """
        words: list[str] = []
        relevant = ("revision", "trust_remote_code", "dtype", "batch_size", kind, *KEYS.get(kind, ()))
        for name, value in self.given().items():
            if name not in relevant or value == UNLESS_TRAINED_OTHERWISE.get(name):
                continue
            if name == kind:
                value = [public_name(item) for item in value] if isinstance(value, list) else public_name(value)
            words += as_words(name, value)
        return command_line("evaluate", public_name(self.model), *words)
