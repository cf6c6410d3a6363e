import json

import pytest
import torch
from transformers import AutoModelForCausalLM, GenerationConfig

from hfgpt.evaluation.generation import fit_to_context, generation_settings, prompt_ids, sample, token_choice
from hfgpt.inference import isolated_random_state, make_savable
from hfgpt.tokenization import load_tokenizer


@pytest.fixture(scope="module")
def model(small_run):
    return AutoModelForCausalLM.from_pretrained(small_run)


@pytest.fixture(scope="module")
def tokenizer(small_run):
    return load_tokenizer(small_run)


def test_a_prompt_begins_with_the_separator_and_holds_no_other_special_token(tokenizer):
    ids = prompt_ids(tokenizer, "a<|endoftext|>b")[0].tolist()
    assert ids[0] == tokenizer.eos_token_id
    assert not set(ids[1:]) & set(tokenizer.all_special_ids)
    assert prompt_ids(tokenizer, "").tolist() == [[tokenizer.eos_token_id]]


def test_generation_stops_at_the_separator(model, tokenizer):
    """A head that always predicts the separator ends the text at once, however many tokens are allowed."""
    settings = generation_settings(tokenizer, max_new_tokens=20, do_sample=False)
    handle = model.lm_head.register_forward_hook(
        lambda module, inputs, logits: logits.index_fill(-1, torch.tensor([tokenizer.eos_token_id]), 1e4)
    )
    try:
        assert sample(model, tokenizer, "os.", generation_config=settings) == [""]
    finally:
        handle.remove()


def test_greedy_is_deterministic_and_a_seed_repeats_a_sample(model, tokenizer):
    greedy = generation_settings(tokenizer, max_new_tokens=12, do_sample=False)
    assert sample(model, tokenizer, "os.", generation_config=greedy) == sample(model, tokenizer, "os.", generation_config=greedy)
    drawn = generation_settings(tokenizer, max_new_tokens=12, do_sample=True, temperature=1.5, top_k=0, top_p=1.0)
    texts = [sample(model, tokenizer, "os.", generation_config=drawn, seed=seed)[0] for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


def test_greedy_is_greedy_whatever_the_models_own_generation_config_says(model, tokenizer):
    greedy = token_choice(tokenizer, max_new_tokens=12, temperature=0)
    expected, own = sample(model, tokenizer, "os.", generation_config=greedy), model.generation_config
    strange = dict(repetition_penalty=9.0, no_repeat_ngram_size=1, num_beams=3, num_return_sequences=2, min_new_tokens=12,
                   return_dict_in_generate=True, suppress_tokens=[5], bad_words_ids=[[6]], temperature=0.2)  # fmt: skip
    model.generation_config = other = GenerationConfig(**strange)
    try:
        assert sample(model, tokenizer, "os.", generation_config=greedy) == expected
        assert model.generation_config is other
    finally:
        model.generation_config = own


@pytest.mark.parametrize(
    ("loaded", "expected"),
    [
        (dict(temperature=0.6, top_p=0.9), dict(do_sample=True, temperature=0.6, top_p=0.9)),
        (dict(do_sample=False, temperature=0.6), dict(do_sample=False)),
        (dict(temperature=1.0, length_penalty=0.5), dict(temperature=1.0)),
    ],
)
def test_a_generation_config_of_an_older_repository_can_be_changed_and_saved(loaded, expected, tmp_path):
    config = GenerationConfig(**loaded)
    make_savable(config)
    config.eos_token_id = 7
    config.save_pretrained(tmp_path)
    found = json.loads((tmp_path / "generation_config.json").read_text())
    assert {name: value for name, value in found.items() if name != "transformers_version"} == {"eos_token_id": 7} | expected


def test_sampling_leaves_the_random_state_and_the_mode_alone(model, tokenizer):
    model.train()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    sample(model, tokenizer, "os.", generation_config=generation_settings(tokenizer, max_new_tokens=4, do_sample=True))
    assert torch.equal(torch.rand(3), expected)
    assert model.training
    with isolated_random_state(1):
        first = torch.rand(1)
    with isolated_random_state(1):
        assert torch.equal(torch.rand(1), first)


def test_what_is_printed_first_comes_after_the_remarks_about_the_prompt(model, tokenizer, caplog):
    said = []
    settings = generation_settings(tokenizer, max_new_tokens=4)
    sample(model, tokenizer, "os." * 400, generation_config=settings, on_begin=lambda: said.extend(caplog.messages))
    assert "tokens, but with 4 new ones the context" in said[0]


def test_a_long_prompt_keeps_its_end_and_too_many_new_tokens_are_refused():
    assert fit_to_context(torch.arange(10)[None], max_new_tokens=3, context_length=8).tolist() == [[5, 6, 7, 8, 9]]
    with pytest.raises(ValueError, match="max_new_tokens is 8, but the model's context is 8 tokens"):
        fit_to_context(torch.arange(10)[None], max_new_tokens=8, context_length=8)
