import math

import pytest
import torch

from hfgpt.evaluation.language_modeling import language_modeling_metrics, nats_and_tokens


def test_nats_are_summed_over_the_labels_that_count():
    logits = torch.zeros(2, 4, 8)
    labels = torch.tensor([[1, 2, 3, 4], [1, 2, -100, -100]])
    sums = nats_and_tokens(logits, labels)
    assert sums[:, 1].tolist() == [3, 1]
    torch.testing.assert_close(sums[:, 0], sums[:, 1] * math.log(8))


def test_a_row_without_labels_counts_nothing():
    assert nats_and_tokens(torch.randn(1, 3, 5), torch.full((1, 3), -100)).tolist() == [[0, 0]]


def test_metrics_follow_from_nats_tokens_and_bytes():
    metrics = language_modeling_metrics(nats=200 * math.log(4), tokens=200, num_bytes=800)
    assert metrics == pytest.approx({"loss": math.log(4), "perplexity": 4, "bits_per_byte": 0.5})
    assert "bits_per_byte" not in language_modeling_metrics(nats=1, tokens=1)


@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_ragged_rows_give_the_same_loss_at_every_batch_size(small_run, small_rows, batch_size, tmp_path):
    """Trainer's own eval_loss does not: it averages the means of batches."""
    from transformers import AutoModelForCausalLM, TrainingArguments

    from hfgpt.data.collators import PackedRowsCollator
    from hfgpt.training.pretraining import load_rows
    from hfgpt.training.trainer import LanguageModelTrainer

    model = AutoModelForCausalLM.from_pretrained(small_run)
    rows, _ = load_rows(str(small_rows))
    ragged = (
        rows["train"]
        .select(range(20))
        .map(lambda row, index: {"input_ids": row["input_ids"][: 3 + 3 * index] + [1] * (61 - 3 * index)}, with_indices=True)
    )
    pad = model.config.pad_token_id
    assert pad == 1
    trainer = LanguageModelTrainer(
        model=model,
        args=TrainingArguments(output_dir=str(tmp_path), per_device_eval_batch_size=batch_size, use_cpu=True, disable_tqdm=True),
        data_collator=PackedRowsCollator(pad),
        compute_metrics=lambda prediction: language_modeling_metrics(*prediction.predictions.astype("float64").sum(axis=0)),
    )
    loss = trainer.evaluate(ragged)["eval_loss"]
    ids, positions = torch.tensor(ragged["input_ids"]), torch.tensor(ragged["position_ids"])
    with torch.no_grad():
        log_probabilities = model.eval()(ids, position_ids=positions, use_cache=False).logits[:, :-1].double().log_softmax(-1)
    targets = ids[:, 1:]
    nats = -log_probabilities.gather(-1, targets[..., None]).squeeze(-1)[targets != pad]
    assert 100 < len(nats) < 20 * 63
    assert loss == pytest.approx(nats.mean().item(), rel=1e-5)
