"""torch.compile in one graph, torch.export, and flex attention give what eager mode gives."""

import pytest
import torch
from twins import book_model, modern_model

pytestmark = pytest.mark.slow

FAMILIES = {"book": book_model, "modern": modern_model}
NO_DROPOUT = dict(embedding_dropout=0.0, residual_dropout=0.0, attention_dropout=0.0)


@pytest.fixture(params=FAMILIES)
def model(request):
    torch._dynamo.reset()
    return FAMILIES[request.param](**NO_DROPOUT)


def random_ids(batch: int, tokens: int) -> torch.Tensor:
    return torch.randint(0, 97, (batch, tokens), generator=torch.Generator().manual_seed(2))


def test_a_training_step_compiles_into_one_graph_with_the_same_loss_and_gradients(model):
    # aot_eager traces forward and backward as inductor does, without half a minute of C++ compilation.
    compiled = torch.compile(model.train(), fullgraph=True, backend="aot_eager")
    ids = random_ids(2, 12)
    results = []
    for called in (model, compiled):
        model.zero_grad()
        loss = called(ids, labels=ids, num_items_in_batch=torch.tensor(22), use_cache=False).loss
        loss.backward()
        results.append((loss.detach(), model.model.embed_tokens.weight.grad.clone()))
    (eager_loss, eager_gradient), (compiled_loss, compiled_gradient) = results
    assert eager_gradient.abs().max() > 1e-3
    torch.testing.assert_close(compiled_loss, eager_loss, rtol=1e-5, atol=0)
    torch.testing.assert_close(compiled_gradient, eager_gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
@torch.no_grad()
def test_inductor_compiles_the_forward_pass_into_one_graph():
    """For one family: the test above shows one graph for both, and C++ compilation takes half a minute per family."""
    torch._dynamo.reset()
    model, ids = modern_model(**NO_DROPOUT), random_ids(2, 12)
    compiled = torch.compile(model, fullgraph=True)
    torch.testing.assert_close(compiled(ids, use_cache=False).logits, model(ids, use_cache=False).logits, atol=1e-5, rtol=0)


@torch.no_grad()
def test_an_exported_program_gives_the_same_logits(model):
    ids = random_ids(2, 12)
    mask = torch.ones_like(ids)
    inputs = dict(input_ids=ids, attention_mask=mask, use_cache=False)
    program = torch.export.export(model, (), inputs, strict=False)
    torch.testing.assert_close(program.module()(**inputs).logits, model(**inputs).logits, atol=1e-5, rtol=0)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.1)], ids=["fp32", "bf16"])
@torch.no_grad()
def test_flex_sdpa_and_eager_attention_agree_on_padded_batches(model, dtype, tolerance, side):
    model = model.to(dtype)
    ids, mask = random_ids(2, 12), torch.ones(2, 12, dtype=torch.long)
    mask[0, slice(0, 5) if side == "left" else slice(7, 12)] = 0
    logits = {}
    for attention in ("eager", "sdpa", "flex_attention"):
        model.set_attn_implementation(attention)
        with torch.compiler.set_stance("force_eager"):  # flex attention unfused; compiled, each of these takes 20 s
            logits[attention] = model(ids, attention_mask=mask).logits[mask.bool()].float()
    assert logits["eager"].std() > 0.1
    # The logits are a few units wide; bfloat16 has eight bits of precision.
    torch.testing.assert_close(logits["sdpa"], logits["eager"], atol=tolerance, rtol=0)
    torch.testing.assert_close(logits["flex_attention"], logits["eager"], atol=tolerance, rtol=0)
