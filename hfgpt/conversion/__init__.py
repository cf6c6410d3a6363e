"""Import and export of weights: GPT-2 from elsewhere into hfgpt, and hfgpt into classes and files that do not need our code.

weights_in.py      third-party weights in one of the source formats -> a Converted
readers.py         the source formats: GPT2LMHeadModel, the book's GPTModel, nanoGPT, OpenAI's TensorFlow files, hfgpt itself
adapters.py        a LoRA adapter -> into the weights
vocabulary.py      a model and a tokenizer: one row per id, the same special tokens exports.py         an hfgpt model -> a folder of
one of the targets: hfgpt, native, gguf weights_out.py     an hfgpt model -> its twin: GPT2, Qwen3 or Llama gguf_file.py       an
hfgpt model and its tokenizer -> a GGUF file for llama.cpp;  ollama.py: the Modelfile beside it

layouts.py         names and storage of tensors: one table for both directions recognition.py     a path or a Hub id -> which of the
source formats it holds checkpoints.py     files -> tensors, without ever running code from them

The tables of source formats and targets are in hfgpt/arguments/conversion.py, where the command line reads their names.
"""
