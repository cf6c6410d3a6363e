"""Names and storage of a book-family model's tensors in third-party checkpoints.

One `Layout` serves both directions: `take_in` converts a checkpoint to our names, `give_out` converts ours to it. A layout names
modules; its biases may be missing (`Biases`), in which case ours, if we have them, are zero: exactly the same function.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import torch

from hfgpt.model.configuration_hfgpt import HfGptConfig

HEADS = ("lm_head.weight", "score.weight")
# The fields of HfGptConfig that define a GPT-2, and their names in GPT2Config.
GPT2_FIELDS = {
    "vocab_size": "vocab_size",
    "hidden_size": "n_embd",
    "intermediate_size": "n_inner",
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
    "max_position_embeddings": "n_positions",
    "norm_eps": "layer_norm_epsilon",
    "hidden_act": "activation_function",
    "embedding_dropout": "embd_pdrop",
    "residual_dropout": "resid_pdrop",
    "attention_dropout": "attn_pdrop",
    "initializer_range": "initializer_range",
    "tie_word_embeddings": "tie_word_embeddings",
}


@dataclass(frozen=True)
class Biases:
    """Which of a checkpoint's modules carry a bias."""

    query_key_value: bool = True
    attention_output: bool = True
    mlp: bool = True
    norm: bool = True


@dataclass(frozen=True)
class Layout:
    """The tensor names of one kind of checkpoint.

    Args:
        title: its name in messages.
        block: prefix of a block's tensors; `{}` is the number of the block.
        modules: our module -> theirs. Three of our modules joined by "+" are one of theirs, concatenated by rows.
        kinds: their suffixes for weight and bias of a linear layer, then of a norm, then for an embedding's weight.
        transposed: matrices are stored (in, out), as in GPT-2's Conv1D, while ours are (out, in).
        leading_axis: matrices have an extra first axis of size 1.
        buffers: tensors that are not weights (causal masks), which are ignored.
    """

    title: str
    block: str
    modules: dict[str, str]
    kinds: tuple[str, str, str, str, str] = (".weight", ".bias", ".weight", ".bias", ".weight")
    transposed: bool = False
    leading_axis: bool = False
    buffers: re.Pattern = field(default_factory=lambda: re.compile(r"(?!)"))  # matches nothing


_GPT2_BLOCK = {
    "input_layernorm": "ln_1",
    "self_attn.q_proj+self_attn.k_proj+self_attn.v_proj": "attn.c_attn",
    "self_attn.o_proj": "attn.c_proj",
    "post_attention_layernorm": "ln_2",
    "mlp.up_proj": "mlp.c_fc",
    "mlp.down_proj": "mlp.c_proj",
}
_GPT2_MODULES = {
    "model.embed_tokens": "transformer.wte",
    "model.embed_positions": "transformer.wpe",
    **_GPT2_BLOCK,
    "model.norm": "transformer.ln_f",
    "lm_head": "lm_head",
    "score": "score",
}
_GPT2_BUFFERS = re.compile(r"transformer\.h\.\d+\.attn\.(bias|masked_bias)")

# Source: transformers models/gpt2/modeling_gpt2.py.
GPT2 = Layout("GPT-2", "transformer.h.{}.", _GPT2_MODULES, transposed=True, buffers=_GPT2_BUFFERS)

# Source: karpathy/nanoGPT, model.py, class GPT: GPT-2's names over nn.Linear.
NANOGPT = Layout("nanoGPT", "transformer.h.{}.", _GPT2_MODULES, buffers=_GPT2_BUFFERS)

# Source: Raschka (2024), chapter 4, class GPTModel.
BOOK = Layout(
    "the book's GPTModel",
    "trf_blocks.{}.",
    {
        "model.embed_tokens": "tok_emb",
        "model.embed_positions": "pos_emb",
        "input_layernorm": "norm1",
        "self_attn.q_proj": "att.W_query",
        "self_attn.k_proj": "att.W_key",
        "self_attn.v_proj": "att.W_value",
        "self_attn.o_proj": "att.out_proj",
        "post_attention_layernorm": "norm2",
        "mlp.up_proj": "ff.layers.0",
        "mlp.down_proj": "ff.layers.2",
        "model.norm": "final_norm",
        "lm_head": "out_head",
    },
    kinds=(".weight", ".bias", ".scale", ".shift", ".weight"),
    buffers=re.compile(r"trf_blocks\.\d+\.att\.mask"),
)

# Source: openai/gpt-2, src/model.py: TensorFlow scopes; conv1d keeps its kernel as (1, in, out).
OPENAI = Layout(
    "OpenAI's GPT-2",
    "model/h{}/",
    {
        "model.embed_tokens": "model/wte",
        "model.embed_positions": "model/wpe",
        **{ours: theirs.replace(".", "/") for ours, theirs in _GPT2_BLOCK.items()},
        "model.norm": "model/ln_f",
    },
    kinds=("/w", "/b", "/g", "/b", ""),
    transposed=True,
    leading_axis=True,
)


@dataclass(frozen=True)
class Entry:
    """One of their tensors, our tensors that it contains, and its shape in their files."""

    theirs: str
    ours: tuple[str, ...]
    shape: tuple[int, ...]
    transposed: bool
    leading_axis: bool

    def split(self, tensor: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
        """Ours out of theirs."""
        if self.leading_axis:
            tensor = tensor.squeeze(0)
        if self.transposed:
            tensor = tensor.t()
        # Contiguous copies: safetensors refuses tensors that share memory.
        return zip(self.ours, (part.clone(memory_format=torch.contiguous_format) for part in tensor.chunk(len(self.ours))))

    def join(self, state_dict: dict[str, torch.Tensor]) -> torch.Tensor:
        """Theirs out of ours; a bias that ours lacks is written as zeros, which is the same function."""
        if self.ours[0] not in state_dict and self.ours[0].endswith(".bias"):
            return torch.zeros(self.shape, dtype=state_dict["model.embed_tokens.weight"].dtype)
        tensor = torch.cat([state_dict[name] for name in self.ours])
        if self.transposed:
            tensor = tensor.t()
        return (tensor.unsqueeze(0) if self.leading_axis else tensor).contiguous()


def entries(layout: Layout, config: HfGptConfig, *, biases: Biases, heads: Iterable[str]) -> list[Entry]:
    """Every tensor in a checkpoint of this layout and shape, in order; `heads` are our names of its heads."""
    width, inner = config.hidden_size, config.intermediate_size
    weight, bias, norm_weight, norm_bias, embedding = layout.kinds
    columns = {"mlp.down_proj": inner, "mlp.up_proj": width}
    result: list[Entry] = []

    def add(ours: tuple[str, ...], theirs: str, shape: tuple[int, ...], *, matrix: bool = False) -> None:
        if matrix and layout.transposed:
            shape = shape[::-1]
        leading = matrix and layout.leading_axis
        result.append(Entry(theirs, ours, (1, *shape) if leading else shape, matrix and layout.transposed, leading))

    def add_norm(ours: str, theirs: str) -> None:
        add((f"{ours}.weight",), theirs + norm_weight, (width,))
        if biases.norm:
            add((f"{ours}.bias",), theirs + norm_bias, (width,))

    for module, rows in (("embed_tokens", config.vocab_size), ("embed_positions", config.max_position_embeddings)):
        add((f"model.{module}.weight",), layout.modules[f"model.{module}"] + embedding, (rows, width))
    for number in range(config.num_hidden_layers):
        for joined, module in layout.modules.items():
            ours = [f"model.layers.{number}.{part}" for part in joined.split("+")]
            theirs = layout.block.format(number) + module
            if joined.endswith("layernorm"):
                add_norm(ours[0], theirs)
            elif joined.startswith(("self_attn", "mlp")):
                rows = (inner if joined == "mlp.up_proj" else width) * len(ours)
                add(tuple(f"{name}.weight" for name in ours), theirs + weight, (rows, columns.get(joined, width)), matrix=True)
                if joined.startswith("mlp"):
                    has_bias = biases.mlp
                else:
                    has_bias = biases.attention_output if joined == "self_attn.o_proj" else biases.query_key_value
                if has_bias:
                    add(tuple(f"{name}.bias" for name in ours), theirs + bias, (rows,))
    add_norm("model.norm", layout.modules["model.norm"])
    for head in heads:
        rows = config.vocab_size if head == "lm_head.weight" else len(config.id2label or {})
        add((head,), layout.modules[head.removesuffix(".weight")] + weight, (rows, width))  # a Linear in every layout
    return result


def take_in(tensors: dict[str, torch.Tensor], table: list[Entry]) -> dict[str, torch.Tensor]:
    """Our names out of theirs; `tensors` has been checked against `table`."""
    return {name: part for entry in table for name, part in entry.split(tensors[entry.theirs])}


def give_out(state_dict: dict[str, torch.Tensor], table: list[Entry]) -> dict[str, torch.Tensor]:
    """Their names out of ours."""
    return {entry.theirs: entry.join(state_dict) for entry in table}
