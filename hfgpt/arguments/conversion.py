"""The arguments of recipes/convert.py."""

from dataclasses import dataclass, field
from typing import Literal

from hfgpt.arguments.card import CARD_HELP, checked_settings
from hfgpt.errors import UserError
from hfgpt.files import expand_home


@dataclass
class ConvertArguments:
    """recipes/convert.py"""

    source: str = field(default="", metadata={"help": "Folder, file or Hub id of the weights; the first argument without dashes."})
    output_dir: str = field(default="", metadata={"help": "Folder that the result is written to."})
    source_format: Literal["auto", "gpt2", "book", "nanogpt", "openai", "hfgpt"] = field(
        default="auto", metadata={"help": "What source is; 'auto' looks at names and shapes."}
    )
    target: Literal["hfgpt", "native", "gguf"] = field(
        default="hfgpt",
        metadata={"help": "'hfgpt', 'native' (GPT-2, Qwen3 or Llama in transformers' own classes) or 'gguf' (llama.cpp, Ollama)."},
    )
    gguf_type: Literal["f32", "f16", "q8_0"] = field(default="f16", metadata={"help": "How GGUF stores matrices."})
    tokenizer: str = field(
        default="", metadata={"help": "Folder or Hub id of the tokenizer, GPT-2's own files included; else the one beside source."}
    )
    adapter: str = field(default="", metadata={"help": "Folder of a LoRA adapter that is merged into the weights."})
    num_attention_heads: int | None = field(
        default=None, metadata={"help": "Heads of a bare state dict, which does not say it; published widths need none."}
    )
    hidden_act: str | None = field(
        default=None, metadata={"help": "Activation of a nanoGPT checkpoint from before 2023-06: gelu_new; today's is gelu."}
    )
    dtype: Literal["source", "float32", "bfloat16", "float16"] = field(
        default="source", metadata={"help": "dtype of the weights that are written; GGUF has gguf_type instead."}
    )
    overwrite: bool = field(default=False, metadata={"help": "Replace what output_dir holds."})
    card: dict | str | None = field(default=None, metadata={"help": CARD_HELP})

    def __post_init__(self):
        expand_home(self, "source", "output_dir", "tokenizer", "adapter")
        if not self.source:
            raise UserError("source is missing; give a folder, a file or a Hub id first: recipes/convert.py SOURCE ...")
        if not self.output_dir:
            raise UserError("output_dir is missing; name the folder for the result with --output_dir.")
        self.card = checked_settings(self.card)
        if self.num_attention_heads is not None and self.num_attention_heads < 1:
            raise UserError(f"num_attention_heads is {self.num_attention_heads}; 1 or more is needed.")
        if self.target != "gguf" and self.gguf_type != "f16":
            raise UserError(f"gguf_type is {self.gguf_type}, but target is {self.target}; --target gguf writes GGUF.")
        if self.target == "gguf" and self.dtype != "source":
            raise UserError(f"dtype is {self.dtype}, but target is gguf; --gguf_type says how GGUF stores matrices.")
