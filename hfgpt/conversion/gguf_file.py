"""An hfgpt model and its tokenizer as one GGUF file, which llama.cpp, Ollama and LM Studio load.

The tensor names come from the twin: the package `gguf` maps those of GPT-2, Qwen3 and Llama, as in llama.cpp's own converter.
"""

import json
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerFast

from hfgpt.arguments.tokenizers import PATTERNS
from hfgpt.conversion.vocabulary import check_vocabulary, num_ids
from hfgpt.conversion.weights_out import twin_kind, twin_of
from hfgpt.errors import UserError, WrongTypeError, require
from hfgpt.model.configuration_hfgpt import HfGptConfig
from hfgpt.model.modeling_hfgpt import HfGptForCausalLM
from hfgpt.tables import check_allowed
from hfgpt.tokenization import tokens_around, word_pattern

GGUF_BYTES = {"f32": 4, "f16": 2, "q8_0": 1}  # the types of the matrices, with the bytes per parameter
# The activations that llama.cpp computes for each architecture, whatever the file says.
ACTIVATIONS = {"gpt2": ("gelu_new", "gelu_pytorch_tanh", "gelu"), "qwen3": ("silu", "swish"), "llama": ("silu", "swish")}


def check_gguf(config: HfGptConfig, tokenizer: PreTrainedTokenizerFast) -> list[str]:
    """Notes on small differences in llama.cpp.

    Raises: ValueError without the package `gguf`, and, with the field's name, for a model or a tokenizer that llama.cpp cannot run.
    """
    require("gguf", extra="gguf", purpose="writing GGUF needs the package gguf")
    kind = twin_kind(config)
    notes = check_vocabulary(config.vocab_size, tokenizer)
    if num_ids(tokenizer) > config.vocab_size:
        raise UserError(
            f"the tokenizer has {num_ids(tokenizer):,} tokens, but the model's embedding has {config.vocab_size:,} rows."
        )
    pre_tokenizer_type(tokenizer)
    if config.hidden_act not in ACTIVATIONS[kind]:
        allowed = ", ".join(ACTIVATIONS[kind])
        raise UserError(f"hidden_act is {config.hidden_act!r}; llama.cpp only supports {allowed} for the architecture {kind}.")
    if config.hidden_act == "gelu":
        notes.append("llama.cpp computes GPT-2's GELU with tanh; hidden_act 'gelu', the exact one, differs by up to 0.0005.")
    if kind == "qwen3" and config.attention_bias:
        raise UserError("attention_bias is True; llama.cpp's architecture qwen3 has no biases.")
    if kind != "gpt2":
        unknown = {key: value for key, value in config.rope_parameters.items() if key not in ("rope_type", "rope_theta")}
        if config.rope_parameters["rope_type"] != "default" or unknown:
            raise UserError(
                f"rope_parameters are {dict(config.rope_parameters)}; only plain rotary positions can be written to GGUF."
            )
    return notes


def write_gguf(
    model: HfGptForCausalLM, tokenizer: PreTrainedTokenizerFast, *, path: Path, gguf_type: str = "f16", name: str = "hfgpt"
) -> None:
    """Write the file. Norms, biases and learned positions stay in float32, as in llama.cpp's own files.

    Args:
        gguf_type: "f32", "f16", or "q8_0" (8 bits, blocks of 32; a matrix whose row length is not a multiple of 32 is kept in f16).
        name: the name shown by programs.
    Raises: ValueError without the package `gguf`, and if llama.cpp cannot run the model; nothing is written then.
    """
    check_allowed("gguf_type", gguf_type, GGUF_BYTES)
    if not isinstance(model, HfGptForCausalLM):
        raise WrongTypeError(f"got a {type(model).__name__}; llama.cpp only generates text, so GGUF needs an HfGptForCausalLM.")
    check_gguf(model.config, tokenizer)
    import gguf

    kind = twin_kind(model.config)
    writer = gguf.GGUFWriter(path, kind)
    writer.add_name(name)
    _add_shape(writer, model.config, kind)
    writer.add_file_type({"f32": gguf.LlamaFileType.ALL_F32, "f16": gguf.LlamaFileType.MOSTLY_F16,
                          "q8_0": gguf.LlamaFileType.MOSTLY_Q8_0}[gguf_type])  # fmt: skip
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    _add_tokenizer(writer, tokenizer, rows=model.config.vocab_size)
    _add_tensors(writer, model, kind, gguf_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_shape(writer, config: HfGptConfig, kind: str) -> None:
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    if kind == "gpt2":
        writer.add_layer_norm_eps(config.norm_eps)
        return
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)  # the head width need not be hidden_size / heads
    writer.add_value_length(config.head_dim)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.norm_eps)


def _add_tensors(writer, model: HfGptForCausalLM, kind: str, gguf_type: str) -> None:
    import gguf

    twin = twin_of(model)
    config = model.config
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[kind.upper()], config.num_hidden_layers)
    for name, tensor in twin.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue  # llama.cpp uses the embedding
        tensor = tensor.float()
        if kind == "gpt2" and tensor.ndim == 2 and ".h." in name:
            tensor = tensor.t()  # Conv1D
        if kind == "llama" and ".self_attn.q_proj." in name:
            tensor = interleave_pairs(tensor, config.num_attention_heads)
        if kind == "llama" and ".self_attn.k_proj." in name:
            tensor = interleave_pairs(tensor, config.num_key_value_heads)
        array = tensor.contiguous().numpy()
        wanted = gguf.GGMLQuantizationType[gguf_type.upper()]
        if tensor.ndim == 1 or name == "transformer.wpe.weight":
            wanted = gguf.GGMLQuantizationType.F32
        elif wanted == gguf.GGMLQuantizationType.Q8_0 and tensor.shape[-1] % gguf.GGML_QUANT_SIZES[wanted][0]:
            wanted = gguf.GGMLQuantizationType.F16
        if wanted != gguf.GGMLQuantizationType.F32 and tensor.abs().max() > torch.finfo(torch.float16).max:
            # q8_0 stores the scale of each block in f16
            raise UserError(f"{name} contains values up to {tensor.abs().max():.3g}, but the maximum of f16 is 65504; use f32.")
        writer.add_tensor(
            names.get_name(name, try_suffixes=(".weight", ".bias")), gguf.quants.quantize(array, wanted), raw_dtype=wanted
        )


def interleave_pairs(weights: torch.Tensor, num_heads: int) -> torch.Tensor:
    """The rows of a projection in llama.cpp's order for llama: rotary pairs (i, i + D/2) of a head become (2i, 2i + 1)."""
    return weights.view(num_heads, 2, -1, *weights.shape[1:]).transpose(1, 2).reshape(weights.shape)


def pre_tokenizer_type(tokenizer: PreTrainedTokenizerFast) -> str:
    """llama.cpp's name for this tokenizer's pre-tokenization: "qwen2", "dbrx" (GPT-4's) or "gpt-2".

    Raises: ValueError for any other tokenizer; llama.cpp would split text differently and the model would get different ids.
    """
    definition = json.loads(tokenizer.backend_tokenizer.to_str())
    model = definition["model"]
    if model["type"] != "BPE":
        raise UserError(f"the tokenizer is a {model['type']}; GGUF needs a byte-level BPE (algorithm bpe).")
    if definition["normalizer"] is not None:
        raise UserError(f"the tokenizer has the normalizer {definition['normalizer']['type']}, but llama.cpp does not apply one.")
    for option in ("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback", "ignore_merges"):
        if model.get(option):
            raise UserError(f"the tokenizer's BPE has {option} {model[option]!r}, but llama.cpp has no such option.")
    if (pattern := word_pattern(tokenizer)) is not None:
        return PATTERNS[pattern].llama_cpp
    raise UserError(
        f"the tokenizer splits text with {json.dumps(definition['pre_tokenizer'], ensure_ascii=False)}; llama.cpp only knows "
        f"patterns by name, and this is not Qwen2's, GPT-4's or GPT-2's: train a tokenizer with digits as_pattern."
    )


def _add_tokenizer(writer, tokenizer: PreTrainedTokenizerFast, *, rows: int) -> None:
    from gguf import TokenType

    special = {id: token.special for id, token in tokenizer.added_tokens_decoder.items()}
    tokens = {id: token for token, id in tokenizer.get_vocab().items()}
    writer.add_tokenizer_model("gpt2")  # llama.cpp's name for a byte-level BPE
    writer.add_tokenizer_pre(pre_tokenizer_type(tokenizer))
    # Rows without a token need a name, because every id must have one.
    writer.add_token_list([tokens.get(id, f"[PAD{id}]") for id in range(rows)])
    types = {True: TokenType.CONTROL, False: TokenType.USER_DEFINED}
    writer.add_token_types(
        [types[special[id]] if id in special else TokenType.NORMAL if id in tokens else TokenType.UNUSED for id in range(rows)]
    )
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in merges])
    for name in ("bos", "eos", "pad"):
        if (token := getattr(tokenizer, f"{name}_token_id")) is not None:
            getattr(writer, f"add_{name}_token_id")(token)
    before, after = tokens_around(tokenizer)
    if before not in ([], [tokenizer.bos_token_id]) or after not in ([], [tokenizer.eos_token_id]):
        raise UserError(
            f"the tokenizer puts {before} before a text and {after} after it, but llama.cpp only supports BOS and EOS there."
        )
    writer.add_add_bos_token(bool(before))
    writer.add_add_eos_token(bool(after))
    writer.add_add_space_prefix(False)
    if tokenizer.chat_template:
        writer.add_chat_template(tokenizer.chat_template)
