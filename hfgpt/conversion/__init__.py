"""Weights in and out: other people's GPT-2 into hfgpt, hfgpt into classes and files that know no code of ours.

weights_in.py      GPT2LMHeadModel, the book's GPTModel, nanoGPT, OpenAI's TensorFlow files, hfgpt itself -> a Converted
weights_out.py     an hfgpt model -> its twin: GPT2, Qwen3 or Llama
gguf_file.py       an hfgpt model and its tokenizer -> a GGUF file for llama.cpp;  ollama.py: the Modelfile beside it
vocabulary.py      a model and a tokenizer: as many rows as ids, the same special tokens
adapters.py        a LoRA adapter -> into the weights
verification.py    two models, the same tokens: the largest difference of their logits

layouts.py         which tensor is called what, and stored how: one table for both directions
recognition.py     a path or a Hub id -> which of these formats it holds
checkpoints.py     files -> tensors, without ever running what lies in them
"""

import importlib

_MODULE_OF = {
    "Converted": "weights_in",
    "adopt_tokenizer": "vocabulary",
    "merge_adapter": "adapters",
    "modelfile": "ollama",
    "read_source": "weights_in",
    "twin_of": "weights_out",
    "write_gguf": "gguf_file",
}
__all__ = list(_MODULE_OF)


def __getattr__(name: str):
    # Loaded when it is used (PEP 562), as everything in hfgpt is.
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
