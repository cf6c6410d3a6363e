import pytest

from hfgpt.data.reading import Source
from hfgpt.data.source_cards import card_of, check_cards
from hfgpt.data.sources import ReadingOptions, find_sources, identity


def test_the_first_pattern_that_a_name_matches_counts_whole_or_by_its_last_part():
    cards = {"books/emma.txt": {"license": "pd"}, "*.txt": {"license": "mit"}, "notes [1].md": {"license": "own"}}
    assert card_of("books/emma.txt", cards) == {"license": "pd"}
    assert card_of("other/emma.txt", cards) == {"license": "mit"}
    assert card_of("x/notes [1].md", cards) == {"license": "own"}  # brackets are literal
    assert card_of("x/notes.md", cards) == card_of("x/notes.md", None) == {}


def test_a_pattern_without_a_source_is_refused_with_the_nearest_name():
    sources = [Source("text", "books/emma.txt"), Source("hub", "user/texts")]
    check_cards({"emma.txt": {"license": "pd"}, "user/*": {"license": "mit"}}, sources)
    with pytest.raises(ValueError, match=r"'ema\.txt', which matches none of the 2 sources; did you mean 'emma\.txt'"):
        check_cards({"ema.txt": {}}, sources)
    with pytest.raises(ValueError, match="choose the one to read with --hub_revision"):
        check_cards({"user/texts": {"revision": "v2"}}, sources)


def test_what_nobody_has_said_of_a_file_is_unknown_and_what_was_said_is_kept(tmp_path):
    (tmp_path / "a.txt").write_text("text")
    (source,) = find_sources([str(tmp_path / "a.txt")])
    unknown = identity(source, ReadingOptions())
    assert (unknown["license"], unknown["url"]) == (None, None)
    card = {"license": "cc0-1.0", "url": "https://example.org/a", "revision": "2nd edition"}
    assert identity(source, ReadingOptions(source_cards={"*.txt": card})) == {**unknown, **card}


def test_the_documentation_of_python_knows_its_own_licence():
    (source,) = find_sources(["python-docs"])
    said = identity(source, ReadingOptions())
    assert said["license"] == "PSF-2.0"
    assert said["url"].startswith("https://docs.python.org/3.")
