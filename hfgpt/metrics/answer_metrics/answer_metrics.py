"""Compare answers with references: exact match and token F1 as in SQuAD, and ROUGE."""

import re
import string
from collections import Counter

import datasets
import evaluate
from rouge_score import rouge_scorer

DESCRIPTION = """Exact match and token F1 after SQuAD's normalisation (lower case, without ASCII punctuation and the English
articles a, an, the, white space collapsed), and the F-measures of ROUGE-1, ROUGE-2 and ROUGE-L by rouge_score (without stemming),
each from 0 to 1 and the mean over the examples. Unlike in SQuAD, numbers that differ are different although punctuation is ignored
(1 and -1), and in scripts without spaces each character is a word. An empty answer is wrong, whatever the reference. If
normalisation leaves nothing of the reference ("%"), the original texts are compared. ROUGE only sees the letters a-z and digits:
for other scripts, use the token F1.
"""
INPUTS = """
Args:
    predictions: N answers.
    references: N expected texts.
    per_answer: also return the list `per_answer`, the five figures of each example (optional).
Returns: exact_match, token_f1, rouge1, rouge2, rougeL, num_examples (and per_answer).
"""
CITATION = """@inproceedings{rajpurkar2016squad,
  title={SQuAD: 100,000+ Questions for Machine Comprehension of Text},
  author={Rajpurkar, Pranav and Zhang, Jian and Lopyrev, Konstantin and Liang, Percy}, booktitle={EMNLP}, year={2016}}
@inproceedings{lin2004rouge, title={ROUGE: A Package for Automatic Evaluation of Summaries}, author={Lin, Chin-Yew},
  booktitle={Text Summarization Branches Out}, year={2004}}"""
ROUGE_TYPES = ("rouge1", "rouge2", "rougeL")
PUNCTUATION = str.maketrans("", "", string.punctuation)
# Thai, Lao, Burmese, Khmer, Tai, Japanese, Han, Yi
UNSPACED = re.compile(
    "([\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u1950-\u19df\u1a20-\u1aaf\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf"
    "\u4e00-\u9fff\uf900-\ufaff\ua000-\ua48f\U00020000-\U0003ffff])"
)


class UnmeasurableInput(ValueError):
    """Predictions or references that cannot be measured; the message is for the user."""


def normalised(text: str) -> list[str]:
    """The words compared by SQuAD's evaluation script. Source: its normalize_answer, in the same order; scripts without spaces are
    added."""
    return UNSPACED.sub(r" \1 ", re.sub(r"\b(a|an|the)\b", " ", text.lower().translate(PUNCTUATION))).split()


def different_numbers(one: str, other: str) -> bool:
    """Whether both are numbers, and not the same: without punctuation, -1 and 1 would be."""
    try:
        return float(one) != float(other)
    except ValueError:
        return False


def match_and_f1(prediction: str, reference: str) -> tuple[float, float]:
    """Exact match (0 or 1) and the F1 of the shared words, counted with multiplicity."""
    if not prediction.strip():
        return 0.0, 0.0
    said, expected = normalised(prediction), normalised(reference)
    if not expected:
        same = float(prediction.strip() == reference.strip())
        return same, same
    if different_numbers(prediction, reference):
        return 0.0, 0.0
    common = sum((Counter(said) & Counter(expected)).values())
    return float(said == expected), 2 * common / (len(said) + len(expected))


class AnswerMetrics(evaluate.Metric):
    """See `DESCRIPTION` and `INPUTS`."""

    def _info(self):
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation=CITATION,
            inputs_description=INPUTS,
            features=datasets.Features({name: datasets.Value("string") for name in ("predictions", "references")}),
        )

    def _compute(self, predictions, references, per_answer=False):
        if not len(predictions):
            raise UnmeasurableInput("there are no answers to measure; is the split empty?")
        if len(predictions) != len(references):
            raise UnmeasurableInput(
                f"got {len(predictions):,} answers and {len(references):,} references; there must be one of each per example."
            )
        scorer = rouge_scorer.RougeScorer(list(ROUGE_TYPES), use_stemmer=False)
        rows = []
        for prediction, reference in zip(predictions, references):
            exact_match, token_f1 = match_and_f1(prediction, reference)
            rouge = scorer.score(reference, prediction)
            rows.append(
                {"exact_match": exact_match, "token_f1": token_f1, **{name: float(rouge[name].fmeasure) for name in ROUGE_TYPES}}
            )
        means = {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}
        return {**means, "num_examples": len(rows), **({"per_answer": rows} if per_answer else {})}
