"""The next-token loss fused with the head: logits exist once, in the model's dtype, and their gradient only in blocks.

`lm_head(hidden)` followed by a cross-entropy keeps three tensors of tokens x vocabulary alive: the logits, their float32
log-probabilities and the gradient of both. At 50,257 entries that is most of the memory of a training step. Here only the logits
are kept; the backward pass computes probabilities and gradients one block of rows at a time.
"""

import torch
from torch import nn
from torch.autograd.function import once_differentiable

IGNORED = -100  # the label that the loss ignores, as everywhere in transformers
# Float32 values in one block of rows: 32 MB is close to a CPU's cache; a GPU needs fewer and larger kernels.
BLOCK_VALUES = {"cpu": 2**23, "cuda": 2**27}


class LinearCrossEntropy(torch.autograd.Function):
    """`(sum of cross-entropies, logits)` of `hidden` (N, E), the head's `weight` (V, E) and `labels` (N,); both differentiable.

    The sum is float32 whatever the dtype, and the gradient of the weight is summed in float32 too.
    """

    @staticmethod
    def forward(ctx, hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = nn.functional.linear(hidden, weight)  # (N, V)
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        for rows in _blocks(logits):
            total += nn.functional.cross_entropy(logits[rows].float(), labels[rows], ignore_index=IGNORED, reduction="sum")
        ctx.save_for_backward(hidden, weight, labels, logits)
        ctx.set_materialize_grads(False)  # if the logits are not used, their gradient is None, not zeros
        return total, logits

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_total: torch.Tensor | None, grad_logits: torch.Tensor | None):
        hidden, weight, labels, logits = ctx.saved_tensors
        if grad_total is None:
            grad_total = torch.zeros((), device=hidden.device)
        scale = torch.where(labels == IGNORED, 0.0, grad_total.float()).unsqueeze(1)  # (N, 1)
        target = labels.clamp(min=0).unsqueeze(1)
        grad_hidden = torch.empty_like(hidden)
        grad_weight = None
        for rows in _blocks(logits):
            # The gradient of the cross-entropy is probability minus one-hot target.
            block = torch.softmax(logits[rows], dim=-1, dtype=torch.float32)
            block.scatter_add_(1, target[rows], torch.full_like(scale[rows], -1.0)).mul_(scale[rows])
            if grad_logits is not None:  # the logits were used as well
                block += grad_logits[rows]
            block = block.to(weight.dtype)
            torch.mm(block, weight, out=grad_hidden[rows])
            if grad_weight is None:
                grad_weight = (block.t() @ hidden[rows]).float()
            elif block.dtype == torch.float32:
                grad_weight.addmm_(block.t(), hidden[rows])
            else:
                grad_weight += block.t() @ hidden[rows]
        return grad_hidden, None if grad_weight is None else grad_weight.to(weight.dtype), None


def _blocks(logits: torch.Tensor) -> list[slice]:
    rows = max(1, BLOCK_VALUES.get(logits.device.type, BLOCK_VALUES["cuda"]) // logits.shape[1])
    return [slice(start, start + rows) for start in range(0, logits.shape[0], rows)]


def can_fuse(head: nn.Module) -> bool:
    """Whether `head` is only its weight; adapters, quantized or sharded weights and offloading need the module to be called."""
    return (
        type(head) is nn.Linear
        and type(head.weight) is nn.Parameter
        and head.bias is None
        and not (head._forward_hooks or head._forward_pre_hooks or head._backward_hooks or "forward" in head.__dict__)
        and not torch.compiler.is_compiling()  # the compiler fuses the plain form by itself
        and not torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]  # documented nevertheless
    )


def head_and_loss(
    head: nn.Linear,
    hidden: torch.Tensor,
    labels: torch.Tensor,
    *,
    shift_labels: torch.Tensor | None = None,
    num_items_in_batch: torch.Tensor | int | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss in nats per token, and the logits (B, T, V) of `hidden` (B, T, E).

    Args:
        labels: (B, T), not shifted.
        shift_labels: (B, T), already shifted; `labels` is then ignored.
        num_items_in_batch: what the sum is divided by; None means the number of labels in this batch that are not ignored.
    """
    if shift_labels is None:
        # The last position has nothing to predict.
        shift_labels = nn.functional.pad(labels[:, 1:], (0, 1), value=IGNORED)
    targets = shift_labels.reshape(-1).to(hidden.device)
    kind = hidden.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype
    flat = hidden.reshape(-1, hidden.shape[-1]).to(dtype)
    total, logits = LinearCrossEntropy.apply(flat, head.weight.to(dtype), targets)
    if num_items_in_batch is None:
        num_items_in_batch = (targets != IGNORED).sum()
    elif torch.is_tensor(num_items_in_batch):
        num_items_in_batch = num_items_in_batch.to(total.device)
    return total / num_items_in_batch, logits.view(*hidden.shape[:-1], -1)
