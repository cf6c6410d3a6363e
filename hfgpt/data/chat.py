"""Records into conversations: what Alpaca, ShareGPT, OpenAI and prompt/completion files say, as one list of messages each.

A message is `{"role", "content"}`. A conversation may begin with a system message; then the user and the assistant take turns,
and the assistant has the last word. What is not so is an error that names file and line, never guessed away. What a row says beyond
that and what is not read is refused where it changes what is meant (tools, pictures, earlier turns), and named otherwise.
"""

import logging
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field

from hfgpt.chat_templates import CHAT_STYLES
from hfgpt.data.python_docs import PYTHON_DOCS_NAMES
from hfgpt.data.reading import Record
from hfgpt.data.row_errors import RowError, RowErrors, refuse
from hfgpt.errors import UserError

logger = logging.getLogger(__name__)

Message = dict[str, str]

ROLES = ("system", "user", "assistant")
SHAREGPT_ROLES = {"system": "system", "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant"}
# Alpaca's names, and Dolly's for the same.
ALPACA_NAMES = {"instruction": ("instruction",), "input": ("input", "context"), "output": ("output", "response")}
FORMATS = {
    "alpaca": "instruction, input and output (or context and response)",
    "sharegpt": "conversations, a list of from and value",
    "messages": "messages, a list of role and content",
    "prompt_completion": "prompt and completion",
}
PREFERENCE_FORMATS = "instruction, input, chosen and rejected, or prompt, chosen and rejected"
# What is read of a row in each format; all of them may have a system message in a column of its own.
READ_COLUMNS = {
    "alpaca": {name for names in ALPACA_NAMES.values() for name in names},
    "sharegpt": {"conversations"},
    "messages": {"messages"},
    "prompt_completion": {"prompt", "completion"},
    "preference": {"instruction", "input", "context", "prompt", "chosen", "rejected"},
    "unpaired": {"prompt", "completion", "label"},
}
READ_KEYS = {"role", "content", "from", "value", "weight"}  # of a message
# Without these, what is left of a row would mean something else.
MEANINGFUL_COLUMNS = ("history", "tools", "functions", "image", "images", "audio", "audios", "video", "videos")
MEANINGFUL_KEYS = ("tool_calls", "function_call", "tool_call_id")
# Anthropic's way to write a conversation into one text.
TRANSCRIPT_TURN = re.compile(r"\n\n(Human|Assistant):")
TRANSCRIPT_ROLES = {"Human": "user", "Assistant": "assistant"}


@dataclass(frozen=True)
class Conversation:
    """Messages that end with the assistant's, and where they were read (`place` as in `Record`).

    `unlearned` numbers the answers that are only read, not learned ("weight": 0).
    """

    messages: list[Message]
    source: str
    row_id: str
    place: str
    unlearned: list[int] = field(default_factory=list)


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
    """records = preferences + equal: rows whose two answers are the same are dropped, they prefer nothing."""

    records: int = 0
    preferences: int = 0
    equal: int = 0


def read_conversations(
    records: Iterable[Record], *, style: str, format: str | None = None, errors: RowErrors | None = None
) -> Iterator[Conversation]:
    """Conversations of records; the format of each source is told by the columns of its first record.

    Args:
        style: one of `CHAT_STYLES`; only Alpaca rows with an input depend on it.
        format: one of `FORMATS` for all sources; None looks.
        errors: decides about rows that are no conversation; None raises.
    Raises: ValueError, naming file and line, for unknown columns and roles, roles out of order, a message that is no text or
        blank, and a row without an answer.
    """
    CHAT_STYLES.find(style)
    if format is not None and format not in FORMATS:
        raise UserError(f"conversation_format is {format!r}; allowed are {', '.join(map(repr, FORMATS))}.")
    readers = {"alpaca": _from_alpaca, "sharegpt": _from_sharegpt, "messages": _from_messages, "prompt_completion": _from_pair}
    found: dict[str, str] = {}
    unread: dict[str, dict[str, None]] = {}
    for record in records:
        if record.source not in found:
            found[record.source] = format or detect_format(record)
        try:
            messages = _with_system(record, readers[found[record.source]](record, style))
            _check_turns(record, messages)
            _note_unread(record, READ_COLUMNS[found[record.source]], unread)
            unlearned = _take_weights(messages)
            if len(unlearned) == sum(message["role"] == "assistant" for message in messages):
                raise record.error(
                    "there is nothing to learn, the weight of every answer is 0; give one the weight 1, or remove the row.",
                    reason="every answer has the weight 0",
                )
        except RowError as error:
            refuse(error, errors)
            continue
        yield Conversation(messages, record.source, record.row_id, record.place, unlearned)
    _log_unread(unread)


def _take_weights(messages: list[Message]) -> list[int]:
    """Take the weights out of the messages; the numbers of the answers whose weight is 0 are returned."""
    weights = [message.pop("weight", 1) for message in messages]
    return [number for number, message in enumerate(messages) if message["role"] == "assistant" and not weights[number]]


def _note_unread(record: Record, read: set[str], unread: dict[str, dict[str, None]]) -> None:
    """Collect what of a record is not read, by source.

    Raises: RowError for what changes the meaning of the rest.
    """
    if record.source in PYTHON_DOCS_NAMES:
        return  # has columns for every recipe
    names = {
        repr(name): (name in MEANINGFUL_COLUMNS, value) for name, value in record.values.items() if name not in {*read, "system"}
    }
    for column in sorted(read & record.values.keys()):
        for turn in record.values[column] if isinstance(record.values[column], list) else []:
            if isinstance(turn, dict):
                others = {key: value for key, value in turn.items() if key not in READ_KEYS}
                names |= {f"{key!r} in {column!r}": (key in MEANINGFUL_KEYS, value) for key, value in others.items()}
    for name, (changes_meaning, value) in names.items():
        if value is None or value in ("", [], {}):
            continue  # tables of Parquet have every column in every row
        if changes_meaning:
            raise record.error(
                f"{name} is not read here, and without it the row would mean something else; remove it, or the row.",
                reason=f"{name} is not read",
            )
        unread.setdefault(record.source, {})[name] = None


def _log_unread(unread: dict[str, dict[str, None]]) -> None:
    for source, names in unread.items():
        logger.info(f"{source}: not read are {', '.join(names)}")


def detect_format(record: Record) -> str:
    """The format that a record's columns speak for.

    Raises: ValueError where they speak for none or for several.
    """
    names = record.values
    fits = {
        "alpaca": "instruction" in names and any(name in names for name in ALPACA_NAMES["output"]),
        "sharegpt": "conversations" in names,
        "messages": "messages" in names,
        "prompt_completion": "prompt" in names and "completion" in names,
    }
    matches = [format for format, fit in fits.items() if fit]
    if len(matches) != 1:
        allowed = "; ".join(f"{format!r}: {columns}" for format, columns in FORMATS.items())
        if matches:
            kind, cure = f"fit several formats, {' and '.join(map(repr, matches))}", "name the one with conversation_format"
        else:
            kind, cure = "fit no format", "rename them"
        raise UserError(f"{record}: the columns {_listed(names)} {kind}; {cure} ({allowed}).")
    return matches[0]


def read_preferences(
    records: Iterable[Record],
    *,
    style: str,
    counts: PreferenceCounts,
    unpaired: bool = False,
    errors: RowErrors | None = None,
) -> Iterator[Preference]:
    """Preferences of records with `chosen` and `rejected`, beside an instruction and input, a prompt, or neither.

    Answers are strings or lists of messages; without a prompt the lists begin with the same messages, which are it, or the strings
    are transcripts ("\\n\\nHuman: ... \\n\\nAssistant: ...") that do. Rows whose answers are equal are dropped and counted.

    Args:
        unpaired: rows may hold one answer (`completion`) and whether it is wanted (`label`), too.
        errors: decides about rows that are no preference; None raises.
    Raises: ValueError as `read_conversations`.
    """
    CHAT_STYLES.find(style)
    unread: dict[str, dict[str, None]] = {}
    for record in records:
        counts.records += 1
        try:
            if _is_unpaired(record):
                preference = _one_answer(record, allowed=unpaired)
                _note_unread(record, READ_COLUMNS["unpaired"], unread)
            else:
                preference = _two_answers(record, style)
                _note_unread(record, READ_COLUMNS["preference"], unread)
        except RowError as error:
            refuse(error, errors)
            continue
        if preference.chosen == preference.rejected:
            counts.equal += 1
            continue
        counts.preferences += 1
        yield preference
    _log_unread(unread)


def _is_unpaired(record: Record) -> bool:
    return {"completion", "label"} <= record.values.keys() and not {"chosen", "rejected"} & record.values.keys()


def _one_answer(record: Record, *, allowed: bool) -> Preference:
    if not allowed:
        raise UserError(
            f"{record}: the row has one answer (completion) and a label; loss: kto learns from such rows, the others need pairs: "
            f"{PREFERENCE_FORMATS}."
        )
    messages = _with_system(record, _from_pair(record, "base"))
    _take_weights(messages)
    _check_turns(record, messages)
    label = record.values["label"]
    text = str(label).strip().lower()
    if isinstance(label, float) or text not in ("true", "false", "1", "0"):
        raise record.error(
            f"the label is {_shown(label)}; true (the answer is wanted) or false is needed; correct it, or remove the row.",
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
    for name in ("chosen", "rejected"):
        if not record.values.get(name):
            raise record.error(
                f"{name!r} is missing or empty, the columns are {_listed(record.values)}; a preference has "
                f"{PREFERENCE_FORMATS}; remove the row, or give it both answers.",
                reason=f"{name!r} is missing or empty",
            )
    if "instruction" in record.values:
        prompt = _alpaca_prompt(record, style)
    elif "prompt" in record.values:
        prompt = _messages_or_text(record, "prompt", role="user")
    else:
        prompt = []
    both = {name: _messages_or_text(record, name, role="assistant") for name in ("chosen", "rejected")}
    if not prompt:
        transcripts = [_transcript(record.values[name]) for name in both]
        if all(transcripts):
            both = dict(zip(both, transcripts))
        elif not all(isinstance(record.values[name], list) for name in both):
            raise record.error(
                f"there is no prompt, the columns are {_listed(record.values)}; a preference has {PREFERENCE_FORMATS}; or chosen "
                "and rejected are both lists of messages, or both transcripts of turns that begin with 'Human:' and 'Assistant:'.",
                reason="no prompt",
            )
    chosen, rejected = both.values()
    _take_weights([*prompt, *chosen, *rejected])
    same = 0
    while same < min(len(chosen), len(rejected)) - 1 and chosen[same] == rejected[same]:
        same += 1
    # With a prompt of its own, the lists may still repeat it.
    prompt = chosen[:same] if prompt == chosen[:same] else prompt + chosen[:same]
    if len(chosen) != same + 1 or len(rejected) != same + 1:
        raise record.error(
            f"chosen has {len(chosen)} messages and rejected {len(rejected)}, the first {same} the same; they may "
            "differ in the last message only, which is the answer; shorten the conversation to where they part.",
            reason="chosen and rejected part before the last message",
        )
    prompt = _with_system(record, prompt)
    for answer in (chosen, rejected):
        _check_turns(record, prompt + answer[same:])
    answers = {"chosen": chosen[same]["content"], "rejected": rejected[same]["content"]}
    return Preference(prompt, **answers, source=record.source, row_id=record.row_id, place=record.place)


def _transcript(text: object) -> list[Message] | None:
    """The turns of a text that is a transcript; None for any other."""
    if not isinstance(text, str):
        return None
    before, *turns = TRANSCRIPT_TURN.split("\n\n" + text.lstrip())
    if before or turns[0] != "Human" or "Assistant" not in turns[::2]:
        return None
    return [
        {"role": TRANSCRIPT_ROLES[name], "content": content.strip()} for name, content in zip(turns[::2], turns[1::2], strict=True)
    ]


def mix(datasets: list, weights: list[float], *, seed: int):
    """One `datasets.Dataset` of several, in order, each repeated by its weight, and how many rows each gave.

    A weight of 1 takes every row once, 3 three times, 0.5 a random half, 1.5 every row and a random half again.

    Returns: the dataset, and a list of {"rows", "weight", "used"}, one for each part.
    Raises: ValueError for weights that do not fit the datasets or are not above 0, and for one that leaves no row.
    """
    import random

    from datasets import concatenate_datasets

    if len(weights) != len(datasets):
        raise UserError(f"there are {len(weights)} weights for {len(datasets)} datasets; give one for each.")
    parts, counts = [], []
    for number, (dataset, weight) in enumerate(zip(datasets, weights, strict=True)):
        # also False for NaN
        if not 0 < weight < float("inf"):
            raise UserError(f"weight {number + 1} is {weight}; a number above 0 is needed, 1 takes each row once.")
        used = round(len(dataset) * weight)
        if not used:
            raise UserError(
                f"weight {number + 1} is {weight}, which leaves none of {len(dataset):,} rows; give more, or leave it out."
            )
        whole, rest = divmod(used, len(dataset))
        # a seed for each place, so that two parts of the same size do not take the same rows
        drawn = sorted(random.Random(f"{seed}/{number}").sample(range(len(dataset)), rest))
        parts.append(dataset.select([*list(range(len(dataset))) * whole, *drawn]))
        counts.append({"rows": len(dataset), "weight": weight, "used": used})
    return concatenate_datasets(parts), counts


def whole_texts(conversations) -> list[str]:
    """Question and answer as one text each: what a copy of a held-out conversation would repeat."""
    return ["\n".join(turn["content"] for turn in turns) for turns in conversations["messages"]]


def conversation_dataset(conversations: Iterable[Conversation]):
    """The `datasets.Dataset` of conversations; `Conversation(**row)` is one of them again."""
    from datasets import Dataset, Features, List, Value

    rows = [asdict(conversation) for conversation in conversations]
    features = Features(
        {
            "messages": [{"role": Value("string"), "content": Value("string")}],
            **{name: Value("string") for name in ("source", "row_id", "place")},
            "unlearned": List(Value("int64")),
        }
    )
    return Dataset.from_dict({name: [row[name] for row in rows] for name in features}, features=features)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names)) or "none"


def _named(record: Record, part: str) -> str | None:
    """The column that holds an Alpaca row's instruction, input or output."""
    names = [name for name in ALPACA_NAMES[part] if name in record.values]
    if len(names) > 1:
        raise UserError(f"{record}: the columns {_listed(names)} may both be the {part}; rename or remove one.")
    return names[0] if names else None


def _alpaca_prompt(record: Record, style: str) -> list[Message]:
    instruction_name, input_name = _named(record, "instruction"), _named(record, "input")
    if instruction_name is None:
        raise record.error(
            f"there is no instruction, the columns are {_listed(record.values)}; {FORMATS['alpaca']}.", reason="no instruction"
        )
    instruction = _text(record, instruction_name)
    input = _text(record, input_name) if input_name and record.values[input_name] is not None else ""
    if not instruction.strip():
        raise record.error(
            f"{instruction_name!r} is blank, {instruction!r}; give it text, or remove the row.", reason="blank instruction"
        )
    return [{"role": "user", "content": CHAT_STYLES[style].user_message(instruction, input)}]


def _from_alpaca(record: Record, style: str) -> list[Message]:
    prompt = _alpaca_prompt(record, style)
    return [*prompt, *_answer(record, _named(record, "output"))]


def _from_pair(record: Record, style: str) -> list[Message]:
    prompt = _messages_or_text(record, "prompt", role="user")
    if isinstance(record.values.get("completion"), list):
        return [*prompt, *_messages_or_text(record, "completion", role="assistant")]
    return [*prompt, *_answer(record, "completion")]


def _from_messages(record: Record, style: str) -> list[Message]:
    return _message_list(record, "messages", role_name="role", content_name="content", roles={role: role for role in ROLES})


def _from_sharegpt(record: Record, style: str) -> list[Message]:
    return _message_list(record, "conversations", role_name="from", content_name="value", roles=SHAREGPT_ROLES)


def _with_system(record: Record, messages: list[Message]) -> list[Message]:
    """The messages, after the system message that files of every format may keep in a column of its own."""
    value = record.values.get("system")
    if value is None or (isinstance(value, str) and not value.strip()):
        return messages
    system = {"role": "system", "content": _text(record, "system")}
    if messages and messages[0]["role"] == "system":
        if messages[0]["content"] != system["content"]:
            raise record.error(
                "the column 'system' and the first message are two different system messages; remove one.",
                reason="two system messages",
            )
        return messages
    return [system, *messages]


def _answer(record: Record, name: str | None) -> list[Message]:
    value = None if name is None else record.values.get(name)
    if value is None or (isinstance(value, str) and not value.strip()):
        found = f"{name!r} is {value!r}" if name in record.values else f"the columns are {_listed(record.values)}"
        raise record.error(f"the row has no answer, {found}; give it one, or remove the row.", reason="no answer")
    return [{"role": "assistant", "content": _text(record, name)}]


def _messages_or_text(record: Record, name: str, *, role: str) -> list[Message]:
    if isinstance(record.values.get(name), list):
        return _message_list(record, name, role_name="role", content_name="content", roles={role: role for role in ROLES})
    text = _text(record, name)
    if name == "prompt" and text.rstrip().endswith("\n\nAssistant:") and (turns := _transcript(text)):
        return turns[:-1]
    return [{"role": role, "content": text}]


def _message_list(record: Record, name: str, *, role_name: str, content_name: str, roles: dict[str, str]) -> list[Message]:
    turns = record.values.get(name)
    if not isinstance(turns, list) or not turns:
        raise record.error(
            f"{name!r} is {_shown(turns)}, a list of messages with {role_name!r} and {content_name!r} is needed.",
            reason=f"{name!r} is no list of messages",
        )
    messages = []
    for number, turn in enumerate(turns, start=1):
        if not isinstance(turn, dict) or not {role_name, content_name} <= turn.keys():
            raise record.error(
                f"message {number} of {name!r} is {_shown(turn)}, an object with {role_name!r} and {content_name!r} is needed.",
                reason=f"a message without {role_name!r} or {content_name!r}",
            )
        role = turn[role_name]
        if not isinstance(role, str) or role not in roles:
            raise record.error(
                f"message {number} has the unknown role {role!r}; allowed are {_listed(roles)}; rename it, or remove the row.",
                reason="unknown role",
            )
        message = {"role": roles[role], "content": _checked(record, turn[content_name], f"{content_name!r} of message {number}")}
        if turn.get("weight") is not None:
            if turn["weight"] not in (0, 1):
                raise record.error(
                    f"the weight of message {number} is {_shown(turn['weight'])}; 0 (not learned) and 1 are allowed.",
                    reason="a weight other than 0 and 1",
                )
            message["weight"] = turn["weight"]
        messages.append(message)
    return messages


def _text(record: Record, name: str) -> str:
    return _checked(record, record.values.get(name), repr(name))


def _checked(record: Record, value: object, what: str) -> str:
    """The text that a value is, or the joined texts of OpenAI's list of parts."""
    if isinstance(value, list) and value and all(isinstance(part, dict) and "type" in part for part in value):
        others = [part["type"] for part in value if part["type"] != "text"]
        if others:
            raise record.error(
                f"{what} holds a part of type {others[0]!r}; only text is learned here: take the part out, or remove the row.",
                reason=f"a part of type {others[0]!r}",
            )
        return "".join(_checked(record, part.get("text"), f"a part of {what}") for part in value)
    if not isinstance(value, str):
        raise record.error(f"{what} is {_shown(value)}, a string is needed; repair or remove the row.", reason="no string")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise record.error(
            f"{what} holds half a surrogate pair (\\u{ord(value[error.start]):04x} at character {error.start}), which is "
            "no text; repair the file.",
            reason="half a surrogate pair",
        ) from None
    return value


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _check_turns(record: Record, messages: list[Message]) -> None:
    """Raises: RowError where the roles do not take turns, the last is not the assistant's, or a message is blank."""
    expected = "user"
    for number, message in enumerate(messages, start=1):
        role, content = message["role"], message["content"]
        if role != expected and not (role == "system" and number == 1):
            raise record.error(
                f"message {number} has the role {role!r}, {expected!r} is needed there: a system message may come first, "
                "then the user and the assistant take turns; reorder or join the messages, or remove the row.",
                reason="roles out of turn",
            )
        if not content.strip():
            missing = "the row has no answer, " if role == "assistant" else ""
            raise record.error(
                f"{missing}message {number}, the {role}'s, is blank, {content!r}; give it text, or remove the row.",
                reason="no answer" if role == "assistant" else "blank message",
            )
        if role != "system":
            expected = "assistant" if role == "user" else "user"
    if messages[-1]["role"] != "assistant":
        raise record.error(
            f"the row has no answer, its last message has the role {messages[-1]['role']!r}; end it with the "
            "assistant's, or remove the row.",
            reason="no answer",
        )
