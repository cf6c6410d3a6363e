import pickle
import random

import numpy as np
import pytest
from datasets import concatenate_datasets

from hfgpt.data.epoch_rows import EpochRows, EpochSampler
from hfgpt.data.on_disk import write_rows
from hfgpt.data.packing import PackingCounts, pack
from hfgpt.errors import UserError

SEPARATOR, PAD, LENGTH = 0, 1, 16


def documents(count, *, longest=40, seed=0):
    """Documents in which no token occurs twice, so that every prediction can be traced."""
    generator, token, made = random.Random(seed), 2, []
    for _ in range(count):
        size = generator.randint(1, longest)
        made.append(list(range(token, token + size)))
        token += size
    return made


def rows_of(documents, tmp_path, *, packing="in_order", name="rows"):
    given = dict(context_length=LENGTH, separator=SEPARATOR, pad=PAD, counts=PackingCounts(), packing=packing)
    return write_rows(pack(documents, **given), tmp_path / f"{name}.arrow", context_length=LENGTH)


def epoch_rows(rows, **settings):
    return EpochRows(rows, **{"separator": SEPARATOR, "pad": PAD, "seed": 3, **settings})


def epoch_of(rows, epoch):
    return [rows[epoch * len(rows) + number] for number in range(len(rows))]


def predictions(rows):
    """Yield everything a model is asked to predict, each token after the context that the model sees."""
    for row in rows:
        ids, positions = row["input_ids"].tolist(), row["position_ids"].tolist()
        segment = []
        for index, (token, position) in enumerate(zip(ids, positions, strict=True)):
            segment = [token] if position == 0 else [*segment, token]
            if index + 1 < len(ids) and token != PAD and ids[index + 1] != PAD:
                yield segment, ids[index + 1]


@pytest.mark.parametrize(("count", "longest"), [(200, 40), (40, 3), (3, 200), (1, 500), (2, 1)])
def test_every_epoch_predicts_each_token_once_from_its_own_document(tmp_path, count, longest):
    made = documents(count, longest=longest)
    rows = epoch_rows(rows_of(made, tmp_path), repack=True)
    document_of = {token: number for number, document in enumerate(made) for token in document}
    for epoch in range(4):
        predicted, ended = [], []
        for context, target in predictions(epoch_of(rows, epoch)):
            seen = [token for token in context if token != SEPARATOR]
            owners = {document_of[token] for token in seen}
            if target == SEPARATOR:
                (owner,) = owners
                assert seen[-1] == made[owner][-1]
                ended.append(owner)
            else:
                assert owners <= {document_of[target]}
                assert seen == made[document_of[target]][: made[document_of[target]].index(target)][-len(seen) :] or not seen
                predicted.append(target)
        assert sorted(predicted) == sorted(document_of)
        assert sorted(ended) == list(range(count))


def test_documents_change_their_order_and_the_places_where_they_are_cut(tmp_path):
    for made in (documents(200), documents(1, longest=5000)):
        rows = epoch_rows(rows_of(made, tmp_path, name=f"rows{len(made)}"), repack=True)
        assert len(rows) > 50
        epochs = [{tuple(row["input_ids"].tolist()) for row in epoch_of(rows, epoch)} for epoch in range(3)]
        for one, other in [(0, 1), (1, 2), (0, 2)]:
            assert len(epochs[one] & epochs[other]) < 0.2 * len(rows)


def test_a_row_depends_on_seed_epoch_and_number_and_on_nothing_read_before(tmp_path):
    prepared = rows_of(documents(100), tmp_path)
    settings = dict(repack=True, max_masked_tokens=3)
    rows = epoch_rows(prepared, **settings)
    straight = [row for epoch in range(3) for row in epoch_of(rows, epoch)]
    resumed, sent = epoch_rows(prepared, **settings), pickle.loads(pickle.dumps(rows))
    np.random.seed(1), random.seed(1)
    order = random.sample(range(len(straight)), len(straight))
    for index in order:
        for other in (resumed, sent):
            assert all((other[index][key] == straight[index][key]).all() for key in straight[index])
    another = epoch_rows(prepared, seed=4, **settings)
    assert sum((another[index]["labels"] == straight[index]["labels"]).all() for index in order) < 0.2 * len(order)


def test_rows_of_several_files_are_one_stream(tmp_path):
    prepared = rows_of(documents(100), tmp_path)
    parts = concatenate_datasets(
        [prepared.select(range(7)), prepared.select(range(7, 50)), prepared.select(range(50, len(prepared)))]
    )
    one, several = (epoch_rows(rows, repack=True, max_masked_tokens=2) for rows in (prepared, parts))
    assert len(several._ids.blocks) == 3
    for index in range(2 * len(one)):
        assert (one[index]["input_ids"] == several[index]["input_ids"]).all()


def test_rows_that_were_not_packed_in_order_are_refused(tmp_path):
    with pytest.raises(UserError, match="repack is true, but the rows were not packed in order; run .*--packing in_order"):
        epoch_rows(rows_of(documents(100), tmp_path, packing="best_fit"), repack=True)


@pytest.mark.parametrize("repack", [False, True])
def test_one_to_three_tokens_of_a_row_are_hidden_and_still_predicted(tmp_path, repack):
    prepared = rows_of(documents(300), tmp_path)
    plain, masked = (epoch_rows(prepared, repack=repack, max_masked_tokens=most) for most in (0, 3))
    counts, places = [], []
    for index in range(2 * len(plain)):
        before, after = plain[index], masked[index]
        assert (after["labels"] == before["input_ids"]).all()
        assert (after["position_ids"] == before["position_ids"]).all()
        (hidden,) = np.nonzero(after["input_ids"] != before["input_ids"])
        assert (after["input_ids"][hidden] == PAD).all()
        assert not set(before["input_ids"][hidden].tolist()) & {SEPARATOR, PAD}
        counts.append(len(hidden))
        places.append(tuple(hidden))
    assert set(counts) == {1, 2, 3}
    assert np.mean(counts) == pytest.approx(2, abs=0.15)
    first, second = places[: len(plain)], places[len(plain) :]
    assert sum(one == other for one, other in zip(first, second, strict=True)) < 0.2 * len(plain)  # different ones in each epoch


def test_a_row_with_fewer_tokens_than_are_to_be_hidden_loses_them_all(tmp_path):
    row = epoch_rows(rows_of([[2]], tmp_path), max_masked_tokens=LENGTH - 1)[0]
    assert row["input_ids"][:4].tolist() == [SEPARATOR, PAD, SEPARATOR, PAD]
    assert row["labels"][:4].tolist() == [SEPARATOR, 2, SEPARATOR, PAD]


def test_the_sampler_reads_each_row_once_an_epoch_in_the_order_of_rows_that_stay_the_same(tmp_path):
    from accelerate.data_loader import SeedableRandomSampler

    rows = epoch_rows(rows_of(documents(50), tmp_path), repack=True)
    sampler, usual = EpochSampler(rows, seed=5), SeedableRandomSampler(rows, data_seed=5)
    for epoch in (0, 3):
        sampler.set_epoch(epoch), usual.set_epoch(epoch)
        assert [index - epoch * len(rows) for index in sampler] == list(usual)
    assert list(EpochSampler(rows, seed=5, shuffled=False)) == list(range(len(rows)))


def test_a_batch_has_the_hidden_tokens_in_its_labels_and_none_for_padding(tmp_path):
    from hfgpt.data.collators import PackedRowsCollator

    rows = epoch_rows(rows_of(documents(30), tmp_path), max_masked_tokens=2)
    batch = PackedRowsCollator(PAD)([rows[0], rows[len(rows) - 1]])
    labels = np.stack([rows[0]["labels"], rows[len(rows) - 1]["labels"]])
    assert PAD in labels
    assert batch["labels"].tolist() == np.where(labels == PAD, -100, labels).tolist()
    assert ((batch["input_ids"] == PAD) & (batch["labels"] != -100)).sum() >= 2


def test_hiding_as_many_tokens_as_a_row_has_is_refused(tmp_path):
    with pytest.raises(UserError, match="max_masked_tokens is 16, but the rows are 16 tokens long, so nothing would be left"):
        epoch_rows(rows_of([[2, 3]], tmp_path), max_masked_tokens=LENGTH)
