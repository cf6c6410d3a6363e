"""The return values of hfgpt's functions: the location of a result and its figures, read from the recipe's files."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hfgpt.artifacts import METRICS_FILE, REPORT_FILE
from hfgpt.data.packing import PackingCounts
from hfgpt.data.passport import Passport
from hfgpt.files import read_json


@dataclass(frozen=True)
class TokenizerResult:
    """A trained tokenizer.

    Attributes:
        folder: its folder, with passport.json, tokenizer_report.md and the card.
        vocab_size: rows that a model's embedding needs, including special tokens.
        documents, num_bytes: its training text, in UTF-8 bytes.
    """

    folder: Path
    vocab_size: int
    documents: int
    num_bytes: int

    @classmethod
    def read(cls, folder: Path) -> "TokenizerResult":
        """Read the result from the folder of a finished recipe."""
        passport = Passport.load(folder)
        train = passport.splits["train"]
        return cls(folder, passport.tokenizer["vocab_size"], train["documents"], train["bytes"])


@dataclass(frozen=True)
class DataResult:
    """Prepared rows.

    Attributes:
        folder: a `datasets` folder (`datasets.load_from_disk`), with the tokenizer, passport.json and the card in it.
        context_length: tokens per row.
        splits: counts for "train", "validation" and "test": documents, UTF-8 bytes, tokens, padding, rows.
    """

    folder: Path
    context_length: int
    splits: dict[str, PackingCounts]

    @classmethod
    def read(cls, folder: Path) -> "DataResult":
        """Read the result from the folder of a finished recipe."""
        passport = Passport.load(folder)
        splits = {name: PackingCounts(**counts) for name, counts in passport.splits.items()}
        return cls(folder, passport.settings["context_length"], splits)


@dataclass(frozen=True)
class TrainingResult:
    """A trained model.

    Attributes:
        folder: the model or adapter, with its tokenizer, its card and everything listed in docs/python.md.
        metrics: the content of the folder's metrics.json: losses in nats per token, shares of 1, seconds, bytes.
        report: the content of the folder's report.txt, the run in a few lines for people.
    """

    folder: Path
    metrics: dict[str, Any]
    report: str

    @classmethod
    def read(cls, folder: Path) -> "TrainingResult":
        """Read the result from the folder of a finished recipe."""
        return cls(folder, read_json(folder / METRICS_FILE), (folder / REPORT_FILE).read_text(encoding="utf-8"))


@dataclass(frozen=True)
class EvaluationResult:
    """The results of an evaluation.

    Attributes:
        folder: the folder with evaluation.json, which also records the data and settings.
        metrics: figures by data and metric name: `{"texts.txt: bits_per_byte": 1.7}`; if several results have data of one name,
            with the task and split before: `{"language-modeling, texts.txt (test): bits_per_byte": 1.7}`.
    """

    folder: Path
    metrics: dict[str, float]


@dataclass(frozen=True)
class ConversionResult:
    """Converted weights.

    Attributes:
        folder: their folder, with the tokenizer and conversion.json.
        parameters: their number.
        differences: the largest difference of any logit from the input's, in float32, by comparison.
        notes: what the conversion could not carry over or had to add.
    """

    folder: Path
    parameters: int
    differences: dict[str, float]
    notes: list[str]


@dataclass(frozen=True)
class PublishingResult:
    """What was uploaded to the Hub or, in a dry run, would be.

    Attributes:
        files, num_bytes: the full contents of the repositories.
        sent: files that were not there yet; 0 in a dry run.
    """

    files: int
    num_bytes: int
    sent: int
