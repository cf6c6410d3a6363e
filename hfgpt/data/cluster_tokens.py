"""Token ids of documents encoded by tasks; they are looked up by text, whatever was done to the documents in between.

A text has the same ids wherever it occurs. Texts that were cut, split or planted after the tasks are encoded here.
"""

import hashlib
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from transformers import PreTrainedTokenizerFast

from hfgpt.data.on_disk import in_batches
from hfgpt.tokenization import encode_to_arrays

ENTRY = np.dtype([("digest", "S16"), ("length", "<i8")])


def tokens_folder(tasks: Path) -> Path:
    """Where ids are, in the folder of the tasks."""
    return tasks / "tokens"


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


@dataclass(frozen=True)
class WriteTokens:
    """The last step of a datatrove pipeline: the ids of its documents, and an index of them."""

    folder: Path
    tokenizer: PreTrainedTokenizerFast

    def __call__(self, data: Iterable[Any], rank: int = 0, world_size: int = 1) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        entries = []
        with (self.folder / f"{rank:05d}.ids").open("wb") as file:
            for batch in in_batches({"text": document.text} for document in data):
                texts = [document["text"] for document in batch]
                for text, ids in zip(texts, encode_to_arrays(self.tokenizer, texts), strict=True):
                    file.write(ids.tobytes())
                    entries.append((_digest(text), len(ids)))
        np.save(self.folder / f"{rank:05d}.npy", np.array(entries, dtype=ENTRY))


class EncodedTexts:
    """What `encode_to_arrays` gives, read where tasks have written it. Memory: 36 bytes for each text that they encoded."""

    def __init__(self, tasks: Path, tokenizer: PreTrainedTokenizerFast):
        self.tokenizer = tokenizer
        self.paths = sorted(tokens_folder(tasks).glob("*.ids"))
        indices = [np.load(path.with_suffix(".npy")) for path in self.paths]
        lengths = [index["length"] for index in indices]
        starts = np.concatenate([np.zeros(0, np.int64), *(np.cumsum(each) - each for each in lengths)])
        digests = np.concatenate([np.zeros(0, "S16"), *(index["digest"] for index in indices)])
        of_file = np.repeat(np.arange(len(indices), dtype=np.int32), list(map(len, indices)))
        order = np.argsort(digests, kind="stable")
        self._digests, self._starts, self._files = digests[order], starts[order], of_file[order]
        self._lengths = np.concatenate([np.zeros(0, np.int64), *lengths])[order]
        self._open: tuple[int, BinaryIO] | None = None

    def __call__(self, texts: Sequence[str]) -> list[np.ndarray]:
        """The ids of each text, int32."""
        wanted = np.array([_digest(text) for text in texts], dtype="S16")
        places = np.searchsorted(self._digests, wanted)
        known = places < len(self._digests)
        known[known] = self._digests[places[known]] == wanted[known]
        others = iter(encode_to_arrays(self.tokenizer, list(itertools.compress(texts, ~known))))
        return [self._read(place) if is_known else next(others) for place, is_known in zip(places.tolist(), known.tolist())]

    def _read(self, place: int) -> np.ndarray:
        number = int(self._files[place])
        if self._open is None or self._open[0] != number:
            self.close()
            self._open = number, self.paths[number].open("rb")
        file = self._open[1]
        file.seek(4 * int(self._starts[place]))
        ids = np.empty(int(self._lengths[place]), dtype=np.int32)
        read = file.readinto(memoryview(cast(Any, ids)).cast("B")) if len(ids) else 0  # pyright: ignore[reportAttributeAccessIssue]
        assert read == ids.nbytes, f"{self.paths[number]} is shorter than it was"
        return ids

    def close(self) -> None:
        """Close the file that was read last."""
        if self._open is not None:
            self._open[1].close()
            self._open = None
