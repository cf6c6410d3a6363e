import pytest

from hfgpt.arguments.accounting import checked_source_cards
from hfgpt.arguments.documents import PrepareArguments, TokenizerArguments
from hfgpt.arguments.parsing import parse_arguments
from hfgpt.errors import UserError


def test_source_cards_are_a_mapping_or_the_same_as_json_or_yaml():
    told = {"*.txt": {"license": "cc0-1.0", "url": "https://example.org"}}
    assert checked_source_cards('{"*.txt": {"license": " cc0-1.0\\n", "url": "https://example.org"}}') == told
    assert checked_source_cards(told) == told
    assert checked_source_cards("{'*.txt': {license: cc0-1.0, url: https://example.org}}") == told
    assert checked_source_cards(None) is None


def test_a_date_is_the_text_that_was_written(tmp_path):
    written = "{notes.md: {license: cc-by-4.0, revision: 2026-11-20}}"
    path, needed = tmp_path / "data.yaml", ["--tokenizer", "t", "--output_dir", "o"]
    path.write_text(
        f"source_cards: {written}\nengine: slurm\nengine_settings: {{time: 02:00:00, days: [2026-11-20], workers: 1}}\n"
    )
    args = parse_arguments(PrepareArguments, [str(path), *needed])
    assert args.source_cards == {"notes.md": {"license": "cc-by-4.0", "revision": "2026-11-20"}}
    assert args.engine_settings == {"time": "02:00:00", "days": ["2026-11-20"], "workers": 1}
    assert parse_arguments(PrepareArguments, [*needed, "--source_cards", written]).source_cards == args.source_cards


def test_a_number_of_documents_that_leaves_none_is_refused_at_once():
    for recipe, given in ((PrepareArguments, {"tokenizer": "t"}), (TokenizerArguments, {"sources": ["a.txt"]})):
        with pytest.raises(UserError, match="max_documents is 0; it must be at least 1"):
            recipe(**given, max_documents=0, output_dir="o")


def test_mappings_are_read_on_the_command_line_as_help_shows_them():
    words = ["--tokenizer", "t", "--output_dir", "o", "--engine", "slurm", "--filters", "web"]
    words += ["--engine_settings", "{workers: 1}", "--card", "{license: mit, file_names: true}"]
    args = parse_arguments(PrepareArguments, [*words, "--filter_settings", "{min_words: 20, max_short_lines: null}"])
    assert args.engine_settings == {"workers": 1}
    assert args.card == {"license": "mit", "file_names": True}
    assert args.filter_settings == {"min_words": 20, "max_short_lines": None}
    with pytest.raises(UserError, match=r"engine_settings is not a mapping: 'cpu'; .*--engine_settings '\{partition: cpu\}'"):
        parse_arguments(PrepareArguments, [*words, "--engine_settings", "cpu"])


@pytest.mark.parametrize(("cards", "message"), [
    ("{", "not a mapping"),
    ("[1]", "not a mapping"),
    (["mit"], "not a mapping"),
    ({"a.txt": "mit"}, "'mit' for 'a.txt'"),
    ({"a.txt": {"licence": "mit"}}, "unknown key 'licence' in source_cards, for 'a.txt'; did you mean 'license'"),
    ({"a.txt": {"license": False}}, "license in source_cards, for 'a.txt', is False; it must be text"),
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
    assert "'--text_documents=----- / -----'" in command  # one word, or it would be read as a key
    assert "--tokenizer tok --context_length 64" in command
    for word in ("ann", "srv", "~", "out", "overwrite", "mit"):
        assert word not in command
