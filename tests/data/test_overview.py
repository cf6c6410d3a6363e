import pytest

from hfgpt.data.overview import MOST_SOURCES, draw_overview, dropped_by_step, largest_sources
from hfgpt.data.passport import Passport


def passport_of(num_sources: int) -> Passport:
    inputs = [
        {"name": f"texts/number {number} of $x^2$, 文字\nand more.txt", "splits": {"train": {"tokens": 10 * number + 1}}}
        for number in range(num_sources)
    ]
    steps = [
        {"step": "load", "documents_in": None, "documents_out": 100},
        {"step": "drop blank", "documents_in": 100, "documents_out": 90, "bytes_in": 5, "bytes_out": 4},
        {"step": "plant canaries", "documents_in": 90, "documents_out": 95},
        {"step": "skip rows that cannot be used", "rows": 3},
    ]
    tokens = sum(entry["splits"]["train"]["tokens"] for entry in inputs)
    return Passport(inputs=inputs, steps=steps, splits={"train": {"tokens": tokens + 7}}, lengths={"train": {"0": 1, "64": 94}})


def test_the_largest_sources_have_bars_of_their_own_and_no_token_is_lost():
    found = largest_sources(passport_of(30))
    assert len(found) == MOST_SOURCES
    assert found[0][0].startswith("texts/number 29 ")
    assert found[-1][0] == "20 others"
    assert sum(tokens["train"] for _, tokens in found) == passport_of(30).splits["train"]["tokens"]
    assert largest_sources(passport_of(1)) == [("made by steps", {"train": 7}), (passport_of(1).inputs[0]["name"], {"train": 1})]


def test_steps_that_add_or_count_no_documents_drop_none():
    assert dropped_by_step(passport_of(1)) == [("drop blank", 100, 10)]


@pytest.mark.filterwarnings("error")
def test_the_same_passport_is_drawn_with_the_same_bytes_whatever_its_names_hold(tmp_path):
    for number in (1, 2):
        draw_overview(passport_of(3), tmp_path / f"{number}.png")
    assert (tmp_path / "1.png").read_bytes() == (tmp_path / "2.png").read_bytes()
    draw_overview(Passport(), tmp_path / "empty.png")
    assert (tmp_path / "empty.png").stat().st_size > 5_000
