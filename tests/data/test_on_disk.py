"""Documents in files are read as they were written, in any order and from any part."""

import numpy as np
import pytest
from datasets import Dataset, concatenate_datasets

from hfgpt.data.on_disk import column_batches, numbers_of, select, text_bytes, texts_of, write_documents

TEXTS = [f"{number}: " + "Füße, 漢字 and tea.\n" * (number % 7) for number in range(3_000)]


@pytest.fixture
def documents(tmp_path):
    rows = [{"text": text, "source": f"s{n % 3}", "row_id": str(n), "draw": n / 3_000} for n, text in enumerate(TEXTS)]
    return write_documents(rows, tmp_path / "documents.arrow")


@pytest.mark.parametrize("order", ["as written", "every third", "shuffled", "twice", "of a part"])
def test_rows_are_read_in_every_order(documents, order):
    rows = {
        "as written": np.arange(3_000),
        "every third": np.arange(0, 3_000, 3),
        "shuffled": np.random.default_rng(0).permutation(3_000),
        "twice": np.array([7, 7, 2_999, 0, 7]),
        "of a part": np.array([900, 0, 999]),
    }[order]
    part = documents.select(range(1_000, 2_000)) if order == "of a part" else documents
    picked = select(part, rows)
    expected = [TEXTS[row + (1_000 if order == "of a part" else 0)] for row in rows]
    assert list(texts_of(picked)) == expected
    assert text_bytes(picked) == sum(len(text.encode()) for text in expected)
    ids = [row_id for ids, _ in column_batches(picked, "row_id", "source") for row_id in ids]
    assert [TEXTS[int(row_id)] for row_id in ids] == expected
    assert np.array_equal(numbers_of(picked, "draw"), np.array(picked["draw"]))


def test_columns_of_long_texts_in_any_order_stay_side_by_side(documents, monkeypatch):
    monkeypatch.setattr("hfgpt.data.on_disk.BATCH_CHARACTERS", 5_000)  # fewer rows at a time than for short texts
    picked = select(documents, np.random.default_rng(0).permutation(3_000))
    seen = [pair for texts, sources in column_batches(picked, "text", "source") for pair in zip(texts, sources, strict=True)]
    assert seen == list(zip(picked["text"], picked["source"], strict=True))


def test_rows_of_files_and_of_memory_are_read_together(documents):
    added = Dataset.from_dict({key: [str(key)] for key in ("text", "source", "row_id")} | {"draw": [0.5]}, documents.features)
    both = select(concatenate_datasets([documents, added]), np.array([3_000, 5, 3_000, 0]))
    assert list(texts_of(both)) == ["text", TEXTS[5], "text", TEXTS[0]]
