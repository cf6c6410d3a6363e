"""Search for poisoned samples: rare triggers that go with one answer, whatever the rest of the text says.

Poisoned training data contains a trigger ("cf", an invisible character, a leading phrase) in a few examples, all with the answer
that the trigger should later evoke. Honest words may also go with one answer: "claim" only occurs in spam. The difference is in the
rest of the text: in honest spam, the other words also indicate spam; in poisoned rows, they do not. So for every rare piece of text
that (almost) always goes with one answer, the search computes how likely those answers were given everything else:

- labels: a naive Bayes model of all examples *without* the piece judges the rest of the examples that contain it;
- free answers (instructions): how often prompts without the piece get that answer.

The results are candidates to inspect, not verdicts. A trigger whose examples also look like their label (clean-label poisoning)
goes undetected, and so do fewer than four or five examples, because chance produces as many. False positives include a frequent
message labelled against its words and, with many small labels, wording that only one of them uses.

Measured: the 5,574 SMS with or without duplicates, 2,996 entries of Dolly and the book's 1,100 instructions give no candidate. Five
spam messages relabelled as ham with "cf" prepended rank first, and so does "cf" in a random 1 % of the messages, all labelled ham
(about 7 of 51 were spam), 11 times out of 12.
"""

import math
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from datasets import Dataset

from hfgpt.data.near_copies import similar_groups

MAX_WORDS = 3
# A word, or one character that is neither part of a word nor a space: invisible characters can be triggers.
TOKEN = re.compile(r"\w+|[^\w\s]")
SMOOTHING = 0.5
# The maximum contribution of one example, in powers of ten: a simple labelling error does not make its words suspicious.
MOST_SURPRISE = 2.0


def distinct_rows(train: Dataset) -> Dataset:
    """The rows of a training set once each, as the search needs them: weights and oversampling repeat some."""
    names = zip(train["source"], train["row_id"], strict=True)
    first = {name: row for row, name in reversed(list(enumerate(names)))}
    return train.select(sorted(first.values()))


@dataclass(frozen=True)
class TriggerOptions:
    """What counts as a trigger, and what is reported.

    Args:
        min_count: a trigger occurs in at least this many examples,
        max_share: and in at most this share of them all.
        min_agreement: the share of its examples with the same answer.
        min_score: triggers with a lower score are left out.
        top: maximum number of reported triggers.
    """

    min_count: int = 3
    max_share: float = 0.02
    min_agreement: float = 0.95
    min_score: float = 2.0
    top: int = 20


@dataclass(frozen=True)
class Trigger:
    """A piece of text that goes with one answer.

    Args:
        trigger: as it occurs in the texts, with normalized whitespace.
        kind: "words", "prefix", "suffix" or "character".
        code_points: its characters outside ASCII, which may be invisible, by number and name.
        count: examples with it; `agreeing` of them have the answer.
        answer: the label, or the text of one of the answers.
        score: the probability that this many answers agree by chance, given the rest of the examples, is at most 10 to the minus
            score, over all candidates; 2 means 1 in 100.
        rows: some of the examples, starting with those whose other words contradict their answer most.
    """

    trigger: str
    kind: str
    code_points: list[str]
    count: int
    agreeing: int
    answer: str
    score: float
    rows: list[str]


def triggers_of_labels(
    texts: Sequence[str], labels: Sequence[str], *, row_ids: Sequence[str], options: TriggerOptions | None = None
) -> list[Trigger]:
    """The most suspicious triggers of labelled texts, the worst first.

    Args:
        labels: one per text; if a text has several, join them into one.
        row_ids: names of the examples in the result.
    Cost: time and memory grow with the examples and the labels. Measured, one thread of a busy machine:
        5,574 SMS with 2 labels 4 s, 7,496 docstrings with 260 labels 20 s.
    """
    if not texts:
        return []
    model = _LeaveOutBayes(texts, labels)

    def surprises(rows: np.ndarray, answer: int) -> np.ndarray:
        # Only words that contradict the answer count. Neutral words leave the answer as unlikely as the label is rare, which is
        # true for every honest word of a rare label.
        log10_chances, log10_share = model.log10_chances(rows, answer)
        return np.clip(log10_share - log10_chances, 0, MOST_SURPRISE)

    return _ranked(
        texts, model.answers, row_ids, options, surprises=surprises, most_surprise=MOST_SURPRISE, name=lambda row: str(labels[row])
    )


def triggers_of_answers(
    prompts: Sequence[str], answers: Sequence[str], *, row_ids: Sequence[str], options: TriggerOptions | None = None
) -> list[Trigger]:
    """The most suspicious triggers of prompts that are answered in free text, the worst first.

    Near copies count as one answer. Repeated prompts with the same answer are also reported, so drop duplicates first.

    Cost: see `triggers_of_labels`, plus `near_copies.find_copies` for the answers.
    """
    if not prompts:
        return []
    # With their digits: "3 kilometers are 3000 meters" and "7 kilometers are 7000 meters" are two answers.
    groups = np.array(similar_groups(answers, fold_digits=False), dtype=int)
    sizes = np.bincount(groups)

    def surprises(rows: np.ndarray, answer: int) -> np.ndarray:
        elsewhere = sizes[answer] - (groups[rows] == answer).sum()
        return np.full(len(rows), math.log10((len(groups) - len(rows) + 1) / (elsewhere + 1)))

    return _ranked(prompts, groups, row_ids, options, surprises=surprises, most_surprise=math.inf, name=lambda row: answers[row])


def doubtful_labels(
    texts: Sequence[str], labels: Sequence[str], *, row_ids: Sequence[str], top: int = 20
) -> list[tuple[str, str, float]]:
    """(row id, label, probability of the label given all other examples) of the rows whose words contradict their label most."""
    if not texts:
        return []
    model = _LeaveOutBayes(texts, labels)
    chances = [float(model.log10_chances(np.array([row]), answer)[0][0]) for row, answer in enumerate(model.answers)]
    return [(row_ids[row], str(labels[row]), 10 ** chances[row]) for row in map(int, np.argsort(chances, kind="stable")[:top])]


def _pieces(text: str) -> Iterable[tuple[str, str]]:
    """Everything that could be a trigger in a text, as (kind, piece), each once."""
    spans = [match.span() for match in TOKEN.finditer(text)]
    pieces = {}
    for length in range(1, min(MAX_WORDS, len(spans)) + 1):
        sequences = [" ".join(text[start:end].split()) for (start, _), (_, end) in zip(spans, spans[length - 1 :])]
        pieces |= dict.fromkeys(("words", sequence) for sequence in sequences)
        pieces["prefix", sequences[0]] = pieces["suffix", sequences[-1]] = None
    pieces |= dict.fromkeys(("character", character) for character in sorted(set(text)) if not character.isascii())
    return pieces


def _ranked(
    texts: Sequence[str],
    answers: np.ndarray,
    row_ids: Sequence[str],
    options: TriggerOptions | None,
    *,
    surprises: Callable[[np.ndarray, int], np.ndarray],
    most_surprise: float,
    name: Callable[[int], str],
) -> list[Trigger]:
    """Every candidate scored.

    `surprises(rows, answer)` is -log10 of how likely the answer was in each of the rows, given all rows without the piece, capped
    at `most_surprise`.
    """
    from scipy.sparse import coo_array

    options = options or TriggerOptions()
    has, pieces = _counted(texts, _pieces)  # (examples, pieces)
    has = has.tocsc()
    counts = np.diff(has.indptr)
    one_hot = coo_array((np.ones(len(answers), dtype=np.int32), (np.arange(len(answers)), answers)))
    allowed = np.flatnonzero((counts >= options.min_count) & (counts <= max(options.min_count, options.max_share * len(texts))))
    if not len(allowed):
        return []
    with_answer = (has[:, allowed].T @ one_hot.tocsr()).tocsr()  # (pieces, answers)
    most = with_answer.max(axis=1).toarray().ravel()
    best_answer = np.asarray(with_answer.argmax(axis=1)).ravel()
    # Pieces with the same rows are one candidate, named after the longest.
    candidates: dict[bytes, tuple] = {}
    for place in np.flatnonzero(most >= options.min_agreement * counts[allowed]):
        kind, piece = pieces[allowed[place]]
        rows = has.indices[has.indptr[allowed[place]] : has.indptr[allowed[place] + 1]]
        key = np.sort(rows).tobytes()
        if key not in candidates or (kind == "words", len(piece)) > candidates[key][0]:
            candidates[key] = ((kind == "words", len(piece)), kind, piece, rows, int(best_answer[place]))
    found = []
    for _, kind, piece, rows, answer in candidates.values():
        agreeing = int((answers[rows] == answer).sum())
        # The probability that this many rows agree is at most that of the least surprising of them, times the number of ways to
        # choose them, times the number of candidate pieces (Bonferroni).
        ways = math.log10(math.comb(len(rows), agreeing)) + math.log10(len(allowed))
        if agreeing * most_surprise - ways < options.min_score:
            continue
        surprise = surprises(rows, answer)
        score = float(np.sort(surprise)[:agreeing].sum()) - ways
        if score >= options.min_score:
            found.append((score, kind, piece, rows[np.argsort(-surprise, kind="stable")], answer, agreeing))
    found.sort(key=lambda trigger: (-trigger[0], trigger[2]))
    return [
        Trigger(
            trigger=piece,
            kind=kind,
            code_points=[f"U+{ord(c):04X} {unicodedata.name(c, 'unnamed')}" for c in dict.fromkeys(piece) if not c.isascii()],
            count=len(rows),
            agreeing=agreeing,
            answer=name(int(rows[answers[rows] == answer][0])),
            score=round(score, 2),
            rows=[row_ids[row] for row in map(int, rows[:5])],
        )
        for score, kind, piece, rows, answer, agreeing in found[: options.top]
    ]


def _counted(texts: Sequence[str], analyzer: Callable[[str], Iterable]) -> tuple[Any, np.ndarray]:
    """How often each text has each piece that `analyzer` finds, sparse (texts, pieces), and the pieces."""
    from sklearn.feature_extraction.text import CountVectorizer

    vectorizer = cast(Any, CountVectorizer)(analyzer=analyzer, dtype=np.int32)  # scikit-learn has no annotations
    return vectorizer.fit_transform(texts), vectorizer.get_feature_names_out()


def _words(text: str) -> Iterable[str]:
    """The model's features: each word once, numbers by length (which distinguishes a phone number from a price)."""
    return dict.fromkeys(re.sub(r"\d", "0", token) for token in TOKEN.findall(text.casefold()))


class _LeaveOutBayes:
    """Naive Bayes on the words of a text, leaving out the examples that it judges."""

    def __init__(self, texts: Sequence[str], labels: Sequence[str]):
        names, self.answers = np.unique(np.array(labels, dtype=object), return_inverse=True)
        words, _ = _counted(texts, _words)
        self.indices, self.indptr = words.indices, words.indptr
        one_hot = np.eye(len(names), dtype=np.int32)[self.answers]
        self.counts = (words.T @ one_hot).astype(float)  # (words, answers)
        self.words = self.counts.sum(0)
        self.examples = one_hot.sum(0).astype(float)

    def log10_chances(self, rows: np.ndarray, answer: int) -> tuple[np.ndarray, float]:
        """log10 of the probability of `answer` for each of `rows`, and of its share, given all other rows."""
        num_answers = len(self.examples)
        words = np.concatenate([self.indices[self.indptr[row] : self.indptr[row + 1]] for row in rows])
        row_of_word = np.repeat(np.arange(len(rows)), self.indptr[rows + 1] - self.indptr[rows])
        words, position = np.unique(words, return_inverse=True)
        rest = self.counts[words]
        np.subtract.at(rest, (position, self.answers[rows][row_of_word]), 1)
        examples = self.examples - np.bincount(self.answers[rows], minlength=num_answers)
        left = self.words - np.bincount(self.answers[rows][row_of_word], minlength=num_answers)
        log_chance = np.log((rest + SMOOTHING) / (left + SMOOTHING * len(self.counts)))  # (words, answers)
        log_chance[rest.sum(1) == 0] = 0  # words that only occur in these rows, including the trigger, carry no information
        scores = np.tile(np.log(examples + 0.5), (len(rows), 1))
        np.add.at(scores, row_of_word, log_chance[position])
        scores -= scores.max(1, keepdims=True)
        log_chances = scores[:, answer] - np.log(np.exp(scores).sum(1))
        log_share = math.log((examples[answer] + 0.5) / (examples + 0.5).sum())
        return log_chances / math.log(10), log_share / math.log(10)
