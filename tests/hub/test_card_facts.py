"""What a card takes from the passport and from run.yaml: every step with its counts, and every setting that changes the weights."""

from dataclasses import fields

import pytest

from hfgpt.arguments.finetuning import ClassificationArguments, InstructionArguments
from hfgpt.arguments.preferences import PreferenceArguments
from hfgpt.arguments.pretraining import PretrainArguments
from hfgpt.hub.card.data_facts import data_facts
from hfgpt.hub.card.facts import SETTING_NAMES, TOLD_SETTINGS, evaluation_facts
from hfgpt.hub.card.repeating import _MORE
from hfgpt.training.changes import FREE_TO_CHANGE, PLACES, STATED

# Keys of our own that a card does not tell: they change neither the examples nor the weights, or are told elsewhere.
UNTOLD = {
    "decontaminate_against",  # files
    "revision",  # with the base's id
    "plan",  # its outcome is told
    "poison_report", "canaries", "canaries_at", "canary_file",
}  # fmt: skip
GROUPS = ("Data", "Model", "Method", "Training", "Clean data and hidden triggers")


@pytest.mark.parametrize("arguments", [PretrainArguments, ClassificationArguments, InstructionArguments, PreferenceArguments])
def test_every_key_that_changes_the_examples_or_the_weights_is_told(arguments):
    keys = {one.name for one in fields(arguments) if one.metadata.get("group") in GROUPS}
    assert len(keys) > 20
    assert keys - set(TOLD_SETTINGS) - set(_MORE) - FREE_TO_CHANGE - set(STATED) - PLACES - UNTOLD == set()
    assert set(SETTING_NAMES) <= set(TOLD_SETTINGS)
    assert len(set(TOLD_SETTINGS)) == len(TOLD_SETTINGS)


def test_the_table_of_steps_accounts_for_every_row_that_was_dropped():
    steps = [
        {"step": "skip rows that cannot be used", "rows": 5, "reasons": {"blank text": 3, "no label": 2}},
        {"step": "load", "examples_in": 1416, "examples_out": 1416, "blank": 0},
        {"step": "deduplicate (exact)", "examples_in": 1416, "examples_out": 1340, "duplicates": 74, "conflicting": 2},
        {"step": "drop copies", "examples_in": 940, "examples_out": 933, "copies_of": {"validation": 5, "test": 2}},
        {"step": "copies across splits, left in", "train-test": {"exact": 0, "near": 0}},
    ]
    rows = [(row["name"], row["in"], row["out"], row["why"]) for row in data_facts({"steps": steps})["steps"]]
    assert rows == [
        ("skip rows that cannot be used", None, None, "blank text: 3, no label: 2"),
        ("load", 1416, 1416, ""),
        ("deduplicate (exact)", 1416, 1340, "copies: 74, contradicting labels: 2"),
        ("drop copies", 940, 933, "copies of validation examples: 5, copies of test examples: 2"),
    ]


@pytest.mark.parametrize(
    ("counts", "amount"),
    [
        ({"num_examples": 350, "num_answers": 10}, "350 examples, 10 answered"),
        ({"num_examples": 350, "num_answers": 350}, "350 examples"),
        ({"num_examples": 350}, "350 examples"),
        ({"num_documents": 4, "num_tokens": 9}, "4 documents"),
    ],
)
def test_a_figure_on_answers_says_how_many_there_were(counts, amount):
    entry = {"task": "instructions", "dataset": "rows.jsonl", "metrics": {"token_f1": 0.5}, **counts}
    assert [row["amount"] for row in evaluation_facts({"results": [entry]})] == [amount]
