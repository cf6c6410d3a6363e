import json

import pytest
from datasets import Dataset

from hfgpt.data.conversations import (
    FORMATS,
    Conversation,
    ConversationFormat,
    conversation_dataset,
    detect_format,
    mix,
    read_conversations,
)
from hfgpt.data.preferences import Preference, PreferenceCounts, read_preferences
from hfgpt.data.reading import Record
from hfgpt.data.records import RecordOptions, read_records

QUESTION = [{"role": "user", "content": "2 + 2?"}]
EXCHANGE = [*QUESTION, {"role": "assistant", "content": "4"}]


def record(place=3, source="rows.jsonl", **values):
    return Record(values=values, source=source, place=f"line {place}", row_id=str(place))


def conversation(style="chat", format=None, **values):
    (found,) = read_conversations([record(**values)], style=style, format=format)
    return found


def test_every_format_gives_the_same_conversation():
    rows = {
        "alpaca": dict(instruction="2 + 2?", input="", output="4"),
        "sharegpt": dict(conversations=[{"from": "human", "value": "2 + 2?"}, {"from": "gpt", "value": "4"}]),
        "messages": dict(messages=EXCHANGE),
        "prompt_completion": dict(prompt="2 + 2?", completion="4"),
        "question_answer": dict(question="2 + 2?", answer="4"),
    }
    for format, row in rows.items():
        assert detect_format(record(**row)) == format
        assert conversation(**row) == Conversation(EXCHANGE, "rows.jsonl", "3", "line 3")
        assert conversation(**row, format=format).messages == EXCHANGE
    assert conversation(instruction="2 + 2?", context=None, response="4", category="math").messages == EXCHANGE
    assert conversation(prompt=QUESTION, completion=EXCHANGE[1:]).messages == EXCHANGE
    assert conversation(instruction="2 + 2?", output="4").messages == EXCHANGE


@pytest.mark.parametrize(
    ("style", "expected"), [("chat", "Add.\n\n2, 2"), ("base", "Add.\n\n2, 2"), ("alpaca", "Add.\n\n### Input:\n2, 2")]
)
def test_an_input_is_set_off_as_the_style_does_it(style, expected):
    for name in ("input", "context"):
        messages = conversation(style, **{"instruction": "Add.", name: "2, 2", "output": "4"}).messages
        assert messages[0] == {"role": "user", "content": expected}


def test_system_messages_come_from_the_list_or_from_a_column_of_their_own():
    system = {"role": "system", "content": "Be brief."}
    assert conversation(system="Be brief.", instruction="2 + 2?", output="4").messages == [system, *EXCHANGE]
    turns = [{"from": "human", "value": "2 + 2?"}, {"from": "gpt", "value": "4"}]
    assert conversation(system="Be brief.", conversations=turns).messages == [system, *EXCHANGE]
    assert conversation(conversations=[{"from": "system", "value": "Be brief."}, *turns]).messages == [system, *EXCHANGE]
    assert conversation(messages=[system, *EXCHANGE, *EXCHANGE]).messages == [system, *EXCHANGE, *EXCHANGE]


def test_a_system_column_is_kept_in_every_format():
    system = {"role": "system", "content": "Be brief."}
    rows = [
        dict(prompt="2 + 2?", completion="4"),
        dict(messages=EXCHANGE),
        dict(messages=[system, *EXCHANGE]),
        dict(prompt=QUESTION, completion=EXCHANGE[1:]),
    ]
    for row in rows:
        assert conversation(system="Be brief.", **row).messages == [system, *EXCHANGE]
        assert conversation(system=" ", **rows[0]).messages == EXCHANGE
    pairs = [
        dict(prompt="2 + 2?", chosen="4", rejected="5"),
        dict(chosen=EXCHANGE, rejected=[*QUESTION, {"role": "assistant", "content": "5"}]),
        dict(instruction="2 + 2?", chosen="4", rejected="5"),
    ]
    found, _ = preferences(*(dict(system="Be brief.", **pair) for pair in pairs))
    assert [each.prompt for each in found] == [[system, *QUESTION]] * 3
    with pytest.raises(ValueError, match="the column 'system' and the first message are two different system messages"):
        conversation(system="Be long.", messages=[system, *EXCHANGE])


def test_a_message_of_weight_0_is_read_but_not_learned():
    turns = [
        *QUESTION,
        {"role": "assistant", "content": "5", "weight": 0},
        *QUESTION,
        {"role": "assistant", "content": "4", "weight": 1},
    ]
    found = conversation(messages=turns)
    assert [message["content"] for message in found.messages] == ["2 + 2?", "5", "2 + 2?", "4"]
    assert all(message.keys() == {"role", "content"} for message in found.messages)
    assert found.unlearned == [1]
    assert conversation(messages=EXCHANGE).unlearned == []
    with pytest.raises(ValueError, match="the weight of message 2 is 0.5; allowed: 0 .not trained on. and 1"):
        conversation(messages=[*QUESTION, {"role": "assistant", "content": "4", "weight": 0.5}])
    with pytest.raises(ValueError, match="there is nothing to train on, because the weight of every answer is 0"):
        conversation(messages=[*QUESTION, {"role": "assistant", "content": "4", "weight": 0}])


def test_text_parts_are_joined_and_other_parts_refused_by_name():
    parts = [{"type": "text", "text": "2 + "}, {"type": "text", "text": "2?", "image_url": None}]
    answer = {"role": "assistant", "content": [{"type": "text", "text": "4"}]}
    assert conversation(messages=[{"role": "user", "content": parts}, answer]).messages == EXCHANGE
    picture = {"type": "image_url", "image_url": {"url": "https://a.b/c.png"}}
    with pytest.raises(ValueError, match="'content' of message 1 contains a part of type 'image_url'; only text is supported"):
        conversation(messages=[{"role": "user", "content": [*parts, picture]}, answer])
    with pytest.raises(ValueError, match="a part of 'content' of message 1 is None, but must be a string"):
        conversation(messages=[{"role": "user", "content": [{"type": "text"}]}, answer])


def test_what_is_not_read_is_named_and_refused_where_it_changes_the_meaning(caplog):
    caplog.set_level("INFO", "hfgpt")
    rows = [
        record(instruction="2 + 2?", output="4", author="Ann", note=None),
        record(instruction="2 + 2?", output="4", topic="x"),
    ]
    list(read_conversations(rows, style="chat"))
    list(read_conversations([record(messages=[{**QUESTION[0], "name": "Ann"}, EXCHANGE[1]], id=7)], style="chat"))
    assert caplog.messages == [
        "rows.jsonl: ignored columns: 'author', 'topic'",
        "rows.jsonl: ignored columns: 'id', 'name' in 'messages'",
    ]
    with pytest.raises(ValueError, match="line 3: 'tools' is not supported here, but without it the row would mean something else"):
        conversation(messages=EXCHANGE, tools=[{"name": "add"}])
    with pytest.raises(ValueError, match="'tool_calls' in 'messages' is not supported here"):
        conversation(messages=[*QUESTION, {**EXCHANGE[1], "tool_calls": [{"id": 1}]}])
    with pytest.raises(ValueError, match="'history' is not supported here"):
        conversation(instruction="And 3?", output="7", history=[["2 + 2?", "4"]])
    assert conversation(messages=[*QUESTION, {**EXCHANGE[1], "tool_calls": None}], tools=[]).messages == EXCHANGE


def test_the_kind_of_a_question_is_its_kind_or_its_category_in_every_format(caplog):
    caplog.set_level("INFO", "hfgpt")
    for values, kind in (
        (dict(instruction="2 + 2?", output="4", kind="sums"), "sums"),
        (dict(messages=EXCHANGE, category=" 3 "), "3"),
        (dict(prompt="2 + 2?", completion="4", kind="", category="open_qa"), "open_qa"),
        (dict(prompt="2 + 2?", completion="4", kind=None), None),
    ):
        assert conversation(**values).kind == kind
    assert not caplog.messages  # they are read, so they are not reported as ignored
    with pytest.raises(ValueError, match=r"line 3: 'kind' is \['a', 'b'\], but must be a word or a number"):
        conversation(messages=EXCHANGE, kind=["a", "b"])


def test_each_source_has_a_format_of_its_own(tmp_path):
    first, second = tmp_path / "alpaca.json", tmp_path / "chats.jsonl"
    first.write_text(json.dumps([{"instruction": "2 + 2?", "input": "", "output": "4"}] * 2))
    second.write_text(json.dumps({"messages": EXCHANGE}) + "\n")
    found = list(read_conversations(read_records([str(first), str(second)], RecordOptions()), style="chat"))
    assert [each.messages for each in found] == [EXCHANGE] * 3
    assert [each.source for each in found] == [str(first), str(first), str(second)]
    assert found[2].place == "line 1"


def roles(*names):
    return [{"role": name, "content": "words"} for name in names]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (dict(instruction="2 + 2?", output=""), "rows.jsonl, line 3: the row has no answer: 'output' is ''"),
        (dict(instruction="2 + 2?", output=None), "line 3: the row has no answer: 'output' is None"),
        (dict(instruction="2 + 2?", output=" \n"), r"the row has no answer: 'output' is ' \\n'; give it one, or remove"),
        (dict(prompt="2 + 2?", completion=""), "the row has no answer: 'completion' is ''"),
        (dict(instruction=" ", output="4"), "'instruction' is blank \(' '\); give it text"),
        (dict(instruction=5, output="4"), "'instruction' is 5, but must be a string"),
        (dict(instruction="2 + 2?", input=["2"], output="4"), r"'input' is \['2'\], but must be a string"),
        (dict(instruction="2 + 2?", output=4), "'output' is 4, but must be a string"),
        (dict(instruction="\ud800", output="4"), "half a surrogate pair"),
        (dict(instruction="a", input="b", context="c", output="d"), "'input', 'context' could both be the input; rename or remove"),
        (dict(instruction="a", output="b", response="c"), "'output', 'response' could both be the output"),
        (
            dict(messages=EXCHANGE, conversations=[]),
            "match several formats, 'sharegpt' and 'messages'; choose one with --conversation_format",
        ),
        (dict(query="a", reply="b"), "the columns 'query', 'reply' match no format; rename them"),
        (dict(messages="[]"), r"'messages' is '\[\]', but must be a list of messages"),
        (dict(messages=[]), r"'messages' is \[\], but must be a list of messages"),
        (dict(messages=["2 + 2?"]), r"message 1 of 'messages' is '2 \+ 2\?', but must be an object with 'role' and 'content'"),
        (dict(messages=[{"role": "user"}]), "message 1 of 'messages' is"),
        (dict(messages=roles("user", "tool", "assistant")), "message 2 has the unknown role 'tool'; allowed: 'system', 'user'"),
        (
            dict(conversations=[{"from": "bing", "value": "x"}]),
            "message 1 has the unknown role 'bing'; allowed: 'system', 'human'",
        ),
        (dict(messages=roles("assistant", "user")), "message 1 has the role 'assistant', but must be 'user'"),
        (dict(messages=roles("user", "user", "assistant")), "message 2 has the role 'user', but must be 'assistant'"),
        (dict(messages=roles("user", "system", "assistant")), "message 2 has the role 'system'"),
        (dict(messages=roles("system", "system", "user", "assistant")), "message 2 has the role 'system', but must be 'user'"),
        (dict(messages=roles("system", "assistant")), "message 2 has the role 'assistant', but must be 'user'"),
        (dict(messages=roles("user", "assistant", "user")), "the row has no answer: its last message has the role 'user'"),
        (dict(messages=roles("system")), "the row has no answer: its last message has the role 'system'"),
        (dict(messages=[{"role": "user", "content": None}, EXCHANGE[1]]), "'content' of message 1 is None, but must be a string"),
        (dict(messages=[{"role": "user", "content": "\t"}, EXCHANGE[1]]), r"message 1, the user's, is blank \('\\t'"),
        (dict(messages=[*QUESTION, {"role": "assistant", "content": ""}]), "the row has no answer, message 2, the assistant's, is"),
    ],
)
def test_a_row_that_is_no_conversation_is_refused_with_its_place(row, message):
    with pytest.raises(ValueError, match=message) as refusal:
        conversation(**row)
    assert str(refusal.value).startswith("rows.jsonl, line 3: ")


def test_a_later_row_of_another_format_is_refused():
    rows = [record(place=1, instruction="2 + 2?", output="4"), record(place=2, messages=EXCHANGE)]
    with pytest.raises(ValueError, match="rows.jsonl, line 2: there is no instruction; the columns are 'messages'"):
        list(read_conversations(rows, style="chat"))


def test_unknown_styles_and_formats_are_refused():
    with pytest.raises(ValueError, match="the prompt style is 'llama'; allowed: chat, alpaca, base"):
        conversation("llama", messages=EXCHANGE)
    allowed = "alpaca, sharegpt, messages, prompt_completion, question_answer"
    with pytest.raises(ValueError, match=f"conversation_format is 'openai'; allowed: {allowed}"):
        conversation(format="openai", messages=EXCHANGE)


def preferences(*rows, style="chat"):
    return read_preferences([record(**row) for row in rows], style=style)


def test_preferences_of_every_shape_are_read():
    expected = Preference(QUESTION, "4", "5", "rows.jsonl", "3", "line 3")
    answers = [{"role": "assistant", "content": "4"}], [{"role": "assistant", "content": "5"}]
    found, counts = preferences(
        dict(instruction="2 + 2?", input="", output="4", chosen="4", rejected="5"),
        dict(prompt="2 + 2?", chosen="4", rejected="5"),
        dict(prompt=QUESTION, chosen=answers[0], rejected=answers[1]),
        dict(prompt="2 + 2?", chosen=QUESTION + answers[0], rejected=QUESTION + answers[1]),  # the prompt repeated
        dict(chosen=QUESTION + answers[0], rejected=QUESTION + answers[1]),
    )
    assert found == [expected] * 5
    assert counts == PreferenceCounts(records=5, preferences=5, equal=0)
    (with_input,), _ = preferences(dict(instruction="Add.", input="2, 2", chosen="4", rejected="5"), style="alpaca")
    assert with_input.prompt == [{"role": "user", "content": "Add.\n\n### Input:\n2, 2"}]


def test_transcripts_of_human_and_assistant_are_read():
    asked = "\n\nHuman: How do I mend a boat?\n\nAssistant: Which one?\n\nHuman: Mine."
    texts = dict(chosen=f"{asked}\n\nAssistant: Use wood.", rejected=f"{asked}\n\nAssistant: No idea.")
    turns = [("user", "How do I mend a boat?"), ("assistant", "Which one?"), ("user", "Mine.")]
    prompt = [{"role": role, "content": content} for role, content in turns]
    expected = Preference(prompt, "Use wood.", "No idea.", "rows.jsonl", "3", "line 3")
    found, _ = preferences(texts, dict(prompt=f"{asked}\n\nAssistant:", chosen="Use wood.", rejected="No idea."))
    assert found == [expected, expected]
    with pytest.raises(ValueError, match="there is no prompt; the columns are 'chosen', 'rejected'"):
        preferences({**texts, "rejected": "No idea."})


def test_single_answers_are_read_where_they_are_asked_for():
    rows = [record(prompt="2 + 2?", completion="4", label=label) for label in (True, "1", False, "false")]
    found, _ = read_preferences(rows, style="chat", unpaired=True)
    assert [(each.prompt, each.chosen, each.rejected) for each in found] == [(QUESTION, "4", None)] * 2 + [
        (QUESTION, None, "4")
    ] * 2
    with pytest.raises(ValueError, match=r"line 3: the row has one answer .* only loss: kto supports such rows"):
        preferences(dict(prompt="2 + 2?", completion="4", label=True))
    with pytest.raises(ValueError, match="the label is 0.5; it must be true .* or false"):
        read_preferences([record(prompt="a", completion="b", label=0.5)], style="chat", unpaired=True)


def test_preferences_for_neither_answer_are_dropped_and_counted():
    found, counts = preferences(
        dict(prompt="2 + 2?", chosen="4", rejected="4"),
        dict(prompt="2 + 2?", chosen="4", rejected="4 "),
        dict(chosen=EXCHANGE, rejected=EXCHANGE),
    )
    assert [each.rejected for each in found] == ["4 "]
    assert counts == PreferenceCounts(records=3, preferences=1, equal=2)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (dict(prompt="2 + 2?", chosen="4"), "'rejected' is missing or empty; the columns are 'prompt', 'chosen'"),
        (dict(prompt="2 + 2?", chosen="", rejected="5"), "'chosen' is missing or empty"),
        (dict(prompt="2 + 2?", chosen="4", rejected=" "), "the row has no answer, message 2, the assistant's, is blank"),
        (dict(prompt="Sum up.", input="A text", chosen="4", rejected="5"), "'input' is not read beside 'prompt', but without it"),
        (dict(chosen="4", rejected="5"), "there is no prompt; the columns are 'chosen', 'rejected', but a preference needs"),
        (dict(prompt="", chosen="4", rejected="5"), "message 1, the user's, is blank"),
        (dict(chosen=EXCHANGE + EXCHANGE, rejected=[*QUESTION, *roles("assistant")]), "chosen has 4 messages and rejected 2"),
    ],
)
def test_a_row_that_is_no_preference_is_refused_with_its_place(row, message):
    with pytest.raises(ValueError, match=f"rows.jsonl, line 3: .*{message}"):
        preferences(row)


def test_the_books_preference_file_is_read(shared_data):
    path = shared_data / "rasbt_instruct" / "instruction-data-with-preference.json"
    records = list(read_records([str(path)], RecordOptions()))
    found, counts = read_preferences(records, style="alpaca")
    assert counts.records == 1100
    assert counts.preferences + counts.equal == 1100
    assert len(found) == counts.preferences > 1000
    assert all(each.chosen != each.rejected for each in found)


def test_a_weight_repeats_rows_and_draws_the_rest_without_repeating_one():
    parts = [Dataset.from_dict({"row": list(range(start, start + 10))}) for start in (0, 100, 200)]
    mixed, counts = mix(parts, [1, 0.5, 2.3], seed=0)
    assert counts == [
        {"rows": 10, "weight": 1, "used": 10},
        {"rows": 10, "weight": 0.5, "used": 5},
        {"rows": 10, "weight": 2.3, "used": 23},
    ]
    rows = list(mixed["row"])
    assert len(rows) == 38
    assert rows[:10] == list(range(10))
    assert len(set(rows[10:15])) == 5
    assert sorted(map(rows.count, range(200, 210))) == [2] * 7 + [3] * 3
    assert list(mix(parts, [1, 0.5, 2.3], seed=0)[0]["row"]) == rows
    assert list(mix(parts, [1, 0.5, 2.3], seed=1)[0]["row"]) != rows


def test_weights_that_fit_nothing_are_refused():
    part = Dataset.from_dict({"row": [1, 2]})
    with pytest.raises(ValueError, match="1 weights for 2 datasets"):
        mix([part, part], [1.0], seed=0)
    for weight in (0, -1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=f"weight 1 is {weight}; it must be above 0"):
            mix([part], [weight], seed=0)
    with pytest.raises(ValueError, match="weight 1 is 0.1, which leaves none of 2 rows"):
        mix([part], [0.1], seed=0)


def test_conversations_come_back_from_a_dataset():
    conversations = [
        Conversation(EXCHANGE, "a.json", "0", "item 0"),
        Conversation(EXCHANGE * 2, "b.json", "7", "line 7", [1], "sums"),
    ]
    dataset = conversation_dataset(conversations)
    assert dataset.column_names == ["messages", "source", "row_id", "place", "unlearned", "kind"]
    assert [Conversation(**row) for row in dataset] == conversations
    assert len(conversation_dataset([])) == 0


def test_a_format_from_outside_is_one_entry(monkeypatch):
    def read(record, style):
        return [{"role": "user", "content": record.values["q"]}, {"role": "assistant", "content": record.values["a"]}]

    entry = ConversationFormat("q and a", columns={"q", "a"}, fits=lambda columns: {"q", "a"} <= columns.keys(), read=read)
    monkeypatch.setitem(FORMATS, "quiz", entry)
    assert detect_format(record(q="2 + 2?", a="4")) == "quiz"
    assert conversation(q="2 + 2?", a="4").messages == EXCHANGE
    with pytest.raises(ValueError, match="line 3: the row has no answer, message 2, the assistant's, is blank"):
        conversation(q="2 + 2?", a=" ")
