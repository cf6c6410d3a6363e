"""Records to preferences: a better and a worse answer to one prompt, or single answers that are wanted or not."""

from collections.abc import Iterable
from dataclasses import dataclass

from hfgpt.chat_templates import CHAT_STYLES
from hfgpt.counting import quoted
from hfgpt.data.messages import (
    TEXT_COLUMNS,
    Message,
    UnreadColumns,
    alpaca_prompt,
    check_turns,
    messages_or_text,
    prompt_and_completion,
    shown,
    take_weights,
    transcript,
    with_system,
)
from hfgpt.data.reading import Record
from hfgpt.data.row_errors import RowErrors, usable
from hfgpt.errors import UserError

NEEDED = "instruction, input, chosen and rejected, or prompt, chosen and rejected"
ANSWERS = {"chosen", "rejected"}
SINGLE_COLUMNS = {"prompt", "completion", "label"}


@dataclass(frozen=True)
class Preference:
    """Two answers to one prompt, the better and the worse, or only one of them; the prompt ends with the user's message."""

    prompt: list[Message]
    chosen: str | None
    rejected: str | None
    source: str
    row_id: str
    place: str


@dataclass
class PreferenceCounts:
    """records = preferences + equal + skipped rows: a row with two identical answers expresses no preference."""

    records: int = 0
    preferences: int = 0
    equal: int = 0


def read_preferences(
    records: Iterable[Record], *, style: str, unpaired: bool = False, errors: RowErrors | None = None
) -> tuple[list[Preference], PreferenceCounts]:
    """Preferences from records with `chosen` and `rejected`, plus an instruction and input, a prompt, or neither.

    Answers are strings or lists of messages; without a prompt the lists begin with the same messages, which are it, or the strings
    are transcripts ("\\n\\nHuman: ... \\n\\nAssistant: ...") that do. Rows whose answers are equal are dropped and counted.

    Args:
        unpaired: rows may also contain one answer (`completion`) and whether it is wanted (`label`).
        errors: handles rows that are not a preference; None raises.
    Raises: ValueError, see `read_conversations`.
    """
    CHAT_STYLES.find(style)
    counts, unread = PreferenceCounts(), UnreadColumns()

    def preference(record: Record) -> Preference:
        counts.records += 1
        single = _is_unpaired(record)
        found = _one_answer(record, allowed=unpaired) if single else _two_answers(record, style)
        with_input = "instruction" in record.values
        unread.note(record, SINGLE_COLUMNS if single else ANSWERS | ({"instruction", *TEXT_COLUMNS} if with_input else {"prompt"}))
        return found

    found = list(usable(records, preference, errors))
    unread.log()
    preferences = [one for one in found if one.chosen != one.rejected]
    counts.preferences, counts.equal = len(preferences), len(found) - len(preferences)
    return preferences, counts


def _is_unpaired(record: Record) -> bool:
    return {"completion", "label"} <= record.values.keys() and not ANSWERS & record.values.keys()


def _one_answer(record: Record, *, allowed: bool) -> Preference:
    if not allowed:
        raise UserError(
            f"{record}: the row has one answer (completion) and a label; only loss: kto supports such rows, the others need pairs: "
            f"{NEEDED}."
        )
    messages = with_system(record, prompt_and_completion(record))
    take_weights(messages)
    check_turns(record, messages)
    label = record.values["label"]
    text = str(label).strip().lower()
    if isinstance(label, float) or text not in ("true", "false", "1", "0"):
        raise record.error(
            f"the label is {shown(label)}; it must be true (the answer is wanted) or false; correct it, or remove the row.",
            reason="the label is neither true nor false",
        )
    *prompt, answer = messages
    given = (
        {"chosen": answer["content"], "rejected": None}
        if text in ("true", "1")
        else {"chosen": None, "rejected": answer["content"]}
    )
    return Preference(prompt, **given, source=record.source, row_id=record.row_id, place=record.place)


def _two_answers(record: Record, style: str) -> Preference:
    if not ANSWERS & record.values.keys():
        error = record.error(
            f"the columns {quoted(record.values)} are not those of a preference, which needs {NEEDED}; rename them.",
            reason="neither 'chosen' nor 'rejected'",
        )
        error.of_all = True
        raise error
    for name in ("chosen", "rejected"):
        if not record.values.get(name):
            raise record.error(
                f"{name!r} is missing or empty; the columns are {quoted(record.values)}, but a preference needs {NEEDED}; remove "
                f"the row, or give it both answers.",
                reason=f"{name!r} is missing or empty",
            )
    if "instruction" in record.values:
        prompt = alpaca_prompt(record, style)
    elif "prompt" in record.values:
        prompt = messages_or_text(record, "prompt", role="user")
    else:
        prompt = []
    chosen, rejected = (messages_or_text(record, name, role="assistant") for name in ("chosen", "rejected"))
    if not prompt:
        chosen_turns, rejected_turns = transcript(record.values["chosen"]), transcript(record.values["rejected"])
        if chosen_turns and rejected_turns:
            chosen, rejected = chosen_turns, rejected_turns
        elif not (isinstance(record.values["chosen"], list) and isinstance(record.values["rejected"], list)):
            raise record.error(
                f"there is no prompt; the columns are {quoted(record.values)}, but a preference needs {NEEDED}, or chosen and "
                f"rejected that are both lists of messages or both transcripts with turns that begin with 'Human:' and "
                f"'Assistant:'.",
                reason="no prompt",
            )
    take_weights([*prompt, *chosen, *rejected])
    same = 0
    while same < min(len(chosen), len(rejected)) - 1 and chosen[same] == rejected[same]:
        same += 1
    # Even with a separate prompt, the lists may repeat it.
    prompt = chosen[:same] if prompt == chosen[:same] else prompt + chosen[:same]
    if len(chosen) != same + 1 or len(rejected) != same + 1:
        raise record.error(
            f"chosen has {len(chosen)} messages and rejected {len(rejected)}, and share the first {same}; they may only differ in "
            f"the last message, the answer; shorten the conversation to the point where they diverge.",
            reason="chosen and rejected diverge before the last message",
        )
    prompt = with_system(record, prompt)
    for answer in (chosen, rejected):
        check_turns(record, prompt + answer[same:])
    answers = chosen[same]["content"], rejected[same]["content"]
    return Preference(prompt, *answers, record.source, record.row_id, record.place)
