import pytest

from hfgpt.arguments.accounting import checked_source_cards
from hfgpt.arguments.documents import PrepareArguments
from hfgpt.errors import UserError


def test_source_cards_are_a_mapping_or_the_same_as_json():
    told = {"*.txt": {"license": "cc0-1.0", "url": "https://example.org"}}
    assert checked_source_cards('{"*.txt": {"license": " cc0-1.0\\n", "url": "https://example.org"}}') == told
    assert checked_source_cards(told) == told
    assert checked_source_cards(None) is None


@pytest.mark.parametrize(("cards", "message"), [
    ("{", "not a JSON object"),
    ("[1]", "a mapping such as"),
    ({"a.txt": "mit"}, "'mit' for 'a.txt'"),
    ({"a.txt": {"licence": "mit"}}, "unknown key 'licence' in source_cards, for 'a.txt'; did you mean 'license'"),
    ({"a.txt": {"license": False}}, "license in source_cards, for 'a.txt', is False; text is needed"),
])  # fmt: skip
def test_what_a_source_card_cannot_say_is_refused(cards, message):
    with pytest.raises(UserError, match=message):
        checked_source_cards(cards)


def test_verify_needs_nothing_else_and_takes_nothing_else():
    assert PrepareArguments(verify="runs/data").verify == "runs/data"
    with pytest.raises(UserError, match="tokenizer is given with verify"):
        PrepareArguments(verify="runs/data", tokenizer="runs/tokenizer")
    with pytest.raises(UserError, match="output_dir is missing"):
        PrepareArguments(tokenizer="runs/tokenizer")


def test_the_command_of_the_passport_names_no_place():
    args = PrepareArguments(
        sources=["/home/ann/letters/*.txt", "~/books/emma.txt", "user/corpus:en", "python-docs"], tokenizer="/srv/tok",
        context_length=64, text_documents="----- / -----", output_dir="/srv/out", overwrite=True, card={"license": "mit"},
    )  # fmt: skip
    command = args.command("prepare_data.py")
    assert command.startswith("python recipes/prepare_data.py ")
    assert "--sources '*.txt' emma.txt user/corpus:en python-docs" in command
    assert "--text_documents '----- / -----'" in command
    assert "--tokenizer tok --context_length 64" in command
    for word in ("ann", "srv", "~", "out", "overwrite", "mit"):
        assert word not in command
