"""Pairs for the benchmarks: an hfgpt model and the equivalent transformers class, of the same size."""

import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedModel, Qwen3Config, Qwen3ForCausalLM

from hfgpt import HfGptConfig, HfGptForCausalLM

# layers, width, heads, vocabulary
SIZES = {"tiny": (2, 64, 2, 512), "small": (6, 384, 6, 4096), "124M": (12, 768, 12, 50257)}


def pairs(size: str, *, device: str, dtype: torch.dtype) -> dict[str, tuple[PreTrainedModel, PreTrainedModel]]:
    """`{name of the class: (ours, theirs)}`, with equal numbers of parameters; dropout is off."""
    layers, width, heads, vocab_size = SIZES[size]
    modern = HfGptConfig.modern(layers, vocab_size=vocab_size, hidden_size=width, num_attention_heads=heads,
                                num_key_value_heads=heads // 2, tie_word_embeddings=True)  # fmt: skip
    shared = dict(
        vocab_size=vocab_size, hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads,
        num_key_value_heads=heads // 2, intermediate_size=modern.intermediate_size, max_position_embeddings=1024,
        rms_norm_eps=1e-6, tie_word_embeddings=True, head_dim=width // heads, bos_token_id=0, eos_token_id=0, pad_token_id=0,
    )  # fmt: skip
    book = HfGptConfig(vocab_size=vocab_size, hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads,
                       embedding_dropout=0.0, residual_dropout=0.0, attention_dropout=0.0)  # fmt: skip
    no_norm = HfGptConfig.modern(layers, vocab_size=vocab_size, hidden_size=width, num_attention_heads=heads,
                                 num_key_value_heads=heads // 2, tie_word_embeddings=True, qk_norm=False)  # fmt: skip
    gpt2 = GPT2Config(vocab_size=vocab_size, n_embd=width, n_layer=layers, n_head=heads, embd_pdrop=0.0, resid_pdrop=0.0,
                      attn_pdrop=0.0, bos_token_id=0, eos_token_id=0, pad_token_id=0, loss_type="ForCausalLM")  # fmt: skip
    torch.manual_seed(0)
    built = {
        "GPT2LMHeadModel": (HfGptForCausalLM(book), GPT2LMHeadModel(gpt2)),
        "Qwen3ForCausalLM": (HfGptForCausalLM(modern), Qwen3ForCausalLM(Qwen3Config(**shared))),
        "LlamaForCausalLM": (HfGptForCausalLM(no_norm), LlamaForCausalLM(LlamaConfig(**shared))),
    }
    for name, (ours, theirs) in built.items():
        if ours.num_parameters() != theirs.num_parameters():
            raise AssertionError(f"{name}: {ours.num_parameters():,} parameters beside {theirs.num_parameters():,}")
        for model in (ours, theirs):
            model.to(device, dtype)
    return built
