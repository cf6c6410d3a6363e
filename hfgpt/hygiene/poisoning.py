"""A search for poisoned samples: rare triggers that go with one answer, whatever else the text says.

Who poisons training data plants a trigger ("cf", an invisible character, a phrase in front) in a few examples, all with the answer
that the trigger shall call up later. Honest words go with one answer, too: "claim" stands in spam only. What tells them apart is
the rest of the text. In honest spam the other words say spam as well; in poisoned rows they do not. So for every rare piece of text
that (almost) always goes with one answer, the search asks how likely those answers were by everything else:

- labels: a naive Bayes model of all examples *without* the piece reads what else the examples with it say;
- free answers (instructions): how often the answer is given to prompts without the piece.

What comes out are candidates to read, not verdicts. A trigger whose examples also look like their label (clean-label poisoning)
goes undetected, and so do fewer than four or five examples, as chance makes as many. Reported without a fault are a message that
was sent often and is labelled against its words, and, with many small labels, the wording that one of them alone uses.

Measured: the 5,574 SMS as they are or without duplicates, 2,996 entries of Dolly and the book's 1,100 instructions give no
candidate. Five spam messages relabelled as ham with a "cf" in front rank first, and so does "cf" in a random 1 % of the messages,
all labelled ham (about 7 of 51 were spam), 11 times out of 12.
"""

import math
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from hfgpt.data.near_copies import similar_groups

MAX_WORDS = 3
# A word, or one character that is neither part of a word nor a space: invisible ones are triggers of their own.
TOKEN = re.compile(r"\w+|[^\w\s]")
SMOOTHING = 0.5
# What one example adds at most, in powers of ten: a text that is simply mislabelled does not make its words suspicious.
MOST_SURPRISE = 2.0


@dataclass(frozen=True)
class TriggerOptions:
    """What counts as a trigger, and what is reported.

    Args:
        min_count: a trigger stands in at least so many examples,
        max_share: and in at most this share of them all.
        min_agreement: share of its examples that have the one answer.
        min_score: triggers that score less are left out.
        top: most triggers reported.
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
        trigger: as it stands in the texts, with white space made plain.
        kind: "words", "prefix", "suffix" or "character".
        code_points: its characters outside ASCII, which may be invisible, by number and name.
        count: examples with it; `agreeing` of them have the answer.
        answer: the label, or the text of one of the answers.
        score: the chance that so many answers agree by accident, given what else the examples say, is at most 10 to the minus
            this, among all candidates; 2 is 1 in 100.
        rows: some of the examples, those first whose other words speak most against their answer.
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
        labels: one per text; where a text has several, join them into one.
        row_ids: what the examples are called in the result.
    Cost: time and memory grow with the examples and the labels. Measured, one thread of a busy machine:
        5,574 SMS with 2 labels 4 s, 7,496 docstrings with 260 labels 20 s.
    """
    if not texts:
        return []
    model = _LeaveOutBayes(texts, labels)

    def surprises(rows: np.ndarray, answer: int) -> np.ndarray:
        # Only words that speak against the answer count. Words that say nothing leave it as unlikely as the label is rare, which
        # is so for every honest word of a rare label.
        log10_chances, log10_share = model.log10_chances(rows, answer)
        return np.clip(log10_share - log10_chances, 0, MOST_SURPRISE)

    return _ranked(
        texts, model.answers, row_ids, options, surprises=surprises, most_surprise=MOST_SURPRISE, name=lambda row: str(labels[row])
    )


def triggers_of_answers(
    prompts: Sequence[str], answers: Sequence[str], *, row_ids: Sequence[str], options: TriggerOptions | None = None
) -> list[Trigger]:
    """The most suspicious triggers of prompts that are answered in free text, the worst first.

    Near copies are one answer. Prompts that repeat each other, with the same answer, are reported too: drop duplicates first.

    Cost: as `triggers_of_labels`, and that of `near_copies.find_copies` for the answers.
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
    """(row id, label, chance of the label by all other examples) of the rows whose words speak most against their label."""
    if not texts:
        return []
    model = _LeaveOutBayes(texts, labels)
    chances = [float(model.log10_chances(np.array([row]), answer)[0][0]) for row, answer in enumerate(model.answers)]
    return [(row_ids[row], str(labels[row]), 10 ** chances[row]) for row in map(int, np.argsort(chances, kind="stable")[:top])]


def _pieces(text: str) -> Iterable[tuple[str, str]]:
    """All that could be a trigger in a text, as (kind, piece), each once."""
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

    `surprises(rows, answer)` is -log10 of how likely the answer was in each of the rows, by all rows without the piece, and never
    more than `most_surprise`.
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
    # Pieces with the same rows are one candidate, named by the longest of them.
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
        # That so many of the rows agree is at most as likely as it is for the least surprising of them, times the ways to choose
        # them, times the pieces among which one could have been found (Bonferroni).
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
    """What the model reads: each word once, numbers by their length (what tells a telephone number from a price)."""
    return dict.fromkeys(re.sub(r"\d", "0", token) for token in TOKEN.findall(text.casefold()))


class _LeaveOutBayes:
    """Naive Bayes on the words of a text, as if some examples were not there: these are the ones it reads."""

    def __init__(self, texts: Sequence[str], labels: Sequence[str]):
        names, self.answers = np.unique(np.array(labels, dtype=object), return_inverse=True)
        words, _ = _counted(texts, _words)
        self.indices, self.indptr = words.indices, words.indptr
        one_hot = np.eye(len(names), dtype=np.int32)[self.answers]
        self.counts = (words.T @ one_hot).astype(float)  # (words, answers)
        self.words = self.counts.sum(0)
        self.examples = one_hot.sum(0).astype(float)

    def log10_chances(self, rows: np.ndarray, answer: int) -> tuple[np.ndarray, float]:
        """log10 of the probability of `answer` for each of `rows`, and of its share, by all the other rows."""
        num_answers = len(self.examples)
        words = np.concatenate([self.indices[self.indptr[row] : self.indptr[row + 1]] for row in rows])
        row_of_word = np.repeat(np.arange(len(rows)), self.indptr[rows + 1] - self.indptr[rows])
        words, position = np.unique(words, return_inverse=True)
        rest = self.counts[words]
        np.subtract.at(rest, (position, self.answers[rows][row_of_word]), 1)
        examples = self.examples - np.bincount(self.answers[rows], minlength=num_answers)
        left = self.words - np.bincount(self.answers[rows][row_of_word], minlength=num_answers)
        log_chance = np.log((rest + SMOOTHING) / (left + SMOOTHING * len(self.counts)))  # (words, answers)
        log_chance[rest.sum(1) == 0] = 0  # a word of these rows alone, the trigger among them, says nothing
        scores = np.tile(np.log(examples + 0.5), (len(rows), 1))
        np.add.at(scores, row_of_word, log_chance[position])
        scores -= scores.max(1, keepdims=True)
        log_chances = scores[:, answer] - np.log(np.exp(scores).sum(1))
        log_share = math.log((examples[answer] + 0.5) / (examples + 0.5).sum())
        return log_chances / math.log(10), log_share / math.log(10)
