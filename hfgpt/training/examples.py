"""Where the examples for fine-tuning come from, and how copies of held-out ones are kept out of the training set."""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from datasets import Dataset

from hfgpt.data.passport import HELD_OUT, SPLITS, Passport
from hfgpt.data.records import Record, RecordOptions, identities, read_records
from hfgpt.data.row_errors import RowErrors
from hfgpt.hygiene.decontamination import drop_copies, leaks_between, reference_texts

logger = logging.getLogger(__name__)

AGAINST = "against"


@dataclass(frozen=True)
class HeldOutShares:
    """What is held out of the training sources if validation and test have no files of their own.

    Args:
        validation, test: their shares of the examples.
        method, seed: how they are drawn, see `hfgpt.data.splitting`.
    """

    validation: float
    test: float
    method: str
    seed: int


@dataclass(frozen=True)
class Examples:
    """The examples of a fine-tuning run: where they are, how they are read, and how they are kept apart.

    Args:
        names: files, patterns and Hub datasets of "train", "validation", "test" and "against"; held-out splits without files are
            drawn from the training sources, and texts in "against" must not be trained on.
        options: how each of them is read, as the fields of `RecordOptions`.
        on_error: what to do with rows that cannot be used, "stop" or "skip".
        drop_copies: whether training examples that copy a held-out one are dropped.
        similarity: the similarity from which a text counts as a near copy.
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
        """The held-out splits with their own files."""
        return [name for name in HELD_OUT if self.names[name]]

    @property
    def kept_together(self) -> float | None:
        """The similarity from which near copies go to the same side of a split; None if they may be separated."""
        return self.similarity if self.drop_copies else None

    def read(self, split: str, passport: Passport, *, names: list[str] | None = None) -> tuple[Iterator[Record], RowErrors]:
        """The records of a split, or of some of its sources, recorded in the passport; and the counter of unusable ones."""
        names = self.names[split] if names is None else names
        options, errors = RecordOptions(**self.options[split]), RowErrors(self.on_error)
        passport.inputs += identities(names, options)
        return read_records(names, options, errors), errors

    def known(self) -> dict[str, list[dict]] | None:
        """What the passport of a run on these examples says about its inputs, from hashing only, without parsing them.

        None if that is not enough: other texts had an influence, or a Hub dataset does not report its commit.
        """
        if self.names[AGAINST]:
            return None
        inputs = self.inputs()
        return None if any(one["kind"] == "hub" and not one["commit"] for one in inputs) else {"inputs": inputs}

    def inputs(self) -> list[dict]:
        """The passport's entry for each input, in the order in which `read` records them."""
        splits = [split for split in SPLITS if self.names[split]]
        return [one for split in splits for one in identities(self.names[split], RecordOptions(**self.options[split]))]

    def without_copies(
        self, train: Dataset, held_out: Mapping[str, Dataset], passport: Passport, *, texts_of: Callable[[Dataset], list[str]]
    ) -> Dataset:
        """The training examples without copies of held-out ones or of the files in "against"; the dropped ones are counted.

        If held-out copies are not dropped, their number is still logged and recorded.

        Args: `texts_of` returns the texts of an example to compare.
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
                        f"an exact copy in training, {counts['near']:,} more have a near one"
                    )
        if self.names[AGAINST]:
            errors = RowErrors(self.on_error)
            references |= reference_texts(self.names[AGAINST], RecordOptions(**self.options[AGAINST]), errors)
            errors.finish(references, passport)
        if not references:
            return train
        return drop_copies(train, references, passport, texts=texts_of(train), threshold=self.similarity)
