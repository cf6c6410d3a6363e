"""Where the examples of a fine-tuning come from, and what keeps copies of held-out ones out of its training set."""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from datasets import Dataset

from hfgpt.data.passport import Passport
from hfgpt.data.records import Record, RecordOptions, identities, read_records
from hfgpt.data.row_errors import RowErrors
from hfgpt.hygiene.decontamination import drop_copies, leaks_between, reference_texts

logger = logging.getLogger(__name__)

HELD_OUT = ("validation", "test")
SPLITS = ("train", *HELD_OUT)
AGAINST = "against"


@dataclass(frozen=True)
class HeldOutShares:
    """What is held out of the training sources, where validation and test have no files of their own.

    Args:
        validation, test: shares of the examples.
        method, seed: how they are drawn, as `hfgpt.data.splitting` has it.
    """

    validation: float
    test: float
    method: str
    seed: int


@dataclass(frozen=True)
class Examples:
    """The examples of a fine-tuning run: where they are, how they are read, and how they are kept apart.

    Args:
        names: files, patterns and Hub datasets of "train", "validation", "test" and "against"; held-out splits without any are
            drawn from those of training, and what stands in "against" must not be trained on.
        options: how each of them is read, as the fields of `RecordOptions`.
        on_error: what becomes of rows that cannot be used, "stop" or "skip".
        drop_copies: whether training examples that copy a held-out one are dropped.
        similarity: from which on a text is nearly a copy.
        shares: what is held out.
    """

    names: Mapping[str, list[str]]
    options: Mapping[str, dict]
    on_error: str
    drop_copies: bool
    similarity: float
    shares: HeldOutShares

    @property
    def given(self) -> list[str]:
        """The held-out splits that have files of their own."""
        return [name for name in HELD_OUT if self.names[name]]

    @property
    def kept_together(self) -> float | None:
        """The similarity from which on near copies go to one side of a split; None where they may part."""
        return self.similarity if self.drop_copies else None

    def read(self, split: str, passport: Passport, *, names: list[str] | None = None) -> tuple[Iterator[Record], RowErrors]:
        """The records of a split, or of some of its sources, noted in the passport; and what counts those that cannot be used."""
        names = self.names[split] if names is None else names
        options, errors = RecordOptions(**self.options[split]), RowErrors(self.on_error)
        passport.inputs += identities(names, options)
        return read_records(names, options, errors), errors

    def known(self) -> dict[str, list[dict]] | None:
        """What the passport of a run on these examples says of its inputs, by hashing alone, without parsing them.

        None where that does not tell everything: other texts had a say, or a Hub dataset does not tell its commit.
        """
        if self.names[AGAINST]:
            return None
        splits = [split for split in SPLITS if self.names[split]]
        inputs = [one for split in splits for one in identities(self.names[split], RecordOptions(**self.options[split]))]
        return None if any(one["kind"] == "hub" and not one["commit"] for one in inputs) else {"inputs": inputs}

    def without_copies(
        self, train: Dataset, held_out: Mapping[str, Dataset], passport: Passport, *, texts_of: Callable[[Dataset], list[str]]
    ) -> Dataset:
        """The training examples without copies of held-out ones and of the files "against"; how many of which is counted.

        Where held-out copies are not dropped, how many there are is said and noted all the same.

        Args: `texts_of` gives what is compared of each example.
        """
        references: dict[str, Iterable[str]] = {}
        if self.drop_copies:
            references = {name: texts_of(dataset) for name, dataset in held_out.items()}
        elif held_out:
            splits: dict[str, Iterable[str]] = {"train": texts_of(train)}
            splits |= {name: texts_of(dataset) for name, dataset in held_out.items()}
            leaks = leaks_between(splits, threshold=self.similarity)
            passport.steps.append({"step": "copies across splits, left in", **leaks})
            for pair, counts in leaks.items():
                if pair.startswith("train-"):
                    logger.info(
                        f"copies left in (decontaminate: false): {counts['exact']:,} {pair.removeprefix('train-')} examples have "
                        f"an exact copy in training, {counts['near']:,} more a near one"
                    )
        if self.names[AGAINST]:
            errors = RowErrors(self.on_error)
            references |= reference_texts(self.names[AGAINST], RecordOptions(**self.options[AGAINST]), errors)
            errors.finish(references, passport)
        if not references:
            return train
        return drop_copies(train, references, passport, texts=texts_of(train), threshold=self.similarity)
