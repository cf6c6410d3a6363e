"""The loss fused with the head, compared with the plain product and cross-entropy."""

import re

import pytest
import torch
from conftest import ROOT, run_python
from torch import nn
from twins import book_model, modern_model

from hfgpt.model import loss_hfgpt
from hfgpt.model.loss_hfgpt import can_fuse, head_and_loss


def plain(head: nn.Linear, hidden: torch.Tensor, labels: torch.Tensor, num_items_in_batch=None):
    logits = head(hidden)
    reduction = "mean" if num_items_in_batch is None else "sum"
    targets = labels[:, 1:].reshape(-1)
    loss = nn.functional.cross_entropy(logits[:, :-1].reshape(len(targets), -1).float(), targets, reduction=reduction)
    return (loss if num_items_in_batch is None else loss / num_items_in_batch), logits


def problem(dtype: torch.dtype = torch.float32) -> tuple[nn.Linear, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    head = nn.Linear(16, 50, bias=False).to(dtype)
    hidden = torch.randn(3, 11, 16).to(dtype).requires_grad_()
    labels = torch.randint(0, 50, (3, 11))
    labels[0, 4:] = -100
    return head, hidden, labels


def loss_and_gradients(function, head, hidden, labels, *, use_logits: bool = False, **settings):
    head.zero_grad()
    hidden.grad = None
    loss, logits = function(head, hidden, labels, **settings)
    (loss + (0.01 * logits.float().square().sum() if use_logits else 0)).backward()
    return loss.detach(), hidden.grad.clone(), head.weight.grad.clone()


@pytest.fixture(params=[2**23, 200], ids=["one block", "blocks of four rows"])
def blocks(request, monkeypatch):
    monkeypatch.setitem(loss_hfgpt.BLOCK_VALUES, "cpu", request.param)


@pytest.mark.parametrize("use_logits", [False, True], ids=["loss", "loss and logits"])
@pytest.mark.parametrize("settings", [{}, dict(num_items_in_batch=7), dict(num_items_in_batch=torch.tensor(7))], ids=str)
def test_loss_and_gradients_equal_the_plain_path(blocks, settings, use_logits):
    fused = loss_and_gradients(head_and_loss, *problem(), use_logits=use_logits, **settings)
    expected = loss_and_gradients(plain, *problem(), use_logits=use_logits, **settings)
    assert fused[2].abs().max() > 1e-3
    for ours, theirs in zip(fused, expected, strict=True):
        assert (ours - theirs).norm() <= 1e-5 * theirs.norm()


def test_in_bfloat16_the_gradients_are_as_near_to_float32_as_the_plain_ones(blocks):
    def in_dtype(dtype: torch.dtype):
        head, hidden, labels = problem(torch.bfloat16)
        return head.to(dtype), hidden.detach().to(dtype).requires_grad_(), labels

    exact = loss_and_gradients(plain, *in_dtype(torch.float32))
    fused, rounded = (loss_and_gradients(function, *in_dtype(torch.bfloat16)) for function in (head_and_loss, plain))
    for ours, theirs, truth in zip(fused[1:], rounded[1:], exact[1:], strict=True):
        # Each block of the weight's gradient is rounded before the blocks are added in float32.
        assert 0 < (ours.float() - truth).norm() <= 1.5 * (theirs.float() - truth).norm()


def test_labels_that_are_all_left_out_give_zero_gradients():
    head, hidden, labels = problem()
    loss, gradient, _ = loss_and_gradients(head_and_loss, head, hidden, torch.full_like(labels, -100), num_items_in_batch=1)
    assert loss == 0
    assert gradient.abs().max() == 0


def test_one_batch_and_accumulated_single_rows_of_ragged_length_have_the_same_gradients():
    torch.manual_seed(0)
    lengths = [20, 3, 11, 7, 16, 5, 9, 13]
    ids = torch.randint(0, 97, (8, 20))
    labels = torch.stack([row.masked_fill(torch.arange(20) >= length, -100) for row, length in zip(ids, lengths, strict=True)])
    num_items = (labels[:, 1:] != -100).sum()
    for build in (book_model, modern_model):
        gradients = []
        for size in (8, 1):
            model = build(embedding_dropout=0.0, residual_dropout=0.0, attention_dropout=0.0).train()
            for start in range(0, 8, size):
                part = slice(start, start + size)
                model(ids[part], labels=labels[part], num_items_in_batch=num_items, use_cache=False).loss.backward()
            gradients.append(torch.cat([parameter.grad.flatten() for parameter in model.parameters()]))
        whole, accumulated = gradients
        assert whole.norm() > 0.1
        assert (accumulated - whole).norm() <= 1e-5 * whole.norm()


def test_a_head_that_is_more_than_its_weight_is_called():
    def head() -> nn.Linear:
        return nn.Linear(4, 9, bias=False)

    assert can_fuse(head())
    assert not can_fuse(nn.Linear(4, 9))
    assert not can_fuse(nn.Sequential(head()))
    hooked, offloaded = head(), head()
    hooked.register_forward_hook(lambda *_: None)
    offloaded.forward = lambda hidden: hidden
    assert not can_fuse(hooked)
    assert not can_fuse(offloaded)


def test_an_adapter_on_the_head_is_part_of_the_loss():
    from peft import LoraConfig, get_peft_model

    model = modern_model(tie_word_embeddings=False)
    wrapped = get_peft_model(model, LoraConfig(target_modules=["lm_head"], init_lora_weights=False))
    ids = torch.randint(0, 97, (2, 9))
    output = wrapped(ids, labels=ids)
    torch.testing.assert_close(
        output.loss, nn.functional.cross_entropy(output.logits[:, :-1].reshape(-1, 97), ids[:, 1:].reshape(-1))
    )
    output.loss.backward()
    assert wrapped.base_model.model.lm_head.lora_B["default"].weight.grad.abs().max() > 0


def test_a_loss_function_of_the_user_is_called_in_place_of_ours():
    model = book_model()
    model.loss_function = lambda logits, labels, vocab_size, **_: logits.sum() * 0 + 42
    ids = torch.randint(0, 97, (1, 5))
    assert model(ids, labels=ids).loss == 42


@pytest.mark.slow
def test_the_heads_step_needs_at_most_half_of_gpt2s_memory():
    # On a GPU blocks are larger, and save memory only with larger batches.
    done = run_python(ROOT / "benchmarks" / "head_step.py", "--tokens", 1024, "--hidden_size", 16, "--rounds", 1,
                      cwd=ROOT, env={"CUDA_VISIBLE_DEVICES": ""})  # fmt: skip
    assert done.returncode == 0, done.stderr
    figures = dict(re.findall(r"(\w+) ([\d.e-]+)", done.stdout.splitlines()[-1]))
    assert float(figures["memory_ratio"]) <= 0.5
    assert float(figures["loss_difference"]) <= 1e-5
    assert float(figures["gradient_difference"]) <= 1e-5
