"""The arguments of recipes/convert.py, and the tables of formats it reads and writes. Nothing here imports torch."""

from collections import ChainMap
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from hfgpt.arguments.keys import OutputKeys, model_key, output_key
from hfgpt.errors import UserError
from hfgpt.files import expand_home
from hfgpt.tables import Table

# A `Reader` of hfgpt/conversion/weights_in.py for each source format, or its name "module:object", in the order in which they are
# asked whether they recognize a path.
SOURCES: Table[Any] = Table(
    "source_format",
    {
        "gpt2": "hfgpt.conversion.readers:GPT2_READER",
        "book": "hfgpt.conversion.readers:BOOK_READER",
        "nanogpt": "hfgpt.conversion.readers:NANOGPT_READER",
        "openai": "hfgpt.conversion.readers:OPENAI_READER",
        "hfgpt": "hfgpt.conversion.readers:HFGPT_READER",
    },
)


@dataclass(frozen=True)
class Target:
    """One entry of `TARGETS`.

    Args:
        export: takes the model, its tokenizer or None, and `ExportOptions`; checks that the model can be converted, compares the
            output with the input, and returns an `Export` (hfgpt/conversion/exports.py). It is the function, or its name
            "module:function".
        refuses: options that would have no effect with it, with the reason.
    """

    export: Callable[..., Any] | str
    refuses: Mapping[str, str] = field(default_factory=dict)


_NO_GGUF_TYPE = {"gguf_type": "--target gguf writes GGUF."}

TARGETS: Table[Target] = Table(
    "target",
    {
        "hfgpt": Target("hfgpt.conversion.exports:as_hfgpt", _NO_GGUF_TYPE),
        "native": Target("hfgpt.conversion.exports:as_native", _NO_GGUF_TYPE),
        "gguf": Target("hfgpt.conversion.exports:as_gguf", {"dtype": "--gguf_type sets how GGUF stores matrices."}),
    },
)


@dataclass
class ConvertArguments(OutputKeys):
    """recipes/convert.py"""

    positional: ClassVar[str | None] = "source"

    source: str = model_key(
        "", "Folder, file or Hub id of the weights; may be given as the first argument, without its name.", required=True
    )
    source_format: str = model_key(
        "auto", "Format of source; 'auto' detects it from names and shapes.", choices=ChainMap(SOURCES, {"auto": None})
    )
    tokenizer: str = model_key(
        "", "Folder or Hub id of the tokenizer (GPT-2's own files work too); default: the one beside source."
    )
    adapter: str = model_key("", "Folder of a LoRA adapter to merge into the weights.")
    num_attention_heads: int | None = model_key(None, "Number of heads, for a bare state dict of an unpublished width.")
    hidden_act: str | None = model_key(None, "Activation of a nanoGPT checkpoint: gelu_new before 2023-06, gelu since then.")
    target: str = output_key(
        "hfgpt",
        "'hfgpt', 'native' (GPT-2, Qwen3 or Llama in transformers' own classes) or 'gguf' (llama.cpp, Ollama).",
        choices=TARGETS,
    )
    gguf_type: Literal["f32", "f16", "q8_0"] = output_key("f16", "How GGUF stores matrices.")
    dtype: Literal["source", "float32", "bfloat16", "float16"] = output_key(
        "source", "dtype of the written weights; for GGUF, use gguf_type instead."
    )

    def __post_init__(self):
        expand_home(self, "source", "output_dir", "tokenizer", "adapter")
        self.require(source="give a folder, a file or a Hub id first: recipes/convert.py SOURCE ...")
        self.check_output()
        self.check_least(num_attention_heads=1)
        for option, reason in TARGETS.find(self.target).refuses.items():
            if option in self.given():
                raise UserError(f"{option} is {getattr(self, option)}, but target is {self.target}; {reason}")
