import pytest
import torch
from twins import book_model, gpt2_twin, modern_model, qwen3_twin

from hfgpt import HfGptConfig, HfGptForCausalLM, HfGptForSequenceClassification
from hfgpt.model.norms_hfgpt import HfGptRMSNorm

FAMILIES = {"book": (book_model, gpt2_twin), "modern": (modern_model, qwen3_twin)}


def random_ids(batch: int, tokens: int) -> torch.Tensor:
    return torch.randint(0, 97, (batch, tokens), generator=torch.Generator().manual_seed(2))


@pytest.fixture(params=FAMILIES)
def family(request):
    return FAMILIES[request.param]


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize(("batch", "tokens"), [(1, 1), (2, 7), (3, 64)])
@torch.no_grad()
def test_logits_equal_those_of_the_native_twin(family, batch, tokens, attention):
    build, twin_of = family
    model = build()
    twin = twin_of(model)
    model.set_attn_implementation(attention)
    ids = random_ids(batch, tokens)
    logits = model(ids).logits
    assert logits.std() > 0.1  # not all equal
    torch.testing.assert_close(logits, twin(ids).logits, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "fields",
    [dict(tie_word_embeddings=False), dict(num_key_value_heads=6), dict(num_key_value_heads=1), dict(head_dim=8)],
    ids=lambda fields: next(iter(fields)),
)
@torch.no_grad()
def test_other_modern_shapes_equal_their_twins(fields):
    model = modern_model(**fields)
    ids = random_ids(2, 33)
    torch.testing.assert_close(model(ids).logits, qwen3_twin(model)(ids).logits, atol=1e-5, rtol=0)


@torch.no_grad()
def test_left_padding_equals_the_twin(family):
    build, twin_of = family
    model = build()
    ids, mask = random_ids(2, 12), torch.ones(2, 12, dtype=torch.long)
    mask[0, :5] = 0
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    ours, theirs = (m(ids, attention_mask=mask, position_ids=positions).logits for m in (model, twin_of(model)))
    torch.testing.assert_close(ours[mask.bool()], theirs[mask.bool()], atol=1e-5, rtol=0)


def test_loss_and_gradients_equal_those_of_the_twin(family):
    build, twin_of = family
    model = build(embedding_dropout=0.0, residual_dropout=0.0, attention_dropout=0.0)
    twin = twin_of(model)
    ids = random_ids(2, 20)
    labels = ids.masked_fill(torch.arange(20) < 3, -100)
    ours, theirs = model(ids, labels=labels).loss, twin(ids, labels=labels).loss
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
    ours.backward()
    theirs.backward()
    gradient = twin.get_input_embeddings().weight.grad
    assert gradient.abs().max() > 1e-3
    torch.testing.assert_close(model.get_input_embeddings().weight.grad, gradient, atol=1e-5, rtol=0)


def test_accumulated_ragged_batches_weigh_every_token_alike(family):
    model = family[0]()
    lengths = [5, 20, 9, 14]
    ids = random_ids(4, 20)
    labels = torch.stack([row.masked_fill(torch.arange(20) >= length, -100) for row, length in zip(ids, lengths, strict=True)])
    num_items = (labels[:, 1:] != -100).sum()
    whole = model(ids, labels=labels, num_items_in_batch=num_items).loss
    parts = [model(ids[i : i + 1], labels=labels[i : i + 1], num_items_in_batch=num_items).loss for i in range(4)]
    torch.testing.assert_close(sum(parts), whole)
    assert abs(model(ids, labels=labels).loss - whole) < 1e-5  # equals the mean of one batch


@torch.no_grad()
def test_a_cache_continues_where_it_stopped_without_position_ids(family):
    model = family[0]()
    ids = random_ids(2, 16)
    whole = model(ids).logits
    first = model(ids[:, :9], use_cache=True)
    rest = model(ids[:, 9:], past_key_values=first.past_key_values)
    torch.testing.assert_close(rest.logits, whole[:, 9:], atol=1e-5, rtol=0)


@torch.no_grad()
def test_logits_to_keep_computes_only_the_last_positions(family):
    model = family[0]()
    ids = random_ids(2, 10)
    torch.set_num_threads(1)  # several would sum a product of fewer rows in another order, with other last bits
    assert torch.equal(model(ids, logits_to_keep=3).logits, model(ids).logits[:, -3:])


@pytest.mark.parametrize("attention", ["eager", "sdpa", "flex_attention"])
@torch.no_grad()
def test_packed_documents_do_not_see_each_other(family, attention):
    with torch.compiler.set_stance("force_eager"):  # unfused flex attention: the same mask, without compiling for half a minute
        check_that_documents_are_apart(family[0](), attention)


@pytest.mark.slow
@torch.no_grad()
def test_flex_attention_keeps_packed_documents_apart_when_it_is_compiled_too():
    check_that_documents_are_apart(modern_model(), "flex_attention")


def check_that_documents_are_apart(model, attention):
    model.set_attn_implementation(attention)
    first, second = random_ids(1, 7), random_ids(1, 12)[:, :9].flip(1)
    positions = torch.cat((torch.arange(7), torch.arange(9))).unsqueeze(0)
    packed = model(torch.cat((first, second), 1), position_ids=positions, use_cache=False).logits
    alone = torch.cat((model(first, use_cache=False).logits, model(second, use_cache=False).logits), 1)
    torch.testing.assert_close(packed, alone, atol=1e-5, rtol=0)


def test_gradient_checkpointing_changes_no_gradient(family):
    gradients = []
    for checkpointing in (False, True):
        model = family[0]().train()
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        model.config.attention_dropout = 0.0
        if checkpointing:
            getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()  # renamed in 5.23
        model(random_ids(2, 12), labels=random_ids(2, 12), use_cache=False).loss.backward()
        gradients.append(model.model.layers[0].mlp.up_proj.weight.grad)
    assert gradients[0].abs().max() > 0
    torch.testing.assert_close(*gradients)


def test_hidden_states_and_attentions_are_recorded(family):
    model = family[0]()
    model.set_attn_implementation("eager")
    output = model(random_ids(1, 6), output_hidden_states=True, output_attentions=True)
    assert [tuple(state.shape) for state in output.hidden_states] == [(1, 6, 48)] * 4
    assert len(output.attentions) == 3
    torch.testing.assert_close(output.attentions[0].sum(-1), torch.ones(1, model.config.num_attention_heads, 6))


def test_projections_into_the_residual_stream_start_smaller():
    torch.manual_seed(0)
    for config in (HfGptConfig(num_hidden_layers=8, hidden_size=256, num_attention_heads=4, vocab_size=500), HfGptConfig.modern(8)):
        layer = HfGptForCausalLM(config).model.layers[3]
        for scaled in (layer.self_attn.o_proj, layer.mlp.down_proj):
            assert scaled.weight.std().item() == pytest.approx(0.02 / 4, rel=0.03)  # 1 / sqrt(2 x 8) = 1 / 4
        for plain in (layer.self_attn.q_proj, layer.mlp.up_proj):
            assert plain.weight.std().item() == pytest.approx(0.02, rel=0.03)


def test_the_head_is_the_embedding_before_and_after_saving(tmp_path):
    model = modern_model()
    assert model.lm_head.weight is model.model.embed_tokens.weight
    model.save_pretrained(tmp_path)
    again = HfGptForCausalLM.from_pretrained(tmp_path)
    assert again.lm_head.weight is again.model.embed_tokens.weight
    assert torch.equal(again.lm_head.weight, model.lm_head.weight)
    untied = modern_model(tie_word_embeddings=False)
    assert untied.lm_head.weight is not untied.model.embed_tokens.weight


def test_rotary_frequencies_survive_loading(tmp_path):
    model = modern_model()
    model.save_pretrained(tmp_path)
    ids = random_ids(1, 30)
    with torch.no_grad():
        assert torch.equal(HfGptForCausalLM.from_pretrained(tmp_path).eval()(ids).logits, model(ids).logits)


CASTS = {
    "half": (torch.nn.Module.half, torch.float16),
    "bfloat16": (torch.nn.Module.bfloat16, torch.bfloat16),
    "to": (lambda model: model.to(torch.bfloat16), torch.bfloat16),
    "to and back": (lambda model: model.to(torch.bfloat16).to(torch.float32), torch.float32),
    "type": (lambda model: model.type(torch.float16), torch.float16),
    "double": (torch.nn.Module.double, torch.float64),
}
ROPES = {
    "default": {},
    "dynamic": dict(rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}),
    "yarn": dict(rope_parameters={"rope_type": "yarn", "factor": 4.0, "rope_theta": 10000.0}),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("rope", [*ROPES, "learned"])
@pytest.mark.parametrize("cast", CASTS)
@torch.no_grad()
def test_a_cast_model_is_the_one_that_is_loaded_in_that_dtype(cast, rope, tmp_path):
    model = book_model() if rope == "learned" else modern_model(**ROPES[rope])
    function, dtype = CASTS[cast]
    if cast == "to and back":
        for parameter in model.parameters():
            parameter.copy_(parameter.bfloat16())
    model.save_pretrained(tmp_path)
    again = HfGptForCausalLM.from_pretrained(tmp_path, dtype=dtype).eval()
    cast_model = function(model)
    assert cast_model.dtype == dtype
    for tokens in (40, 64) if rope == "learned" else (40, 90, 40):  # 90: dynamic frequencies change above 64, and change back
        ids = random_ids(1, tokens)
        logits = cast_model(ids).logits
        assert logits.dtype == dtype
        assert torch.equal(logits, again(ids).logits)


def test_frequencies_go_along_to_another_device_and_stay_exact():
    rotary = modern_model().model.rotary_emb
    exact = rotary.inv_freq.clone()
    moved = rotary.to(device="meta", dtype=torch.float16)
    assert moved.inv_freq.device.type == "meta"
    assert moved.inv_freq.dtype == moved.original_inv_freq.dtype == torch.float32
    assert modern_model().to_empty(device="cpu").model.rotary_emb.inv_freq.dtype == torch.float32
    assert torch.equal(modern_model().half().float().model.rotary_emb.inv_freq, exact)


def test_flex_attention_on_a_cpu_neither_trains_nor_generates(family):
    model = family[0](attention_dropout=0.0)
    model.set_attn_implementation("flex_attention")
    ids = random_ids(1, 7)
    for mode in (model.train, model.eval):
        mode()
        with pytest.raises(ValueError, match="no backward pass on a CPU .* for training, choose another one"):
            model(ids, labels=ids)
    with pytest.raises(
        ValueError, match="gives wrong results with a cache, from the third token .* for generation, choose another one"
    ):
        model.generate(ids, max_new_tokens=4, do_sample=False, pad_token_id=0)
    expected = model.set_attn_implementation("eager") or model(ids).logits
    model.set_attn_implementation("flex_attention")
    with torch.no_grad(), torch.compiler.set_stance("force_eager"):
        torch.testing.assert_close(model(ids).logits, expected, atol=1e-5, rtol=0)  # what it supports still works


@torch.no_grad()
def test_a_classifier_reads_the_last_token_that_is_not_padding(family):
    from transformers import AutoModelForSequenceClassification

    config = family[0]().config
    config.pad_token_id, config.num_labels = 96, 3
    model = AutoModelForSequenceClassification.from_config(config).eval()
    assert type(model) is HfGptForSequenceClassification
    ids = random_ids(1, 8).clamp(max=95)
    padded = torch.cat((ids, torch.full((1, 4), 96)), 1)
    mask = (padded != 96).long()
    torch.testing.assert_close(model(padded, attention_mask=mask).logits, model(ids).logits, atol=1e-5, rtol=0)


def test_every_head_can_be_built_and_run():
    from transformers import AutoModel, AutoModelForCausalLM, AutoModelForQuestionAnswering, AutoModelForTokenClassification

    config = modern_model().config
    ids = random_ids(2, 5)
    assert AutoModel.from_config(config)(ids).last_hidden_state.shape == (2, 5, 48)
    assert AutoModelForCausalLM.from_config(config)(ids).logits.shape == (2, 5, 97)
    assert AutoModelForTokenClassification.from_config(config)(ids).logits.shape == (2, 5, 2)
    assert AutoModelForQuestionAnswering.from_config(config)(ids).start_logits.shape == (2, 5)


def test_more_tokens_than_learned_positions_are_refused_with_both_numbers():
    with pytest.raises(ValueError, match="got position 64; allowed: 0 to 63 \\(max_position_embeddings\\); cut the input"):
        book_model()(random_ids(1, 65))


def test_both_or_neither_of_ids_and_embeddings_are_refused(family):
    with pytest.raises(ValueError, match="exactly one of input_ids and inputs_embeds"):
        family[0]()()


def test_a_token_id_outside_the_vocabulary_is_named(family):
    ids = random_ids(2, 5)
    for wrong in (97, -3):
        ids[1, 2] = wrong
        with pytest.raises(ValueError, match=rf"got token id {wrong}; allowed: 0 to 96 \(vocab_size\); is this the tokenizer"):
            family[0]()(ids)


def test_a_packed_row_may_be_longer_than_the_learned_positions():
    model = book_model()
    positions = torch.arange(80).remainder(40).unsqueeze(0)
    with torch.no_grad():
        assert model(random_ids(1, 80), position_ids=positions, use_cache=False).logits.shape == (1, 80, 97)


@torch.no_grad()
def test_a_text_padded_on_the_left_has_the_logits_of_the_text_alone(family):
    model = family[0]()
    ids = random_ids(1, 7)
    padded = torch.cat((torch.zeros(1, 5, dtype=torch.long), ids), 1)
    mask = torch.cat((torch.zeros(1, 5, dtype=torch.long), torch.ones_like(ids)), 1)
    torch.testing.assert_close(model(padded, attention_mask=mask).logits[:, 5:], model(ids).logits, atol=1e-5, rtol=0)
    first = model(padded[:, :9], attention_mask=mask[:, :9], use_cache=True)
    rest = model(padded[:, 9:], attention_mask=mask, past_key_values=first.past_key_values)
    torch.testing.assert_close(rest.logits, model(ids).logits[:, 4:], atol=1e-5, rtol=0)


def is_tied(model) -> bool:
    return model.lm_head.weight is model.model.embed_tokens.weight


def test_tied_weights_stay_tied_through_resizing_half_precision_and_merging_an_adapter(family, tmp_path):
    from peft import LoraConfig, get_peft_model

    model = family[0]()
    model.resize_token_embeddings(101)
    assert is_tied(model)
    assert model.lm_head.out_features == model.config.vocab_size == 101
    adapted = get_peft_model(model, LoraConfig(target_modules=["q_proj", "up_proj"], init_lora_weights=False))
    before = model.model.layers[0].self_attn.q_proj.base_layer.weight.clone()
    model = adapted.merge_and_unload()
    assert is_tied(model)
    assert not torch.equal(model.model.layers[0].self_attn.q_proj.weight, before)
    model = model.to(torch.bfloat16)
    assert is_tied(model)
    model.save_pretrained(tmp_path)
    again = HfGptForCausalLM.from_pretrained(tmp_path, dtype=torch.float16)
    assert is_tied(again)
    assert again.lm_head.weight.dtype == torch.float16
    assert again.lm_head.weight.shape[0] == 101


@torch.no_grad()
def test_two_families_in_one_process_share_no_state():
    ids = random_ids(2, 9)
    alone = {name: build()(ids).logits for name, (build, _) in FAMILIES.items()}
    book, modern = book_model(), modern_model()
    book.config.use_cache, modern.config.attention_dropout = False, 0.5
    for _ in range(2):
        assert torch.equal(book(ids).logits, alone["book"])
        assert torch.equal(modern(ids).logits, alone["modern"])
    assert "layers.*.mlp.gate_proj" in modern.config.base_model_tp_plan
    assert "layers.*.mlp.gate_proj" not in book.config.base_model_tp_plan
    assert "layers.*.mlp.gate_proj" not in HfGptConfig().base_model_tp_plan
    assert book.config.rope_parameters is None
    assert HfGptConfig().use_cache
    assert HfGptConfig.modern(2).attention_dropout == 0.0


@pytest.mark.parametrize("shape", [(2, 5, 24), (2, 5, 3, 8)], ids=["hidden", "heads"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)], ids=["fp32", "bf16"])
def test_rmsnorm_in_training_on_a_cpu_equals_torchs(shape, dtype, tolerance):
    torch.manual_seed(0)
    norm = HfGptRMSNorm(shape[-1], eps=1e-6).to(dtype)
    torch.nn.init.normal_(norm.weight, mean=1.0)
    gradient = torch.randn(shape).to(dtype)
    results = []
    for function in (norm, lambda hidden: torch.nn.functional.rms_norm(hidden, norm.weight.shape, norm.weight, norm.eps)):
        norm.zero_grad()
        hidden = (3 * torch.randn(shape, generator=torch.Generator().manual_seed(1))).to(dtype).requires_grad_()
        output = function(hidden)
        assert output.dtype == dtype
        output.backward(gradient)
        results.append((output.detach(), hidden.grad, norm.weight.grad.clone()))
    for ours, theirs in zip(*results, strict=True):
        assert (ours.float() - theirs.float()).norm() <= tolerance * theirs.float().norm()
