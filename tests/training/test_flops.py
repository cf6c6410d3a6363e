"""What training on a token costs, compared with torch's own counter, and the speed of a run."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, GPT2Config, GPT2LMHeadModel

from hfgpt import HfGptConfig, HfGptForCausalLM
from hfgpt.arguments.methods import Method
from hfgpt.training import flops
from hfgpt.training.flops import ModelFlops, TrainingMeter, describe_speed, measured_ceiling
from hfgpt.training.methods import apply_method

ROWS, TOKENS = 2, 48
SHAPE = dict(vocab_size=300, num_hidden_layers=3, hidden_size=64, num_attention_heads=4, max_position_embeddings=64)


def built(family: str, auto_class=AutoModelForCausalLM, **more):
    if family == "gpt2 of transformers":
        return GPT2LMHeadModel(GPT2Config(vocab_size=300, n_layer=3, n_embd=64, n_head=4, n_positions=64), **more)
    config = HfGptConfig.modern(3, **SHAPE, head_dim=16) if family == "modern" else HfGptConfig.gpt2("124M", **SHAPE)
    for name, value in more.items():
        setattr(config, name, value)
    return auto_class.from_config(config, attn_implementation="eager")


def counted(model) -> float:
    """FLOPs per token of a forward and a backward pass, as torch counts them for matrix products."""
    ids = torch.arange(ROWS * TOKENS).view(ROWS, TOKENS) % 299 + 1
    with FlopCounterMode(display=False) as counter:
        model.train()(ids).logits.sum().backward()
    return counter.get_total_flops() / ids.numel()


@pytest.mark.parametrize("method", ["full", "lora", "last_block"])
@pytest.mark.parametrize("family", ["modern", "book", "gpt2 of transformers"])
def test_a_token_costs_what_torch_counts(family, method):
    model = built(family)
    if method != "full":
        model = apply_method(model, Method(method, rank=4))
    # Biases and norms are parameters too, and with only three layers it matters that the first one passes no gradient back.
    assert ModelFlops.of(model).per_token(TOKENS) == pytest.approx(counted(model), rel=0.05)


def test_a_frozen_body_is_only_passed_forward():
    model = built("modern", AutoModelForSequenceClassification, num_labels=5, pad_token_id=0)
    whole = ModelFlops.of(model).per_token(TOKENS)
    head = ModelFlops.of(apply_method(model, Method("head"))).per_token(TOKENS)
    assert whole == pytest.approx(3 * head, rel=0.01)


def test_the_embedding_is_not_multiplied_and_the_head_is():
    config = dict(SHAPE, vocab_size=5000)
    tied = ModelFlops.of(HfGptForCausalLM(HfGptConfig.modern(3, **config, head_dim=16, tie_word_embeddings=True)))
    untied = ModelFlops.of(HfGptForCausalLM(HfGptConfig.modern(3, **config, head_dim=16, tie_word_embeddings=False)))
    assert tied == untied
    assert tied.matrices > 6 * 5000 * 64


def test_the_ceiling_is_measured_without_drawing_from_the_global_random_state():
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    assert measured_ceiling(torch.device("cpu"), torch.float32) > 1e8
    assert torch.equal(before, torch.random.get_rng_state())


def test_padding_is_no_token_whatever_the_batch_looks_like():
    meter = TrainingMeter()
    meter.prepare(built("modern"), device=torch.device("cpu"), dtype=torch.float32)
    ids = torch.tensor([[5, 6, 7, 0], [5, 0, 0, 0]])
    meter.count({"input_ids": ids, "attention_mask": (ids != 0).long()}, pad_token_id=0)  # 4 tokens
    meter.count({"input_ids": ids, "position_ids": ids}, pad_token_id=0)  # packed rows have no mask: 4
    meter.count({"input_ids": ids}, pad_token_id=None)  # 8
    pair = {
        f"{name}_{what}": (ids != 0).long() for name in ("chosen", "rejected", "prompt") for what in ("input_ids", "attention_mask")
    }
    meter.count(pair, pad_token_id=0)  # ORPO: both answers include the prompt, 4 + 4
    meter._stop()
    meter.seconds = 2.0
    assert meter.lap()["tokens_per_second"] == 12.0
    assert meter.lap() == {}  # nothing since the last call
    assert meter.total()["tokens_per_second"] == 12.0


def test_the_clock_stands_still_while_it_is_paused():
    meter = TrainingMeter()
    meter.prepare(built("modern"), device=torch.device("cpu"), dtype=torch.float32)
    meter.count({"input_ids": torch.ones(1, 4)}, pad_token_id=None)
    with meter.paused():
        before = meter.seconds
        meter.lap()
        meter.total()
        assert meter.seconds == before > 0
    meter.total()
    assert meter.seconds > before


def test_the_best_of_several_tries_is_the_ceiling(monkeypatch):
    found = iter([2e9, 1e9, 3e9])
    monkeypatch.setattr(flops, "measured_ceiling", lambda device, dtype: next(found))
    monkeypatch.setattr(TrainingMeter, "_known", {})
    meter, ceilings = TrainingMeter(), []
    meter.prepare(built("modern"), device=torch.device("cpu"), dtype=torch.float32, num_devices=2)
    for _ in range(3):
        ceilings.append(meter._ceiling)
        if len(ceilings) < 3:
            meter.measure()
    assert ceilings == [4e9, 4e9, 6e9]
    again = TrainingMeter()
    again.prepare(built("modern"), device=torch.device("cpu"), dtype=torch.float32)
    assert again._ceiling == 3e9  # known in this process


@pytest.mark.parametrize(("later", "said"), [(1e12, False), (1.0, True)])
def test_a_share_above_one_is_measured_again_and_then_left_out_with_the_reason(later, said, monkeypatch, caplog):
    caplog.set_level("INFO", logger="hfgpt")
    found = iter([1.0, later])  # FLOPs per second of a machine busy with something else
    monkeypatch.setattr(flops, "measured_ceiling", lambda device, dtype: next(found))
    monkeypatch.setattr(TrainingMeter, "_known", {})
    meter = TrainingMeter()
    meter.prepare(built("modern"), device=torch.device("cpu"), dtype=torch.float32)
    meter.count({"input_ids": torch.ones(1, 40)}, pad_token_id=None)
    meter._stop()
    meter.seconds = 0.5
    speed = meter.lap()
    assert speed["tokens_per_second"] == 80.0
    assert ("mfu" not in speed) == said
    assert ("MFU is left out: the model's 0.2 GFLOP/s exceed the 0.0 of the fastest measured matrix product" in caplog.text) == said
    if not said:
        assert 0 < speed["mfu"] <= 1
    else:
        assert describe_speed(speed | {"mfu": None}) == "80 tokens per second, "


def test_the_mfu_of_earlier_lines_agrees_with_the_total_if_the_machine_turns_out_to_be_faster(monkeypatch):
    found = iter([1e13, 4e13])
    monkeypatch.setattr(flops, "measured_ceiling", lambda device, dtype: next(found))
    monkeypatch.setattr(TrainingMeter, "_known", {})
    meter = TrainingMeter()
    meter.prepare(built("modern"), device=torch.device("cpu"), dtype=torch.float32)
    lines = [{"mfu": 0.5, "note": "of an earlier process"}]
    for seconds in (0.001, 0.002):
        meter.count({"input_ids": torch.ones(10, 40)}, pad_token_id=None)
        meter._stop()
        meter.seconds = seconds
        lines += [{"loss": 1.0} | meter.lap(), {"eval_loss": 1.0}]
    before = [line["mfu"] for line in lines if "mfu" in line]
    meter.measure()
    total = meter.total()
    meter.correct(lines)
    after = [line["mfu"] for line in lines if "mfu" in line]
    assert after == [0.5, *(pytest.approx(share / 4, abs=1e-4) for share in before[1:])]
    assert after[1:] == [pytest.approx(total["mfu"], abs=1e-4)] * 2


def test_a_run_without_figures_says_nothing_of_its_speed():
    assert describe_speed({"tokens_per_second": None, "mfu": None, "energy_joules": None}) == ""
    measured = {"tokens_per_second": 3154.2, "mfu": 0.234, "energy_joules": 7200.0}
    assert describe_speed(measured) == "3,154 tokens per second (MFU 23.4 %), 2 Wh, "
