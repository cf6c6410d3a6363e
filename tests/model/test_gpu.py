"""What only a GPU can show; skipped with a reason on other machines."""

import pytest
import torch
from twins import book_model, modern_model

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize("build", [book_model, modern_model])
@pytest.mark.parametrize("attention", ["eager", "sdpa", "flex_attention"])
@torch.no_grad()
def test_packed_rows_give_the_logits_of_the_cpu(build, attention):
    ids = torch.randint(0, 97, (2, 32), generator=torch.Generator().manual_seed(0))
    positions = torch.cat((torch.arange(20), torch.arange(12))).expand(2, -1)
    shape = dict(num_attention_heads=3) if build is book_model else {}  # flex attention needs a head width of at least 16
    expected = build(**shape)(ids, position_ids=positions, use_cache=False).logits
    model = build(**shape).cuda()
    model.set_attn_implementation(attention)
    logits = model(ids.cuda(), position_ids=positions.cuda(), use_cache=False).logits
    torch.testing.assert_close(logits.cpu(), expected, atol=1e-3, rtol=0)


def test_a_training_step_in_bfloat16_is_finite_and_moves_the_weights():
    from hfgpt.training.optimizers import MuonWithAdamWFactory

    model = modern_model().cuda().train()
    optimizer = MuonWithAdamWFactory()(model, muon_learning_rate=0.02, learning_rate=0.003)
    before = model.lm_head.weight.detach().clone()
    ids = torch.randint(0, 97, (4, 32), device="cuda")
    with torch.autocast("cuda", torch.bfloat16):
        loss = model(ids, labels=ids, use_cache=False).loss
    loss.backward()
    optimizer.step()
    assert torch.isfinite(loss)
    assert not torch.equal(model.lm_head.weight, before)
