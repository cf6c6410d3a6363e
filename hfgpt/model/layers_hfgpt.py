"""The layers of an hfgpt model: rotary positions, attention, MLP and the block that joins them, in the shape of transformers 5.

Shapes below:
    B batch, T tokens of this call, S all tokens seen so far (cache included), E hidden width,
    H query heads, K key/value heads, D head width, V vocabulary
"""

from collections.abc import Callable
from typing import cast

import torch
from torch import nn
from transformers.activations import ACT2FN
from transformers.cache_utils import Cache
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS, dynamic_rope_update
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.processing_utils import Unpack  # pyright: ignore[reportAttributeAccessIssue]  # as transformers' own models do
from transformers.utils.generic import TransformersKwargs

from .configuration_hfgpt import HfGptConfig
from .norms_hfgpt import HfGptRMSNorm


def build_norm(config: HfGptConfig) -> nn.Module:
    """The norm in a block and at the end of the model."""
    norm_class = nn.LayerNorm if config.norm_type == "layernorm" else HfGptRMSNorm
    return norm_class(config.hidden_size, eps=config.norm_eps)


class HfGptRotaryEmbedding(nn.Module):
    """Cosine and signed sine (B, T, D) of the rotary angles, for any RoPE type that transformers knows.

    The first half of the sines is negative, as `rotate` expects. Source: Su et al. (2021), eq. 34.
    """

    inv_freq: torch.Tensor

    def __init__(self, config: HfGptConfig):
        super().__init__()
        self.config = config
        self.max_seq_len_cached = config.max_position_embeddings
        self.original_max_seq_len = config.max_position_embeddings
        self.rope_type = config.rope_parameters["rope_type"]
        rope_init = ROPE_INIT_FUNCTIONS.get(self.rope_type, self.compute_default_rope_parameters)
        inv_freq, self.attention_scaling = rope_init(config)
        self.register_buffer("inv_freq", inv_freq, persistent=False)
        self.register_buffer("original_inv_freq", inv_freq.clone(), persistent=False)

    @staticmethod
    def compute_default_rope_parameters(config: HfGptConfig, **kwargs) -> tuple[torch.Tensor, float]:
        """Inverse frequencies (D / 2,) of plain RoPE, and the factor 1 on cosine and sine."""
        exponents = torch.arange(0, config.head_dim, 2, dtype=torch.float) / config.head_dim
        return 1.0 / config.rope_parameters["rope_theta"] ** exponents, 1.0

    def _apply(self, fn, recurse=True):
        """Follow the model to another device, but not to another dtype: rounded frequencies would give wrong angles."""
        exact = dict(self.named_buffers(recurse=False))
        super()._apply(fn, recurse)
        for name, buffer in exact.items():
            if getattr(self, name).dtype != buffer.dtype:
                setattr(self, name, buffer.to(getattr(self, name).device))
        return self

    @torch.no_grad()
    @dynamic_rope_update
    def forward(self, hidden: torch.Tensor, position_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        # Angles are computed in float32 whatever the model's dtype: in bfloat16 position 257 equals position 256.
        angles = position_ids[..., None].float() * self.inv_freq.to(device=hidden.device, dtype=torch.float)  # (B, T, D/2)
        cos, sin = angles.cos() * self.attention_scaling, angles.sin() * self.attention_scaling
        cos, sin = torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1)  # (B, T, D)
        return cos.to(hidden.dtype), sin.to(hidden.dtype)


def look_up(table: nn.Embedding, ids: torch.Tensor, what: str, limit: str) -> torch.Tensor:
    """Rows of `table` for `ids`. Raises: ValueError that names an id without a row and the config field `limit`."""
    try:
        return table(ids)
    except IndexError as error:
        lowest, highest = int(ids.min()), int(ids.max())
        wrong = lowest if lowest < 0 else highest
        raise ValueError(
            f"got {what} {wrong:,}; allowed: 0 to {table.num_embeddings - 1:,} ({limit}); "
            + ("cut the input." if what == "position" else "is this the tokenizer that the model was trained with?")
        ) from error


def check_flex_attention(model: nn.Module, cache: Cache | None) -> None:
    """Reject what FlexAttention cannot do on a CPU: train, and continue from a cache, as generation does."""
    instead = "choose another one, model.set_attn_implementation('sdpa') or 'eager', or a GPU."
    if torch.is_grad_enabled() and any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError(
            f"attn_implementation is 'flex_attention', which has no backward pass on a CPU (pytorch#148752); for training, "
            f"{instead} Without gradients (torch.no_grad) it works."
        )
    if cache is not None:
        raise ValueError(
            f"attn_implementation is 'flex_attention', which on a CPU gives wrong results with a cache, from the third token of an "
            f"answer on; for generation, {instead}"
        )


def rotate(states: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Turn the pairs (i, i + D/2) of every head by their angles; `states` (B, T, heads, D), `cos` and signed `sin` (B, T, 1, D)."""
    # Three operations instead of the usual six: the time to generate one token depends on the number of operations.
    return torch.addcmul(states * cos, states.roll(states.shape[-1] // 2, dims=-1), sin)


def eager_attention_forward(
    module: "HfGptAttention",
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Unpack[TransformersKwargs],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention as written in the book; the only implementation that can return its probabilities.

    Args: `query` (B, H, T, D), `key` and `value` (B, K, S, D), `attention_mask` additive and broadcastable to (B, H, T, S).
    Returns: the output (B, T, H, D) and the probabilities (B, H, T, S).
    """
    if module.num_key_value_groups > 1:
        key = key.repeat_interleave(module.num_key_value_groups, dim=1)
        value = value.repeat_interleave(module.num_key_value_groups, dim=1)
    scores = torch.matmul(query, key.transpose(2, 3)) * scaling  # (B, H, T, S)
    if attention_mask is not None:
        scores = scores + attention_mask
    # softmax computes in float32 internally and rounds once; a float32 result here would take twice the time in bfloat16.
    probabilities = nn.functional.softmax(scores, dim=-1).to(query.dtype)
    probabilities = nn.functional.dropout(probabilities, p=dropout, training=module.training)
    return torch.matmul(probabilities, value).transpose(1, 2).contiguous(), probabilities


def residual_projection(inputs: int, outputs: int, *, bias: bool) -> nn.Linear:
    """A linear layer whose attribute `writes_residual` marks it as writing into the residual stream."""
    layer = nn.Linear(inputs, outputs, bias=bias)
    vars(layer)["writes_residual"] = True
    return layer


class HfGptAttention(nn.Module):
    """Causal self-attention with grouped key/value heads, using the kernel that `attn_implementation` names."""

    def __init__(self, config: HfGptConfig, layer_idx: int):
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.head_dim = config.head_dim
        self.num_key_value_groups = config.num_attention_heads // config.num_key_value_heads
        self.scaling = self.head_dim**-0.5
        self.is_causal = True
        query_width = config.num_attention_heads * self.head_dim
        key_value_width = config.num_key_value_heads * self.head_dim
        self.q_proj = nn.Linear(config.hidden_size, query_width, bias=config.attention_bias)
        self.k_proj = nn.Linear(config.hidden_size, key_value_width, bias=config.attention_bias)
        self.v_proj = nn.Linear(config.hidden_size, key_value_width, bias=config.attention_bias)
        self.o_proj = residual_projection(query_width, config.hidden_size, bias=config.attention_bias)
        self.q_norm = HfGptRMSNorm(self.head_dim, eps=config.norm_eps) if config.qk_norm else None
        self.k_norm = HfGptRMSNorm(self.head_dim, eps=config.norm_eps) if config.qk_norm else None

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        position_embeddings: tuple[torch.Tensor, torch.Tensor] | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        heads = (*hidden_states.shape[:-1], -1, self.head_dim)
        query = self.q_proj(hidden_states).view(heads)  # (B, T, H, D)
        key = self.k_proj(hidden_states).view(heads)  # (B, T, K, D)
        value = self.v_proj(hidden_states).view(heads).transpose(1, 2)  # (B, K, T, D)
        if self.q_norm is not None and self.k_norm is not None:
            query, key = self.q_norm(query), self.k_norm(key)
        if position_embeddings is not None:
            query, key = rotate(query, *position_embeddings), rotate(key, *position_embeddings)
        query, key = query.transpose(1, 2), key.transpose(1, 2)  # (B, H, T, D) and (B, K, T, D)
        if past_key_values is not None:
            key, value = past_key_values.update(key, value, self.layer_idx)  # (B, K, S, D)
        implementation = cast(str, self.config._attn_implementation)
        attention: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(implementation, eager_attention_forward)
        output, probabilities = attention(
            self,
            query,
            key,
            value,
            attention_mask,
            dropout=self.config.attention_dropout if self.training else 0.0,
            scaling=self.scaling,
            **kwargs,
        )  # (B, T, H, D)
        return self.o_proj(output.reshape(*hidden_states.shape[:-1], -1)), probabilities


class HfGptMLP(nn.Module):
    """The feed-forward part: down(act(up(x))), or down(act(gate(x)) * up(x)) when gated. Source: Shazeer (2020), eq. 6."""

    def __init__(self, config: HfGptConfig):
        super().__init__()
        if config.mlp_type == "gated":
            self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=config.mlp_bias)
        else:
            self.gate_proj = None
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=config.mlp_bias)
        self.down_proj = residual_projection(config.intermediate_size, config.hidden_size, bias=config.mlp_bias)
        # The same function, in one kernel instead of eight operations with eight intermediate results.
        self.act_fn = ACT2FN["gelu_pytorch_tanh" if config.hidden_act == "gelu_new" else config.hidden_act]

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        if self.gate_proj is None:
            return self.down_proj(self.act_fn(self.up_proj(hidden_states)))
        return self.down_proj(self.act_fn(self.gate_proj(hidden_states)) * self.up_proj(hidden_states))


class HfGptDecoderLayer(GradientCheckpointingLayer):
    """One pre-norm block: attention, then MLP, each added to the residual stream."""

    def __init__(self, config: HfGptConfig, layer_idx: int):
        super().__init__()
        self.input_layernorm = build_norm(config)
        self.self_attn = HfGptAttention(config, layer_idx)
        self.post_attention_layernorm = build_norm(config)
        self.mlp = HfGptMLP(config)
        self.dropout = nn.Dropout(config.residual_dropout)

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        position_embeddings: tuple[torch.Tensor, torch.Tensor] | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> torch.Tensor:
        residual = hidden_states
        hidden_states, _ = self.self_attn(
            self.input_layernorm(hidden_states),
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            position_embeddings=position_embeddings,
            **kwargs,
        )
        # Both names for one tensor, so that no tensor the MLP does not need stays in memory beside its wide states.
        residual = hidden_states = residual + self.dropout(hidden_states)  # (B, T, E)
        hidden_states = self.mlp(self.post_attention_layernorm(hidden_states))
        return residual + self.dropout(hidden_states)
