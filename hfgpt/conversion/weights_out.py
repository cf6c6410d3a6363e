"""Export weights: the native twin of an hfgpt model in a class that every engine supports, without remote code.

A book-family model is exactly a GPT-2; a modern one exactly a Qwen3 (with QK-norm) or a Llama (without).
"""

import copy
from typing import Any

from transformers import (
    GPT2Config,
    GPT2ForSequenceClassification,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3ForSequenceClassification,
    initialization,
)

from hfgpt.conversion.layouts import GPT2, GPT2_FIELDS, Biases, entries, give_out
from hfgpt.errors import UserError, WrongTypeError
from hfgpt.model.configuration_hfgpt import HfGptConfig
from hfgpt.model.modeling_hfgpt import HfGptForCausalLM, HfGptForSequenceClassification

TWIN_CLASSES = {
    "gpt2": (GPT2LMHeadModel, GPT2ForSequenceClassification),
    "qwen3": (Qwen3ForCausalLM, Qwen3ForSequenceClassification),
    "llama": (LlamaForCausalLM, LlamaForSequenceClassification),
}


def twin_kind(config: HfGptConfig) -> str:
    """The native twin of a config: "gpt2", "qwen3" or "llama".

    Raises: ValueError for a config without one, naming every field that prevents it.
    """
    heads, width = config.num_attention_heads, config.hidden_size
    if config.position_embedding_type == "learned":
        kind = "gpt2"
        needed: dict[str, Any] = {"norm_type": "layernorm", "mlp_type": "plain", "qk_norm": False, "num_key_value_heads": heads}
        faults = [] if heads * config.head_dim == width else [f"head_dim is {config.head_dim}, but must be {width} / {heads}"]
    else:
        kind = "qwen3" if config.qk_norm else "llama"
        needed = {"norm_type": "rmsnorm", "mlp_type": "gated"}
        faults = []
        if kind == "qwen3":
            needed["mlp_bias"] = False
        elif width % heads:
            faults = [f"num_attention_heads is {heads}, but must divide the hidden_size {width}"]
    faults = [
        f"{name} is {getattr(config, name)!r}, but must be {value!r}"
        for name, value in needed.items()
        if getattr(config, name) != value
    ] + faults
    if faults:
        raise UserError(
            f"no transformers class computes the same as this model: as {TWIN_CLASSES[kind][0].__name__} (position_embedding_type "
            f"{config.position_embedding_type!r}), {'; '.join(faults)}. Publish it as hfgpt instead."
        )
    return kind


def twin_config(config: HfGptConfig) -> PreTrainedConfig:
    """The configuration of the twin. Raises: ValueError for a config without one."""
    kind = twin_kind(config)
    # Set even if None: GPT2Config and LlamaConfig have their own default ids.
    names = ["bos_token_id", "eos_token_id", "pad_token_id", "use_cache", "id2label", "label2id", "problem_type"]
    if kind != "gpt2":
        names += ["vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
                  "num_key_value_heads", "head_dim", "max_position_embeddings", "hidden_act", "attention_bias",
                  "attention_dropout", "initializer_range", "tie_word_embeddings", "rope_parameters"]  # fmt: skip
    fields: dict[str, Any] = {name: copy.deepcopy(getattr(config, name)) for name in names}
    if kind == "gpt2":
        return GPT2Config(**fields, **{theirs: getattr(config, ours) for ours, theirs in GPT2_FIELDS.items()})
    fields["rms_norm_eps"] = config.norm_eps
    return Qwen3Config(**fields) if kind == "qwen3" else LlamaConfig(**fields, mlp_bias=config.mlp_bias)


def twin_of(model: HfGptForCausalLM | HfGptForSequenceClassification) -> PreTrainedModel:
    """The native twin of a model, in memory, with copies of its weights, its dtype and its generation config.

    Raises: ValueError for a config without a twin, TypeError for a model with a different head.
    """
    config = model.config
    kind = twin_kind(config)
    if type(model) not in (HfGptForCausalLM, HfGptForSequenceClassification):
        raise WrongTypeError(
            f"got a {type(model).__name__}; HfGptForCausalLM and HfGptForSequenceClassification have twins; merge an adapter first."
        )
    is_classifier = isinstance(model, HfGptForSequenceClassification)
    with initialization.no_init_weights():
        twin = TWIN_CLASSES[kind][is_classifier]._from_config(twin_config(config), dtype=model.dtype).eval()
    twin.tie_weights()  # no_init_weights skips this
    weights = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    if kind == "gpt2":
        head = "score.weight" if is_classifier else "lm_head.weight"
        weights = give_out(weights, entries(GPT2, config, biases=Biases(), heads=(head,)))
    twin.load_state_dict(weights, strict=True)
    if not is_classifier:
        twin.generation_config = copy.deepcopy(model.generation_config)
    return twin


def dropped_dropouts(config: HfGptConfig) -> list[str]:
    """Dropouts that the twin does not support; they only matter for further training."""
    if twin_kind(config) == "gpt2":
        return []
    return [name for name in ("embedding_dropout", "residual_dropout") if getattr(config, name)]
