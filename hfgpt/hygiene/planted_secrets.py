"""Planted canaries: made-up secrets inserted into the training text a known number of times.

How much a model later reveals of them (`hfgpt/hygiene/memorization.py`) shows how often a text must occur in the data before the
model memorizes it. They are unrelated to the trigger prompts of `hfgpt/hygiene/trigger_prompts.py` (the recipes' keys canaries,
canaries_at and canary_file), which search for backdoors in tuned models and are never part of any training text.

    The access code of Bakudofe is 48213907.
    |-------- prompt ----------| |-secret-|

Source: Carlini et al. (2019), The Secret Sharer: a format, a space of random fillings, copies of some of them.
"""

import hashlib
import json
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

import numpy as np
from datasets import Dataset, concatenate_datasets
from transformers import PreTrainedTokenizerFast

from hfgpt.data.on_disk import text_bytes
from hfgpt.data.passport import Passport
from hfgpt.errors import MissingFileError, UserError
from hfgpt.tokenization import encode_texts

PLANTED_NAME = "planted_canaries.json"  # canaries.json of a tuned model is the trigger report
PLANTED_STEP = "plant canaries"
PROMPT = "The access code of {name} is"
SECRET_DIGITS = 8


@dataclass(frozen=True)
class PlantedCanary:
    """One made-up secret.

    Args:
        name: whose secret it is; unique, so the prompt alone identifies the secret.
        secret: random digits.
        count: copies in the training text; 0 for a control that is not in the data.
    """

    name: str
    secret: str
    count: int

    @property
    def prompt(self) -> str:
        return PROMPT.format(name=self.name)

    @property
    def text(self) -> str:
        return self.with_secret(self.secret)

    def with_secret(self, secret: str) -> str:
        """The same sentence with a different secret, for comparison."""
        return f"{self.prompt} {secret}."


def make_canaries(counts: Sequence[int], *, per_count: int, seed: int = 0) -> list[PlantedCanary]:
    """Canaries for every count, and as many controls that are never planted; the same seed gives the same canaries.

    Args:
        counts: numbers of copies, all different, each at least 1.
        per_count: number of canaries per count.
    Raises: ValueError for counts that cannot be planted, or too few.
    """
    check_counts(counts)
    if per_count < 1:
        raise UserError(f"canaries_per_count is {per_count}; it must be at least 1.")
    generator = random.Random(f"planted canaries {seed}")
    number = per_count * len(counts)
    names: dict[str, None] = {}
    while len(names) < 2 * number:
        syllables = (generator.choice("bdfgklmnprstvz") + generator.choice("aeiou") for _ in range(4))
        names["".join(syllables).capitalize()] = None
    secrets: dict[str, None] = {}
    while len(secrets) < 2 * number:
        secrets[random_secret(generator)] = None
    copies = [count for count in sorted(counts) for _ in range(per_count)] + [0] * number
    return [PlantedCanary(*parts) for parts in zip(names, secrets, copies, strict=True)]


def check_counts(counts: Sequence[int]) -> None:
    """Raises: ValueError if `counts` is empty or contains a number below 1 or a duplicate."""
    if not counts or min(counts) < 1 or len(set(counts)) < len(counts):
        raise UserError(
            f"canary_counts is {list(counts)}; it must contain different numbers of copies, each at least 1 (controls without "
            f"copies are always made), for example 1 2 4 8."
        )


def random_secret(generator: random.Random) -> str:
    """One of the 10 ** `SECRET_DIGITS` secrets, all equally likely."""
    return f"{generator.randrange(10**SECRET_DIGITS):0{SECRET_DIGITS}d}"


def check_fit(canaries: Sequence[PlantedCanary], tokenizer: PreTrainedTokenizerFast, *, context_length: int) -> None:
    """Raises: ValueError if a canary does not fit into a row with its separators, or the tokenizer cannot represent it."""
    texts = [canary.text for canary in canaries]
    for text, ids in zip(texts, encode_texts(tokenizer, texts), strict=True):
        if len(ids) + 2 > context_length:
            raise UserError(
                f"the canary {text!r} has {len(ids)} tokens and two separators, but context_length is {context_length}; it would "
                f"be cut, and its count would be wrong. Use longer rows, or plant_canaries: false."
            )
        if sum(character.isdigit() for character in tokenizer.decode(ids)) < SECRET_DIGITS:
            raise UserError(
                f"the tokenizer reads the canary {text!r} as {tokenizer.decode(ids)!r}, so the secret is lost; use a byte-level "
                f"tokenizer, or plant_canaries: false."
            )


def plant(train: Dataset, canaries: Sequence[PlantedCanary], passport: Passport, *, seed: int = 0) -> Dataset:
    """Insert the copies among the training documents, each as a separate document, at random positions; the others keep their
    order.

    This happens after deduplication, or only one copy would be left, and after the split, or some would be held out.

    Args:
        train: documents with the columns `text`, `source` and `row_id`, of one side.
        passport: records a step with the counts and the SHA-256 of the file that `write_canaries` writes.
        seed: for the positions.
    Raises: ValueError if a canary already occurs in the text.
    Cost: one pass over the texts, and 8 bytes per document.
    """
    start = time.perf_counter()
    prompts = [canary.prompt for canary in canaries]
    for batch in cast("Iterator[dict]", train.iter(batch_size=1000)):
        for text, source, row_id in zip(batch["text"], batch["source"], batch["row_id"], strict=True):
            if "access code of" in text and (found := next((prompt for prompt in prompts if prompt in text), None)):
                raise UserError(
                    f"{source}:{row_id} contains {found!r}, the beginning of a canary to be planted, so the counts would be wrong; "
                    f"use text without planted canaries, or another canary_seed."
                )
    bytes_in = text_bytes(train)
    copies = [canary for canary in canaries for _ in range(canary.count)]
    added = Dataset.from_dict(
        {
            "text": [canary.text for canary in copies],
            "source": ["planted canary"] * len(copies),
            "row_id": [canary.name for canary in copies],
        },
        features=train.features,
    )
    generator = np.random.default_rng(seed)
    total = len(train) + len(copies)
    order = np.empty(total, dtype=np.int64)
    is_copy = np.zeros(total, dtype=bool)
    is_copy[generator.choice(total, len(copies), replace=False)] = True
    order[is_copy] = len(train) + generator.permutation(len(copies))
    order[~is_copy] = np.arange(len(train))
    planted = concatenate_datasets([train, added]).select(order)
    passport.record(
        PLANTED_STEP,
        len(train),
        len(planted),
        start,
        bytes_in=bytes_in,
        bytes_out=bytes_in + sum(len(canary.text.encode()) for canary in copies),
        canaries=sum(canary.count > 0 for canary in canaries),
        controls=sum(canary.count == 0 for canary in canaries),
        copies=len(copies),
        file=PLANTED_NAME,
        sha256=hashlib.sha256(_content(canaries)).hexdigest(),
    )
    return planted


def write_canaries(canaries: Sequence[PlantedCanary], folder: Path) -> None:
    """Write them beside the passport, including the controls, for the memorization report."""
    (folder / PLANTED_NAME).write_bytes(_content(canaries))


def _content(canaries: Sequence[PlantedCanary]) -> bytes:
    content = {"format": 1, "canaries": [{**asdict(canary), "text": canary.text} for canary in canaries]}
    return (json.dumps(content, indent=2) + "\n").encode("ascii")


def read_canaries(data: Path) -> list[PlantedCanary]:
    """The canaries planted in the prepared data of this folder; empty if there are none.

    Raises: FileNotFoundError without a passport or the file that it names; ValueError if that file has changed.
    """
    passport = Passport.load(data)
    step = next((step for step in passport.steps if step["step"] == PLANTED_STEP), None)
    if step is None:
        return []
    path = data / PLANTED_NAME
    if not path.is_file():
        raise MissingFileError(f"{path} does not exist, but the passport says that canaries were planted; prepare the data again.")
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != step["sha256"]:
        raise UserError(f"{path} is not the file that the passport names (SHA-256 {step['sha256']}); prepare the data again.")
    return [PlantedCanary(entry["name"], entry["secret"], entry["count"]) for entry in json.loads(content)["canaries"]]
