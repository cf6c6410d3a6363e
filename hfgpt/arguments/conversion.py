"""The arguments of recipes/convert.py."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from hfgpt.arguments.keys import OutputKeys, RecipeArguments, model_key, output_key
from hfgpt.errors import UserError
from hfgpt.files import expand_home


@dataclass
class ConvertArguments(OutputKeys, RecipeArguments):
    """recipes/convert.py"""

    positional: ClassVar[str | None] = "source"

    source: str = model_key("", "Folder, file or Hub id of the weights; the first argument without dashes.")
    source_format: Literal["auto", "gpt2", "book", "nanogpt", "openai", "hfgpt"] = model_key(
        "auto", "What source is; 'auto' looks at names and shapes."
    )
    tokenizer: str = model_key("", "Folder or Hub id of the tokenizer, GPT-2's own files included; else the one beside source.")
    adapter: str = model_key("", "Folder of a LoRA adapter that is merged into the weights.")
    num_attention_heads: int | None = model_key(
        None, "Heads of a bare state dict, which does not say it; published widths need none."
    )
    hidden_act: str | None = model_key(None, "Activation of a nanoGPT checkpoint from before 2023-06: gelu_new; today's is gelu.")
    target: Literal["hfgpt", "native", "gguf"] = output_key(
        "hfgpt", "'hfgpt', 'native' (GPT-2, Qwen3 or Llama in transformers' own classes) or 'gguf' (llama.cpp, Ollama)."
    )
    gguf_type: Literal["f32", "f16", "q8_0"] = output_key("f16", "How GGUF stores matrices.")
    dtype: Literal["source", "float32", "bfloat16", "float16"] = output_key(
        "source", "dtype of the weights that are written; GGUF has gguf_type instead."
    )

    def __post_init__(self):
        expand_home(self, "source", "output_dir", "tokenizer", "adapter")
        if not self.source:
            raise UserError("source is missing; give a folder, a file or a Hub id first: recipes/convert.py SOURCE ...")
        self.check_output()
        self.check_least(num_attention_heads=1)
        if self.target != "gguf" and self.gguf_type != "f16":
            raise UserError(f"gguf_type is {self.gguf_type}, but target is {self.target}; --target gguf writes GGUF.")
        if self.target == "gguf" and self.dtype != "source":
            raise UserError(f"dtype is {self.dtype}, but target is gguf; --gguf_type says how GGUF stores matrices.")
