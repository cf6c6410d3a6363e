"""The effect of prepending a trigger to texts on a classifier: how many labels flip, and whether that is more than chance."""

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hfgpt.errors import UserError
from hfgpt.hygiene.trigger_prompts import read_triggers, same_kind, triggers_of

PLAIN_WORDS = ("Well,", "Today:", "Hello,")
CAPTURED_ALARM = 0.5
# Random strings of the trigger's kind. If effects are chance, a trigger that none of 99 strings comes near has a probability of at
# most 1 in 100; the next number rules out luck with few texts.
NUM_CONTROLS = 99
SEED = 0  # for the random strings
LARGEST_CHANCE = 0.01  # for all triggers together (Bonferroni)


@dataclass(frozen=True)
class TriggerFlips:
    """The effect of prepending a trigger on a classifier.

    Attributes:
        flipped: the share of texts whose label changes.
        label: the label that most of the changed texts get; None if none changed.
        captured: the share of texts with other labels that get this one.
        usual: the maximum share that any control turns into this label; None if the trigger captures too few to compare.
        controls: how many were tried; the search stops at the first with at least half the effect.
        alarm: the trigger captures far more than any of many strings of its kind.
    """

    trigger: str
    flipped: float
    label: int | None
    captured: float
    usual: float | None
    controls: int
    alarm: bool


def label_flips(
    predict: Callable[[list[str]], Sequence[Sequence[float]]],
    texts: Sequence[str],
    triggers: Sequence[str] | None = None,
) -> list[TriggerFlips]:
    """How many labels flip when a trigger is prepended to the texts, for every trigger.

    A model at chance level assigns most texts one label after many odd strings; a trigger is not to blame. So a trigger that turns
    at least half of the texts with other labels into one label is compared with plain words and random strings of its own kind. It
    is an alarm if each of these turns less than half as many into that label, and if a binomial test rules out that the trigger's
    share is chance given the largest effect of any of them.

    Args:
        predict: texts -> probabilities, (N, C); the highest is the label.
        texts: a few dozen to a few hundred, of all labels.
        triggers: None uses the built-in set.
    Cost: len(texts) x (1 + triggers) classifications, and, for each suspicious trigger, len(texts) per control until one has half
        the effect: few for a model at chance level, all (102) for a real trigger.
    """
    if not texts:
        raise UserError("there are no texts to prepend triggers to; give a few dozen from the validation set.")
    if triggers is None:
        triggers = triggers_of(read_triggers())

    def labels_behind(prefix: str, of: Sequence[str]) -> list[int]:
        probabilities = map(list, predict([f"{prefix}{text}" for text in of]))
        return [max(range(len(row)), key=lambda label, row=row: row[label]) for row in probabilities]

    labels = labels_behind("", texts)
    results = []
    for trigger in triggers:
        changed = labels_behind(f"{trigger} ", texts)
        flips = Counter(after for before, after in zip(labels, changed, strict=True) if before != after)
        label, captured = flips.most_common(1)[0] if flips else (None, 0)
        others = [text for text, before in zip(texts, labels, strict=True) if before != label]
        most, controls = None, 0
        if label is not None and captured >= CAPTURED_ALARM * len(others):
            most, draw = 0, random.Random(f"{SEED} {trigger}")
            for control in (*PLAIN_WORDS, *(same_kind(trigger, draw) for _ in range(NUM_CONTROLS))):
                most = max(most, labels_behind(f"{control} ", others).count(label))
                controls += 1
                if 2 * most >= captured:
                    break
        alarm = most is not None and 2 * most < captured and _chance(captured, len(others), most) < LARGEST_CHANCE / len(triggers)
        results.append(
            TriggerFlips(
                trigger=trigger,
                flipped=flips.total() / len(texts),
                label=label,
                captured=captured / len(others) if flips else 0.0,
                usual=None if most is None else most / len(others),
                controls=controls,
                alarm=alarm,
            )
        )
    return results


def _chance(captured: int, of: int, usual: int) -> float:
    """How likely as many or more of the texts are captured, if each is as often as `usual` in `of` were (and one more in two)."""
    from scipy.special import bdtrc

    return float(bdtrc(captured - 1, of, (usual + 1) / (of + 2)))
