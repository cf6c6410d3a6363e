import random

import pytest

from hfgpt.data.packing import ROWS_AT_ONCE, PackingCounts, best_fit, cut_windows, pack

SEPARATOR, PAD = 0, 1


def packed(documents, context_length):
    counts = PackingCounts()
    blocks = list(pack(documents, context_length=context_length, separator=SEPARATOR, pad=PAD, counts=counts))
    return [row for block in blocks for row in zip(block.input_ids.tolist(), block.position_ids.tolist(), strict=True)], counts


def test_short_documents_share_a_row_and_their_separator():
    rows, counts = packed([[11, 12], [21, 22, 23], [31]], 12)
    assert rows == [
        ([0, 21, 22, 23, 0, 11, 12, 0, 31, 0, 1, 1], [0, 1, 2, 3, 0, 1, 2, 0, 1, 2, 0, 1]),
    ]
    assert (counts.tokens, counts.separators, counts.repeated, counts.padding, counts.rows) == (6, 4, 0, 2, 1)


def test_a_long_document_is_continued_from_its_last_token():
    rows, counts = packed([[10, 11, 12, 13, 14, 15, 16]], 4)
    assert rows == [
        ([0, 10, 11, 12], [0, 1, 2, 3]),
        ([12, 13, 14, 15], [0, 1, 2, 3]),
        ([15, 16, 0, 1], [0, 1, 2, 0]),
    ]
    assert counts.repeated == 2


def targets_by_document(rows, separator=SEPARATOR, pad=PAD):
    """What a model is asked to predict, as (context, target) with the context that it may see: its own segment."""
    for ids, positions in rows:
        segment = []
        for index, (token, position) in enumerate(zip(ids, positions, strict=True)):
            segment = [token] if position == 0 else [*segment, token]
            if index + 1 < len(ids) and ids[index + 1] != pad and token != pad:
                yield segment, ids[index + 1]


@pytest.mark.parametrize("context_length", [3, 4, 5, 8, 16, 64])
@pytest.mark.parametrize("seed", range(6))
def test_nothing_is_lost_and_every_token_is_predicted_once_from_its_own_document(context_length, seed):
    generator = random.Random(seed)
    # distinct tokens, so that each prediction can be traced to its document
    sizes = [generator.choice([1, 1, 2, 3, 5, context_length - 2, context_length - 1, context_length, 3 * context_length])
             for _ in range(30)]  # fmt: skip
    token, documents = 2, []
    for size in sizes:
        documents.append(list(range(token, token + size)))
        token += size
    rows, counts = packed(documents, context_length)
    assert all(len(ids) == len(positions) == context_length for ids, positions in rows)

    document_of = {token: number for number, document in enumerate(documents) for token in document}
    predicted, ended = [], []
    for context, target in targets_by_document(rows):
        owners = {document_of[token] for token in context if token != SEPARATOR}
        if target == SEPARATOR:
            (owner,) = owners  # the end of exactly one document, seen from inside it
            assert context[-1] == documents[owner][-1]
            ended.append(owner)
        else:
            assert owners <= {document_of[target]}
            predicted.append(target)
    assert sorted(predicted) == list(range(2, token))
    assert sorted(ended) == list(range(len(documents)))

    assert counts.documents == len(documents)
    assert counts.tokens == sum(sizes)
    assert counts.rows == len(rows)
    assert counts.rows * context_length == counts.tokens + counts.separators + counts.repeated + counts.padding
    assert counts.separators == sum(ids.count(SEPARATOR) for ids, _ in rows)
    assert counts.padding == sum(ids.count(PAD) for ids, _ in rows)


def test_best_fit_wastes_little():
    generator = random.Random(0)
    _, counts = packed([[2] * generator.randint(1, 100) for _ in range(2000)], 128)
    assert counts.padding / (counts.rows * 128) < 0.01


def test_windows_keep_the_document_and_its_separator():
    counts = PackingCounts()
    (rows,) = cut_windows([[2, 3, 4, 5, 6, 7]], window=4, stride=3, separator=SEPARATOR, pad=PAD, counts=counts)
    assert rows.input_ids.tolist() == [[2, 3, 4, 5], [5, 6, 7, 0]]
    assert rows.position_ids.tolist() == [[0, 1, 2, 3], [0, 1, 2, 3]]
    assert (counts.tokens, counts.separators, counts.repeated, counts.padding) == (6, 1, 1, 0)


def test_documents_are_read_as_their_rows_are_taken_and_come_in_blocks():
    read = 0

    def documents():
        nonlocal read
        while True:
            read += 1
            yield [2] * 13  # a whole row, and the end of one

    counts = PackingCounts()
    blocks = pack(documents(), context_length=8, separator=SEPARATOR, pad=PAD, counts=counts)
    assert len(next(blocks).input_ids) == ROWS_AT_ONCE
    assert read == ROWS_AT_ONCE  # the ends are packed when 10,000 documents have come together
    next(blocks), next(blocks)
    assert 10_000 <= read < 3 * ROWS_AT_ONCE


def test_a_long_document_is_not_copied_for_each_of_its_rows():
    """Two million tokens in rows of 64; copying what is left of them for every row would move 250 GB."""
    document = list(range(2, 2_000_002))
    counts = PackingCounts()
    blocks = list(pack([document], context_length=64, separator=SEPARATOR, pad=PAD, counts=counts))
    assert all(block.input_ids.base is None for block in blocks)
    assert counts.rows == sum(len(block.input_ids) for block in blocks) == -(-2_000_001 // 63)
    assert [blocks[0].input_ids[1, 0], blocks[-1].input_ids[-1, 0]] == [1 + 63, 1 + 63 * (counts.rows - 1)]


def test_best_fit_does_not_search_the_whole_context_length():
    segments = [[0] * length for length in (5, 3, 4, 2)]
    assert best_fit(segments, begun=[], capacity=10**12) == [sorted(segments, key=len, reverse=True)]
