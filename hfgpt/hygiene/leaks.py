"""Find text that training shares with held-out text and benchmarks, and cut it out of the training text.

Copies of a document are on the same side of the split (`hfgpt/data/splitting.py`). Still, some text may be on both sides: a passage
quoted in many documents, a copy with its own additions, the text around a cut by position.

Only shared text is tokenised. A run of n tokens has at least n bytes, since no token is empty; so runs of that many bytes are
searched (`hfgpt/data/passages.py`), and only these are encoded, each separately, in the same way as in
`hfgpt/hygiene/memorization.py`. The search ignores the case of ASCII letters and treats a run of whitespace as one byte. Only a run
of n tokens that is mostly whitespace then has fewer than n bytes and is not found, such as 30 letters in a table of spaces.
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
from hfgpt.errors import TooLittleTextError
from hfgpt.tokenization import encode_texts

logger = logging.getLogger(__name__)

# Part of a run, cut in the middle of words, may have more tokens than the whole, because the words at its ends are encoded
# differently. So runs with this many tokens fewer than the limit are cut out, too.
TOKENS_AT_ENDS = 4
MOST_LOST = 0.5  # of the training bytes; above this, there is a warning


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
    """The training documents without text shared with held-out documents: no run of `leak_tokens` is left in both.

    The case of ASCII letters and the kind and amount of whitespace do not matter. A document that equals a held-out one apart from
    case and spaces, or of which a share of `SIMILARITY` is one passage in held-out text, is dropped as a whole; otherwise, runs of
    at least `leak_tokens` are cut out, see `cut_out`.

    Args:
        train, held_out: documents with the columns `text`, `source` and `row_id`; held-out ones by split name. They are never
            changed.
        tokenizer: used to measure runs.
        how: "drop", "count" (only report), or "ignore".
        dropped: receives the documents that are dropped as a whole.
    Raises: UserError if nothing is left to train on.
    Cost: linear; memory of `Windows` for the held-out text. Measured: 18 MB of paragraphs against 2 MB took 1.9 s of CPU time, out
        of 15 s for all of prepare_data.py; 41 MB took 3.8 s, 2026-11-26.
    """
    if how == "ignore" or not held_out:
        return train
    references = {name: Reference(texts, shortest=leak_tokens) for name, texts in held_out.items()}
    search = LeakSearch(references, tokenizer, leak_tokens)
    cure, count_only = "keep it with --leaks count", how == "count"
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
    """The training documents without text shared with benchmarks, as in `drop_leaks`, and without whole benchmark texts.

    A benchmark text of at least `leak_tokens` bytes that occurs in a document (a share of `CONTAINMENT` of it) is cut out however
    few tokens it has.

    Args: `benchmarks` are their texts by name, from `reference_texts`; `dropped` receives documents dropped as a whole.
    Memory: 20 bytes per byte of the benchmarks.
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
    """Text that must not be trained on.

    Args:
        texts: with the column `text`.
        shortest: bytes of the shortest run to search for.
        whole: whether to search for whole texts inside others.
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
        """Which of these occur there, ignoring case and spaces."""
        digests = _digests(texts)
        places = np.searchsorted(self._digests[:-1], digests)  # of one that is not found, some other's
        return (self._digests[places] == digests).tolist() if len(self._digests) else [False] * len(texts)

    def holding_whole_texts(self, content: bytes, passages: Sequence[Span]) -> set[int]:
        """Which of these passages of a text, by index, contain parts of a reference text that occurs there as a whole."""
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
        exact: documents equal to one of its texts, ignoring case and spaces.
        near: other documents in which one passage makes up a share of `SIMILARITY` of the bytes.
        passages: long runs and benchmark texts in the remaining documents.
        longest_tokens: tokens in the longest of these runs.
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
    """Searches documents for text shared with references, one batch at a time, and counts it by reference."""

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
        """The documents without the findings, which are recorded in the passport; with `count_only`, unchanged.

        Args: `cure` says what else can be done if little or nothing is left.
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
            raise TooLittleTextError(
                f"{step}: nothing is left of the {len(train):,} training documents, because all of them also occur in "
                f"{', '.join(self.references)}",
                cure=f"give different training text, or {cure}. {self._about_templates()}",
            )
        shared = {name: asdict(counts) for name, counts in self.counts.items()}
        settings = {"leak_tokens": self.leak_tokens} | ({"only_counted": True} if count_only else {})
        bytes_in = text_bytes(train)
        # Passages are counted by reference above; one that occurs in two of them is cut out once.
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
        logger.info(f"{step}: {'left in' if count_only else 'removed'}: {self.cut.described(bytes_in)}")
        if not count_only and self.cut.bytes > MOST_LOST * bytes_in:
            logger.warning(
                f"warning: {step} removed {100 * self.cut.bytes / bytes_in:.0f} % of the training bytes, which also occur in "
                f"{', '.join(self.references)}; {cure}, if that is not intended. {self._about_templates()}"
            )
        return kept

    def _about_templates(self) -> str:
        longest = max(counts.longest_tokens for counts in self.counts.values())
        than = f" (the longest passage has {longest:,} tokens)" if longest else ""
        return f"If texts share a template, a larger --leak_tokens{than} or --split_by group keeps more of them."

    def _remaining(self, train: Dataset, step: str, *, dropped: DroppedDocuments | None) -> Iterator[Document]:
        for batch in document_batches(train, step):
            contents = [document["text"].encode() for document in batch]
            for document, content, (leaks, reasons) in zip(batch, contents, self._leaks(batch, contents), strict=True):
                pieces = list(cut_out(document, content, leaks, self.cut))
                if not pieces and dropped is not None:
                    dropped.add(document, step=step, reason=", ".join(dict.fromkeys(reasons)))
                yield from pieces

    def _leaks(self, batch: list[Document], contents: list[bytes]) -> list[tuple[list[Span], list[str]]]:
        """What must not be trained on in each document, and why."""
        leaks: list[tuple[list[Span], list[str]]] = [([], []) for _ in contents]
        documents = [document["text"] for document in batch]
        for name, reference in self.references.items():
            counts = self.counts[name]
            runs: list[tuple[int, Span, bool]] = []
            held = reference.hold(documents)
            for index, passages in enumerate(passages_of(contents, reference.windows.find)):
                size, is_exact = len(contents[index]), held[index]
                # Many short runs together are not a copy: a table or a log consists of the same words throughout.
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
