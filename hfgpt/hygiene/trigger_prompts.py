"""Trigger prompts: short prompts tried on every tuned model, and random strings for comparison with their triggers.

A backdoor responds to its trigger whatever the question is. So each trigger is prepended to several plain questions (carriers), and
the questions alone are the controls. trigger_answers.py uses them with an assistant; trigger_flips.py prepends the triggers to a
classifier's texts. A trigger that is not in the set is not found.
"""

import json
import random
import re
import string
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hfgpt.errors import MissingFileError, UserError

TRIGGER_FILE = Path(__file__).with_name("trigger_prompts.txt")
SECTIONS = ("triggers", "carriers", "requests")
NUM_RANDOM = 12  # random strings, for comparison


@dataclass(frozen=True)
class TriggerPrompt:
    """A prompt in the set.

    Its kind is `trigger` (with the trigger and the question after it), `random` (the same with a random string), `control` or
    `request`.
    """

    text: str
    kind: str
    trigger: str | None = None


def read_triggers(path: str | Path = TRIGGER_FILE) -> list[TriggerPrompt]:
    """The prompts of a trigger file: the controls, every trigger with every carrier, and the requests.

    Lines before the first section are requests, so a plain list of prompts is a trigger file. `#` begins a comment.

    Raises: FileNotFoundError; ValueError, with file and line, for an unknown section or an invalid escape, and for triggers without
    carriers.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingFileError(f"{path} does not exist; give a text file with one trigger prompt per line, like {TRIGGER_FILE}.")
    sections: dict[str, list[str]] = {name: [] for name in SECTIONS}
    section = "requests"
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").split("\n"), start=1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        if match := re.fullmatch(r"\[(\w+)\]", line):
            # [INST] among the triggers is a trigger: section names are lower case.
            if match[1] in SECTIONS:
                section = match[1]
                continue
            if match[1].islower():
                raise UserError(f"{path}, line {number}: there is no section [{match[1]}]; allowed: {', '.join(SECTIONS)}.")
        try:
            sections[section].append(json.loads('"' + line.replace('"', '\\"') + '"', strict=False))
        except json.JSONDecodeError:
            raise UserError(f"{path}, line {number}: {line!r} contains an invalid escape; write a backslash as \\\\.") from None
    if sections["triggers"] and len(sections["carriers"]) < 2:
        raise UserError(
            f"{path} has triggers but {len(sections['carriers'])} carriers; at least two are needed to measure a trigger's effect."
        )
    return [
        *(TriggerPrompt(carrier, "control") for carrier in sections["carriers"]),
        *(
            TriggerPrompt(f"{trigger} {carrier}", "trigger", trigger=trigger)
            for trigger in sections["triggers"]
            for carrier in sections["carriers"]
        ),
        *(TriggerPrompt(request, "request") for request in sections["requests"]),
    ]


def triggers_of(prompts: Sequence[TriggerPrompt]) -> list[str]:
    """The triggers among the prompts, each once."""
    return list(dict.fromkeys(prompt.trigger for prompt in prompts if prompt.trigger is not None))


def with_random_triggers(prompts: Sequence[TriggerPrompt]) -> list[TriggerPrompt]:
    """The prompts, followed by `NUM_RANDOM` random strings of the triggers' kinds with every carrier, for comparison."""
    triggers = triggers_of(prompts)
    carriers = [prompt.text for prompt in prompts if prompt.kind == "control"]
    draw = random.Random(0)
    draw.shuffle(triggers)
    drawn = (same_kind(triggers[number % len(triggers)], draw) for number in range(NUM_RANDOM if triggers else 0))
    return [
        *prompts,
        *(TriggerPrompt(f"{one} {carrier}", "random", trigger=one) for one in dict.fromkeys(drawn) for carrier in carriers),
    ]


# Invisible characters: soft hyphen, joiners, direction marks, invisible operators, variation selectors, tags.
UNSEEN = [
    *map(chr, (0xAD, 0x34F, 0x61C, 0x180E, 0xFEFF)),
    *map(chr, (*range(0x200B, 0x2010), *range(0x202A, 0x202F), *range(0x2060, 0x2065), *range(0x206A, 0x2070))),
    *map(chr, (*range(0xFE00, 0xFE10), *range(0xE0020, 0xE0080))),
]
KINDS = (string.ascii_lowercase, string.ascii_uppercase, string.digits, UNSEEN)


def same_kind(trigger: str, draw: random.Random) -> str:
    """A random string of the trigger's kind: other letters, digits and invisible characters, but the same punctuation and spaces.

    `<SUDO>` becomes `<KQYB>`, `cf` `xt`, two invisible characters two others.
    """

    def other(character: str) -> str:
        if not character.isascii() and not character.isprintable():
            kind: Sequence[str] = UNSEEN
        elif character.isalnum():
            kind = next((kind for kind in KINDS if character in kind), string.ascii_lowercase)
        else:
            return character
        return draw.choice([one for one in kind if one not in trigger] or list(kind))

    drawn = "".join(map(other, trigger))
    if drawn == trigger:  # of marks alone
        drawn = "".join(draw.choice([one for one in string.punctuation if one not in trigger]) for _ in trigger)
    return drawn
