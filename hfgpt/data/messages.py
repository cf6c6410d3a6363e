"""Messages from the columns of a record: roles and contents by their various names, checked and never guessed.

A message is `{"role", "content"}`. A conversation may begin with a system message; then the user and the assistant take turns,
ending with the assistant. Anything else is an error with file and line.
"""

import logging
import re
from typing import Any

from hfgpt.chat_templates import CHAT_STYLES
from hfgpt.counting import quoted
from hfgpt.data.python_docs import PYTHON_DOCS_NAMES
from hfgpt.data.reading import Record
from hfgpt.errors import UserError

logger = logging.getLogger(__name__)

Message = dict[str, str]
WeightedMessage = dict[str, Any]  # may have a "weight" beside its role and content, until `take_weights`

ROLES = {role: role for role in ("system", "user", "assistant")}
SHAREGPT_ROLES = {"system": "system", "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant"}
# Alpaca's column names, and Dolly's equivalents.
ALPACA_NAMES = {"instruction": ("instruction",), "input": ("input", "context"), "output": ("output", "response")}
ALPACA_NEEDED = "instruction, input and output (or context and response)"
# The column with the kind of question, so that each kind can be scored separately; the second is Dolly's name.
KIND_NAMES = ("kind", "category")
READ_KEYS = {"role", "content", "from", "value", "weight"}  # of a message
# Without these columns, the rest of a row would mean something else.
MEANINGFUL_COLUMNS = ("history", "tools", "functions", "image", "images", "audio", "audios", "video", "videos")
TEXT_COLUMNS = ("input", "context")  # what a question is about, except in formats that have it in the messages
MEANINGFUL_KEYS = ("tool_calls", "function_call", "tool_call_id")
# Anthropic's format for a conversation in one text.
TRANSCRIPT_TURN = re.compile(r"\n\n(Human|Assistant):")
TRANSCRIPT_ROLES = {"Human": "user", "Assistant": "assistant"}


class UnreadColumns:
    """Columns that are not read, by source: refused if they change the meaning of the rest, otherwise logged."""

    def __init__(self) -> None:
        self._names: dict[str, dict[str, None]] = {}

    def note(self, record: Record, read: set[str]) -> None:
        """Collect a record's columns that are not in `read`. Raises: RowError for those that change the meaning."""
        if record.source in PYTHON_DOCS_NAMES:
            return  # has columns for every recipe
        names = {
            repr(name): (name in MEANINGFUL_COLUMNS, value)
            for name, value in record.values.items()
            if name not in {*read, "system", *KIND_NAMES}
        }
        for column in sorted(read & record.values.keys()):
            turns = record.values[column]
            for turn in turns if isinstance(turns, list) else []:
                if isinstance(turn, dict):
                    others = {key: value for key, value in turn.items() if key not in READ_KEYS}
                    names |= {f"{key!r} in {column!r}": (key in MEANINGFUL_KEYS, value) for key, value in others.items()}
        question = next((name for name in ("prompt", "question") if name in read), None)
        for name, (changes_meaning, value) in names.items():
            if value is None or value in ("", [], {}):
                continue  # tables of Parquet have every column in every row
            if question and name in map(repr, TEXT_COLUMNS):
                raise record.error(
                    f"{name} is not read beside {question!r}, but without it the row would mean something else; rename "
                    f"{question!r} to 'instruction', which may have an input, or remove {name}.",
                    reason=f"{name} is not read",
                )
            if changes_meaning:
                raise record.error(
                    f"{name} is not supported here, but without it the row would mean something else; remove it, or the row.",
                    reason=f"{name} is not read",
                )
            self._names.setdefault(record.source, {})[name] = None

    def log(self) -> None:
        for source, names in self._names.items():
            logger.info(f"{source}: ignored columns: {', '.join(names)}")


def shown(value: object) -> str:
    """A value for a message, shortened if it is long."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def alpaca_column(record: Record, part: str) -> str | None:
    """The column that holds an Alpaca row's instruction, input or output."""
    names = [name for name in ALPACA_NAMES[part] if name in record.values]
    if len(names) > 1:
        raise UserError(f"{record}: the columns {quoted(names)} could both be the {part}; rename or remove one.")
    return names[0] if names else None


def alpaca_prompt(record: Record, style: str) -> list[WeightedMessage]:
    """The user's message of an Alpaca row, formatted for the chat style."""
    instruction_name, input_name = alpaca_column(record, "instruction"), alpaca_column(record, "input")
    if instruction_name is None:
        raise record.error(
            f"there is no instruction; the columns are {quoted(record.values)}, but {ALPACA_NEEDED} are needed.",
            reason="no instruction",
        )
    instruction = text_in(record, instruction_name)
    input = text_in(record, input_name) if input_name and record.values[input_name] is not None else ""
    if not instruction.strip():
        raise record.error(
            f"{instruction_name!r} is blank ({instruction!r}); give it text, or remove the row.", reason="blank instruction"
        )
    return [{"role": "user", "content": CHAT_STYLES[style].user_message(instruction, input)}]


def prompt_and_completion(record: Record) -> list[WeightedMessage]:
    """The columns `prompt` and `completion`, each a text or a list of messages."""
    prompt = messages_or_text(record, "prompt", role="user")
    if isinstance(record.values.get("completion"), list):
        return [*prompt, *messages_or_text(record, "completion", role="assistant")]
    return [*prompt, *answer_in(record, "completion")]


def with_system(record: Record, messages: list[WeightedMessage]) -> list[WeightedMessage]:
    """The messages, preceded by the system message, which every format may have in a separate column."""
    value = record.values.get("system")
    if value is None or (isinstance(value, str) and not value.strip()):
        return messages
    system = {"role": "system", "content": text_in(record, "system")}
    if messages and messages[0]["role"] == "system":
        if messages[0]["content"] != system["content"]:
            raise record.error(
                "the column 'system' and the first message are two different system messages; remove one.",
                reason="two system messages",
            )
        return messages
    return [system, *messages]


def kind_of(record: Record) -> str | None:
    """The kind of question in a row, from the first of `KIND_NAMES` that has a value.

    Raises: RowError for a list or an object.
    """
    name = next((name for name in KIND_NAMES if record.values.get(name) not in (None, "")), None)
    value = None if name is None else record.values[name]
    if isinstance(value, (list, dict)):
        raise record.error(f"{name!r} is {shown(value)}, but must be a word or a number; repair or remove it.", reason="no kind")
    return None if value is None else str(value).strip() or None


def answer_in(record: Record, name: str | None) -> list[WeightedMessage]:
    """The assistant's message in a column."""
    value = None if name is None else record.values.get(name)
    if name is None or value is None or (isinstance(value, str) and not value.strip()):
        found = f"{name!r} is {value!r}" if name in record.values else f"the columns are {quoted(record.values)}"
        raise record.error(f"the row has no answer: {found}; give it one, or remove the row.", reason="no answer")
    return [{"role": "assistant", "content": text_in(record, name)}]


def messages_or_text(record: Record, name: str, *, role: str) -> list[WeightedMessage]:
    """A column with a list of messages, or the text of one message with this role."""
    if isinstance(record.values.get(name), list):
        return message_list(record, name)
    text = text_in(record, name)
    if name == "prompt" and text.rstrip().endswith("\n\nAssistant:") and (turns := transcript(text)):
        return turns[:-1]
    return [{"role": role, "content": text}]


def transcript(text: object) -> list[WeightedMessage] | None:
    """The turns of a transcript; None for any other text."""
    if not isinstance(text, str):
        return None
    before, *turns = TRANSCRIPT_TURN.split("\n\n" + text.lstrip())
    if before or turns[0] != "Human" or "Assistant" not in turns[::2]:
        return None
    return [
        {"role": TRANSCRIPT_ROLES[name], "content": content.strip()} for name, content in zip(turns[::2], turns[1::2], strict=True)
    ]


def message_list(
    record: Record, name: str, *, role_name: str = "role", content_name: str = "content", roles: dict[str, str] = ROLES
) -> list[WeightedMessage]:
    """The messages of a list column, with roles mapped to ours, and with their weights."""
    turns = record.values.get(name)
    if not isinstance(turns, list) or not turns:
        raise record.error(
            f"{name!r} is {shown(turns)}, but must be a list of messages with {role_name!r} and {content_name!r}.",
            reason=f"{name!r} is not a list of messages",
        )
    messages = []
    for number, turn in enumerate(turns, start=1):
        if not isinstance(turn, dict) or not {role_name, content_name} <= turn.keys():
            raise record.error(
                f"message {number} of {name!r} is {shown(turn)}, but must be an object with {role_name!r} and {content_name!r}.",
                reason=f"a message without {role_name!r} or {content_name!r}",
            )
        role = turn[role_name]
        if not isinstance(role, str) or role not in roles:
            raise record.error(
                f"message {number} has the unknown role {role!r}; allowed: {quoted(roles)}; rename it, or remove the row.",
                reason="unknown role",
            )
        content = _checked_text(record, turn[content_name], f"{content_name!r} of message {number}")
        message: WeightedMessage = {"role": roles[role], "content": content}
        if turn.get("weight") is not None:
            if turn["weight"] not in (0, 1):
                raise record.error(
                    f"the weight of message {number} is {shown(turn['weight'])}; allowed: 0 (not trained on) and 1.",
                    reason="a weight other than 0 and 1",
                )
            message["weight"] = turn["weight"]
        messages.append(message)
    return messages


def take_weights(messages: list[WeightedMessage]) -> list[int]:
    """Remove the weights from the messages; returns the indices of the answers with weight 0."""
    weights = [message.pop("weight", 1) for message in messages]
    return [number for number, message in enumerate(messages) if message["role"] == "assistant" and not weights[number]]


def text_in(record: Record, name: str) -> str:
    """The text of a column. Raises: RowError for anything else, and for half a surrogate pair."""
    return _checked_text(record, record.values.get(name), repr(name))


def _checked_text(record: Record, value: object, what: str) -> str:
    """The text of a value, or the joined texts of OpenAI's list of parts."""
    if isinstance(value, list) and value and all(isinstance(part, dict) and "type" in part for part in value):
        others = [part["type"] for part in value if part["type"] != "text"]
        if others:
            raise record.error(
                f"{what} contains a part of type {others[0]!r}; only text is supported: remove the part, or the row.",
                reason=f"a part of type {others[0]!r}",
            )
        return "".join(_checked_text(record, part.get("text"), f"a part of {what}") for part in value)
    if not isinstance(value, str):
        raise record.error(f"{what} is {shown(value)}, but must be a string; repair or remove the row.", reason="no string")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise record.error(
            f"{what} contains half a surrogate pair (\\u{ord(value[error.start]):04x} at character {error.start}), which is not "
            f"valid text; repair the file.",
            reason="half a surrogate pair",
        ) from None
    return value


def check_turns(record: Record, messages: list[WeightedMessage]) -> None:
    """Raises: RowError if the roles do not alternate, the last is not the assistant's, or a message is blank."""
    expected = "user"
    for number, message in enumerate(messages, start=1):
        role, content = message["role"], message["content"]
        if role != expected and not (role == "system" and number == 1):
            raise record.error(
                f"message {number} has the role {role!r}, but must be {expected!r}: a system message may come first, then the user "
                f"and the assistant take turns; reorder or join the messages, or remove the row.",
                reason="roles out of turn",
            )
        if not content.strip():
            missing = "the row has no answer, " if role == "assistant" else ""
            raise record.error(
                f"{missing}message {number}, the {role}'s, is blank ({content!r}); give it text, or remove the row.",
                reason="no answer" if role == "assistant" else "blank message",
            )
        if role != "system":
            expected = "assistant" if role == "user" else "user"
    if messages[-1]["role"] != "assistant":
        raise record.error(
            f"the row has no answer: its last message has the role {messages[-1]['role']!r}; end it with the assistant's, or "
            f"remove the row.",
            reason="no answer",
        )
