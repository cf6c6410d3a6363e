"""The Modelfile that makes a GGUF file an Ollama model."""

from jinja2.exceptions import TemplateError
from transformers import GenerationConfig, PreTrainedTokenizerFast

# Ollama writes templates in Go's language; this is ChatML.
CHATML_TEMPLATE = "{{- range .Messages }}<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n{{ end }}<|im_start|>assistant\n"
RAW_TEMPLATE = "{{ .Prompt }}"
# A conversation for testing how a template formats it.
CONVERSATION = [{"role": role, "content": f"words {number}"} for number, role in enumerate(("system", "user", "assistant", "user"))]


def modelfile(
    tokenizer: PreTrainedTokenizerFast, *, gguf_name: str, context_length: int, generation_config: GenerationConfig
) -> str:
    """The text of the Modelfile: the weights, the conversation format, where an answer ends, and how to sample.

    A chat template other than ChatML is not translated: the prompt is then passed through unchanged.
    """
    chat = is_chatml(tokenizer)
    template = f"{written_bos(tokenizer)}{CHATML_TEMPLATE}" if chat else RAW_TEMPLATE
    stops = dict.fromkeys((*(["<|im_end|>"] if chat else []), tokenizer.eos_token))  # each once, in order
    lines = [
        f"# ollama create NAME -f Modelfile   {'(a conversation, in ChatML)' if chat else '(continues text, no conversation)'}",
        f"FROM ./{gguf_name}",
        f'TEMPLATE """{template}"""',
        f"PARAMETER num_ctx {context_length}",
        *(f'PARAMETER stop "{stop}"' for stop in stops),
    ]
    if generation_config.do_sample:
        names = ("temperature", "top_k", "top_p", "repetition_penalty")
        given = {name: getattr(generation_config, name) for name in names}
        words = {"repetition_penalty": "repeat_penalty"}
        lines += [f"PARAMETER {words.get(name, name)} {value}" for name, value in given.items() if value is not None]
    return "\n".join(lines) + "\n"


def is_chatml(tokenizer: PreTrainedTokenizerFast) -> bool:
    """Whether the chat template writes exact ChatML; a bos_token may precede it."""
    rendered = _rendered(tokenizer)
    if rendered is None:
        return False
    expected = "".join(f"<|im_start|>{message['role']}\n{message['content']}<|im_end|>\n" for message in CONVERSATION)
    return rendered.removeprefix(str(tokenizer.bos_token or "")) == expected + "<|im_start|>assistant\n"


def written_bos(tokenizer: PreTrainedTokenizerFast) -> str:
    """The bos_token, if the chat template begins with it and Ollama would not add it by itself.

    Like llama.cpp, Ollama adds a BOS to a prompt if GGUF's add_bos_token is set, that is, if the tokenizer adds one to a text
    (gguf_file.py); in the template as well, it would appear twice.
    Source: github.com/ollama/ollama, runner/llamarunner/runner.go, inputs: Tokenize(part, i == 0, true).
    """
    bos = str(tokenizer.bos_token or "")
    if not bos or not (_rendered(tokenizer) or "").startswith(bos) or tokenizer("a").input_ids[0] == tokenizer.bos_token_id:
        return ""
    return bos


def _rendered(tokenizer: PreTrainedTokenizerFast) -> str | None:
    """A conversation rendered by the chat template; None without one, or if it refuses a role."""
    if not tokenizer.chat_template:
        return None
    try:
        return str(tokenizer.apply_chat_template(CONVERSATION, tokenize=False, add_generation_prompt=True))
    except TemplateError:
        return None
