"""A model overfitted on purpose reveals its canaries and repeats its rows; one that never saw them does not."""

import json
import math
import random

import pytest
import torch
from datasets import Dataset, DatasetDict, load_from_disk
from recipes_in_process import recipe
from transformers import AutoModelForCausalLM, AutoTokenizer

from hfgpt import HfGptConfig, HfGptForCausalLM
from hfgpt.hygiene import exposure as exposure_module
from hfgpt.hygiene.exposure import chance_exposure, exposure, negative_log_likelihoods
from hfgpt.hygiene.memorization import documents_of, held_out_like, memorization_report
from hfgpt.hygiene.overlap import longest_overlaps
from hfgpt.hygiene.planted_secrets import read_canaries
from hfgpt.tokenization import load_tokenizer

COUNTS = [1, 32]


@pytest.fixture(scope="module")
def halves(small_corpus, small_tokenizer, tmp_path_factory):
    """Two sets of rows without a document in common: one with canaries, one without."""
    lines = small_corpus.read_text().splitlines(keepends=True)
    folder = tmp_path_factory.mktemp("halves")
    for name, part in (("planted", lines[::2]), ("plain", lines[1::2])):
        (folder / f"{name}.jsonl").write_text("".join(part))
        canaries = dict(plant_canaries=True, canary_counts=COUNTS, canaries_per_count=3) if name == "planted" else {}
        recipe("prepare_data", sources=[str(folder / f"{name}.jsonl")], tokenizer=str(small_tokenizer), context_length=64,
               validation_share=0.0, test_share=0.3, output_dir=str(folder / name), **canaries)  # fmt: skip
    return {"planted": folder / "planted", "plain": folder / "plain"}


@pytest.fixture(scope="module")
def overfitted(halves):
    """The same small model trained on each half, for many epochs."""
    return {name: overfit(folder) for name, folder in halves.items()}


def overfit(data):
    tokenizer = load_tokenizer(data / "tokenizer")
    rows = load_from_disk(data)["train"].with_format("torch")
    ids, positions = rows["input_ids"][:].long(), rows["position_ids"][:].long()
    labels = ids.masked_fill(ids == tokenizer.pad_token_id, -100)
    special = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("pad", "bos", "eos")}
    config = HfGptConfig.modern(
        2, vocab_size=len(tokenizer), num_hidden_layers=2, hidden_size=64, num_attention_heads=4, num_key_value_heads=2,
        head_dim=16, intermediate_size=160, max_position_embeddings=128, **special,
    )  # fmt: skip
    torch.manual_seed(0)
    model = HfGptForCausalLM(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=6e-3, weight_decay=0.0)
    for _ in range(160):
        batch = torch.randperm(len(ids))[:16]
        model(input_ids=ids[batch], position_ids=positions[batch], labels=labels[batch], use_cache=False).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, tokenizer


SETTINGS = dict(num_samples=24, sample_tokens=48, num_references=63)


@pytest.fixture(scope="module")
def reports(halves, overfitted, tmp_path_factory):
    """Both models measured against the rows with the canaries, which only one of them was trained on."""
    folder = tmp_path_factory.mktemp("reports")
    return {name: (memorization_report(*overfitted[name], halves["planted"], folder / name, **SETTINGS), folder / name)
            for name in overfitted}  # fmt: skip


def by_count(report):
    return {row["count"]: row for row in report["canaries"]["by_count"]}


@pytest.mark.slow
def test_an_overfitted_model_gives_away_what_was_planted_often_and_no_control(reports):
    rows = by_count(reports["planted"][0])
    assert {count: row["num"] for count, row in rows.items()} == {0: 6, 1: 3, 32: 3}
    assert rows[32]["exposure_mean"] == reports["planted"][0]["canaries"]["maximum_exposure"] == 6.0
    assert rows[32]["extraction_rate"] == 1.0
    assert rows[0]["extraction_rate"] == 0.0
    assert rows[0]["exposure_mean"] < 3.0  # by chance 1.38, give or take 0.5 for six of them
    assert rows[1]["exposure_mean"] <= rows[32]["exposure_mean"]


@pytest.mark.slow
def test_a_model_that_never_saw_the_canaries_knows_none(reports):
    rows = by_count(reports["plain"][0])
    assert all(row["exposure_mean"] < 3.5 and row["extraction_rate"] == 0.0 for row in rows.values())
    bits = [entry["exposure"] for entry in reports["plain"][0]["canaries"]["each"]]
    assert len(bits) == 12
    assert sum(bits) / 12 < 2.5  # 1.38 by chance, with a standard deviation of 0.38


@pytest.mark.slow
def test_samples_repeat_the_rows_a_model_was_overfitted_on_and_not_those_of_another(reports):
    trained, other = (reports[name][0]["overlap"] for name in ("planted", "plain"))
    assert trained["samples"]["tokens"]["median"] > 2 * trained["held_out"]["tokens"]["median"]
    assert trained["samples"]["bytes"]["median"] > 2 * other["samples"]["bytes"]["median"]
    assert other["samples"]["bytes"]["median"] < 2 * other["held_out"]["bytes"]["median"]
    assert trained["samples"]["mean_share"] > 0.5 > trained["held_out"]["mean_share"]
    assert 0.7 < trained["held_out"]["mean_bytes"] / trained["samples"]["mean_bytes"] <= 1
    assert trained["held_out"]["num"] == trained["samples"]["num"] == 24


@pytest.mark.slow
def test_the_longest_run_that_is_quoted_stands_in_a_training_document(reports, halves):
    overlap = reports["planted"][0]["overlap"]
    tokenizer = load_tokenizer(halves["planted"] / "tokenizer")
    documents = list(documents_of(load_from_disk(halves["planted"])["train"], tokenizer))
    assert len(overlap["samples"]["longest"].encode()) == overlap["samples"]["bytes"]["maximum"] > 24
    assert any(overlap["samples"]["longest"] in document for document in documents)


@pytest.mark.slow
def test_the_report_is_written_with_its_figure_and_repeats_itself(reports, halves, overfitted, tmp_path):
    report, folder = reports["planted"]
    assert sorted(path.name for path in folder.iterdir()) == ["memorization.json", "memorization.png"]
    assert json.loads((folder / "memorization.json").read_text()) == report
    assert (folder / "memorization.png").read_bytes().startswith(b"\x89PNG")
    assert str(halves["planted"].parent) not in (folder / "memorization.json").read_text()
    model, tokenizer = overfitted["planted"]
    model.train()
    torch.manual_seed(3)
    state = torch.get_rng_state()
    assert memorization_report(model, tokenizer, halves["planted"], tmp_path, **SETTINGS) == report
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.slow
def test_batches_do_not_change_a_log_likelihood(overfitted, halves, monkeypatch):
    model, tokenizer = overfitted["planted"]
    texts = [canary.text for canary in read_canaries(halves["planted"])] + ["short", ""]
    together = negative_log_likelihoods(model, tokenizer, texts)
    monkeypatch.setattr(exposure_module, "LOGITS_BYTES", 1)
    assert negative_log_likelihoods(model, tokenizer, texts) == pytest.approx(together, rel=1e-5)
    inside = tokenizer(texts[0], add_special_tokens=False)["input_ids"]
    ids = torch.tensor([[tokenizer.eos_token_id, *inside, tokenizer.eos_token_id]])
    with torch.no_grad():
        loss = model.eval()(ids, labels=ids).loss.item()
    assert together[0] == pytest.approx(loss * (ids.shape[1] - 1), rel=1e-5)


@pytest.mark.slow
def test_a_model_whose_weights_are_no_numbers_has_no_exposure(overfitted, halves, tmp_path):
    broken = HfGptForCausalLM(overfitted["planted"][0].config)
    torch.nn.init.constant_(broken.get_input_embeddings().weight, math.nan)
    with pytest.raises(ValueError, match="not a finite number, so it cannot be ranked"):
        memorization_report(broken, overfitted["planted"][1], halves["planted"], tmp_path / "out", **SETTINGS)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_any_causal_model_is_measured_on_data_without_canaries(small_gpt2, small_rows, tmp_path, caplog):
    caplog.set_level("INFO")
    model, tokenizer = AutoModelForCausalLM.from_pretrained(small_gpt2), AutoTokenizer.from_pretrained(small_gpt2)
    report = memorization_report(model, tokenizer, small_rows, tmp_path, num_samples=3, sample_tokens=500, max_rows=20)
    assert report["canaries"] is None
    assert "no canaries were planted in this data" in caplog.text
    assert report["settings"]["sample_tokens"] == 255  # the context leaves no room for more
    assert report["overlap"]["rows_searched"] == 20 < report["overlap"]["rows"]
    assert report["overlap"]["samples"]["num"] == 3
    assert report["overlap"]["samples"]["bytes"]["maximum"] > 0
    assert (tmp_path / "memorization.png").is_file()


@pytest.mark.parametrize("name", ["num_samples", "sample_tokens", "num_references", "max_rows"])
def test_numbers_out_of_range_are_refused(name, tmp_path):
    with pytest.raises(ValueError, match=f"{name} is 0; it must be at least 1"):
        memorization_report(None, None, tmp_path, tmp_path, **{name: 0})


def test_exposure_is_the_bits_by_which_a_secret_stands_out():
    assert exposure(1.0, [2.0] * 7) == 3.0  # the first of 8
    assert exposure(2.5, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]) == pytest.approx(math.log2(8 / 3))
    assert exposure(9.0, [1.0] * 7) == 0.0  # the last
    assert exposure(1.0, [1.0] * 7) == 0.0  # a model that scores all alike knows nothing
    assert chance_exposure(1) == 0.5
    assert chance_exposure(3) == pytest.approx(2 - (0 + 1 + math.log2(3) + 2) / 4)
    assert chance_exposure(100_000) == pytest.approx(math.log2(math.e), abs=1e-3)
    for nats, references in ((math.nan, [1.0]), (1.0, [math.nan]), (math.inf, [1.0])):
        with pytest.raises(ValueError, match="not a finite number"):
            exposure(nats, references)


def test_overlap_does_not_run_over_the_end_of_a_document():
    assert longest_overlaps(["xxhello worldyy"], ["say hello world", "hello"]) == [(2, 11)]
    assert longest_overlaps(["abcd", "", "zz"], ["xab", "cdx"]) == [(0, 2), (0, 0), (0, 0)]
    assert longest_overlaps(["abcd"], []) == [(0, 0)]


def test_overlap_equals_a_search_of_every_run():
    generator = random.Random(0)
    found = 0
    for _ in range(150):
        letters = generator.choice(["ab", "abc", "abä€", "a"])
        documents = ["".join(generator.choices(letters, k=generator.randrange(30))) for _ in range(generator.randrange(8))]
        texts = ["".join(generator.choices(letters + "x", k=generator.randrange(15))) for _ in range(generator.randrange(1, 5))]
        expected = [longest_by_trying(text.encode(), [document.encode() for document in documents]) for text in texts]
        found += sum(length > 3 for _, length in expected)
        for block_bytes in (1, 20, 1000):
            assert longest_overlaps(texts, documents, block_bytes=block_bytes) == expected
    assert found > 100


def longest_by_trying(text: bytes, documents: list[bytes]) -> tuple[int, int]:
    best = (0, 0)
    for start in range(len(text)):
        for end in range(start + best[1] + 1, len(text) + 1):
            if not any(text[start:end] in document for document in documents):
                break
            best = (start, end - start)
    return best


def test_held_out_pieces_are_as_long_as_the_samples():
    assert held_out_like(["abc", "", "de"], ["ABCDEFG"], seed=0) == ["ABC", "DE"]
    assert held_out_like(["abcdef", "abcdef"], ["uvw"], seed=0) == ["uvw"]
    assert held_out_like(["abc"], [], seed=0) == []


def test_documents_come_out_of_rows_without_padding_and_separators(small_rows):
    tokenizer = load_tokenizer(small_rows / "tokenizer")
    end, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    one, two, rest = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("one", "two words", " the rest"))
    rows = DatasetDict(train=Dataset.from_dict({"input_ids": [[*rest, end, *one, end, *two, end, pad, pad], [end, *two, end]]}))
    assert list(documents_of(rows["train"], tokenizer)) == [" the rest", "one", "two words", "two words"]


@pytest.mark.parametrize("planted", [True, False])
def test_the_picture_counts_whole_bytes_and_no_legend_covers_a_line(tmp_path, monkeypatch, planted):
    from matplotlib.figure import Figure

    from hfgpt.hygiene.memorization import draw_memorization

    figures = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda figure, *args, **kwargs: (figures.append(figure), save(figure, *args, **kwargs)))
    by_count = [{"count": n, "exposure_mean": n / 8, "exposure_max": n / 4, "extraction_rate": n / 32} for n in (0, 1, 8, 32)]
    canaries = {"maximum_exposure": 8.0, "by_count": by_count} if planted else None
    draw_memorization({"canaries": canaries}, {"samples": [3, 1, 2, 3], "held_out": [2]}, tmp_path / "memorization.png")
    (figure,) = figures
    drawn = [axes for axes in figure.axes if axes.get_legend() is not None]
    assert len(drawn) == 1 + planted
    for axes in drawn:
        assert axes.get_legend().get_window_extent().y1 <= axes.get_window_extent().y0
    for ticks in (drawn[-1].get_xticks(), drawn[-1].get_yticks()):
        assert all(tick == int(tick) for tick in ticks)
