import itertools
import random

import pytest

from hfgpt.data.packing import PACKINGS, ROWS_AT_ONCE, PackingCounts, best_fit, cut_windows, pack
from hfgpt.errors import UserError

SEPARATOR, PAD = 0, 1


def packed(documents, context_length, packing="best_fit", **settings):
    counts = PackingCounts()
    given = dict(context_length=context_length, separator=SEPARATOR, pad=PAD, counts=counts, packing=packing, **settings)
    blocks = list(pack(documents, **given))
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
    """Yield what a model is asked to predict, as (context, target); the context is the part of the segment before the target."""
    for ids, positions in rows:
        segment = []
        for index, (token, position) in enumerate(zip(ids, positions, strict=True)):
            segment = [token] if position == 0 else [*segment, token]
            if index + 1 < len(ids) and ids[index + 1] != pad and token != pad:
                yield segment, ids[index + 1]


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("context_length", [3, 4, 5, 8, 16, 64])
@pytest.mark.parametrize("seed", range(6))
def test_nothing_is_lost_and_every_token_is_predicted_once_from_its_own_document(packing, context_length, seed):
    generator = random.Random(seed)
    # distinct tokens, so that each prediction can be traced to its document
    sizes = [generator.choice([1, 1, 2, 3, 5, context_length - 2, context_length - 1, context_length, 3 * context_length])
             for _ in range(30)]  # fmt: skip
    token, documents = 2, []
    for size in sizes:
        documents.append(list(range(token, token + size)))
        token += size
    rows, counts = packed(documents, context_length, packing, together=generator.choice([1, 7, 100]))
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


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("seed", range(6))
def test_positions_restart_with_every_document_and_with_every_row(packing, seed):
    generator = random.Random(seed)
    documents = [[2] * generator.choice([1, 2, 9, 14, 15, 16, 40]) for _ in range(40)]
    rows, _ = packed(documents, 16, packing, together=5)
    restarts = 0
    for ids, positions in rows:
        used = len(ids) - ids.count(PAD)
        # A separator opens a document, unless it is the last token of the row.
        expected = {0, *(index for index in range(used - 1) if ids[index] == SEPARATOR)}
        assert {index for index in range(used) if positions[index] == 0} == expected
        assert all(after in (0, before + 1) for before, after in itertools.pairwise(positions))
        restarts += len(expected)
    assert restarts > len(rows)


def test_in_order_goes_on_in_the_next_row_and_closes_a_row_with_a_separator_that_opens_the_next():
    rows, counts = packed([[10, 11, 12, 13, 14], [20, 21], [30]], 5, "in_order")
    assert rows == [
        ([0, 10, 11, 12, 13], [0, 1, 2, 3, 4]),
        ([13, 14, 0, 20, 21], [0, 1, 0, 1, 2]),
        ([21, 0, 30, 0, 1], [0, 0, 1, 2, 0]),
    ]
    assert (counts.tokens, counts.separators, counts.repeated, counts.padding, counts.rows) == (8, 4, 2, 1, 3)
    rows, counts = packed([[10, 11, 12], [20]], 5, "in_order")
    assert rows == [([0, 10, 11, 12, 0], [0, 1, 2, 3, 4]), ([0, 20, 0, 1, 1], [0, 1, 2, 0, 1])]
    assert (counts.separators, counts.repeated) == (4, 0)


def test_in_order_keeps_the_order_of_the_documents():
    generator = random.Random(0)
    documents = [[number + 2] * generator.randint(1, 40) for number in range(200)]
    rows, _ = packed(documents, 16, "in_order")
    stream = [rows[0][0][0], *(token for ids, _ in rows for token in ids[1:] if token != PAD)]
    assert stream == [token for document in documents for token in (SEPARATOR, *document)] + [SEPARATOR]


def test_best_fit_with_splitting_fills_the_room_that_is_left_with_a_piece_of_a_document():
    rows, counts = packed([[10, 11, 12, 13], [20, 21, 22, 23]], 8, "best_fit_split")
    assert rows == [
        ([0, 10, 11, 12, 13, 0, 20, 21], [0, 1, 2, 3, 4, 0, 1, 2]),
        ([21, 22, 23, 0, 1, 1, 1, 1], [0, 1, 2, 3, 0, 1, 2, 3]),
    ]
    assert (counts.separators, counts.repeated, counts.padding) == (3, 1, 4)


@pytest.mark.parametrize("packing", ["best_fit_split", "in_order"])
@pytest.mark.parametrize("together", [5, 10_000])
def test_ways_that_cut_pad_no_row_but_the_last(packing, together):
    generator = random.Random(0)
    documents = [[2] * generator.choice([5, 9, 14, 100]) for _ in range(500)]
    rows, counts = packed(documents, 16, packing, together=together)
    assert not any(PAD in ids for ids, _ in rows[:-1])
    assert counts.rows > 1000


def test_best_fit_cuts_no_document_that_fits_and_its_sister_few():
    generator = random.Random(0)
    documents = [[2] * generator.randint(1, 62) for _ in range(2000)]
    cut = {packing: packed(documents, 64, packing)[1].repeated for packing in PACKINGS}
    assert cut["best_fit"] == 0
    assert 0 < cut["best_fit_split"] < cut["in_order"] / 10


def test_an_unknown_way_of_packing_is_refused_with_those_that_there_are():
    with pytest.raises(UserError, match="packing is 'bestfit'; allowed: best_fit, best_fit_split, in_order. Did you mean"):
        packed([[2]], 8, "bestfit")


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
            yield [2] * 13  # fills one row and leaves a remainder

    counts = PackingCounts()
    blocks = pack(documents(), context_length=8, separator=SEPARATOR, pad=PAD, counts=counts)
    assert len(next(blocks).input_ids) == ROWS_AT_ONCE
    assert read == ROWS_AT_ONCE  # the remainders are packed once there are 10,000 documents
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


@pytest.mark.slow
@pytest.mark.parametrize(("file", "rule"), [("novels", "paragraph"), ("novels", "<|endoftext|>"), ("messages", "line")])
def test_less_than_1_percent_of_the_rows_of_real_texts_is_padding(file, rule, shared_data, small_tokenizer, tmp_path):
    """Novels by paragraph and whole (their smallest file), and SMS messages as one document each; with a small tokenizer."""
    from hfgpt.data.sources import ReadingOptions, find_sources, read_documents
    from hfgpt.tokenization import encode_texts, load_tokenizer

    path = shared_data / "english_novels" / "test.txt"
    if file == "messages":
        messages = (shared_data / "sms_spam" / "SMSSpamCollection.tsv").read_text(encoding="utf-8").splitlines()
        path = tmp_path / "messages.txt"
        path.write_text("".join(line.partition("\t")[2] + "\n" for line in messages), encoding="utf-8")
    texts = [document["text"] for document in read_documents(find_sources([str(path)]), ReadingOptions(text_documents=rule))]
    documents = encode_texts(load_tokenizer(small_tokenizer), texts)
    shares = {}
    for packing in PACKINGS:
        counts = PackingCounts()
        given = dict(context_length=256, separator=SEPARATOR, pad=PAD, counts=counts, packing=packing)
        assert sum(len(block.input_ids) for block in pack(documents, **given)) == counts.rows > 800
        shares[packing] = counts.padding / (256 * counts.rows)
    assert max(shares.values()) < 0.01
    assert min(shares["best_fit_split"], shares["in_order"]) < 0.001
