"""What the functions of hfgpt return: where a result lies, and its figures, read from the files that the recipe left there."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hfgpt.data.packing import PackingCounts
from hfgpt.data.passport import Passport
from hfgpt.files import read_json

METRICS_FILE, REPORT_FILE, CONVERSION_FILE = "metrics.json", "report.txt", "conversion.json"


@dataclass(frozen=True)
class TokenizerResult:
    """A trained tokenizer.

    Attributes:
        folder: where it lies, with its passport.json, its tokenizer_report.md and its card.
        vocab_size: rows that a model's embedding needs, special tokens included.
        documents, num_bytes: the text that it was trained on, in UTF-8 bytes.
    """

    folder: Path
    vocab_size: int
    documents: int
    num_bytes: int

    @classmethod
    def read(cls, folder: Path) -> "TokenizerResult":
        """The result in the folder of a recipe that has ended."""
        passport = Passport.load(folder)
        train = passport.splits["train"]
        return cls(folder, passport.tokenizer["vocab_size"], train["documents"], train["bytes"])


@dataclass(frozen=True)
class DataResult:
    """Prepared rows.

    Attributes:
        folder: a `datasets` folder (`datasets.load_from_disk`), with the tokenizer, passport.json and the card in it.
        context_length: tokens per row.
        splits: what went into the rows of "train", "validation" and "test": documents, UTF-8 bytes, tokens, padding, rows.
    """

    folder: Path
    context_length: int
    splits: dict[str, PackingCounts]

    @classmethod
    def read(cls, folder: Path) -> "DataResult":
        """The result in the folder of a recipe that has ended."""
        passport = Passport.load(folder)
        splits = {name: PackingCounts(**counts) for name, counts in passport.splits.items()}
        return cls(folder, passport.settings["context_length"], splits)


@dataclass(frozen=True)
class TrainingResult:
    """A trained model.

    Attributes:
        folder: the model or adapter, with its tokenizer, its card and all that docs/python.md names.
        metrics: the content of the folder's metrics.json: losses in nats per token, shares of 1, seconds, bytes.
        report: the content of the folder's report.txt, the run in a few lines for people.
    """

    folder: Path
    metrics: dict[str, Any]
    report: str

    @classmethod
    def read(cls, folder: Path) -> "TrainingResult":
        """The result in the folder of a recipe that has ended."""
        return cls(folder, read_json(folder / METRICS_FILE), (folder / REPORT_FILE).read_text(encoding="utf-8"))


@dataclass(frozen=True)
class EvaluationResult:
    """What was measured.

    Attributes:
        folder: where evaluation.json lies, which also says on which data and how.
        metrics: figures by the name of the data and their own: `{"texts.txt: bits_per_byte": 1.7}`.
    """

    folder: Path
    metrics: dict[str, float]


@dataclass(frozen=True)
class ConversionResult:
    """Converted weights.

    Attributes:
        folder: where they lie, with the tokenizer and conversion.json.
        parameters: how many there are.
        differences: the largest difference of any logit from what came in, in float32, by what was compared.
        notes: what the conversion could not carry over, or had to add.
    """

    folder: Path
    parameters: int
    differences: dict[str, float]
    notes: list[str]


@dataclass(frozen=True)
class PublishingResult:
    """What was sent to the Hub, or in a dry run would be.

    Attributes:
        files, num_bytes: all that makes up the repositories.
        sent: files that were not there already; 0 in a dry run.
    """

    files: int
    num_bytes: int
    sent: int
