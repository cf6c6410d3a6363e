"""HfGptConfig: one configuration for two families of GPT, with their presets.

The *book family* is GPT-2 as published (learned positions, LayerNorm, plain MLP, biases, dropout); the *modern family* is
Llama/Qwen3-shaped (rotary positions, RMSNorm, SwiGLU, grouped-query attention, QK-norm, no biases). The fields have the names that
`transformers` uses, so its tools work.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig
from transformers.dynamic_module_utils import get_imports
from transformers.modeling_rope_utils import RopeParameters
from transformers.utils import logging

logger = logging.get_logger(__name__)

# Shape of the four published GPT-2 models: layers, width, heads.
# Source: Radford et al. (2019), Language Models are Unsupervised Multitask Learners, table 2; OpenAI's released hparams.json.
GPT2_SIZES = {
    "124M": (12, 768, 12),
    "355M": (24, 1024, 16),
    "774M": (36, 1280, 20),
    "1558M": (48, 1600, 25),
}

# Every saved folder names all of them, so that anyone can load it with any Auto class, whichever class was saved.
AUTO_MAP = {
    "AutoConfig": "configuration_hfgpt.HfGptConfig",
    "AutoModel": "modeling_hfgpt.HfGptModel",
    "AutoModelForCausalLM": "modeling_hfgpt.HfGptForCausalLM",
    "AutoModelForSequenceClassification": "modeling_hfgpt.HfGptForSequenceClassification",
    "AutoModelForTokenClassification": "modeling_hfgpt.HfGptForTokenClassification",
    "AutoModelForQuestionAnswering": "modeling_hfgpt.HfGptForQuestionAnswering",
}


def published_class(cls: type) -> type:
    """The class that a folder is saved for, and whose code is copied into it: the nearest of `cls` and its bases that can be saved.

    This is a class from these files, or a subclass in its own module that its author has registered (`register_for_auto_class`)
    and that does not import hfgpt. A wrapper class of torch's (FSDP2 gives a sharded model a class of its own) and a class
    defined in `__main__` cannot be saved.
    """
    return next(base for base in cls.__mro__ if _is_ours(base) or _travels(base))


def _is_ours(cls: type) -> bool:
    return cls.__module__.rpartition(".")[2] in ("configuration_hfgpt", "modeling_hfgpt")


def _travels(cls: type) -> bool:
    file = getattr(sys.modules.get(cls.__module__), "__file__", None)
    if not vars(cls).get("_auto_class") or cls.__module__ == "__main__" or file is None:
        return False
    # Its file is copied as it is; `from hfgpt import ...` in it would fail for everyone who has not installed hfgpt.
    return __name__.partition(".")[0] not in get_imports(file)


@contextmanager
def as_published(instance: object) -> Iterator[None]:
    """Make an object an instance of its `published_class` while transformers saves it.

    The class decides which code transformers copies, and what it writes as `auto_map` and `architectures`. If that leaves out a
    subclass, one warning says so.
    """
    own, published = type(instance), published_class(type(instance))
    left_out = [base for base in own.__mro__[: own.__mro__.index(published)] if not base.__module__.startswith("torch.")]
    if left_out:
        others = published.__name__.replace("PreTrained", "")  # others get only the body of a custom head
        logger.warning_once(
            f"{left_out[0].__name__} is saved as {others}, because its code, in {left_out[0].__module__}, cannot be saved with it: "
            f"others load the folder without its changes; you can load it with {left_out[0].__name__}.from_pretrained. To share "
            f"it, put it in a file beside a copy of modeling_hfgpt.py, import from there (from .modeling_hfgpt import ...), and "
            f"call {left_out[0].__name__}.register_for_auto_class."
        )
    instance.__class__ = published
    try:
        yield
    finally:
        instance.__class__ = own


@strict
class HfGptConfig(PreTrainedConfig):
    """Configuration of an hfgpt model; the defaults are GPT-2 124M.

    Args:
        vocab_size: rows of the embedding.
        hidden_size: width E of the residual stream.
        intermediate_size: width of the MLP; None means 4 x `hidden_size`.
        num_hidden_layers: blocks.
        num_attention_heads: query heads H.
        num_key_value_heads: key/value heads K, a divisor of H; None means H (multi-head attention).
        head_dim: width D of one head; None means `hidden_size` / `num_attention_heads`.
        max_position_embeddings: the context length in tokens; learned positions end here.
        position_embedding_type: "learned" (a table, added to the embeddings) or "rotary" (RoPE, applied to queries and keys).
        rope_parameters: `rope_theta` and `rope_type` as in transformers; rotary positions only.
        norm_type: "layernorm" (with bias) or "rmsnorm".
        norm_eps: the epsilon of every norm.
        mlp_type: "plain" (up, act, down) or "gated" (SwiGLU with `hidden_act` "silu").
        hidden_act: activation of the MLP, a key of `transformers.activations.ACT2FN`.
        attention_bias: biases in the four attention projections.
        mlp_bias: biases in the MLP's projections.
        qk_norm: RMSNorm over each head's queries and keys, before the rotary positions.
        embedding_dropout: dropout after the embeddings.
        residual_dropout: dropout after attention and after the MLP, before each addition.
        attention_dropout: dropout on the attention probabilities.
        initializer_range: standard deviation of the normal initialisation; the projections that write into the residual
            stream get 1 / sqrt(2 x layers) of it.
        tie_word_embeddings: the head is the embedding, transposed.
        max_text_length: how many tokens of a text a classifier reads, as in its training; the model truncates, because a
            pipeline does not. None reads all.
        use_cache: return keys and values for generation.
        pad_token_id, bos_token_id, eos_token_id: ids of the special tokens; the padding token is separate.

    Raises: ValueError if two fields contradict each other; the message gives both values.
    """

    model_type = "hfgpt"
    keys_to_ignore_at_inference = ["past_key_values"]
    _auto_class = "AutoConfig"

    vocab_size: int = 50257
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    if TYPE_CHECKING:  # the types after `__post_init__`, which replaces None
        intermediate_size: int = 0
        num_key_value_heads: int = 0
        head_dim: int = 0
        rope_parameters: Any = None
    else:
        intermediate_size: int | None = None
        num_key_value_heads: int | None = None
        head_dim: int | None = None
        rope_parameters: RopeParameters | dict | None = None
    max_position_embeddings: int = 1024
    position_embedding_type: str = "learned"
    norm_type: str = "layernorm"
    norm_eps: float = 1e-5
    mlp_type: str = "plain"
    hidden_act: str = "gelu_new"
    attention_bias: bool = True
    mlp_bias: bool = True
    qk_norm: bool = False
    embedding_dropout: float | int = 0.1
    residual_dropout: float | int = 0.1
    attention_dropout: float | int = 0.1
    initializer_range: float = 0.02
    tie_word_embeddings: bool = True
    max_text_length: int | None = None
    use_cache: bool = True
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None

    def __post_init__(self, **kwargs):
        if self.intermediate_size is None:
            self.intermediate_size = 4 * self.hidden_size
        if self.num_key_value_heads is None:
            self.num_key_value_heads = self.num_attention_heads
        if self.head_dim is None:
            # Validation rejects a width that the heads do not divide, with both numbers; until then no head has width 0.
            self.head_dim = max(1, self.hidden_size // max(1, self.num_attention_heads))
        super().__post_init__(**kwargs)
        if self.position_embedding_type != "rotary":
            self.rope_parameters = None  # the base class always sets it
        # In transformers the plan is a class attribute, because its models have no such switches.
        self.base_model_tp_plan = self._tensor_parallel_plan()  # pyright: ignore[reportAttributeAccessIssue]

    def validate_architecture(self):
        """Check the fields against each other; part of the validation that `@strict` runs."""
        for name in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
                     "num_key_value_heads", "head_dim", "max_position_embeddings"):  # fmt: skip
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        for name, allowed in (
            ("position_embedding_type", ("learned", "rotary")),
            ("norm_type", ("layernorm", "rmsnorm")),
            ("mlp_type", ("plain", "gated")),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is {getattr(self, name)!r}; allowed: {' and '.join(map(repr, allowed))}.")
        for name in ("embedding_dropout", "residual_dropout", "attention_dropout"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be a probability of at least 0 and below 1.")
        heads, kv_heads = self.num_attention_heads, self.num_key_value_heads
        if self.head_dim == self.hidden_size // heads and self.hidden_size % heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} is not divisible by num_attention_heads {heads} "
                f"(remainder {self.hidden_size % heads}); change one of them, or give head_dim."
            )
        if heads % kv_heads:
            raise ValueError(
                f"num_attention_heads {heads} is not divisible by num_key_value_heads {kv_heads}; every group of query heads "
                f"shares one key/value head, so it must be a divisor."
            )
        if self.position_embedding_type == "rotary" and self.head_dim % 2:
            raise ValueError(
                f"head_dim {self.head_dim} (hidden_size {self.hidden_size}, num_attention_heads {heads}) is odd; rotary positions "
                f"rotate pairs of channels, so it must be even."
            )

    def save_pretrained(self, save_directory, **kwargs):
        """Save as transformers does, under a class that others can load."""
        if self.architectures == ["HfGptPreTrainedModel"]:
            self.architectures = ["HfGptModel"]
        with as_published(self):
            super().save_pretrained(save_directory, **kwargs)

    def _tensor_parallel_plan(self) -> dict[str, str]:
        # Every entry must match a module, so the plan depends on the switches of this config.
        plan = {f"layers.*.self_attn.{name}_proj": "colwise" for name in "qkv"}
        plan["layers.*.self_attn.o_proj"] = "rowwise"
        if self.qk_norm:
            plan |= {f"layers.*.self_attn.{name}_norm": "replicated_with_grad_allreduce" for name in "qk"}
        if self.mlp_type == "gated":
            plan["layers.*.mlp.gate_proj"] = "colwise"
        return plan | {"layers.*.mlp.up_proj": "colwise", "layers.*.mlp.down_proj": "rowwise"}

    @classmethod
    def gpt2(cls, size: str, **overrides) -> "HfGptConfig":
        """The book family: GPT-2 as published, in one of its four sizes ("124M", "355M", "774M", "1558M").

        Raises: ValueError for a size that was not published.
        """
        if size not in GPT2_SIZES:
            raise ValueError(f"{size!r} is not a published GPT-2 size; choose one of {', '.join(GPT2_SIZES)}.")
        layers, width, heads = GPT2_SIZES[size]
        shape: dict[str, Any] = dict(num_hidden_layers=layers, hidden_size=width, num_attention_heads=heads)
        return cls(**shape | overrides)

    @classmethod
    def modern(cls, depth: int, **overrides) -> "HfGptConfig":
        """The modern family; `depth` is the number of layers and determines the rest of the shape.

        The width is 64 x depth, rounded up to a multiple of 128; heads are 64 wide; two query heads share one key/value
        head; the SwiGLU is 8/3 of the width, rounded up to a multiple of 64, which costs as much as a plain MLP of 4x. Head and
        embedding are not tied: they learn best at very different rates (docs/lab_notes.md).

        Raises: ValueError for a depth below 1.
        """
        if depth < 1:
            raise ValueError(f"depth is {depth}; it is the number of layers and must be at least 1.")
        width = 128 * ((depth + 1) // 2)
        shape: dict[str, Any] = dict(
            num_hidden_layers=depth,
            hidden_size=width,
            num_attention_heads=width // 64,
            num_key_value_heads=width // 128,
            intermediate_size=64 * -(-8 * width // (3 * 64)),
            position_embedding_type="rotary",
            norm_type="rmsnorm",
            norm_eps=1e-6,
            mlp_type="gated",
            hidden_act="silu",
            attention_bias=False,
            mlp_bias=False,
            qk_norm=True,
            embedding_dropout=0.0,
            residual_dropout=0.0,
            attention_dropout=0.0,
            tie_word_embeddings=False,
        )
        return cls(**shape | overrides)


__all__ = ["HfGptConfig"]
