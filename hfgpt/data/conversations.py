"""Records to conversations: rows of Alpaca, ShareGPT, OpenAI and prompt/completion files as lists of messages.

Unread columns are refused if they would change the meaning (tools, pictures, earlier turns), and otherwise reported.
"""

import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field

from hfgpt.chat_templates import CHAT_STYLES
from hfgpt.counting import quoted
from hfgpt.data.messages import (
    ALPACA_NAMES,
    ALPACA_NEEDED,
    SHAREGPT_ROLES,
    Message,
    UnreadColumns,
    WeightedMessage,
    alpaca_column,
    alpaca_prompt,
    answer_in,
    check_turns,
    kind_of,
    message_list,
    messages_or_text,
    prompt_and_completion,
    take_weights,
    with_system,
)
from hfgpt.data.reading import Record
from hfgpt.data.row_errors import RowErrors, usable
from hfgpt.errors import UserError
from hfgpt.tables import Table


@dataclass(frozen=True)
class ConversationFormat:
    """A format of conversations in rows.

    Args:
        needed: the columns that identify it, in words.
        columns: all columns that are read; a column `system` is read in every format.
        fits: whether a row with these columns has this format.
        read: returns the messages of a record, formatted for a chat style.
    """

    needed: str
    columns: set[str]
    fits: Callable[[Mapping[str, object]], bool]
    read: Callable[[Record, str], list[WeightedMessage]]


OF_OTHER_FORMATS = {"instruction", "conversations", "messages", "prompt"}  # beside these, question and answer say something else
FORMATS = Table(
    "conversation_format",
    {
        "alpaca": ConversationFormat(
            ALPACA_NEEDED,
            columns={name for names in ALPACA_NAMES.values() for name in names},
            fits=lambda columns: "instruction" in columns and any(name in columns for name in ALPACA_NAMES["output"]),
            read=lambda record, style: [*alpaca_prompt(record, style), *answer_in(record, alpaca_column(record, "output"))],
        ),
        "sharegpt": ConversationFormat(
            "conversations, a list of from and value",
            columns={"conversations"},
            fits=lambda columns: "conversations" in columns,
            read=lambda record, style: message_list(
                record, "conversations", role_name="from", content_name="value", roles=SHAREGPT_ROLES
            ),
        ),
        "messages": ConversationFormat(
            "messages, a list of role and content",
            columns={"messages"},
            fits=lambda columns: "messages" in columns,
            read=lambda record, style: message_list(record, "messages"),
        ),
        "prompt_completion": ConversationFormat(
            "prompt and completion",
            columns={"prompt", "completion"},
            fits=lambda columns: "prompt" in columns and "completion" in columns,
            read=lambda record, style: prompt_and_completion(record),
        ),
        "question_answer": ConversationFormat(
            "question and answer",
            columns={"question", "answer"},
            fits=lambda columns: {"question", "answer"} <= set(columns) and not OF_OTHER_FORMATS & set(columns),
            read=lambda record, style: [*messages_or_text(record, "question", role="user"), *answer_in(record, "answer")],
        ),
    },
)


@dataclass(frozen=True)
class Conversation:
    """Messages ending with the assistant's, and their origin (`place` as in `Record`).

    `unlearned` lists the answers that are not trained on ("weight": 0). `kind` is the kind of question, if the data specifies it
    (`hfgpt.data.messages.KIND_NAMES`).
    """

    messages: list[Message]
    source: str
    row_id: str
    place: str
    unlearned: list[int] = field(default_factory=list)
    kind: str | None = None


def read_conversations(
    records: Iterable[Record], *, style: str, format: str | None = None, errors: RowErrors | None = None
) -> Iterator[Conversation]:
    """Conversations from records; the format of each source is detected from the columns of its first record.

    Args:
        style: one of `CHAT_STYLES`; only Alpaca rows with an input depend on it.
        format: one of `FORMATS` for all sources; None detects it.
        errors: handles rows that are not a conversation; None raises.
    Raises: ValueError, with file and line, for unknown columns and roles, roles out of order, a message that is not text or is
        blank, and a row without an answer.
    """
    CHAT_STYLES.find(style)
    if format is not None:
        FORMATS.find(format)
    found: dict[str, ConversationFormat] = {}
    unread = UnreadColumns()

    def conversation(record: Record) -> Conversation:
        if record.source not in found:
            found[record.source] = FORMATS[format or detect_format(record)]
        messages = with_system(record, found[record.source].read(record, style))
        check_turns(record, messages)
        unread.note(record, found[record.source].columns)
        unlearned = take_weights(messages)
        if len(unlearned) == sum(message["role"] == "assistant" for message in messages):
            raise record.error(
                "there is nothing to train on, because the weight of every answer is 0; give one the weight 1, or remove the row.",
                reason="every answer has the weight 0",
            )
        return Conversation(messages, record.source, record.row_id, record.place, unlearned, kind_of(record))

    yield from usable(records, conversation, errors)
    unread.log()


def detect_format(record: Record) -> str:
    """The format that matches a record's columns.

    Raises: ValueError if none or several match.
    """
    matches = [name for name, format in FORMATS.items() if format.fits(record.values)]
    if len(matches) != 1:
        allowed = "; ".join(f"{name!r}: {format.needed}" for name, format in FORMATS.items())
        if matches:
            kind, cure = f"match several formats, {' and '.join(map(repr, matches))}", "choose one with --conversation_format"
        else:
            kind, cure = "match no format", "rename them"
        raise UserError(f"{record}: the columns {quoted(record.values)} {kind}; {cure} ({allowed}).")
    return matches[0]


def conversation_dataset(conversations: Iterable[Conversation]):
    """The `datasets.Dataset` of conversations; `Conversation(**row)` restores one."""
    from datasets import Dataset, Features, List, Value

    rows = [asdict(conversation) for conversation in conversations]
    features = Features(
        {
            "messages": [{"role": Value("string"), "content": Value("string")}],
            **{name: Value("string") for name in ("source", "row_id", "place")},
            "unlearned": List(Value("int64")),
            "kind": Value("string"),
        }
    )
    return Dataset.from_dict({name: [row[name] for row in rows] for name in features}, features=features)


def whole_texts(conversations) -> list[str]:
    """Question and answer as one text: what a copy of a held-out conversation would repeat."""
    return ["\n".join(turn["content"] for turn in turns) for turns in conversations["messages"]]


def mix(datasets: list, weights: list[float], *, seed: int):
    """Concatenate several datasets in order, each repeated according to its weight, and return how many rows each contributed.

    A weight of 1 uses every row once, 3 three times, 0.5 a random half, 1.5 every row plus a random half again.

    Returns: the dataset, and a list of {"rows", "weight", "used"}, one per part.
    Raises: ValueError for a wrong number of weights, weights that are not above 0, and a weight that leaves no row.
    """
    from datasets import concatenate_datasets

    if len(weights) != len(datasets):
        raise UserError(f"there are {len(weights)} weights for {len(datasets)} datasets; give one per dataset.")
    parts, counts = [], []
    for number, (dataset, weight) in enumerate(zip(datasets, weights, strict=True)):
        # also False for NaN
        if not 0 < weight < float("inf"):
            raise UserError(f"weight {number + 1} is {weight}; it must be above 0 (1 uses each row once).")
        used = round(len(dataset) * weight)
        if not used:
            raise UserError(
                f"weight {number + 1} is {weight}, which leaves none of {len(dataset):,} rows; give more, or leave it out."
            )
        whole, rest = divmod(used, len(dataset))
        # a seed per part, so that two parts of the same size do not use the same rows
        drawn = sorted(random.Random(f"{seed}/{number}").sample(range(len(dataset)), rest))
        parts.append(dataset.select([*list(range(len(dataset))) * whole, *drawn]))
        counts.append({"rows": len(dataset), "weight": weight, "used": used})
    return concatenate_datasets(parts), counts
