"""Every generation mode of transformers: the same tokens as the native twin, whatever the cache or the shortcut."""

import copy

import pytest
import torch
from transformers import AutoTokenizer, DynamicCache, GenerationConfig, QuantizedCache, StaticCache, set_seed
from transformers.generation import ContinuousBatchingConfig
from twins import gpt2_twin, qwen3_twin

from hfgpt import HfGptConfig, HfGptForCausalLM

TWIN_OF = {"book": gpt2_twin, "modern": qwen3_twin}
PROMPT = "The class of the object is called when os.path.join("
# No n-gram twice: a small model repeats itself, and a repeating continuation is the same from any cache.
GREEDY = dict(max_new_tokens=40, do_sample=False, no_repeat_ngram_size=3, eos_token_id=-1)


@pytest.fixture(scope="module", params=TWIN_OF)
def family(request, small_families):
    """The trained model, its native twin and its tokenizer; the twin is the oracle of every test here."""
    folder = small_families[request.param]
    model = HfGptForCausalLM.from_pretrained(folder).eval()
    twin = TWIN_OF[request.param](model)
    twin.generation_config = copy.deepcopy(model.generation_config)
    return model, twin, AutoTokenizer.from_pretrained(folder)


@pytest.fixture
def model(family):
    return family[0]


@pytest.fixture
def twin(family):
    return family[1]


@pytest.fixture
def prompt(family) -> torch.Tensor:
    """Ids (1, T) of the prompt."""
    return family[2](PROMPT, return_tensors="pt").input_ids


@pytest.fixture
def greedy(family, prompt) -> torch.Tensor:
    """The twin's output: the prompt and 40 tokens, many of them different."""
    continued = family[1].generate(prompt, **GREEDY)
    assert len(set(continued[0, prompt.shape[1] :].tolist())) > 15
    return continued


def count_calls(model) -> list:
    """A list that grows by one with every forward pass of `model`; its first element is the hook's handle."""
    calls = []
    calls.append(model.register_forward_hook(lambda *ignored: calls.append(None)))
    return calls


@pytest.mark.parametrize("use_cache", [True, False])
def test_greedy_tokens_are_those_of_the_twin(model, prompt, greedy, use_cache):
    assert torch.equal(model.generate(prompt, **GREEDY, use_cache=use_cache), greedy)


def test_a_seed_decides_the_sample_and_the_twin_draws_the_same(model, twin, prompt):
    settings = dict(max_new_tokens=30, do_sample=True, temperature=1.1, top_k=50, top_p=0.95, eos_token_id=-1)
    samples = []
    for generator, seed in ((model, 0), (model, 0), (twin, 0), (model, 1)):
        set_seed(seed)
        samples.append(generator.generate(prompt, **settings))
    assert torch.equal(samples[0], samples[1])
    assert torch.equal(samples[0], samples[2])
    assert not torch.equal(samples[0], samples[3])


def test_beam_search_finds_the_sequences_of_the_twin(model, twin, prompt, greedy):
    settings = GREEDY | dict(num_beams=4, num_return_sequences=3, length_penalty=0.5)
    found = twin.generate(prompt, **settings)
    assert not torch.equal(found[:1], greedy)
    assert len({tuple(row) for row in found.tolist()}) == 3
    for cache in ("dynamic", "static"):
        assert torch.equal(model.generate(prompt, **settings, cache_implementation=cache), found)


def test_beam_sampling_with_a_seed_finds_the_sequence_of_the_twin(model, twin, prompt):
    settings = dict(max_new_tokens=20, do_sample=True, num_beams=3, eos_token_id=-1)
    found = []
    for generator in (model, twin):
        set_seed(3)
        found.append(generator.generate(prompt, **settings))
    assert torch.equal(*found)


def test_a_smaller_model_proposes_and_the_greedy_tokens_stay(model, twin, prompt, greedy):
    config = HfGptConfig.from_dict(model.config.to_dict() | dict(num_hidden_layers=1))
    assistant = HfGptForCausalLM(config).eval()
    # The bigger model without its last block.
    assistant.load_state_dict({name: tensor for name, tensor in model.state_dict().items() if ".layers.1." not in name})
    calls = count_calls(model)
    proposed = model.generate(prompt, assistant_model=assistant, **GREEDY)
    calls[0].remove()
    assert 2 < len(calls) - 1 < 40  # some proposals were accepted, some were not
    assert torch.equal(proposed, greedy)
    assert torch.equal(twin.generate(prompt, assistant_model=assistant, **GREEDY), greedy)


def test_the_first_block_alone_proposes_and_the_greedy_tokens_stay(model, prompt, greedy):
    assert torch.equal(model.generate(prompt, assistant_early_exit=1, **GREEDY), greedy)


def test_prompt_lookup_takes_fewer_passes_and_the_greedy_tokens_stay(model, twin, prompt):
    settings = dict(max_new_tokens=40, do_sample=False, eos_token_id=-1)  # may repeat: lookup speeds up just that
    calls = count_calls(model)
    looked_up = model.generate(prompt, prompt_lookup_num_tokens=4, **settings)
    calls[0].remove()
    assert len(calls) - 1 < 35
    assert torch.equal(looked_up, twin.generate(prompt, **settings))


NEEDS_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="offloading a cache needs a CUDA stream")
CRASHES = pytest.mark.skipif(torch.__version__ < "2.13", reason="torch 2.11 crashes where transformers compiles with this cache")


@pytest.mark.parametrize(
    ("implementation", "cache_class"),
    [
        ("dynamic", DynamicCache),
        ("static", StaticCache),
        pytest.param("offloaded", DynamicCache, marks=NEEDS_CUDA),
        pytest.param("offloaded_static", StaticCache, marks=[NEEDS_CUDA, CRASHES]),
    ],
)
def test_no_cache_changes_the_greedy_tokens(model, prompt, greedy, implementation, cache_class):
    device = "cuda" if implementation.startswith("offloaded") else "cpu"
    settings = dict(cache_implementation=implementation, return_dict_in_generate=True)
    output = model.to(device).generate(prompt.to(device), **GREEDY, **settings)
    model.cpu()  # the other tests expect it there
    assert type(output.past_key_values) is cache_class
    assert torch.equal(output.sequences.cpu(), greedy)


@pytest.mark.slow  # quanto compiles its kernels at the first use on a machine: a minute and a half
@pytest.mark.parametrize(("backend", "package", "bits"), [("hqq", "hqq", 8), ("quanto", "optimum.quanto", 4)])
def test_a_quantized_cache_is_near_the_exact_one(model, prompt, greedy, backend, package, bits):
    pytest.importorskip(package, reason=f"the cache backend {backend} needs the package {package}")

    # residual_length 8: whenever 8 tokens are in full precision, they are quantized with the others.
    settings = dict(backend=backend, nbits=bits, residual_length=8, q_group_size=16)
    output = model.generate(prompt, **GREEDY, cache_implementation="quantized", cache_config=settings, return_dict_in_generate=True)
    assert type(output.past_key_values) is QuantizedCache
    assert output.past_key_values.layers[0].keys.shape[-2] < 8  # all others are quantized

    with torch.no_grad():
        exact = model(greedy).logits[:, 30:]
        cache = QuantizedCache(config=model.config, **settings)
        model(greedy[:, :30], past_key_values=cache)
        quantized = model(greedy[:, 30:], past_key_values=cache).logits
    difference = (quantized - exact).abs().max()
    assert 0 < difference < {8: 0.05, 4: 1.0}[bits]
    if bits == 8:
        assert torch.equal(output.sequences, greedy)


def test_generation_goes_on_from_a_returned_cache(model, prompt, greedy):
    settings = GREEDY | dict(max_new_tokens=15, return_dict_in_generate=True)
    first = model.generate(prompt, **settings)
    assert first.past_key_values.get_seq_length() == prompt.shape[1] + 14  # the last token has not been read yet
    settings["max_new_tokens"] = 25
    calls = count_calls(model)
    second = model.generate(first.sequences, past_key_values=first.past_key_values, **settings)
    calls[0].remove()
    assert len(calls) - 1 == 25
    assert torch.equal(second.sequences, greedy)


@pytest.mark.parametrize("settings", [{}, dict(cache_implementation="static"), dict(num_beams=3)], ids=str)
def test_a_left_padded_batch_continues_as_each_text_alone(family, settings):
    model, twin, tokenizer = family
    texts = ["os.path.join(", PROMPT, "Return a"]
    batch = tokenizer(texts, return_tensors="pt", padding=True)
    assert batch.attention_mask.sum(-1).unique().numel() == 3
    assert batch.attention_mask[0, 0] == 0
    together = model.generate(**batch, **GREEDY, **settings)[:, batch.input_ids.shape[1] :]
    for row, text in enumerate(texts):
        alone = tokenizer(text, return_tensors="pt").input_ids
        expected = twin.generate(alone, **GREEDY | ({} if "cache_implementation" in settings else settings))
        assert torch.equal(together[row], expected[0, alone.shape[1] :]), text


def test_scores_hidden_states_and_attentions_are_returned(model, greedy, prompt):
    model.set_attn_implementation("eager")
    output = model.generate(
        prompt, **GREEDY | dict(max_new_tokens=5), return_dict_in_generate=True,
        output_scores=True, output_logits=True, output_hidden_states=True, output_attentions=True,
    )  # fmt: skip
    model.set_attn_implementation("sdpa")
    length = prompt.shape[1]
    assert torch.equal(output.sequences, greedy[:, : length + 5])
    assert len(output.scores) == len(output.logits) == len(output.hidden_states) == len(output.attentions) == 5
    with torch.no_grad():
        whole = model(output.sequences).logits[0, length - 1 : -1]
    torch.testing.assert_close(torch.cat(output.logits), whole, atol=1e-4, rtol=0)
    assert [tuple(state.shape) for state in output.hidden_states[0]] == [(1, length, 64)] * 3
    assert [tuple(state.shape) for state in output.hidden_states[4]] == [(1, 1, 64)] * 3
    assert [tuple(weights.shape) for weights in output.attentions[4]] == [(1, 4, 1, length + 4)] * 2
    transitions = model.compute_transition_scores(output.sequences, output.scores, normalize_logits=True)
    assert (transitions < 0).all()


def test_embeddings_in_place_of_ids_give_the_same_tokens(model, twin, prompt):
    settings = dict(max_new_tokens=30, do_sample=False, eos_token_id=-1)
    expected = twin.generate(prompt, **settings)
    embeddings = model.get_input_embeddings()(prompt)
    assert torch.equal(model.generate(inputs_embeds=embeddings, **settings), expected[:, prompt.shape[1] :])
    assert torch.equal(model.generate(prompt, inputs_embeds=embeddings, **settings), expected)


def test_a_stop_string_ends_the_text(family, prompt, greedy):
    model, _, tokenizer = family
    stop = tokenizer.decode(greedy[0, prompt.shape[1] + 10 : prompt.shape[1] + 12])
    stopped = model.generate(prompt, **GREEDY, stop_strings=[stop], tokenizer=tokenizer)
    assert prompt.shape[1] < stopped.shape[1] <= prompt.shape[1] + 12
    assert torch.equal(stopped, greedy[:, : stopped.shape[1]])
    assert stop in tokenizer.decode(stopped[0])
    assert stop not in tokenizer.decode(stopped[0, :-1])


def test_the_eos_token_ends_each_row_and_padding_fills_it(family, prompt, greedy):
    model, _, tokenizer = family
    # A token that first occurs after a few others; which one depends on this Python's texts.
    said = greedy[0, prompt.shape[1] :].tolist()
    end = next(place for place in range(3, 20) if said[place] not in said[:place])
    eos = said[end]
    batch = tokenizer([PROMPT, "Return a"], return_tensors="pt", padding=True)
    output = model.generate(**batch, **GREEDY | dict(eos_token_id=eos))[0, batch.input_ids.shape[1] :]
    assert output[end] == eos
    assert (output[end + 1 :] == tokenizer.pad_token_id).all()


@pytest.mark.parametrize("settings", [{}, dict(cache_implementation="static"), dict(use_cache=False)], ids=str)
@pytest.mark.parametrize("family", ["book"], indirect=True)
def test_learned_positions_end_with_a_sentence_and_both_numbers(model, prompt, settings):
    ids = prompt.repeat(1, 11)[:, :250]
    assert model.generate(ids, **GREEDY | dict(max_new_tokens=6), **settings).shape == (1, 256)
    with pytest.raises(ValueError, match=r"got position 256; allowed: 0 to 255"):
        model.generate(ids, **GREEDY | dict(max_new_tokens=10), **settings)


@pytest.mark.parametrize("family", ["modern"], indirect=True)
def test_rotary_positions_go_on_past_the_context(model, twin, prompt):
    ids = prompt.repeat(1, 11)[:, :250]
    continued = model.generate(ids, **GREEDY)
    assert continued.shape == (1, 290)
    assert torch.equal(continued, twin.generate(ids, **GREEDY))


@pytest.mark.slow
def test_one_compiled_graph_with_a_static_cache_gives_the_same_tokens(family, prompt, greedy):
    model = copy.deepcopy(family[0])
    # The graph itself is what could break; turning it into C++ (inductor) takes 40 s more and gave the same tokens.
    model.forward = torch.compile(model.forward, backend="aot_eager", fullgraph=True)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    compiled = model.generate(prompt, **GREEDY, cache_implementation="static", disable_compile=True)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
    assert torch.equal(compiled, greedy)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["book"], indirect=True)  # its positions are the ones that could go wrong
def test_continuous_batching_gives_each_request_its_greedy_tokens(family):
    model, twin, tokenizer = family
    requests = [tokenizer(text).input_ids for text in (PROMPT, "Return a")]
    settings = GenerationConfig(max_new_tokens=12, do_sample=False, eos_token_id=-1, pad_token_id=tokenizer.pad_token_id)
    # By default the cache takes most of the free memory, and filling it with zeros takes half a minute.
    small = ContinuousBatchingConfig(num_blocks=16, max_batch_tokens=64)
    results = copy.deepcopy(model).generate_batch(
        requests, generation_config=settings, continuous_batching_config=small, progress_bar=False
    )
    assert len(results) == 2
    for request, result in zip(requests, results.values(), strict=True):
        expected = twin.generate(torch.tensor([request]), max_new_tokens=12, do_sample=False, eos_token_id=-1)
        assert result.generated_tokens == expected[0, len(request) :].tolist()
