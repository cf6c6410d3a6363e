"""What training text shares with held-out text and with benchmarks is found, and cut out of the training text.

Copies of a document have one side of the split (`hfgpt/data/splitting.py`). What may stand on both sides all the same: a passage
that many documents quote, a copy with parts of its own, the text around a cut by position.

Nothing is tokenised but what is shared. A run of n tokens has n bytes or more, since no token is empty; so runs of that many bytes
are looked for (`hfgpt/data/passages.py`), and only these are encoded, each by itself: as `hfgpt/hygiene/memorization.py` counts.
They are looked for with ASCII letters in one case and white space in a row as one byte. Only a run of n tokens that is mostly white
space has fewer bytes than n then, and is not found: 30 letters in a table of blanks.
"""

import hashlib
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from datasets import Dataset
from transformers import PreTrainedTokenizerFast

from hfgpt.data.dropped import DroppedDocuments
from hfgpt.data.near_copies import CONTAINMENT, SIMILARITY
from hfgpt.data.on_disk import Document, document_batches, text_batches, text_bytes, texts_of, write_documents
from hfgpt.data.passages import CutCounts, Span, Windows, cut_out, joined, passages_of
from hfgpt.data.passport import Passport
from hfgpt.errors import UserError
from hfgpt.tokenization import encode_texts

logger = logging.getLogger(__name__)

# A part of a run, cut off in the middle of words, may have more tokens than the whole: the word at either end is then spelled by
# itself. Runs with so many tokens less than what is not allowed are cut out, too.
TOKENS_AT_ENDS = 4
MOST_LOST = 0.5  # of the bytes to train on; above, it is warned of


def drop_leaks(
    train: Dataset,
    held_out: Mapping[str, Dataset],
    passport: Passport,
    *,
    tokenizer: PreTrainedTokenizerFast,
    leak_tokens: int = 50,
    how: str = "drop",
    cache_dir: str,
    dropped: DroppedDocuments | None = None,
) -> Dataset:
    """The training documents without what they share with held-out text: no run of `leak_tokens` is left in both.

    The case of ASCII letters and the kind and amount of white space make no difference. A document that is the same as a held-out
    one but for case and spaces, or of which `SIMILARITY` stands in held-out text in one piece, goes as a whole; else runs of
    `leak_tokens` and more are cut out, see `cut_out`.

    Args:
        train, held_out: documents with the columns `text`, `source` and `row_id`; held-out ones by the name of their split. They
            are never changed.
        tokenizer: by which a run is measured.
        how: "drop", "count", which only says what there is, or "ignore".
        dropped: takes the documents that are dropped as a whole.
    Raises: UserError where nothing is left to train on.
    Cost: linear; memory as `Windows` takes for the held-out text. Measured: 18 MB of paragraphs against 2 MB 1.9 s of CPU time, of
        15 s for the whole of prepare_data.py; 41 MB of them 3.8 s, 2026-11-26.
    """
    if how == "ignore" or not held_out:
        return train
    references = {name: Reference(texts, shortest=leak_tokens) for name, texts in held_out.items()}
    search = LeakSearch(references, tokenizer, leak_tokens)
    cure, count_only = "keep it with leaks: count", how == "count"
    return search.without_leaks(
        train, passport, step="drop leaks", cure=cure, count_only=count_only, cache_dir=cache_dir, dropped=dropped
    )


def drop_benchmark_text(
    train: Dataset,
    benchmarks: Mapping[str, list[str]],
    passport: Passport,
    *,
    tokenizer: PreTrainedTokenizerFast,
    leak_tokens: int = 50,
    cache_dir: str,
    dropped: DroppedDocuments | None = None,
) -> Dataset:
    """The training documents without what they share with benchmarks, as `drop_leaks` does, and without their texts as a whole.

    A text of `leak_tokens` bytes or more that stands in a document, `CONTAINMENT` of it, is cut out however few tokens it has.

    Args: `benchmarks` are their texts by name, as `reference_texts` reads them; `dropped` takes documents dropped as a whole.
    Memory: 20 bytes for each byte of the benchmarks.
    """
    if not benchmarks:
        return train
    references = {
        name: Reference(Dataset.from_dict({"text": texts}), shortest=leak_tokens, whole=True) for name, texts in benchmarks.items()
    }
    search = LeakSearch(references, tokenizer, leak_tokens)
    cure = "leave that file out"
    return search.without_leaks(train, passport, step="drop benchmark text", cure=cure, cache_dir=cache_dir, dropped=dropped)


class Reference:
    """Text that is not to be trained on.

    Args:
        texts: with the column `text`.
        shortest: bytes of the shortest run that is looked for.
        whole: whether it matters that one of the texts stands in another as a whole.
    """

    def __init__(self, texts: Dataset, *, shortest: int, whole: bool = False):
        self.windows = Windows(shortest, sum(map(len, texts_of(texts))), folded=True)
        digests, hashes, numbers, number = [], [], [], 0  # of all windows, and of the text that each is of
        for batch in text_batches(texts):
            digests.append(_digests(batch))
            contents = [text.encode() for text in batch]
            self.windows.add(joined(contents)[0])
            for content in contents if whole else ():
                hashes.append(self.windows.hashes(np.frombuffer(content, dtype=np.uint8)))
                numbers.append(np.full(len(hashes[-1]), number, dtype=np.int32))
                number += 1
        self._digests = np.unique(np.concatenate([_digests([]), *digests]))
        joined_hashes = np.concatenate([np.empty(0, np.uint64), *hashes])
        order = np.argsort(joined_hashes, kind="stable")
        self._hashes = joined_hashes[order]
        self._numbers = np.concatenate([np.empty(0, np.int32), *numbers])[order]
        self._sizes = np.bincount(self._numbers, minlength=number)  # windows of each text

    def hold(self, texts: Sequence[str]) -> list[bool]:
        """Which of these stand there but for case and spaces."""
        digests = _digests(texts)
        places = np.searchsorted(self._digests[:-1], digests)  # of one that is not found, some other's
        return (self._digests[places] == digests).tolist() if len(self._digests) else [False] * len(texts)

    def holding_whole_texts(self, content: bytes, passages: Sequence[Span]) -> set[int]:
        """Which of these passages of a text, by their place in the list, hold parts of a text that stands there as a whole."""
        if not len(self._hashes):
            return set()
        found = []
        for first, after in passages:
            hashes = self.windows.hashes(np.frombuffer(content[first:after], dtype=np.uint8))
            begins = np.searchsorted(self._hashes, hashes, side="left")
            lengths = np.searchsorted(self._hashes, hashes, side="right") - begins
            found.append(np.repeat(begins - np.cumsum(lengths) + lengths, lengths) + np.arange(lengths.sum()))
        counts = np.bincount(self._numbers[np.unique(np.concatenate(found))], minlength=len(self._sizes))
        is_whole = (counts >= CONTAINMENT * self._sizes) & (self._sizes >= self.windows.in_a_row)  # of `shortest` bytes and more
        return {place for place, windows in enumerate(found) if is_whole[self._numbers[windows]].any()}


def _digests(texts: Sequence[str]) -> np.ndarray:
    return np.array(
        [hashlib.blake2b(" ".join(text.casefold().split()).encode(), digest_size=16).digest() for text in texts], dtype="S16"
    )


@dataclass
class LeakCounts:
    """What training documents share with one reference.

    Args:
        exact: documents that are the same as one of its texts but for case and spaces.
        near: other documents of which one passage is `SIMILARITY` of the bytes.
        passages: runs of so many tokens, and texts of a benchmark, in the others.
        longest_tokens: of the longest of these runs.
    """

    exact: int = 0
    near: int = 0
    passages: int = 0
    longest_tokens: int = 0

    def described(self) -> str:
        """For the log."""
        passages = f", {self.passages:,} passages of up to {self.longest_tokens:,} tokens" if self.passages else ""
        return f"{self.exact:,} exact and {self.near:,} near copies{passages}"


class LeakSearch:
    """Looks through documents for what they share with references, a batch at a time, and counts it by reference."""

    def __init__(self, references: Mapping[str, Reference], tokenizer: PreTrainedTokenizerFast, leak_tokens: int):
        self.references, self.tokenizer, self.leak_tokens = references, tokenizer, leak_tokens
        self.counts = {name: LeakCounts() for name in references}
        self.cut = CutCounts()

    def without_leaks(
        self,
        train: Dataset,
        passport: Passport,
        *,
        step: str,
        cure: str,
        count_only: bool = False,
        cache_dir: str,
        dropped: DroppedDocuments | None,
    ) -> Dataset:
        """The documents without what is found, which goes into the passport; with `count_only` as they are.

        Args: `cure` is what else can be done where nothing is left, or little.
        """
        start = time.perf_counter()
        remaining = self._remaining(train, step, dropped=None if count_only else dropped)
        if count_only:
            for _ in remaining:
                pass
            kept = train
        else:
            path = Path(cache_dir) / f"{step.replace(' ', '-')}.arrow"
            kept = write_documents(remaining, path, schema=train.features.arrow_schema)
        if not len(kept):
            raise UserError(
                f"{step}: nothing is left of the {len(train):,} training documents, all of which stand in "
                f"{', '.join(self.references)}; give training text of its own, or {cure}. {self._about_templates()}"
            )
        shared = {name: asdict(counts) for name, counts in self.counts.items()}
        settings = {"leak_tokens": self.leak_tokens} | ({"only_counted": True} if count_only else {})
        bytes_in = text_bytes(train)
        # Passages are counted by reference above; one that stands in two of them is cut out once.
        cut = {name: count for name, count in asdict(self.cut).items() if name != "passages"}
        reasons = {
            f"{what} of {name}": counts[key]
            for name, counts in shared.items()
            for key, what in (("exact", "exact copies"), ("near", "near copies"), ("passages", "passages"))
            if counts[key]
        }
        passport.record(
            step,
            len(train),
            len(kept),
            start,
            bytes_in=bytes_in,
            bytes_out=text_bytes(kept),
            reasons=reasons,
            shared_with=shared,
            cut=cut,
            settings=settings,
        )
        if self.cut == CutCounts():
            return train
        for name, counts in self.counts.items():
            if counts != LeakCounts():
                logger.info(f"{step}: shared with {name}: {counts.described()}")
        logger.info(f"{step}: {'left in' if count_only else 'taken out'}: {self.cut.described(bytes_in)}")
        if not count_only and self.cut.bytes > MOST_LOST * bytes_in:
            logger.warning(
                f"warning: {step} took {100 * self.cut.bytes / bytes_in:.0f} % of the bytes to train on, which stand in "
                f"{', '.join(self.references)}; {cure}, if that is not what you want. {self._about_templates()}"
            )
        return kept

    def _about_templates(self) -> str:
        longest = max(counts.longest_tokens for counts in self.counts.values())
        than = f" (the longest passage has {longest:,} tokens)" if longest else ""
        return f"Where texts are made of one template, a larger leak_tokens{than} or split_by: group keeps more of them."

    def _remaining(self, train: Dataset, step: str, *, dropped: DroppedDocuments | None) -> Iterator[Document]:
        for batch in document_batches(train, step):
            contents = [document["text"].encode() for document in batch]
            for document, content, (leaks, reasons) in zip(batch, contents, self._leaks(batch, contents), strict=True):
                pieces = list(cut_out(document, content, leaks, self.cut))
                if not pieces and dropped is not None:
                    dropped.add(document, step=step, reason=", ".join(dict.fromkeys(reasons)))
                yield from pieces

    def _leaks(self, batch: list[Document], contents: list[bytes]) -> list[tuple[list[Span], list[str]]]:
        """What is not to be trained on of each document, and why."""
        leaks: list[tuple[list[Span], list[str]]] = [([], []) for _ in contents]
        documents = [document["text"] for document in batch]
        for name, reference in self.references.items():
            counts = self.counts[name]
            runs: list[tuple[int, Span, bool]] = []
            held = reference.hold(documents)
            for index, passages in enumerate(passages_of(contents, reference.windows.find)):
                size, is_exact = len(contents[index]), held[index]
                # Many short runs together make no copy: all of a table or a log is made of the same words as its end.
                if is_exact or any(after - first >= SIMILARITY * size for first, after in passages):
                    counts.exact += is_exact
                    counts.near += not is_exact
                    leaks[index][0].append((0, size))
                    leaks[index][1].append(f"{'exact' if is_exact else 'near'} copy of text in {name}")
                elif passages:
                    whole = reference.holding_whole_texts(contents[index], passages)
                    runs += [(index, passage, place in whole) for place, passage in enumerate(passages)]
            texts = [contents[index][first:after].decode(errors="ignore") for index, (first, after), _ in runs]
            for (index, passage, is_whole), ids in zip(runs, encode_texts(self.tokenizer, texts), strict=True):
                if is_whole or len(ids) >= self.leak_tokens - TOKENS_AT_ENDS:
                    counts.passages += 1
                    counts.longest_tokens = max(counts.longest_tokens, len(ids))
                    leaks[index][0].append(passage)
                    leaks[index][1].append(f"passages of {name}")
        return leaks
