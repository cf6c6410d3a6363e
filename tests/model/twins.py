"""Native twins of a small hfgpt model: the same weights in transformers' own classes."""

import torch
from transformers import GPT2Config, GPT2LMHeadModel, Qwen3Config, Qwen3ForCausalLM

from hfgpt import HfGptConfig, HfGptForCausalLM


def randomized(model):
    """Change all weights, including norms and biases, so that no term is hidden by an initial one or zero."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def book_model(**fields) -> HfGptForCausalLM:
    shape = dict(vocab_size=97, hidden_size=48, num_hidden_layers=3, num_attention_heads=4, max_position_embeddings=64)
    torch.manual_seed(0)
    return randomized(HfGptForCausalLM(HfGptConfig(**shape | fields)))


def modern_model(**fields) -> HfGptForCausalLM:
    shape = dict(
        vocab_size=97,
        hidden_size=48,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=16,
        intermediate_size=80,
        max_position_embeddings=64,
        tie_word_embeddings=True,  # like the book family; its own default is tested where it matters
    )
    torch.manual_seed(0)
    return randomized(HfGptForCausalLM(HfGptConfig.modern(3, **shape | fields)))


def gpt2_twin(model: HfGptForCausalLM) -> GPT2LMHeadModel:
    config = model.config
    twin = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=config.vocab_size,
            n_positions=config.max_position_embeddings,
            n_embd=config.hidden_size,
            n_layer=config.num_hidden_layers,
            n_head=config.num_attention_heads,
            n_inner=config.intermediate_size,
            layer_norm_epsilon=config.norm_eps,
            bos_token_id=None,
            eos_token_id=None,
        )
    ).eval()
    ours = model.state_dict()
    theirs = {
        "transformer.wte.weight": ours["model.embed_tokens.weight"],
        "transformer.wpe.weight": ours["model.embed_positions.weight"],
    }
    theirs |= {f"transformer.ln_f.{kind}": ours[f"model.norm.{kind}"] for kind in ("weight", "bias")}
    for index in range(config.num_hidden_layers):
        source, target = f"model.layers.{index}", f"transformer.h.{index}"
        for kind in ("weight", "bias"):
            projections = [ours[f"{source}.self_attn.{name}_proj.{kind}"] for name in "qkv"]
            # GPT-2 stores its linear layers transposed (Conv1D), with the three projections side by side
            theirs[f"{target}.attn.c_attn.{kind}"] = torch.cat(
                [projection.t() if kind == "weight" else projection for projection in projections], -1
            )
            for name, ours_name in (
                ("attn.c_proj", "self_attn.o_proj"),
                ("mlp.c_fc", "mlp.up_proj"),
                ("mlp.c_proj", "mlp.down_proj"),
            ):
                tensor = ours[f"{source}.{ours_name}.{kind}"]
                theirs[f"{target}.{name}.{kind}"] = tensor.t() if kind == "weight" else tensor
            theirs[f"{target}.ln_1.{kind}"] = ours[f"{source}.input_layernorm.{kind}"]
            theirs[f"{target}.ln_2.{kind}"] = ours[f"{source}.post_attention_layernorm.{kind}"]
    theirs["lm_head.weight"] = ours["lm_head.weight"]
    twin.load_state_dict(theirs)
    return twin


def qwen3_twin(model: HfGptForCausalLM) -> Qwen3ForCausalLM:
    config = model.config
    twin = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=config.vocab_size,
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_hidden_layers=config.num_hidden_layers,
            num_attention_heads=config.num_attention_heads,
            num_key_value_heads=config.num_key_value_heads,
            head_dim=config.head_dim,
            rms_norm_eps=config.norm_eps,
            max_position_embeddings=config.max_position_embeddings,
            tie_word_embeddings=config.tie_word_embeddings,
            rope_parameters=dict(config.rope_parameters),
        )
    ).eval()
    twin.load_state_dict(model.state_dict())  # the names are the same
    return twin
