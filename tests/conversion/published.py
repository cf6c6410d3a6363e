"""The published architectures, written from their sources, independently of transformers and hfgpt.

`GPTModel` follows Raschka, Build a Large Language Model (From Scratch), chapters 3 and 4; `GPT` follows nanoGPT's model.py;
`openai_variables` gives a model's weights the names and shapes of openai/gpt-2's src/model.py. The state dicts have the names of
the originals; the arithmetic is theirs, written out.
"""

import math

import torch
from torch import nn

BOOK_SHAPE = dict(vocab_size=97, context_length=32, emb_dim=48, n_heads=4, n_layers=3, qkv_bias=False)


class LayerNorm(nn.Module):
    """From the book, listing 4.2: epsilon 1e-5 and the biased variance."""

    def __init__(self, emb_dim):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(emb_dim))
        self.shift = nn.Parameter(torch.zeros(emb_dim))

    def forward(self, x):
        mean, variance = x.mean(-1, keepdim=True), x.var(-1, keepdim=True, unbiased=False)
        return self.scale * (x - mean) / torch.sqrt(variance + 1e-5) + self.shift


class GELU(nn.Module):
    """From the book, listing 4.3: the tanh approximation."""

    def forward(self, x):
        return 0.5 * x * (1 + torch.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)))


class FeedForward(nn.Module):
    def __init__(self, emb_dim):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(emb_dim, 4 * emb_dim), GELU(), nn.Linear(4 * emb_dim, emb_dim))

    def forward(self, x):
        return self.layers(x)


class MultiHeadAttention(nn.Module):
    """From the book, listing 3.5, with the causal mask as a buffer in the state dict."""

    def __init__(self, emb_dim, context_length, n_heads, qkv_bias):
        super().__init__()
        self.n_heads, self.head_dim = n_heads, emb_dim // n_heads
        self.W_query, self.W_key, self.W_value = (nn.Linear(emb_dim, emb_dim, bias=qkv_bias) for _ in range(3))
        self.out_proj = nn.Linear(emb_dim, emb_dim)
        self.register_buffer("mask", torch.triu(torch.ones(context_length, context_length), diagonal=1))

    def forward(self, x):
        B, T, E = x.shape
        query, key, value = (
            projection(x).view(B, T, self.n_heads, self.head_dim).transpose(1, 2)
            for projection in (self.W_query, self.W_key, self.W_value)
        )
        scores = query @ key.transpose(2, 3)
        scores = scores.masked_fill(self.mask.bool()[:T, :T], -torch.inf)
        weights = torch.softmax(scores / self.head_dim**0.5, dim=-1)
        return self.out_proj((weights @ value).transpose(1, 2).reshape(B, T, E))


class TransformerBlock(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.att = MultiHeadAttention(shape["emb_dim"], shape["context_length"], shape["n_heads"], shape["qkv_bias"])
        self.ff = FeedForward(shape["emb_dim"])
        self.norm1, self.norm2 = LayerNorm(shape["emb_dim"]), LayerNorm(shape["emb_dim"])

    def forward(self, x):
        x = x + self.att(self.norm1(x))
        return x + self.ff(self.norm2(x))


class GPTModel(nn.Module):
    """From the book, listing 4.7, without dropout: an untied head without bias."""

    def __init__(self, **shape):
        super().__init__()
        shape = BOOK_SHAPE | shape
        self.tok_emb = nn.Embedding(shape["vocab_size"], shape["emb_dim"])
        self.pos_emb = nn.Embedding(shape["context_length"], shape["emb_dim"])
        self.trf_blocks = nn.Sequential(*[TransformerBlock(shape) for _ in range(shape["n_layers"])])
        self.final_norm = LayerNorm(shape["emb_dim"])
        self.out_head = nn.Linear(shape["emb_dim"], shape["vocab_size"], bias=False)

    def forward(self, ids):
        x = self.tok_emb(ids) + self.pos_emb(torch.arange(ids.shape[1]))
        return self.out_head(self.final_norm(self.trf_blocks(x)))


NANOGPT_SHAPE = dict(n_layer=3, n_head=4, n_embd=48, block_size=32, bias=True, vocab_size=97, dropout=0.0)


class NanoLayerNorm(nn.Module):
    """From nanoGPT: LayerNorm with an optional bias."""

    def __init__(self, size, bias):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.bias = nn.Parameter(torch.zeros(size)) if bias else None

    def forward(self, x):
        mean, variance = x.mean(-1, keepdim=True), x.var(-1, keepdim=True, unbiased=False)
        x = (x - mean) / torch.sqrt(variance + 1e-5) * self.weight
        return x if self.bias is None else x + self.bias


class CausalSelfAttention(nn.Module):
    """From nanoGPT, without flash attention; the mask is a buffer named `bias`."""

    def __init__(self, shape):
        super().__init__()
        E, T = shape["n_embd"], shape["block_size"]
        self.c_attn = nn.Linear(E, 3 * E, bias=shape["bias"])
        self.c_proj = nn.Linear(E, E, bias=shape["bias"])
        self.n_head, self.n_embd = shape["n_head"], E
        self.register_buffer("bias", torch.tril(torch.ones(T, T)).view(1, 1, T, T))

    def forward(self, x):
        B, T, E = x.shape
        query, key, value = (part.view(B, T, self.n_head, -1).transpose(1, 2) for part in self.c_attn(x).split(self.n_embd, dim=2))
        scores = (query @ key.transpose(-2, -1)) * (1.0 / math.sqrt(key.size(-1)))
        scores = scores.masked_fill(self.bias[:, :, :T, :T] == 0, float("-inf"))
        return self.c_proj((torch.softmax(scores, dim=-1) @ value).transpose(1, 2).reshape(B, T, E))


class MLP(nn.Module):
    """From nanoGPT: the exact GELU, written out with erf."""

    def __init__(self, shape):
        super().__init__()
        self.c_fc = nn.Linear(shape["n_embd"], 4 * shape["n_embd"], bias=shape["bias"])
        self.c_proj = nn.Linear(4 * shape["n_embd"], shape["n_embd"], bias=shape["bias"])

    def forward(self, x):
        x = self.c_fc(x)
        return self.c_proj(x * 0.5 * (1.0 + torch.erf(x / math.sqrt(2.0))))


class Block(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.ln_1, self.ln_2 = (NanoLayerNorm(shape["n_embd"], shape["bias"]) for _ in range(2))
        self.attn, self.mlp = CausalSelfAttention(shape), MLP(shape)

    def forward(self, x):
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class GPT(nn.Module):
    """From nanoGPT, without dropout; the head is the embedding."""

    def __init__(self, **shape):
        super().__init__()
        shape = NANOGPT_SHAPE | shape
        self.shape = shape
        self.transformer = nn.ModuleDict(
            dict(
                wte=nn.Embedding(shape["vocab_size"], shape["n_embd"]),
                wpe=nn.Embedding(shape["block_size"], shape["n_embd"]),
                h=nn.ModuleList([Block(shape) for _ in range(shape["n_layer"])]),
                ln_f=NanoLayerNorm(shape["n_embd"], shape["bias"]),
            )
        )
        self.lm_head = nn.Linear(shape["n_embd"], shape["vocab_size"], bias=False)
        self.transformer.wte.weight = self.lm_head.weight

    def forward(self, ids):
        x = self.transformer.wte(ids) + self.transformer.wpe(torch.arange(ids.shape[1]))
        for block in self.transformer.h:
            x = block(x)
        return self.lm_head(self.transformer.ln_f(x))

    def checkpoint(self, *, compiled: bool = False) -> dict:
        """What nanoGPT's train.py saves as ckpt.pt."""
        prefix = "_orig_mod." if compiled else ""
        optimizer = torch.optim.AdamW(self.parameters())
        return {
            "model": {prefix + name: tensor for name, tensor in self.state_dict().items()},
            "optimizer": optimizer.state_dict(),
            "model_args": dict(self.shape),
            "iter_num": 250,
            "best_val_loss": torch.tensor(1.5),
            "config": {"dataset": "shakespeare_char", "learning_rate": 1e-3, "compile": compiled},
        }


def openai_variables(model: GPT) -> dict[str, torch.Tensor]:
    """The variables of OpenAI's TensorFlow model, with the weights of a nanoGPT model (with all biases)."""
    state = model.state_dict()
    variables = {"model/wte": state["transformer.wte.weight"], "model/wpe": state["transformer.wpe.weight"]}
    norms = {"ln_f": "ln_f"}
    for number in range(model.shape["n_layer"]):
        norms |= {f"h{number}/{name}": f"h.{number}.{name}" for name in ("ln_1", "ln_2")}
        for name in ("attn/c_attn", "attn/c_proj", "mlp/c_fc", "mlp/c_proj"):
            ours = f"transformer.h.{number}.{name.replace('/', '.')}"
            variables[f"model/h{number}/{name}/w"] = state[f"{ours}.weight"].t().unsqueeze(0)  # conv1d: (1, in, out)
            variables[f"model/h{number}/{name}/b"] = state[f"{ours}.bias"]
    for theirs, ours in norms.items():
        variables[f"model/{theirs}/g"] = state[f"transformer.{ours}.weight"]
        variables[f"model/{theirs}/b"] = state[f"transformer.{ours}.bias"]
    return {name: tensor.clone().contiguous() for name, tensor in variables.items()}


def with_tanh(model: GPT) -> GPT:
    """OpenAI's GPT-2 and early nanoGPT use the tanh GELU."""
    for block in model.transformer.h:
        block.mlp.forward = lambda x, mlp=block.mlp: mlp.c_proj(GELU()(mlp.c_fc(x)))
    return model
