import hashlib

import numpy as np
import pyarrow
import pytest
from datasets import Dataset, Features, Sequence, Value

from hfgpt.data.row_hashes import ROWS_PER_BLOCK, RowHash, hash_of_rows


def fixed(matrix) -> pyarrow.Array:
    values = pyarrow.array(np.asarray(matrix, dtype=np.int32).reshape(-1))
    return pyarrow.FixedSizeListArray.from_arrays(values, np.shape(matrix)[1])


def hashed(table: pyarrow.Table, batch_size: int = 10_000) -> dict:
    found = RowHash()
    for batch in table.to_batches(max_chunksize=batch_size):
        found.add(batch)
    return found.result()


def table_of(ids, **columns) -> pyarrow.Table:
    return pyarrow.table({"input_ids": fixed(ids), **columns})


def test_the_hash_can_be_made_again_by_hand():
    ids, positions = [[1, 2, 3], [4, 5, 6]], [[0, 1, 2], [0, 1, 0]]
    block = hashlib.sha256()
    for name, matrix in (("input_ids", ids), ("position_ids", positions)):
        block.update(f"{name} int32 3\n".encode() + hashlib.sha256(np.array(matrix, dtype="<i4").tobytes()).digest())
    found = hashed(pyarrow.table({"position_ids": fixed(positions), "input_ids": fixed(ids)}))
    assert found == {"rows": 2, "sha256": hashlib.sha256(block.digest()).hexdigest(), "blocks": block.hexdigest()[:16]}


@pytest.mark.parametrize("kind", ["fixed", "ragged", "text"])
def test_the_hash_does_not_depend_on_the_batches_of_arrow(kind):
    length = ROWS_PER_BLOCK + 100
    values = {
        "fixed": lambda: fixed(np.arange(3 * length).reshape(length, 3)),
        "ragged": lambda: pyarrow.array([list(range(row % 5)) for row in range(length)], pyarrow.list_(pyarrow.int64())),
        "text": lambda: pyarrow.array([f"row {row}" if row % 7 else None for row in range(length)]),
    }[kind]()
    table = pyarrow.table({"column": values, "number": pyarrow.array(range(length))})
    first = hashed(table)
    assert first["rows"] == length
    assert len(first["blocks"].split()) == 2
    for batch_size in (1_000, 777, ROWS_PER_BLOCK):
        assert hashed(table, batch_size) == first


def test_one_other_value_changes_the_hash_of_its_block_alone():
    matrix = np.arange(2 * 2 * ROWS_PER_BLOCK).reshape(-1, 2)
    before = hashed(table_of(matrix))
    matrix[ROWS_PER_BLOCK + 5, 1] = 0
    after = hashed(table_of(matrix))
    assert before["sha256"] != after["sha256"]
    assert [one == other for one, other in zip(before["blocks"].split(), after["blocks"].split())] == [True, False]


@pytest.mark.parametrize(("one", "other"), [
    ([[1], [2, 3]], [[1, 2], [3]]),  # the same numbers, split differently
    ([[1, 2], []], [[], [1, 2]]),
    ([[1, 2]], [[2, 1]]),
])  # fmt: skip
def test_where_a_row_ends_is_part_of_the_hash(one, other):
    kind = pyarrow.list_(pyarrow.int32())
    first, second = (hashed(pyarrow.table({"ids": pyarrow.array(rows, kind)}))["sha256"] for rows in (one, other))
    assert first != second


def test_shards_and_saving_do_not_change_the_hash(tmp_path):
    rows = {"input_ids": [[row, row + 1] for row in range(5_000)], "position_ids": [[0, 1]] * 5_000}
    features = Features({name: Sequence(Value("int32"), length=2) for name in rows})
    dataset = Dataset.from_dict(rows, features)
    found = []
    for name, settings in (("one", {}), ("three", {"num_shards": 3})):
        dataset.save_to_disk(tmp_path / name, **settings)
        found.append(hash_of_rows(tmp_path / name))
    assert len(list((tmp_path / "three").glob("*.arrow"))) == 3
    assert found[0] == found[1] == hashed(pyarrow.table({name: fixed(column) for name, column in rows.items()}))


def test_a_file_that_is_cut_or_missing_is_named(tmp_path):
    Dataset.from_dict({"input_ids": [[1, 2]] * 3_000}).save_to_disk(tmp_path / "rows")
    (file,) = (tmp_path / "rows").glob("*.arrow")
    file.write_bytes(file.read_bytes()[:5_000])
    with pytest.raises(ValueError, match=rf"{file.name} cannot be read"):
        hash_of_rows(tmp_path / "rows")
    file.unlink()
    with pytest.raises(ValueError, match=rf"{file.name} is missing"):
        hash_of_rows(tmp_path / "rows")
