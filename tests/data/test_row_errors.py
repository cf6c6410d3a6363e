"""Unusable rows, in every reader: the run stops at the first, or they are skipped and counted by reason."""

import json

import pytest

from hfgpt.data.classification import LabelledOptions, load_examples
from hfgpt.data.conversations import read_conversations
from hfgpt.data.filters import cleaning_steps
from hfgpt.data.passport import Passport
from hfgpt.data.preferences import read_preferences
from hfgpt.data.records import RecordOptions, read_records
from hfgpt.data.row_errors import RowError, RowErrors
from hfgpt.data.sources import ReadingOptions, find_sources, load_documents
from hfgpt.data.splitting import Split
from hfgpt.errors import UserError

GOOD = {"instruction": "Name a thing.", "input": "", "output": "A candle."}


def write(path, *rows):
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def conversations(path, errors):
    return list(read_conversations(read_records([path], RecordOptions(), errors), style="chat", errors=errors))


def test_the_first_row_that_cannot_be_used_stops_the_run_and_the_key_is_named(tmp_path):
    path = write(tmp_path / "rows.jsonl", GOOD, {**GOOD, "output": ""})
    with pytest.raises(UserError, match=r"line 2: the row has no answer.*To skip such rows, set --on_error skip\.$"):
        conversations(path, RowErrors())
    with pytest.raises(UserError, match=r"remove the row\.$"):  # without such a key, none is named
        conversations(path, None)
    with pytest.raises(UserError, match="on_error is 'ignore'; allowed: stop, skip"):
        RowErrors("ignore")


def test_skipped_rows_are_counted_by_reason_with_the_first_of_each(tmp_path, caplog):
    rows = [GOOD, {**GOOD, "output": ""}, '{"instruction": "Name', {**GOOD, "output": None}, [GOOD], {**GOOD, "input": 7}, GOOD]
    path = write(tmp_path / "rows.jsonl", *rows)
    errors, passport = RowErrors("skip"), Passport()
    caplog.set_level("INFO", "hfgpt")
    assert [each.place for each in conversations(path, errors)] == ["line 1", "line 7"]
    errors.finish([path], passport)
    counts = {"no answer": 2, "not valid JSON": 1, "no JSON object": 1, "no string": 1}
    assert dict(errors.counts) == counts
    assert errors.skipped == 5
    assert passport.steps == [{"step": "skip rows that cannot be used", "rows": 5, "reasons": counts}]
    (line,) = [message for message in caplog.messages if "no answer" in message]
    assert line.startswith(f"skipped 2 rows (no answer); the first: {path}, line 2: the row has no answer: 'output' is ''")
    assert str(tmp_path) not in json.dumps(passport.steps)  # the passport is published; messages contain texts and paths


def test_a_source_of_which_nothing_is_left_is_an_error(tmp_path):
    good, bad = write(tmp_path / "good.jsonl", GOOD), write(tmp_path / "bad.jsonl", {**GOOD, "output": ""}, {**GOOD, "output": ""})
    errors = RowErrors("skip")
    found = list(read_conversations(read_records([good, bad], RecordOptions(), errors), style="chat", errors=errors))
    with pytest.raises(
        UserError, match=r"all 2 rows of .*bad.jsonl were skipped \(on_error: skip\): no answer \(2\)\. The first: .*line 1"
    ):
        errors.finish(one.source for one in found)


def test_a_source_whose_good_rows_are_all_filtered_out_is_no_error(tmp_path):
    english = write(tmp_path / "en.jsonl", *({"text": f"a text of some length, number {number}"} for number in range(3)))
    short = write(tmp_path / "de.jsonl", {"text": "kurz"}, {"text": "knapp"}, '{"text": broken')
    passport = Passport()
    steps = cleaning_steps(filters="light", filter_settings={"min_characters": 10})
    documents = load_documents(
        find_sources([english, short]), ReadingOptions(), passport, steps=steps, draw=Split().draw, cache_dir=tmp_path,
        on_error="skip",
    )  # fmt: skip
    assert len(documents) == 3
    assert passport.steps[-1]["rows"] == 1


def test_what_is_wrong_with_a_whole_file_stops_in_any_case(tmp_path):
    errors = RowErrors("skip")
    with pytest.raises(UserError, match="the columns 'query', 'reply' match no format") as refusal:
        conversations(write(tmp_path / "qa.jsonl", {"query": "a", "reply": "b"}), errors)
    assert not isinstance(refusal.value, RowError)
    path = write(tmp_path / "a.csv", "text,label", "a,x", "b,y")
    with pytest.raises(UserError, match=r"all 2 rows of .*a.csv were skipped .*no column 'body' \(2\)"):
        load_examples(read_records([path], RecordOptions(), errors), LabelledOptions(text_column="body"), Passport(), errors)
    unclosed = write(tmp_path / "b.csv", "text,label", 'a,"x', "b,y")
    with pytest.raises(UserError, match="line 2: the row that begins here is not valid CSV"):
        list(read_records([unclosed], RecordOptions(), errors))


def test_skipping_is_not_offered_where_it_would_leave_no_row(tmp_path):
    def message(read) -> str:
        with pytest.raises(RowError) as refusal:
            read(RowErrors())
        return str(refusal.value)

    def examples(path, column):
        columns = LabelledOptions(text_column=column)
        return lambda errors: load_examples(read_records([path], RecordOptions(), errors), columns, Passport(), errors)

    def pairs(path):
        return lambda errors: read_preferences(read_records([path], RecordOptions(), errors), style="chat", errors=errors)

    table = write(tmp_path / "a.csv", "text,label", "a,x", " ,y")
    offer = "To skip such rows, set --on_error skip."
    assert message(examples(table, "body")).endswith("set --header false and --columns).")
    assert message(examples(table, "text")).endswith(f"set --blank_texts drop. {offer}")
    # Rows of JSON may have different columns.
    rows = write(tmp_path / "b.jsonl", {"body": "a", "label": "x"}, {"text": "b", "label": "y"})
    assert message(examples(rows, "body")).endswith(offer)
    own = write(tmp_path / "own.jsonl", {"question": "2 + 2?", "good": "4", "bad": "5"})
    assert message(pairs(own)).endswith("prompt, chosen and rejected; rename them.")
    assert "'question', 'good', 'bad' are not those of a preference" in message(pairs(own))
    assert message(pairs(write(tmp_path / "c.jsonl", {"prompt": "2 + 2?", "chosen": "4"}))).endswith(offer)


def test_rows_of_tables_and_labels_are_skipped_by_the_same_key(tmp_path):
    path = write(tmp_path / "a.csv", "text,label", "a,x", "b,y,z", " ,x", "c,", "d,w", "e,y")
    errors, passport = RowErrors("skip"), Passport()
    records = read_records([path], RecordOptions(), errors)
    examples = load_examples(records, LabelledOptions(labels=["x", "y"]), passport, errors)
    assert (examples["text"][:], examples["label"][:]) == (["a", "e"], ["x", "y"])
    assert dict(errors.counts) == {
        "wrong number of fields": 1, "blank text": 1, "no label": 1, "the label 'w' is not among the known ones": 1,
    }  # fmt: skip
    assert passport.steps[0]["rows"] == 4


def test_preferences_are_skipped_by_the_same_key(tmp_path):
    good = {"prompt": "2 + 2?", "chosen": "4", "rejected": "5"}
    path = write(tmp_path / "pairs.jsonl", good, {**good, "chosen": ""}, {**good, "prompt": " "}, {**good, "rejected": 5})
    errors = RowErrors("skip")
    found, counts = read_preferences(read_records([path], RecordOptions(), errors), style="chat", errors=errors)
    assert len(found) == counts.preferences == 1
    assert counts.records == 4
    assert dict(errors.counts) == {"'chosen' is missing or empty": 1, "blank message": 1, "no string": 1}


def test_one_odd_conversation_in_a_file_is_left_out(tmp_path):
    """A ShareGPT file in which one conversation begins with the model, as LlamaFactory's users have encountered."""
    turns = [{"from": "human", "value": "What is a rope?"}, {"from": "gpt", "value": "It holds."}]
    path = tmp_path / "chats.json"
    path.write_text(json.dumps([{"conversations": turns}, {"conversations": turns[::-1]}, {"conversations": turns}]))
    errors = RowErrors("skip")
    assert [each.place for each in conversations(str(path), errors)] == ["item 0", "item 2"]
    assert dict(errors.counts) == {"roles out of turn": 1}
