import re
from pathlib import Path

import pytest

from hfgpt.arguments.documents import PrepareArguments
from hfgpt.arguments.filter_settings import SETTINGS, settings_of
from hfgpt.arguments.parsing import parse_arguments

PAGE = Path(__file__).resolve().parents[2] / "docs" / "data" / "filters.md"
NEEDED = dict(output_dir="out", tokenizer="t")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"min_word": 3}, "unknown name 'min_word' in filter_settings; did you mean 'min_words'?"),
        ({"zzzz": 3}, "unknown name 'zzzz' in filter_settings; the known names are min_characters, "),
        (
            {"min_words": "many"},
            "min_words in filter_settings is 'many'; it must be a whole number from 0, or null to switch it off.",
        ),
        ({"min_words": 2.5}, "min_words in filter_settings is 2.5; it must be a whole number from 0"),
        ({"min_words": True}, "min_words in filter_settings is True; it must be a whole number from 0"),
        ({"max_short_lines": 67}, "max_short_lines in filter_settings is 67; it must be a number from 0 to 1"),
        ({"max_compression": float("nan")}, "max_compression in filter_settings is nan; it must be a number from 1"),
        ({"drop_lorem_ipsum": 1}, "drop_lorem_ipsum in filter_settings is 1; it must be true or false, or false to switch it off."),
        ({"stop_words": "the"}, "stop_words in filter_settings is 'the'; it must be a list of words"),
        (
            [1],
            "filter_settings is not a mapping: [1]; write it like this: --filter_settings '{min_words: 20}', or as a mapping in "
            "YAML.",
        ),
        ("{min", "filter_settings is not a mapping (expected"),
        ("min_words", "filter_settings is not a mapping: 'min_words'"),
        ("", "filter_settings is not a mapping: ''"),
    ],
)
def test_a_setting_that_cannot_be_is_named(settings, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        PrepareArguments(**NEEDED, filters="web", filter_settings=settings)


def test_values_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="perplexity_sigmas is 0; it must be above 0"):
        PrepareArguments(**NEEDED, perplexity_sigmas=0)
    with pytest.raises(ValueError, match="filters is 'heavy'; allowed: none, light, web"):
        PrepareArguments(**NEEDED, filters="heavy")


@pytest.mark.parametrize(
    ("preset", "languages", "settings", "said"),
    [
        ("light", (), {"stop_words": ["der"]}, "stop_words in filter_settings is der, but min_stop_words is off"),
        ("light", (), {"short_line_characters": 9}, "set max_short_lines in filter_settings, or leave short_line_characters out."),
        ("web", ["en"], {"short_line_characters": 9, "max_short_lines": None}, "but max_short_lines is off with filters web"),
        ("light", (), {"min_language_score": 0.5}, "but languages is off with filters light, so it would have no effect; set"),
    ],
)
def test_a_setting_that_would_do_nothing_by_itself_is_refused(preset, languages, settings, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        settings_of(preset, settings, languages)
    settings_of("web", {"stop_words": ["der"], "short_line_characters": 9, "min_language_score": 0.5}, ["de"])


def test_settings_come_from_yaml_and_from_the_command_line(tmp_path):
    path = tmp_path / "data.yaml"
    path.write_text("filters: web\nlanguages: [no, de]\nfilter_settings: {min_words: 20, max_short_lines: null}\n")
    words = [str(path), "--output_dir", "out", "--tokenizer", "t"]
    args = parse_arguments(PrepareArguments, words)
    assert args.cleaning() == {
        "filters": "web", "filter_settings": {"min_words": 20, "max_short_lines": None}, "repair_text": None,
        "languages": ["no", "de"],
    }  # fmt: skip
    args = parse_arguments(PrepareArguments, [*words, "--filter_settings", '{"min_words": 9}', "--repair_text", "false"])
    assert args.filter_settings == {"min_words": 9}
    assert args.repair_text is False
    again = parse_arguments(PrepareArguments, args.as_command())
    assert again == args


def test_rows_are_cleaned_as_for_their_tokenizer_and_another_preset_forgets_its_settings():
    earlier = {"sources": ["a.txt"], "filters": "web", "filter_settings": {"min_words": 9}, "languages": ["de"]}
    assert PrepareArguments(**NEEDED).filled(earlier).cleaning() == {
        "filters": "web", "filter_settings": {"min_words": 9}, "repair_text": None, "languages": ["de"],
    }  # fmt: skip
    other = PrepareArguments(**NEEDED, filters="light").filled(earlier)
    assert other.cleaning() == {"filters": "light", "filter_settings": None, "repair_text": None, "languages": None}
    assert PrepareArguments(**NEEDED).filled({}).cleaning()["filters"] == "none"


def test_a_given_value_wins_over_the_preset_and_over_what_a_language_switches_off():
    values, off = settings_of("web", {"min_words": 7, "min_words_per_line": 2}, ["zh"])
    assert (values["min_words"], values["min_words_per_line"], values["min_mean_word_length"]) == (7, 2, None)
    assert "min_words_per_line" not in [name for names in off.values() for name in names]
    assert settings_of("web", None, ["en"])[1] == {}
    assert settings_of("light")[0]["min_words"] is None
    assert settings_of("light", {"min_words": 200_000})[0]["max_words"] is None
    with pytest.raises(
        ValueError, match="min_words is 200,000 and max_words 100,000 in filter_settings; no document can satisfy both"
    ):
        settings_of("web", {"min_words": 200_000})


def shown(value: object) -> str:
    if value in (None, False):
        return "off"
    if isinstance(value, list):
        return " ".join(value)
    return "on" if value is True else f"{value:,}" if isinstance(value, int) else f"{value:g}"


def test_the_page_lists_every_threshold_as_it_is():
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \| (.+?) \| (.+?) \| (.+?) \|$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    expected = [
        (name, shown(one.light), shown(one.web), f"`{one.reason}`" if one.reason else "-", one.help)
        for name, one in SETTINGS.items()
    ]  # fmt: skip
    assert rows == expected, "\n".join("| `{}` | {} | {} | {} | {} |".format(*row) for row in expected)
