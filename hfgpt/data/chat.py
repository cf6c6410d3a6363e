"""Records into conversations: what Alpaca, ShareGPT, OpenAI and prompt/completion files say, as one list of messages each.

A message is `{"role", "content"}`. A conversation may begin with a system message; then the user and the assistant take turns,
and the assistant has the last word. What is not so is an error that names file and line, never guessed away.
"""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass

from hfgpt.data.records import Record
from hfgpt.errors import UserError
from hfgpt.tokenization import PROMPT_STYLES

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


@dataclass(frozen=True)
class Conversation:
    """Messages that end with the assistant's, and where they were read (`place` as in `Record`)."""

    messages: list[Message]
    source: str
    row_id: str
    place: str


@dataclass(frozen=True)
class Preference:
    """Two answers to one prompt, the better and the worse; the prompt ends with the user's message."""

    prompt: list[Message]
    chosen: str
    rejected: str
    source: str
    row_id: str
    place: str


@dataclass
class PreferenceCounts:
    """records = preferences + equal: rows whose two answers are the same are dropped, they prefer nothing."""

    records: int = 0
    preferences: int = 0
    equal: int = 0


def user_message(instruction: str, input: str, *, style: str) -> str:
    """What the user says in an Alpaca row; the book's style has a heading for the input, the others an empty line."""
    if not input:
        return instruction
    return f"{instruction}\n\n### Input:\n{input}" if style == "alpaca" else f"{instruction}\n\n{input}"


def read_conversations(records: Iterable[Record], *, style: str, format: str | None = None) -> Iterator[Conversation]:
    """Conversations of records; the format of each source is told by the columns of its first record.

    Args:
        style: one of `PROMPT_STYLES`; only Alpaca rows with an input depend on it.
        format: one of `FORMATS` for all sources; None looks.
    Raises: ValueError, naming file and line, for unknown columns and roles, roles out of order, a message that is no text or
        blank, and a row without an answer.
    """
    _check_style(style)
    if format is not None and format not in FORMATS:
        raise UserError(f"the format is {format!r}; allowed are {', '.join(map(repr, FORMATS))}.")
    readers = {"alpaca": _from_alpaca, "sharegpt": _from_sharegpt, "messages": _from_messages, "prompt_completion": _from_pair}
    found: dict[str, str] = {}
    for record in records:
        if record.source not in found:
            found[record.source] = format or detect_format(record)
        messages = readers[found[record.source]](record, style)
        _check_turns(record, messages)
        yield Conversation(messages, record.source, record.row_id, record.place)


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
        kind = f"fit several formats, {' and '.join(map(repr, matches))}; name the one" if matches else "fit no format; name one"
        raise UserError(f"{record}: the columns {_listed(names)} {kind} with format, or rename them ({allowed}).")
    return matches[0]


def read_preferences(records: Iterable[Record], *, style: str, counts: PreferenceCounts) -> Iterator[Preference]:
    """Preferences of records with `chosen` and `rejected`, beside an instruction and input, a prompt, or neither.

    Answers are strings or lists of messages; without a prompt the lists begin with the same messages, which are it. Rows whose
    answers are equal are dropped and counted.

    Raises: ValueError as `read_conversations`.
    """
    _check_style(style)
    for record in records:
        counts.records += 1
        for name in ("chosen", "rejected"):
            if not record.values.get(name):
                raise UserError(
                    f"{record}: {name!r} is missing or empty, the columns are {_listed(record.values)}; a preference has "
                    f"{PREFERENCE_FORMATS}; remove the row, or give it both answers."
                )
        if "instruction" in record.values:
            prompt = _alpaca_prompt(record, style)
        elif "prompt" in record.values:
            prompt = _messages_or_text(record, "prompt", role="user")
        else:
            prompt = []
        chosen, rejected = (_messages_or_text(record, name, role="assistant") for name in ("chosen", "rejected"))
        same = 0
        while same < min(len(chosen), len(rejected)) - 1 and chosen[same] == rejected[same]:
            same += 1
        # With a prompt of its own, the lists may still repeat it.
        prompt = chosen[:same] if prompt == chosen[:same] else prompt + chosen[:same]
        if len(chosen) != same + 1 or len(rejected) != same + 1:
            raise UserError(
                f"{record}: chosen has {len(chosen)} messages and rejected {len(rejected)}, the first {same} the same; they may "
                "differ in the last message only, which is the answer; shorten the conversation to where they part."
            )
        for answer in (chosen, rejected):
            _check_turns(record, prompt + answer[same:])
        if chosen[same]["content"] == rejected[same]["content"]:
            counts.equal += 1
            continue
        counts.preferences += 1
        yield Preference(prompt, chosen[same]["content"], rejected[same]["content"], record.source, record.row_id, record.place)


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


def conversation_dataset(conversations: Iterable[Conversation]):
    """The `datasets.Dataset` of conversations; `Conversation(**row)` is one of them again."""
    from datasets import Dataset, Features, Value

    rows = [asdict(conversation) for conversation in conversations]
    features = Features(
        {
            "messages": [{"role": Value("string"), "content": Value("string")}],
            **{name: Value("string") for name in ("source", "row_id", "place")},
        }
    )
    return Dataset.from_dict({name: [row[name] for row in rows] for name in features}, features=features)


def _check_style(style: str) -> None:
    if style not in PROMPT_STYLES:
        raise UserError(f"the prompt style is {style!r}; allowed are {', '.join(map(repr, PROMPT_STYLES))}.")


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
        raise UserError(f"{record}: there is no instruction, the columns are {_listed(record.values)}; {FORMATS['alpaca']}.")
    instruction = _text(record, instruction_name)
    input = _text(record, input_name) if input_name and record.values[input_name] is not None else ""
    if not instruction.strip():
        raise UserError(f"{record}: {instruction_name!r} is blank, {instruction!r}; give it text, or remove the row.")
    return [*_system_column(record), {"role": "user", "content": user_message(instruction, input, style=style)}]


def _from_alpaca(record: Record, style: str) -> list[Message]:
    prompt = _alpaca_prompt(record, style)
    return [*prompt, *_answer(record, _named(record, "output"))]


def _from_pair(record: Record, style: str) -> list[Message]:
    prompt = _messages_or_text(record, "prompt", role="user")
    if isinstance(record.values.get("completion"), str):
        return [*prompt, *_answer(record, "completion")]
    return [*prompt, *_messages_or_text(record, "completion", role="assistant")]


def _from_messages(record: Record, style: str) -> list[Message]:
    return _message_list(record, "messages", role_name="role", content_name="content", roles={role: role for role in ROLES})


def _from_sharegpt(record: Record, style: str) -> list[Message]:
    messages = _message_list(record, "conversations", role_name="from", content_name="value", roles=SHAREGPT_ROLES)
    return [*_system_column(record), *messages]


def _system_column(record: Record) -> list[Message]:
    """Some Alpaca and ShareGPT files keep the system message in a column of its own."""
    if not record.values.get("system"):
        return []
    return [{"role": "system", "content": _text(record, "system")}]


def _answer(record: Record, name: str | None) -> list[Message]:
    value = None if name is None else record.values[name]
    if value is None or (isinstance(value, str) and not value.strip()):
        found = f"{name!r} is {value!r}" if name else f"the columns are {_listed(record.values)}"
        raise UserError(f"{record}: the row has no answer, {found}; give it one, or remove the row.")
    return [{"role": "assistant", "content": _text(record, name)}]


def _messages_or_text(record: Record, name: str, *, role: str) -> list[Message]:
    if isinstance(record.values.get(name), list):
        return _message_list(record, name, role_name="role", content_name="content", roles={role: role for role in ROLES})
    return [{"role": role, "content": _text(record, name)}]


def _message_list(record: Record, name: str, *, role_name: str, content_name: str, roles: dict[str, str]) -> list[Message]:
    turns = record.values.get(name)
    if not isinstance(turns, list) or not turns:
        raise UserError(
            f"{record}: {name!r} is {_shown(turns)}, a list of messages with {role_name!r} and {content_name!r} is needed."
        )
    messages = []
    for number, turn in enumerate(turns, start=1):
        if not isinstance(turn, dict) or not {role_name, content_name} <= turn.keys():
            raise UserError(
                f"{record}: message {number} of {name!r} is {_shown(turn)}, an object with {role_name!r} and {content_name!r} is "
                "needed."
            )
        role = turn[role_name]
        if not isinstance(role, str) or role not in roles:
            raise UserError(
                f"{record}: message {number} has the unknown role {role!r}; allowed are {_listed(roles)}; rename it, or remove the "
                "row."
            )
        messages.append(
            {"role": roles[role], "content": _checked(record, turn[content_name], f"{content_name!r} of message {number}")}
        )
    return messages


def _text(record: Record, name: str) -> str:
    return _checked(record, record.values.get(name), repr(name))


def _checked(record: Record, value: object, what: str) -> str:
    if not isinstance(value, str):
        raise UserError(f"{record}: {what} is {_shown(value)}, a string is needed; repair or remove the row.")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UserError(
            f"{record}: {what} holds half a surrogate pair (\\u{ord(value[error.start]):04x} at character {error.start}), which is "
            "no text; repair the file."
        ) from None
    return value


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _check_turns(record: Record, messages: list[Message]) -> None:
    """Raises: ValueError where the roles do not take turns, the last is not the assistant's, or a message is blank."""
    expected = "user"
    for number, message in enumerate(messages, start=1):
        role, content = message["role"], message["content"]
        if role != expected and not (role == "system" and number == 1):
            raise UserError(
                f"{record}: message {number} has the role {role!r}, {expected!r} is needed there: a system message may come first, "
                "then the user and the assistant take turns; reorder or join the messages, or remove the row."
            )
        if not content.strip():
            missing = "the row has no answer, " if role == "assistant" else ""
            raise UserError(
                f"{record}: {missing}message {number}, the {role}'s, is blank, {content!r}; give it text, or remove the row."
            )
        if role != "system":
            expected = "assistant" if role == "user" else "user"
    if messages[-1]["role"] != "assistant":
        raise UserError(
            f"{record}: the row has no answer, its last message has the role {messages[-1]['role']!r}; end it with the "
            "assistant's, or remove the row."
        )
