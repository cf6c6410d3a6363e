"""How a budget is spent, in figures: pure functions of measured speeds."""

import pytest

from hfgpt.training.plan import (
    MOST_EPOCHS,
    Budget,
    Candidate,
    Speed,
    Text,
    allotted_steps,
    batches,
    best_choice,
    choice_for,
    expected_bits_per_byte,
    foreseen_speed,
    number_of_evaluations,
    number_of_log_lines,
    rates,
    shape,
    worth_of_tokens,
)

TEXT = Text(tokens=600_000, bytes_per_token=3.7, row_tokens=256, difficulty=2.4)


def candidate(parameters):
    return Candidate(4, 128, {}, parameters, 0, 6.0 * parameters)


SIZES = [candidate(parameters) for parameters in (250_000, 700_000, 1_800_000, 4_000_000, 10_000_000, 30_000_000)]


def chosen(seconds, *, flops_per_second, text=TEXT):
    """The best of `SIZES` on a machine of that speed."""
    budget = Budget(seconds=seconds)
    speeds = [Speed(0.02, one.flops_per_token / flops_per_second) for one in SIZES]
    choices = [choice_for(one, speed, text, budget, sizes=batches(text)) for one, speed in zip(SIZES, speeds, strict=True)]
    return best_choice(choices, text, budget)


def test_a_step_is_a_line_through_two_measurements_and_noise_makes_none_of_it_negative():
    speed = Speed.through((1000, 0.30), (4000, 0.90))
    assert (speed.per_step, speed.per_token) == pytest.approx((0.1, 0.0002))
    assert speed.step(2000) == pytest.approx(0.5)
    noisy = Speed.through((1000, 0.20), (4000, 0.90))
    assert noisy.per_step == 0
    assert noisy.step(4000) == pytest.approx(0.9)
    assert Speed.through((1000, 0.95), (4000, 0.90)).per_token == pytest.approx(0.1 * 0.9 / 4000)


def test_a_second_reading_is_worth_less_and_a_large_batch_too():
    once = worth_of_tokens(600_000, unique=600_000, batch=1)
    twice = worth_of_tokens(1_200_000, unique=600_000, batch=1)
    often = worth_of_tokens(60_000_000, unique=600_000, batch=1)
    assert once == pytest.approx(600_000, rel=0.01)
    assert 1.8 < twice / once < 2
    assert 10 * once < often < 17 * once
    assert worth_of_tokens(600_000, unique=600_000, batch=16_384) < 0.5 * once


def test_the_expected_loss_falls_with_size_tokens_and_easier_text():
    base = expected_bits_per_byte(SIZES[2], TEXT, tokens=1e6, batch=2048)
    assert expected_bits_per_byte(SIZES[3], TEXT, tokens=1e6, batch=2048) < base
    assert expected_bits_per_byte(SIZES[2], TEXT, tokens=2e6, batch=2048) < base
    easier = Text(tokens=600_000, bytes_per_token=3.7, row_tokens=256, difficulty=1.2)
    assert expected_bits_per_byte(SIZES[2], easier, tokens=1e6, batch=2048) == pytest.approx(base / 2)


def test_a_faster_machine_and_more_time_get_a_larger_model_and_a_lower_loss():
    slow, fast = chosen(180, flops_per_second=2e10), chosen(180, flops_per_second=1e13)
    long = chosen(7200, flops_per_second=2e10)
    assert slow.candidate.parameters < fast.candidate.parameters
    assert slow.candidate.parameters <= long.candidate.parameters
    assert slow.bits_per_byte > max(fast.bits_per_byte, long.bits_per_byte)


def test_the_steps_fill_the_seconds():
    choice = choice_for(SIZES[2], Speed(0.1, 0.0001), TEXT, Budget(seconds=100), sizes=[2048])
    assert (choice.batch, choice.steps, choice.tokens) == (2048, 328, 328 * 2048)
    assert choice.step_seconds == pytest.approx(0.3048)


def test_a_small_text_is_not_read_without_end():
    small = Text(tokens=10_000, bytes_per_token=3.0, row_tokens=64, difficulty=2.4)
    choice = chosen(100_000, flops_per_second=1e12, text=small)
    assert choice.tokens <= MOST_EPOCHS * small.tokens


def test_a_small_text_gets_the_smallest_model_that_is_about_as_good_however_long_the_time():
    small = Text(tokens=18_000, bytes_per_token=2.6, row_tokens=64, difficulty=3.0)
    little, much = (chosen(seconds, flops_per_second=8e10, text=small) for seconds in (60, 3600))
    assert little.candidate.parameters <= much.candidate.parameters <= 1_800_000
    # whatever the number of rows, of which no batch is a divisor
    for rows in range(8, 40):
        tiny = Text(tokens=64 * rows, bytes_per_token=2.6, row_tokens=64, difficulty=3.0)
        assert chosen(60, flops_per_second=8e10, text=tiny).candidate.parameters <= 1_800_000
    # where the time is the limit, the lowest loss is taken
    limited = chosen(60, flops_per_second=8e10)
    budget = Budget(seconds=60)
    others = [choice_for(one, Speed(0.02, one.flops_per_token / 8e10), TEXT, budget, sizes=batches(TEXT)) for one in SIZES]
    assert limited.tokens < 0.9 * MOST_EPOCHS * TEXT.tokens
    assert limited.bits_per_byte == min(other.bits_per_byte for other in others)


def test_budgets_of_tokens_and_flops_are_kept():
    flops = Budget(flops=1e13)
    assert flops.tokens_for(SIZES[2], Speed(0, 1), 2048) == pytest.approx(1e13 / (6 * 1.8e6))
    tokens = Budget(tokens=2e6)
    choices = [choice_for(one, Speed(0, 1e-6), TEXT, tokens, sizes=batches(TEXT)) for one in SIZES]
    choice = best_choice(choices, TEXT, tokens)
    assert 2e6 - choice.batch < choice.tokens <= 2e6
    assert choice.candidate is not SIZES[-1]  # the largest size is never the best use of its own FLOPs
    more = Budget(tokens=2e9)
    large = Text(tokens=10**10, bytes_per_token=3.7, row_tokens=256, difficulty=2.4)
    choices = [choice_for(one, Speed(0, 1e-6), large, more, sizes=batches(large)) for one in SIZES]
    assert best_choice(choices, large, more).candidate.parameters > choice.candidate.parameters


def test_batches_are_powers_of_two_of_rows_alike_in_every_process():
    assert batches(TEXT)[:3] == [512, 1024, 2048]
    assert batches(TEXT, processes=3)[:2] == [768, 1536]
    assert batches(Text(10**6, 3.7, 1024, 2.4))[0] == 1024


def test_an_unmeasured_size_is_foreseen_from_the_nearest():
    measured = {SIZES[2]: Speed(0.1, 1e-4), SIZES[5]: Speed(1.0, 1e-3)}
    near = foreseen_speed(SIZES[3], measured)
    assert not near.measured
    assert near.per_token == pytest.approx(1e-4 * 4 / 1.8)
    assert near.per_step == pytest.approx(0.1 * (4 / 1.8) ** 0.5)
    assert foreseen_speed(SIZES[2], measured).measured


def test_evaluations_take_their_share_and_no_more():
    assert number_of_evaluations(1000, each=1) == 10
    assert number_of_evaluations(100, each=2) == 4
    assert number_of_evaluations(10, each=5) == 1


def test_lines_of_the_log_take_their_share_and_there_are_some():
    assert [number_of_log_lines(seconds, each=0.2) for seconds in (10, 150, 3600)] == [5, 15, 50]


def test_steps_end_with_an_evaluation():
    steps, evaluations = allotted_steps(100, step=0.3, evaluation=2, most=10**6)
    assert (steps, evaluations) == (304, 4)
    assert steps % evaluations == 0
    assert allotted_steps(10**6, step=0.3, evaluation=2, most=505) == (505 - 505 % 6, 6)
    assert allotted_steps(1, step=0.3, evaluation=2, most=100)[0] <= 0


def test_width_sets_shape_and_rates():
    assert shape(4, 128) == dict(
        num_hidden_layers=4, hidden_size=128, num_attention_heads=2, num_key_value_heads=1, intermediate_size=384,
        tie_word_embeddings=False,
    )  # fmt: skip
    assert shape(4, 192)["num_key_value_heads"] == 3
    narrow, wide = rates(128), rates(768)
    assert wide["learning_rate"] < narrow["learning_rate"]
    assert wide["muon_learning_rate"] < narrow["muon_learning_rate"]
