import pytest

from hfgpt.data.packing import sliding_windows

LOREM = ["Lorem", "ipsum", "dolor", "sit", "amet,", "consectetur", "adipiscing", "elit."]


def test_overlapping_windows_lose_no_token():
    windows = list(sliding_windows(list(range(10)), window=4, stride=3))
    assert windows == [[0, 1, 2, 3], [3, 4, 5, 6], [6, 7, 8, 9]]


# Source of the two tables: the notes' "Data Sampling", after the book's section 2.6; max_length 4, tokens are words.
def test_the_lorem_ipsum_table_with_stride_1():
    windows = list(sliding_windows(LOREM, window=4, stride=1))
    inputs, targets = windows[:-1], windows[1:]  # with stride 1 a window's target is the next window
    assert list(zip(inputs, targets, strict=True)) == [
        (["Lorem", "ipsum", "dolor", "sit"], ["ipsum", "dolor", "sit", "amet,"]),
        (["ipsum", "dolor", "sit", "amet,"], ["dolor", "sit", "amet,", "consectetur"]),
        (["dolor", "sit", "amet,", "consectetur"], ["sit", "amet,", "consectetur", "adipiscing"]),
        (["sit", "amet,", "consectetur", "adipiscing"], ["amet,", "consectetur", "adipiscing", "elit."]),
    ]


def test_the_lorem_ipsum_table_with_stride_2():
    assert list(sliding_windows(LOREM, window=4, stride=2)) == [
        ["Lorem", "ipsum", "dolor", "sit"],
        ["dolor", "sit", "amet,", "consectetur"],
        ["amet,", "consectetur", "adipiscing", "elit."],
    ]


@pytest.mark.parametrize("length", range(1, 14))
@pytest.mark.parametrize(("window", "stride"), [(4, 1), (4, 3), (4, 4), (1, 1), (20, 5)])
def test_every_token_is_in_a_window_and_only_the_last_is_short(length, window, stride):
    ids = list(range(length))
    windows = list(sliding_windows(ids, window=window, stride=stride))
    assert set().union(*windows) == set(ids)
    assert all(len(piece) == window for piece in windows[:-1])
    assert 1 <= len(windows[-1]) <= window


@pytest.mark.parametrize("stride", [0, -1, 5])
def test_a_stride_that_skips_tokens_is_refused(stride):
    with pytest.raises(ValueError, match=f"stride is {stride} and window is 4"):
        list(sliding_windows([1, 2, 3], window=4, stride=stride))
